"""A run of the indexer from outside: its options, its progress, and its report, which a meter counts together."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from tsembed_search.errors import TsembedError
from tsembed_search.paths import indexed_form

WORDS_FIRST_FROM: Final = 500
"""A run that finds so many new or changed files stores the words of all of them before it makes the first vector."""

PageMode = Literal["auto", "always", "never"]
"""Are document pages also indexed as pictures? `auto`: when the model reads pages by eye."""

_BETWEEN_UPDATES: Final = 0.1
_RATE_SECONDS: Final = 10.0

Stage = Literal["checking", "crawling", "loading the model", "storing words", "embedding", "cleaning up", "optimizing"]
_COUNTED: Final = ("storing words", "embedding")


@dataclass(frozen=True)
class IndexOptions:
    """Choices for one run of the indexer.

    `include` and `exclude` are gitignore-style patterns; with `include`, only files that match are read, whatever their
    extension. `hidden`: dot files too. `follow_links`: enter linked folders. `prune`: remove what has vanished.
    `prune_empty`: also where a whole folder has, whose disk may only be away (see `changes.py`).
    `retry_skipped`: read again the unchanged files that an earlier run could not. `dry_run`: change nothing.
    `words_only`: load no model, and store what is found by its words; the next run without it adds the vectors.
    `words_first`: from so many new or changed files on, store the words of all before the first vector; None: never.

    `workers`: decoding processes (None: by cores and device). `time_limit`: the most seconds a file may take without
    giving anything. `memory`: the most bytes of address space that one decoding process may use beyond its own code.
    """

    pages: PageMode = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    follow_links: bool = False
    prune: bool = True
    prune_empty: bool = False
    retry_skipped: bool = False
    dry_run: bool = False
    words_only: bool = False
    words_first: int | None = WORDS_FIRST_FROM
    workers: int | None = None
    time_limit: float = 60.0
    memory: int = 896 << 20
    points_per_write: int = 128


class StopSignal(Protocol):
    """A wish to stop, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Tell whether the run should stop."""
        ...


@dataclass(frozen=True)
class Amount:
    """A number of files, and of items (points of the store)."""

    files: int
    items: int


@dataclass
class FileCounts:
    """Files of one run. `seen` is the sum of added, updated, unchanged, renamed and skipped."""

    seen: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    renamed: int = 0
    removed: int = 0
    skipped: int = 0


@dataclass
class ItemCounts:
    """Points of one run. `total`: in the store now. `reused`: known already, so not embedded again. `stored`: written
    by their words alone; most of these are embedded later in the same run, unless it is for words only.
    """

    embedded: int = 0
    stored: int = 0
    reused: int = 0
    removed: int = 0
    total: int = 0


@dataclass(frozen=True)
class Skipped:
    """Something that was left out: a file, or a part of one (the reason says which)."""

    path: str
    reason: str


@dataclass(frozen=True)
class Offline:
    """A folder whose files were there before and are not now, as if its disk were away. `files` of them stay in the
    index until they are back, or until they are pruned for good.
    """

    path: str
    reason: str
    files: int


@dataclass
class IndexReport:
    """The outcome of a run."""

    files: FileCounts = field(default_factory=FileCounts)
    items: ItemCounts = field(default_factory=ItemCounts)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0
    items_per_second: float = 0.0
    offline: list[Offline] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the document of `index --json`."""
        return {
            "files": vars(self.files).copy(),
            "items": vars(self.items).copy(),
            "skipped": [{"path": one.path, "reason": one.reason} for one in self.skipped],
            "offline": [vars(one).copy() for one in self.offline],
            "seconds": self.seconds,
            "items_per_second": self.items_per_second,
        }


class Interrupted(TsembedError):
    """The run was stopped. What was acknowledged is kept; `report` says how far it came."""

    exit_code = 130

    def __init__(self, report: IndexReport) -> None:
        stored, embedded = report.items.stored, report.items.embedded
        told = f"after {embedded} new items; all of them are kept"
        if stored:
            told = (
                f"after {stored} items were stored by their words, and {embedded} got their vectors; all that is kept"
            )
        super().__init__(f"Interrupted {told}.", "Run it again to go on.")
        self.report = report


@dataclass(frozen=True)
class Progress:
    """A snapshot of a running index.

    `files` of `files_total` have been dealt with (`files_total` is None while crawling). `found`: files met while
    crawling; `ignored`: files passed over by rule (unknown kind, hidden, ignore files). `items_per_second`: over the
    last seconds of embedding. `seconds_left`: None until it can be told.
    """

    stage: Stage
    files: int = 0
    files_total: int | None = None
    found: int = 0
    ignored: int = 0
    skipped: int = 0
    items: int = 0
    items_per_second: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    current: str = ""


class ProgressSink(Protocol):
    """Where progress goes. Called from the thread that runs the index, `update` at most about ten times a second."""

    def update(self, progress: Progress) -> None:
        """Show how far the run is."""
        ...

    def skipped(self, skipped: Skipped) -> None:
        """Show what was left out."""
        ...

    def note(self, message: str) -> None:
        """Show something worth a line: the index is being repaired, another process is waited for."""
        ...


