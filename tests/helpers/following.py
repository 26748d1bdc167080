"""A watch over the real indexer, in a thread of the test, that counts its runs and what it says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from helpers.indexing import Indexing
from tsembed_search.documents.crawl import Crawl, Found, Selection
from tsembed_search.indexer.report import FileCounts, IndexOptions, IndexReport
from tsembed_search.indexer.watching.events import Deaf
from tsembed_search.indexer.watching.loop import Pace, Watcher
from tsembed_search.paths import is_within

PACE = {"quiet": 0.05, "longest": 1.0, "disks": 0.1, "every": 3600.0}
PATIENCE = 20.0

Follower = TypeVar("Follower", bound="Following")


class Following:
    """A `WatchRunner` that indexes with the model of colours."""

    def __init__(self, indexing: Indexing) -> None:
        self.indexing = indexing
        self.stop = threading.Event()
        self.reports: list[IndexReport] = []
        self.failures: list[Exception] = []
        self.told_deaf: list[Deaf] = []
        self.told_hearing: list[str] = []
        self.began_with: int | None = None
        self.rests = self.told_gone = 0
        self.begun = 0
        self.running = False
        self.ended: BaseException | None = None
        self.before_run: Callable[[], None] = lambda: None
        self.watcher: Watcher

    def run(self, roots: Sequence[str], options: IndexOptions) -> IndexReport:
        self.begun += 1
        self.running = True
        try:
            self.before_run()
            self.reports.append(self.made(roots, options))
            return self.reports[-1]
        finally:
            self.running = False

    def made(self, roots: Sequence[str], options: IndexOptions) -> IndexReport:
        """One run."""
        return self.indexing.run(*roots, **(vars(options) | {"workers": 1}))

    def began(self, folders: int) -> None:
        self.began_with = folders

    def failed(self, error: Exception, pause: float) -> None:
        self.failures.append(error)

    def deaf(self, roots: Sequence[Deaf]) -> None:
        self.told_deaf += roots

    def hears_again(self, roots: Sequence[str]) -> None:
        self.told_hearing += roots

    def gone(self) -> None:
        self.told_gone += 1

    def rest(self) -> None:
        self.rests += 1

    def follow(self) -> None:
        """Runs in the thread."""
        try:
            self.watcher.follow()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, the test must end
            self.ended = error

    def until(self, true: Callable[[], object], what: str = "") -> None:
        """Waits until it is so."""
        end = time.monotonic() + PATIENCE
        while not true():
            assert self.ended is None, self.ended
            assert time.monotonic() < end, what or "it never became so"
            time.sleep(0.02)

    def next_run(self) -> Callable[[], IndexReport]:
        """Says what to wait for: the first run that changes something after this call."""
        before = len(self.reports)

        def ran() -> IndexReport:
            def changed() -> list[IndexReport]:
                kinds = ("added", "updated", "renamed", "removed", "skipped")
                return [one for one in self.reports[before:] if any(getattr(one.files, kind) for kind in kinds)]

            self.until(changed, "no run found a change")
            return changed()[0]

        return ran

    def idle(self, seconds: float = 0.25) -> bool:
        """Tells whether there is no run for a while."""
        before = len(self.reports)
        time.sleep(seconds)
        return len(self.reports) == before and not self.running

    def settled(self, folder: Path | None = None) -> None:
        """Waits until nothing is left to do: until a run has begun after a last change, here of a file in `folder`."""
        watcher: Any = self.watcher
        before = self.begun
        ((folder or self.indexing.files) / f"last{before}.txt").write_text(f"the last change, number {before}")
        self.until(lambda: self.begun > before and not self.running and not watcher._marked)


class Looking(Following):
    """A `WatchRunner` that only looks at the files: a run starts no process, and takes no second.

    Its reports count what is there now and was not, or was another, when it looked last.
    """

    def __init__(self, indexing: Indexing) -> None:
        super().__init__(indexing)
        self.seen: dict[str, bytes] = {}

    def made(self, roots: Sequence[str], options: IndexOptions) -> IndexReport:
        now = self.there(roots, options)
        before = {path: data for path, data in self.seen.items() if any(is_within(path, root) for root in roots)}
        files = FileCounts(
            seen=len(now),
            added=len(now.keys() - before.keys()),
            updated=sum(1 for path in now.keys() & before.keys() if now[path] != before[path]),
            removed=len(before.keys() - now.keys()),
        )
        self.seen = {path: data for path, data in self.seen.items() if path not in before} | now
        return IndexReport(files)

    def there(self, roots: Sequence[str], options: IndexOptions | None = None) -> dict[str, bytes]:
        """The files of a run, and what is in them."""
        chosen = options or IndexOptions()
        selection = Selection(chosen.include, chosen.exclude, hidden=chosen.hidden)

        def known(path: str) -> bool:
            return any(is_within(one, path) for one in self.seen)

        found = {}
        for one in Crawl(roots, selection, skip=self.indexing.home, known=known):
            with suppress(FileNotFoundError):
                found[one.path] = Path(one.path).read_bytes() if isinstance(one, Found) else b""
        return found

    def equals_files(self) -> bool:
        """Tells whether the last runs saw what is there now."""
        return self.seen == self.there([str(self.indexing.files)])


@contextmanager
def following(
    kind: type[Follower], indexing: Indexing, *paths: Path, pace: dict[str, float] | None = None, **options: Any
) -> Iterator[Follower]:
    """Follows the paths (default: all files) while the block runs, which begins after the first run."""
    follower = kind(indexing)
    follower.watcher = Watcher(
        paths or (indexing.files,),
        IndexOptions(**options),
        indexing.home,
        follower,
        follower.stop,
        Pace(**(PACE | (pace or {}))),
    )
    thread = threading.Thread(target=follower.follow)
    thread.start()
    try:
        follower.until(lambda: follower.began_with is not None, "the first run never ended")
        yield follower
    finally:
        follower.stop.set()
        thread.join()
