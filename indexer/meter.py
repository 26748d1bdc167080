"""Counts what a run does, and tells the progress sink of it, not too often."""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

from tsembed_search.indexer.report import IndexReport, Progress, ProgressSink, Skipped, Stage
from tsembed_search.paths import indexed_form

_BETWEEN_UPDATES: Final = 0.1
_RATE_SECONDS: Final = 10.0


class Meter:
    """The report of a run while it is being made. Threads count through it; only the run's own thread calls `tick`."""

    def __init__(self, sink: ProgressSink) -> None:
        self.report = IndexReport()
        self.stage: Stage = "checking"
        self.current = ""
        self.found = 0
        self.ignored = 0
        self.total: int | None = None
        self._sink = sink
        self._started = time.monotonic()
        self._embedding_since: float | None = None
        self._embedding_seconds = 0.0
        self._told = 0.0
        self._unsaid: deque[Skipped] = deque()
        self._recent: deque[tuple[float, int, int]] = deque()
        self._lock = threading.Lock()

    def enter(self, stage: Stage) -> None:
        """The next stage begins."""
        now = time.monotonic()
        if self._embedding_since is not None:
            self._embedding_seconds += now - self._embedding_since
        self._embedding_since = now if stage == "embedding" else None
        self.stage, self.current = stage, ""
        self.tick(now=True)

    def skip(self, path: str, reason: str, *, whole: bool = True) -> None:
        """A file was left out, or (not `whole`) a part of it."""
        skipped = Skipped(indexed_form(Path(path)), reason)
        with self._lock:
            self.report.skipped.append(skipped)
            self.report.files.skipped += whole
            self._unsaid.append(skipped)

    def count(self, what: str, files: int = 1) -> None:
        """Files that turned out `added`, `updated`, `unchanged` or `renamed`."""
        with self._lock:
            setattr(self.report.files, what, getattr(self.report.files, what) + files)

    def count_items(self, what: str, items: int) -> None:
        """Items that were `embedded`, `reused` or `removed`."""
        with self._lock:
            setattr(self.report.items, what, getattr(self.report.items, what) + items)

    def note(self, message: str) -> None:
        """Passes a line on to the sink."""
        self._sink.note(message)

    def tick(self, *, now: bool = False) -> None:
        """Tells the sink, if it is time."""
        moment = time.monotonic()
        if not now and moment - self._told < _BETWEEN_UPDATES:
            return
        self._told = moment
        while self._unsaid:
            self._sink.skipped(self._unsaid.popleft())
        self._sink.update(self._snapshot(moment))

    def finished(self) -> IndexReport:
        """The report, with its sums and times."""
        self.tick(now=True)
        report = self.report
        report.files.seen = self.done()
        report.seconds = time.monotonic() - self._started
        seconds = self._embedding_seconds
        if self._embedding_since is not None:
            seconds += time.monotonic() - self._embedding_since
        report.items_per_second = report.items.embedded / seconds if report.items.embedded and seconds else 0.0
        return report

    def done(self) -> int:
        """How many files have been dealt with."""
        files = self.report.files
        return files.added + files.updated + files.unchanged + files.renamed + files.skipped

    def _snapshot(self, moment: float) -> Progress:
        done, embedded = self.done(), self.report.items.embedded
        rate = left = None
        if self.stage == "embedding":
            self._recent.append((moment, embedded, done))
            while len(self._recent) > 2 and moment - self._recent[0][0] > _RATE_SECONDS:
                self._recent.popleft()
            rate = self._rate(1)
            files_rate = self._rate(2)
            if self.total is not None and files_rate:
                left = max(0, self.total - done) / files_rate
        return Progress(
            self.stage, done, self.total, self.found, self.ignored, self.report.files.skipped, embedded, rate or 0.0,
            moment - self._started, left, self.current,
        )  # fmt: skip

    def _rate(self, field: int) -> float:
        first, last = self._recent[0], self._recent[-1]
        seconds = last[0] - first[0]
        return (last[field] - first[field]) / seconds if seconds > 0 else 0.0
