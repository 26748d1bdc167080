"""Contents and items on their way through a run, and the threads of a run.

The threads share queues that end when the run ends, and the first error of any of them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from tsembed_search.documents.crawl import Found
from tsembed_search.indexer.report import StopSignal

if TYPE_CHECKING:
    from tsembed_search.documents.document import Format, Unit

_CHECK_SECONDS: Final = 0.1

T = TypeVar("T")


@dataclass
class ContentJob:
    """A content to be read, from the first file that had it. `waiting`: other files that have it too.

    `formats`: those that it may be in, the likeliest first. `known`: the ids (16 bytes each) of points that the store
    has for it; `reusable`: they are what would be made now, so they need no embedding. `ids`: those of all its units so
    far. `sure`: see `FileRow.of`.
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
