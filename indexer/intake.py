"""From files that are new or changed to contents that must be read: hashing finds what is known already.

Also what travels through a run from here on, and the threads of a run. They share queues that end when the run ends,
and the first error of any of them.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from tsembed_search.documents.crawl import Found, open_regular, signature, unreadable
from tsembed_search.documents.document import HEAD, extension_of, format_of, formats, formats_of
from tsembed_search.documents.worker import CHANGED, TooSlow
from tsembed_search.errors import LoadError
from tsembed_search.indexer.changes import Changes
from tsembed_search.indexer.database import WORDS_FIRST, FileRow, each_id
from tsembed_search.indexer.manifest import Manifest
from tsembed_search.indexer.report import IndexOptions, Meter, PageMode, StopSignal

if TYPE_CHECKING:
    from tsembed_search.documents.document import Format, Unit

_CHECK_SECONDS: Final = 0.1
_PIECE: Final = 1 << 20
_PORTION: Final = 200
# A file that was changed this shortly before it was read may change again without a new time of change: file systems
# count in steps of up to two seconds.
_GRAIN_NS: Final = 2_000_000_000

T = TypeVar("T")


@dataclass
class ContentJob:
    """A content to be read, from the first file that had it. `waiting`: other files that have it too.

    `formats`: those that it may be in, the likeliest first. `known`: the ids (16 bytes each) of points that the store
    has for it; `reusable`: they are what would be made now, so they need no embedding; `bare`: some of them may have no
    vector; `has_words`: all of it has been stored by its words. `ids`: those of all its units so far. `sure`: see
    `FileRow.of`. `words`: it is to be stored without vectors.
    """

    found: Found
    sha: bytes
    formats: tuple[Format, ...]
    recipe: str
    pages: bool
    sure: bool
    known: frozenset[bytes] = frozenset()
    reusable: bool = False
    waiting: list[tuple[Found, bool]] = field(default_factory=list)
    ids: bytearray = field(default_factory=bytearray)
    sent: int = 0
    acknowledged: int = 0
    reused: int = 0
    ended: bool = False
    failure: str | None = None
    again: bool = False
    words: bool = False
    bare: bool = False
    has_words: bool = False

    @property
    def stored_as(self) -> str:
        """The recipe that the manifest remembers."""
        return words_recipe(self.recipe) if self.words and (self.sent or self.bare) else self.recipe

    @property
    def settled(self) -> bool:
        """True when nothing more is to come of it: everything that was sent on is in the store, or it has failed."""
        return (self.ended and self.acknowledged == self.sent) or self.failure is not None


class InFlight:
    """The contents that are being read, so that a second file with the same content waits for the first."""

    def __init__(self) -> None:
        self._jobs: dict[bytes, ContentJob] = {}
        self._lock = threading.Lock()

    def open(self, job: ContentJob) -> None:
        """Begin a job."""
        with self._lock:
            self._jobs[job.sha] = job

    def joined(self, sha: bytes, found: Found, sure: bool) -> bool:
        """Tell whether a job with that content is under way; if so the file waits for it."""
        with self._lock:
            job = self._jobs.get(sha)
            if job is not None:
                job.waiting.append((found, sure))
            return job is not None

    def close(self, job: ContentJob) -> list[tuple[Found, bool]]:
        """End a job; returns all its files. Nobody can join any more."""
        with self._lock:
            del self._jobs[job.sha]
            return [(job.found, job.sure), *job.waiting]


@dataclass
class Entry:
    """One item of a job: the unit (its pixels are gone once it is prepared) and the id of its point."""

    job: ContentJob
    unit: Unit
    id: str


class FlowStopped(Exception):
    """The run ends early: somebody stopped it, or another thread failed."""


class Flow:
    """The threads of a run, which stop together, when `asked` at the latest. The first error in one of them stops all
    and is raised by `check`.
    """

    def __init__(self, asked: StopSignal) -> None:
        self._asked = asked
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    @property
    def stopped(self) -> bool:
        """True when the run is to end early."""
        return self._stop.is_set() or self._asked.is_set()

    def stop(self) -> None:
        """End the run early: whoever waits for a queue gets `FlowStopped`."""
        self._stop.set()

    def start(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Run `work` in a thread of its own."""

        def guarded() -> None:
            try:
                work()
            except FlowStopped:
                pass
            # Whatever it is, it is raised again in the thread that runs the index.
            except BaseException as error:  # noqa: BLE001
                self._errors.append(error)
                self.stop()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def put(self, line: queue.Queue[T], item: T, waiting: Callable[[], None] = lambda: None) -> None:
        """Wait for room, calling `waiting` now and then. Raises `FlowStopped`."""
        while not self.stopped:
            try:
                return line.put(item, timeout=_CHECK_SECONDS)
            except queue.Full:
                waiting()
        raise FlowStopped

    def get(self, line: queue.Queue[T], waiting: Callable[[], None] = lambda: None) -> T:
        """Wait for an item, calling `waiting` now and then. Raises `FlowStopped`."""
        while not self.stopped:
            try:
                return line.get(timeout=_CHECK_SECONDS)
            except queue.Empty:
                waiting()
        raise FlowStopped

    def wait(self) -> None:
        """Wait for all threads to end."""
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Raise the first error of any thread."""
        if self._errors:
            raise self._errors[0]


class Intake:
    """The stage that hashes files and decides: known content in another place, or a job.

    `reads_pages`: None if it is not known yet whether the model reads pages by eye. `words`: contents are to be stored
    without vectors.
    """

    def __init__(
        self,
        manifest: Manifest,
        changes: Changes,
        meter: Meter,
        options: IndexOptions,
        reads_pages: bool | None,
        *,
        words: bool = False,
    ) -> None:
        self._manifest = manifest
        self._changes = changes
        self._meter = meter
        self._options = options
        self._words = words
        self.in_flight = InFlight()
        self._placed: list[FileRow] = []
        self._left: list[str] = []
        self.learn(reads_pages)

    @property
    def must_know_the_model(self) -> bool:
        """True when the way to read a document hangs on a model that was never loaded for this index."""
        return self._options.pages == "auto" and self._reads_pages is None

    def learn(self, reads_pages: bool | None) -> None:
        """Take over what the model says of itself."""
        self._reads_pages = reads_pages
        self._recipes = frozenset(valid_recipes(self._options.pages, reads_pages, words=self._words))

    def run(self, flow: Flow, jobs: queue.Queue[ContentJob | None], *, newest_first: bool = False) -> None:
        """Put a job for each new content into `jobs`, and None at the end."""
        for found in self._changes.todo(newest_first=newest_first):
            job = self.examine(found, flow)
            if job is not None:
                flow.put(jobs, job)
        self._remember()
        flow.put(jobs, None)

    def examine(self, found: Found, flow: Flow | None = None) -> ContentJob | None:
        """Hash one file. Places it when its content is known, else gives the job of reading it."""
        old = self._manifest.file(found.path)
        if old is not None:
            # A file stays where it was found first, however small the folder given this time.
            found = replace(found, root=old.root)
        self._meter.current = found.path
        try:
            if (
                old is not None
                and old.sha
                and (old.size, old.mtime_ns, old.inode) == (found.size, found.mtime_ns, found.inode)
            ):
                sha, head, sure = old.sha, _head(found), True
            else:
                sha, head, sure = _hashed(found, flow, self._options.time_limit)
        except (OSError, LoadError) as error:
            reason = unreadable(error) if isinstance(error, OSError) else str(error)
            self._meter.skip(found.path, reason)
            if isinstance(error, TooSlow) and not self._options.dry_run:
                recipe = format_of(extension_of(Path(found.path).name)).recipe(pages=False)
                self._manifest.skip([FileRow.of(found, None, recipe, reason)])
            return None
        known = self._manifest.content(sha)
        if known is not None and not known.pending and known.recipe in self._recipes:
            self._place(found, sha, known.recipe, old, sure, len(known.points) // 16)
            return None
        likely = formats_of(extension_of(Path(found.path).name), head)
        if self.in_flight.joined(sha, found, sure):
            return None
        pages = likely[0].pages and self._pages_of(old)
        recipe = likely[0].recipe(pages=pages)
        reusable, bare = False, False
        if known is not None:
            bare = known.recipe.startswith(WORDS_FIRST)
            reusable = known.recipe in (recipe, "") or (self._words and known.recipe == words_recipe(recipe))
            if self._words and not (bare or reusable or self._options.words_only):
                # What has vectors, if old ones, keeps them until it gets new ones.
                return None
        job = ContentJob(
            found, sha, likely, recipe, pages, sure,
            known=frozenset(each_id(known.points)) if known is not None else frozenset(),
            reusable=reusable,
            words=self._words,
            bare=bare,
            has_words=known is not None and not known.pending and known.recipe == words_recipe(recipe),
        )  # fmt: skip
        self.in_flight.open(job)
        return job

    def _pages_of(self, old: FileRow | None) -> bool:
        kept = self._options.pages == "auto" and old is not None and old.recipe.endswith("+pages")
        return kept or wants_pages(self._options.pages, self._reads_pages)

    def _place(self, found: Found, sha: bytes, recipe: str, old: FileRow | None, sure: bool, points: int) -> None:
        self._placed.append(FileRow.of(found, sha, recipe, sure=sure))
        if len(self._placed) >= _PORTION:
            self._remember()
        if old is not None and old.sha == sha:
            self._meter.count("unchanged")
            return
        renamed = self._options.prune and self._changes.take_renamed(sha)
        if renamed:
            self._left.append(renamed)
        self._meter.count("renamed" if renamed else "added" if old is None or old.sha is None else "updated")
        self._meter.count_items("reused", points)

    def _remember(self) -> None:
        """Files with known content, in one go: to be on disk takes as long for one as for many."""
        placed, left, self._placed, self._left = self._placed, self._left, [], []
        if not self._options.dry_run:
            self._manifest.place(placed, left)


def wants_pages(pages: PageMode, reads_pages: bool | None) -> bool:
    """Tell whether document pages are rendered. `reads_pages`: the model reads them by eye (None: not known yet)."""
    return pages == "always" or (pages == "auto" and bool(reads_pages))


def words_recipe(recipe: str) -> str:
    """Return the recipe of a content that was read by another one, and still needs its vectors."""
    return f"{WORDS_FIRST}{recipe}"


def valid_recipes(pages: PageMode, reads_pages: bool | None, *, words: bool = False) -> list[str]:
    """Return the recipes whose result need not be made again. `auto` keeps pages that were asked for once; for `words`
    alone, no vectors are needed.
    """
    wanted = wants_pages(pages, reads_pages)
    recipes = [""]
    for format in formats():
        if not format.pages or not wanted:
            recipes.append(format.recipe(pages=False))
        if format.pages and (wanted or pages == "auto"):
            recipes.append(format.recipe(pages=True))
    return [*recipes, *map(words_recipe, recipes[1:])] if words else recipes


def _head(found: Found) -> bytes:
    """The first bytes of a file whose hash is known. Raises `LoadError` when it has changed since it was found."""
    with open_regular(found.path) as file:
        if signature(os.fstat(file.fileno())) != (found.size, found.mtime_ns, found.inode):
            raise CHANGED
        return file.read(HEAD)


def _hashed(found: Found, flow: Flow | None, limit: float) -> tuple[bytes, bytes, bool]:
    """(sha256, first bytes, whether it cannot have changed since unnoticed). Raises `TooSlow` after `limit` seconds.

    A file that goes on after its end is not read on: it grows, or the system makes it up.
    """
    now = time.time_ns()
    deadline = time.monotonic() + limit
    left = found.size
    digest = hashlib.sha256()
    head = b""
    expected = found.size, found.mtime_ns, found.inode
    with open_regular(found.path) as file:
        while piece := file.read(_PIECE):
            head = head or piece[:HEAD]
            digest.update(piece)
            left -= len(piece)
            if flow is not None and flow.stopped:
                raise FlowStopped
            if left < 0:
                made_up = signature(os.fstat(file.fileno())) == expected
                raise LoadError("It is longer than it says: the system makes it up.") if made_up else CHANGED
            if time.monotonic() > deadline:
                raise TooSlow(limit)
        if signature(os.fstat(file.fileno())) != expected:
            raise CHANGED
    return digest.digest(), head, abs(now - found.mtime_ns) > _GRAIN_NS