class Meter:
    """The report of a run while it is being made, and its progress, which is told not too often.

    Threads count through it; only the run's own thread calls `tick`.
    """

    def __init__(self, sink: ProgressSink | None) -> None:
        self.report = IndexReport()
        self.stage: Stage = "checking"
        self.current = ""
        self.found = 0
        self.ignored = 0
        self.total: int | None = None
        self.left: float | None = None
        self._sink = sink
        self._started = self._entered = time.monotonic()
        self._spent: dict[Stage, float] = {}
        self._told = 0.0
        self._unsaid: deque[Skipped] = deque()
        self._parts: set[Skipped] = set()
        self._before: IndexReport | None = None
        self._recent: deque[tuple[float, int, int]] = deque()
        self._lock = threading.Lock()

    def enter(self, stage: Stage) -> None:
        """Begin the next stage."""
        self._leave()
        self.stage, self.current, self.left = stage, "", None
        self.tick(now=True)

    def _leave(self) -> None:
        now = time.monotonic()
        self._spent[self.stage] = self._spent.get(self.stage, 0.0) + now - self._entered
        self._entered = now

    def skip(self, path: str, reason: str, *, whole: bool = True) -> None:
        """Count a file that was left out, or (not `whole`) a part of it."""
        skipped = Skipped(indexed_form(Path(path)), reason)
        with self._lock:
            self.report.files.skipped += whole
            if skipped in self._parts:
                return  # it was left out when the words were stored, too
            self.report.skipped.append(skipped)
            if not whole:
                self._parts.add(skipped)
            if self._before is None or skipped not in self._before.skipped:
                self._unsaid.append(skipped)

    def again(self) -> None:
        """Begin to count anew, for the files are gone through a second time, now for their vectors."""
        with self._lock:
            self._before = first = self.report
            first.files.seen = self.done()
            self.report = IndexReport(items=first.items, skipped=[one for one in first.skipped if one in self._parts])
        self.total, self.found = None, 0
        self._recent.clear()

    def count(self, what: str, files: int = 1) -> None:
        """Count files that turned out `added`, `updated`, `unchanged` or `renamed`."""
        with self._lock:
            setattr(self.report.files, what, getattr(self.report.files, what) + files)

    def count_items(self, what: str, items: int) -> None:
        """Count items that were `embedded`, `reused` or `removed`."""
        with self._lock:
            setattr(self.report.items, what, getattr(self.report.items, what) + items)

    def note(self, message: str) -> None:
        """Pass a line on to the sink."""
        if self._sink is not None:
            self._sink.note(message)

    def tick(self, *, now: bool = False) -> None:
        """Tell the sink, if it is time."""
        moment = time.monotonic()
        if self._sink is None or (not now and moment - self._told < _BETWEEN_UPDATES):
            return
        self._told = moment
        while self._unsaid:
            self._sink.skipped(self._unsaid.popleft())
        self._sink.update(self._snapshot(moment))

    def finished(self) -> IndexReport:
        """Return the report, with its sums and times."""
        self.tick(now=True)
        self._leave()
        report, items = self.report, self.report.items
        report.files.seen = self.done()
        if self._before is not None:
            _add_first(report, self._before)
        report.seconds = time.monotonic() - self._started
        seconds = self._spent.get("embedding" if items.embedded else "storing words", 0.0)
        report.items_per_second = (items.embedded or items.stored) / seconds if seconds else 0.0
        return report

    def done(self) -> int:
        """Return the number of files that have been dealt with."""
        files = self.report.files
        return files.added + files.updated + files.unchanged + files.renamed + files.skipped

    def _snapshot(self, moment: float) -> Progress:
        done, counts = self.done(), self.report.items
        embedded = counts.stored if self.stage == "storing words" else counts.embedded
        rate, left = 0.0, self.left
        if self.stage in _COUNTED:
            self._recent.append((moment, embedded, done))
            while len(self._recent) > 2 and moment - self._recent[0][0] > _RATE_SECONDS:
                self._recent.popleft()
            since, items, files = self._recent[0]
            if moment > since:
                rate = (embedded - items) / (moment - since)
                if self.total is not None and done > files:
                    left = max(0, self.total - done) * (moment - since) / (done - files)
        return Progress(
            self.stage, done, self.total, self.found, self.ignored, self.report.files.skipped, embedded, rate,
            moment - self._started, left, self.current,
        )  # fmt: skip


def _add_first(report: IndexReport, first: IndexReport) -> None:
    """Make the report of a second pass over the files one of both. In the second, what was new counts as unchanged."""
    files, before = report.files, first.files
    if files.seen < before.seen:  # it was stopped
        known = set(report.skipped)
        missed = [one for one in first.skipped if one not in known]
        report.skipped += missed
        files.skipped += len(missed)
        report.offline = report.offline or first.offline
        files.seen = before.seen
    gone = max(0, files.skipped - before.skipped)  # stored by their words, but without a vector they cannot stay
    told = 0
    for name in ("added", "updated", "renamed"):
        less = min(gone, int(getattr(before, name)))
        gone -= less
        setattr(files, name, getattr(files, name) + getattr(before, name) - less)
        told += getattr(files, name)
    files.unchanged = max(0, files.seen - files.skipped - told)
