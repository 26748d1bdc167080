"""The loop of a watch: what changed marks its root, a while of quiet starts the ordinary run on what is marked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from tsembed_search.documents.crawl import Selection
from tsembed_search.errors import IndexBusyError, IndexMismatchError, ModelError, TsembedError, UsageError
from tsembed_search.indexer.manifest import stamp_of
from tsembed_search.indexer.report import IndexOptions, IndexReport, Interrupted, StopSignal
from tsembed_search.indexer.watching import disks
from tsembed_search.indexer.watching.events import Deaf, FolderEvents
from tsembed_search.ownership import owner_of
from tsembed_search.paths import typed

_TICK: Final = 0.2
_PAUSES: Final = (5.0, 300.0)
_PAUSES_WHILE_BUSY: Final = (1.0, 10.0)
_MANY: Final = 500
_HALF_A_QUEUE: Final = 8192
_HOPELESS: Final = (UsageError, ModelError, IndexMismatchError)


@dataclass(frozen=True)
class Pace:
    """The times of a watch, in seconds.

    A run begins after `quiet` without an event, and after `longest` at the latest; sooner if many files wait. `every`:
    between two looks at what the system does not tell of. `whole`: between two looks at everything, in case that an
    event was lost. `disks`: between two looks at which disks are there, and whether others changed the index. `rest`:
    without a run, until the model may go.
    """

    quiet: float = 2.0
    longest: float = 30.0
    every: float = 600.0
    whole: float = 3600.0
    disks: float = 2.0
    rest: float = 600.0


class WatchRunner(Protocol):
    """Makes the runs of a watch, and is told what happens."""

    def run(self, roots: Sequence[str], options: IndexOptions) -> IndexReport:
        """Bring the index up to date with these roots, and own it no longer than that takes."""
        ...

    def began(self, folders: int) -> None:
        """Take note that the first run is done, and that so many folders are listened to."""
        ...

    def failed(self, error: Exception, pause: float) -> None:
        """Take note that a run failed, the first time with this error. It is tried again after so many seconds."""
        ...

    def deaf(self, roots: Sequence[Deaf]) -> None:
        """Take note of roots that are only looked at now and then, from now on."""
        ...

    def hears_again(self, roots: Sequence[str]) -> None:
        """Take note of roots that the system tells of everything again."""
        ...

    def gone(self) -> None:
        """Take note that others have deleted the index. A run that makes it again follows."""
        ...

    def rest(self) -> None:
        """Give back what the next run can get again, such as the memory of the model."""
        ...


class Watcher:
    """Keeps an index equal to its files. `folder`: the index's own."""

    def __init__(
        self,
        paths: Sequence[str | Path],
        options: IndexOptions,
        folder: Path,
        runner: WatchRunner,
        stop: StopSignal,
        pace: Pace | None = None,
    ) -> None:
        self._roots = list(dict.fromkeys(str(typed(path)) for path in paths))
        self._options = options
        self._runner = runner
        self._stop = stop
        self._pace = pace or Pace()
        self._events = FolderEvents(self._roots, options, folder)
        self._folder = folder
        self._stamp: tuple[int, ...] = ()
        self._begun = False
        self._marked: set[str] = set()
        self._waiting: set[str] = set()
        self._since = self._last = 0.0
        self._not_before = 0.0
        self._failures = 0
        self._said = ""
        self._deaf: list[Deaf] = []
        self._polled = self._whole = self._ran = time.monotonic()
        self._rested = True
        self._looked_at_disks = 0.0
        self._disks: tuple[object, ...] = ()

    def follow(self) -> None:
        """Follow the files until `stop` is set; the first run begins at once.

        Raises what the first run raises when another try would raise it again (wrong usage, a wrong model), and
        `Interrupted` when it is stopped while a run goes on. What later runs raise is told to the runner.
        """
        self._mark(self._roots, -self._pace.quiet)
        try:
            while not self._stop.is_set():
                heard = self._events.wait(_TICK)
                if heard is not None and heard.roots:
                    self._mark(heard.roots, heard.moment)
                    self._waiting.update(islice(heard.files, _MANY + 1))
                self._look_around()
                if self._is_time():
                    self._bring_up_to_date()
        finally:
            self._events.close()

    def _mark(self, roots: Iterable[str], moment: float) -> None:
        if not self._marked:
            self._since = moment
        self._last = max(self._last, moment)
        self._marked |= set(roots)

    def _look_around(self) -> None:
        """Mark what no event tells of: disks that come and go, roots that must be polled, and once an hour all."""
        now, pace = time.monotonic(), self._pace
        if now - self._looked_at_disks >= pace.disks:
            heard = [root for root in self._roots if root not in self._events.deaf]
            before, self._disks = self._disks, disks.state_of(heard)
            if before and before != self._disks:
                self._mark(heard, now)
            self._look_at_index()
            self._looked_at_disks = time.monotonic()
        if now - self._polled >= pace.every and self._events.deaf:
            self._mark(self._events.deaf, now - pace.quiet)
            self._polled = now
        if now - self._whole >= pace.whole:
            self._mark(self._roots, now - pace.quiet)
        if now - self._ran >= pace.rest and not self._rested:
            self._runner.rest()
            self._rested = True

    def _look_at_index(self) -> None:
        """Mark everything when others have changed the index: what they took out of it is in the files still."""
        if not self._begun or (now := stamp_of(self._folder)) == self._stamp or owner_of(self._folder):
            return
        self._stamp = now
        self._mark(self._roots, time.monotonic())
        if not now:
            self._runner.gone()

    def _is_time(self) -> bool:
        now, pace = time.monotonic(), self._pace
        if not self._marked or now < self._not_before:
            return False
        waited = now - self._since
        return now - self._last >= pace.quiet or waited >= (pace.quiet if len(self._waiting) > _MANY else pace.longest)

    def _bring_up_to_date(self) -> None:
        roots, self._marked, self._waiting = self._marked, set(), set()
        now = time.monotonic()
        try:
            whole = now - self._whole >= self._pace.whole
            # What could not be listened to may be possible by now.
            if self._events.listen(anew=whole or (self._events.refused and not roots.isdisjoint(self._events.deaf))):
                roots |= self._events.heard
            self._tell_deaf()
            try:
                report = self._run([root for root in self._roots if root in roots])
            finally:
                self._stamp = stamp_of(self._folder)
        except Interrupted:
            raise
        except (TsembedError, OSError) as error:
            self._failed(error, roots)
            return
        self._said, self._rested = "", False
        self._ran = time.monotonic()
        if whole or not self._begun:
            self._whole = now
        if roots & set(self._events.deaf):
            self._polled = self._ran
        # Files that are opened fill the system's queue of events, which drops others when it is full.
        if not self._events.settled or report.files.added + report.files.updated > _HALF_A_QUEUE:
            self._mark(self._roots, time.monotonic())
        if not self._begun:
            self._begun = True
            self._runner.began(self._events.folders)

    def _run(self, roots: list[str]) -> IndexReport:
        options = self._options
        if len(roots) < len(self._roots) and (options.include or options.exclude):
            try:
                Selection(options.include, options.exclude).below(roots)
            except UsageError:
                roots = self._roots  # some patterns are for the others
        if self._begun:
            # Nobody asks for a folder that is gone, and of which nothing is known, for good: the others go on.
            there = [root for root in roots if os.path.lexists(root)]
            try:
                return self._runner.run(roots, options)
            except UsageError:
                if not there or there == roots:
                    raise
            roots = there
        return self._runner.run(roots, options)

    def _failed(self, error: Exception, roots: set[str]) -> None:
        """Try again later: all that is listened to, for nobody may have heard it meanwhile."""
        if not self._begun and isinstance(error, _HOPELESS):
            raise error
        busy = isinstance(error, IndexBusyError)
        said = type(error).__name__ if busy else str(error)
        self._failures = self._failures + 1 if said == self._said else 0
        first, longest = _PAUSES_WHILE_BUSY if busy else _PAUSES
        pause = min(longest, first * 2 ** min(self._failures, 9))
        now = time.monotonic()
        self._mark(roots | self._events.heard, now - self._pace.quiet)
        self._not_before = now + pause
        if said != self._said:
            self._said = said
            self._runner.failed(error, pause)

    def _tell_deaf(self) -> None:
        now = sorted(self._events.deaf.values(), key=lambda one: one.root)
        if new := [one for one in now if one not in self._deaf]:
            self._runner.deaf(new)
        if hearing := [one.root for one in self._deaf if one.root not in self._events.deaf]:
            self._runner.hears_again(hearing)
        self._deaf = now
