"""The indexing run: crawl, load, batch, embed, store.

`Index.add` calls it and hands in what it owns. The stages run beside one another, joined by short queues, so that
memory stays flat:

    intake (hash) -> decoders (processes) -> prepare -> batches -> models (a thread each) -> writer (store, manifest)
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsembed_search.documents.crawl import Crawl, Found, Selection
from tsembed_search.errors import IndexMismatchError, UsageError
from tsembed_search.indexer import mending
from tsembed_search.indexer.changes import Changes, Guard
from tsembed_search.indexer.intake import ContentJob, Flow, FlowStopped, Intake, valid_recipes
from tsembed_search.indexer.manifest import NAME, Manifest, manifest_to_read
from tsembed_search.indexer.report import IndexOptions, IndexReport, Interrupted, Meter, ProgressSink, StopSignal
from tsembed_search.indexer.stages import Feeder, embed_all
from tsembed_search.indexer.writing import Writer
from tsembed_search.paths import OFFLINE, indexed_form
from tsembed_search.store.schema import WORDS_LEFT

if TYPE_CHECKING:
    from tsembed_search.model.backbone import ModelInfo
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.model.unloaded import Unloaded
    from tsembed_search.store.base import Store

_PORTION: Final = 512
_JOBS: Final = 256
_BETWEEN_LOOKS: Final = 0.02
_MOST_WORKERS: Final = 16
_FINGERPRINT: Final = "fingerprint"
_READS_PAGES: Final = "reads_pages"


@dataclass(frozen=True)
class Opened:
    """An index as its owner hands it to a run.

    `folder`: where its manifest lies. `fingerprint`: its model's, so that a run with nothing to embed never loads it.
    `owned`: owns the index while the block runs, and gives its store, None if there is none yet; it is told where to
    note what is worth a line. `create`: makes the store, for a model. `load`: loads the model, once for each device.
    `unloaded`: what takes its place in a run that stores words only.
    """

    folder: Path
    fingerprint: str
    owned: Callable[[Callable[[str], None]], AbstractContextManager[Store | None]]
    create: Callable[[ModelInfo], Store]
    load: Callable[[], Sequence[Embedder]]
    unloaded: Callable[[], Unloaded] | None = None


def run_index(
    paths: Sequence[str | Path],
    options: IndexOptions,
    opened: Opened,
    *,
    progress: ProgressSink | None = None,
    stop: StopSignal | None = None,
) -> IndexReport:
    """Bring an index up to date with files and folders.

    Raises `UsageError` (a path that does not exist, a bad pattern), `IndexBusyError`, `IndexMismatchError`,
    `StoreError`, `ModelError`, and `Interrupted`, with the report so far, when `stop` is set or Ctrl-C is pressed.
    """
    meter = Meter(progress)
    crawl = Crawl(
        paths,
        Selection(options.include, options.exclude, hidden=options.hidden),
        follow_links=options.follow_links,
        skip=opened.folder,
        known=lambda path: _knows(opened.folder, path),
    )
    with ExitStack() as stack:
        try:
            store = stack.enter_context(opened.owned(meter.note))
            run = _IndexRun(options, opened, store, crawl, meter, stop or threading.Event())
            stack.callback(lambda: run.manifest.close())
            run.agree()
            run.crawl()
            if options.dry_run:
                run.predict()
                return meter.finished()
            complete = run.store_words() and run.embed()
            run.tidy(complete)
            if complete and run.optimize():
                return meter.finished()
        except (KeyboardInterrupt, FlowStopped):
            pass
        raise Interrupted(meter.finished())


class _IndexRun:
    """One run, stage by stage."""

    def __init__(
        self, options: IndexOptions, opened: Opened, store: Store | None, crawl: Crawl, meter: Meter, stop: StopSignal
    ) -> None:
        self._options = options
        self._opened = opened
        self._crawl = crawl
        self._meter = meter
        self._stop = stop
        self._store = store
        path = opened.folder / NAME
        self.manifest = Manifest(None if options.dry_run and not path.exists() else path)
        self._embedders: Sequence[Embedder | Unloaded] = ()
        self._models: Sequence[Embedder] = ()
        self._words = options.words_only
        self._begun = False

    def agree(self) -> None:
        """See to it that the store and the manifest tell of the same points."""
        made_with = self.manifest.get(_FINGERPRINT)
        if self._store is None or made_with not in (None, self._opened.fingerprint):
            if self._options.dry_run:
                self.manifest.close()
                self.manifest = Manifest(None)
            else:
                self.manifest.clear()
        if self._store is not None:
            self._meter.report.items.total = self._store.count()
        if self._options.dry_run:
            return
        if self._store is not None:
            mending.agree(self.manifest, self._store, self._meter.note)
        if self.manifest.get(_FINGERPRINT) is None:
            self.manifest.put(_FINGERPRINT, self._opened.fingerprint)

    def crawl(self) -> None:
        """Find what is new, changed or gone."""
        meter = self._meter
        meter.enter("crawling")
        reads_pages = self._reads_pages
        pages, only = self._options.pages, self._options.words_only
        by_words = valid_recipes(pages, reads_pages, words=True)
        recipes = by_words if only else valid_recipes(pages, reads_pages)
        self._changes = Changes(self.manifest, recipes, by_words, retry_skipped=self._options.retry_skipped)
        listing = iter(self._crawl)
        while portion := list(islice(listing, _PORTION)):
            found = []
            for one in portion:
                if isinstance(one, Found):
                    found.append(one)
                else:
                    meter.skip(one.path, one.reason)
                    self._changes.keep(one.path)
            unchanged, skipped = self._changes.compare(found)
            meter.count("unchanged", unchanged)
            for path, reason in skipped:
                meter.skip(path, reason)
            meter.found += len(portion)
            meter.ignored = self._crawl.ignored
            self._tick()
        self._guard = Guard(self.manifest, self._changes, self._crawl.roots, self._crawl.disks)
        self._changes.find_vanished(self._crawl.roots, self._guard.place_of)
        if not self._options.prune_empty:
            self._guard.look(most=self._options.prune)
            self._remember(finished=False)
        meter.total = meter.done() + self._changes.todo_count()
        self._intake = self._new_intake(words=only)

    @property
    def _reads_pages(self) -> bool | None:
        told = self.manifest.get(_READS_PAGES)
        return None if told is None else told == "yes"

    def _new_intake(self, *, words: bool) -> Intake:
        return Intake(self.manifest, self._changes, self._meter, self._options, self._reads_pages, words=words)

    def _tick(self) -> None:
        """Tell of the progress. Raises `FlowStopped` when the run is to stop."""
        self._meter.tick()
        if self._stop.is_set():
            raise FlowStopped

    def predict(self) -> None:
        """Count what a run would do. Reads every new file to tell renamed ones from new ones."""
        self._meter.enter("checking")
        for found in self._changes.todo():
            job = self._intake.examine(found)
            if job is not None:
                old = self.manifest.file(found.path)
                self._meter.count("updated" if old is not None and old.sha else "added")
                self._intake.in_flight.close(job)
            self._tick()
        self._settle_vanished()
        for paths in self._changes.vanished() if self._options.prune else ():
            self._meter.count("removed", len(paths))

    def _settle_vanished(self) -> None:
        """Take off the list of what vanished what is only away, now that all that is new is known."""
        if not self._options.prune_empty:
            self._guard.look_again()
        self._remember(finished=True)

    def _remember(self, *, finished: bool) -> None:
        self._meter.report.offline = self._guard.offline
        if not self._options.dry_run:
            self._guard.remember(finished=finished)

    def store_words(self) -> bool:
        """Store the words of what is new, if it is so much that its vectors take a while. False when it was stopped
        before the end.
        """
        options = self._options
        if options.words_only or options.words_first is None or self._changes.wordless < options.words_first:
            return True
        self._words, self._intake = True, self._new_intake(words=True)
        if not self.embed():
            return False
        self._words, self._embedders = False, ()
        # That took a while: files may have changed.
        self._meter.again()
        self.crawl()
        return True

    def embed(self) -> bool:
        """Read and embed what is new. False when it was stopped before the end."""
        if not self._changes.todo_count():
            return True
        if self._intake.must_know_the_model:
            self._prepare_model()
        self._meter.enter("checking")
        flow = Flow(self._stop)
        jobs: queue.Queue[ContentJob | None] = queue.Queue(_JOBS)
        # Where words came first, what was changed last is found by its meaning first.
        newest = self._store is not None and bool(self._store.metadata.get(WORDS_LEFT))
        flow.start(lambda: self._intake.run(flow, jobs, newest_first=newest), "intake")
        complete = False
        try:
            while jobs.empty() and not flow.stopped:
                time.sleep(_BETWEEN_LOOKS)
                self._meter.tick()
            # What is new may be known content in other places: then there is nothing for the model to do.
            if not flow.stopped and jobs.queue[0] is not None:
                self._prepare_model()
                self._embed(flow, jobs)
            complete = not flow.stopped
        except KeyboardInterrupt:
            # As if it had been asked to stop: what is embedded is kept and told of.
            pass
        finally:
            flow.stop()
            flow.wait()
        flow.check()
        return complete

    def _prepare_model(self) -> None:
        """Load the model, and make the store for it if there is none."""
        if self._embedders:
            return
        self._embedders = [self._stand_in()] if self._words else self._loaded()
        info = self._embedders[0].info
        if info.fingerprint != self._opened.fingerprint:
            raise IndexMismatchError(
                f"The model {info.name} that was loaded is not the one that was named.",
                "It may have been replaced just now: try again.",
            )
        reads_pages = self._embedders[0].inputs.reads_pages
        self._intake.learn(reads_pages)
        self.manifest.put(_READS_PAGES, "yes" if reads_pages else "no")
        if self._store is None:
            self._store = self._opened.create(info)
        self._begin()

    def _loaded(self) -> Sequence[Embedder]:
        if not self._models:
            self._meter.enter("loading the model")
            self._models = self._opened.load()
        return self._models

    def _stand_in(self) -> Unloaded:
        """The stand-in for the model where only words are stored; of most models it is known once they are loaded."""
        try:
            if self._opened.unloaded is not None:
                return self._opened.unloaded()
        except UsageError:
            if self._options.words_only:
                raise
        from tsembed_search.model.unloaded import Unloaded

        model = self._loaded()[0]
        return Unloaded(model.info, model.inputs)

    def _begin(self) -> None:
        if not self._begun and self._store is not None:
            mending.begin_changes(self.manifest, self._store)
            if self._words and not self._store.metadata.get(WORDS_LEFT):
                self._store.write_metadata({**self._store.metadata, WORDS_LEFT: True})
            self._begun = True

    def _embed(self, flow: Flow, jobs: queue.Queue[ContentJob | None]) -> None:
        assert self._embedders and self._store is not None
        info, options = self._embedders[0].info, self._options
        feeder = Feeder(
            options, self._embedders[0], jobs, options.workers or default_workers(info.device), self._meter, self._store
        )
        group = options.points_per_write
        writer = Writer(self._store, self.manifest, info, self._intake.in_flight, self._meter, group)
        self._meter.enter("storing words" if self._words else "embedding")
        writer.start(flow)
        feeder.start(flow)
        try:
            embed_all(self._embedders, flow, feeder.ready, writer, self._meter)
        except FlowStopped:
            # What is embedded is written all the same; `embed` says that it was not everything.
            pass
        except BaseException:
            flow.stop()
            raise
        finally:
            writer.end()
            feeder.kill()
            flow.wait()
            feeder.close()

    def tidy(self, complete: bool) -> None:
        """Forget what vanished, remove what no file has any more, and tell the store where things are now.

        After a run that was stopped, nothing is taken for vanished: it may turn out to have been renamed.
        """
        meter = self._meter
        meter.enter("cleaning up")
        if complete:
            self._settle_vanished()
        if complete and self._options.prune:
            for paths in self._changes.vanished():
                self.manifest.forget(paths)
                meter.count("removed", len(paths))
                meter.tick()
        if self.manifest.homeless(1) or self.manifest.moved(1):
            self._begin()
        if self._store is None:
            return
        if self._begun:
            removed = mending.sweep(self.manifest, self._store, meter.tick)
            meter.count_items("removed", removed)
            mending.update_places(self.manifest, self._store, meter.tick)
            meter.report.items.total = self._store.count()
        if self._store.metadata.get(WORDS_LEFT) and self._store.count_vectors() == self._store.count():
            self._store.write_metadata({**self._store.metadata, WORDS_LEFT: False})
        # Searches say which folders are offline.
        lost = [indexed_form(Path(path)) for path, _, missing in self.manifest.places() if missing]
        if self._store.metadata.get(OFFLINE, []) != lost:
            self._store.write_metadata({**self._store.metadata, OFFLINE: lost})

    def _tell_left(self, seconds: float | None) -> None:
        if self._stop.is_set():
            raise FlowStopped
        self._meter.left = seconds
        self._meter.tick()

    def optimize(self) -> bool:
        """Make searches fast, and scores of different kinds comparable. False when the run is to stop instead."""
        if self._store is None or not self._begun or self._words:
            return True
        if self._stop.is_set():
            return False
        self._meter.enter("optimizing")
        self._store.optimize(self._tell_left)
        if self._models and self._models[0].info.calibration is None:
            from tsembed_search.search.index_model import measured_calibration

            measured = measured_calibration(self._store, self._models[0])
            if measured is not None:
                self._store.write_metadata({**self._store.metadata, "calibration": measured.to_json()})
        return True


def _knows(folder: Path, path: str) -> bool:
    """Tell whether an index remembers files at a path or below it."""
    if not (folder / NAME).exists():
        return False
    with manifest_to_read(folder / NAME) as manifest:
        return manifest.count_below(path) > 0


def default_workers(device: str) -> int:
    """Return how many decoding processes keep a model busy: on a GPU one less than the cores, else half as many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cores - 1 if device.startswith("cuda") else cores // 2))
