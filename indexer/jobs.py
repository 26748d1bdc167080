"""What travels through a run: a content being read, and its items on their way to the store."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tsembed_search.indexer.crawl import Found

if TYPE_CHECKING:
    from tsembed_search.indexer.loaders import Format
    from tsembed_search.indexer.loaders.unit import Unit
    from tsembed_search.model.backbones.protocol import Prepared


@dataclass
class Job:
    """A content to be read, from the first file that had it. `waiting`: other files that have it too.

    `known`: the ids (16 bytes each) of points that the store has for it; `reusable`: they are what would be made now,
    so they need no embedding. `ids`: those of all its units so far. `sure`: see `manifest.row_of`.
    """

    found: Found
    sha: bytes
    format: Format
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
        """Whether everything that was sent on is in the store."""
        return self.ended and self.acknowledged == self.sent


class InFlight:
    """The contents that are being read, so that a second file with the same content waits for the first."""

    def __init__(self) -> None:
        self._jobs: dict[bytes, Job] = {}
        self._lock = threading.Lock()

    def open(self, job: Job) -> None:
        """The job begins."""
        with self._lock:
            self._jobs[job.sha] = job

    def joined(self, sha: bytes, found: Found, sure: bool) -> bool:
        """Whether a job with that content is under way; if so the file waits for it."""
        with self._lock:
            job = self._jobs.get(sha)
            if job is not None:
                job.waiting.append((found, sure))
            return job is not None

    def close(self, job: Job) -> list[tuple[Found, bool]]:
        """The job is over: all its files. Nobody can join any more."""
        with self._lock:
            del self._jobs[job.sha]
            return [(job.found, job.sure), *job.waiting]


@dataclass
class Entry:
    """One item of a job: the unit (its pixels are gone once it is prepared) and the id of its point."""

    job: Job
    unit: Unit
    id: str


@dataclass(frozen=True)
class End:
    """Nothing more comes of this job."""

    job: Job


@dataclass(frozen=True)
class Ready:
    """An item that is ready for the model."""

    entry: Entry
    prepared: Prepared
