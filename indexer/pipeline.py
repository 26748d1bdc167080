"""The indexing run: crawl, load, batch, embed, store.

    report = run_index(
        IndexSettings(address, paths=(Path("photos"),), fingerprint=ref.fingerprint, model=ref.name),
        embedder=lambda: Embedder(loading.load(ref, device)),  # called once, and only when something must be embedded
        store=opener,  # see `StoreOpener`
        progress=sink,
    )

`run_index` owns the index's lock while it runs. It raises `UsageError` (a path that does not exist, a bad pattern),
`IndexBusyError`, `IndexMismatchError`, `StoreError`, `ModelError`, and `Interrupted` (exit code 130, with the report
so far).

The stages run beside one another, joined by short queues, so that memory stays flat:

    intake (hash) -> decoders (processes) -> prepare -> batches and model (this thread) -> writer (store, manifest)
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsembed_search.documents.crawl import Crawl, Found, Problem, Selection
from tsembed_search.errors import DamagedIndexError, IndexBusyError, IndexMismatchError
from tsembed_search.indexer import mending
from tsembed_search.indexer.changes import Changes, valid_recipes
from tsembed_search.indexer.intake import Intake
from tsembed_search.indexer.jobs import Flow, Job, Stopped
from tsembed_search.indexer.manifest import NAME, Manifest, manifest_to_read
from tsembed_search.indexer.offline import Guard
from tsembed_search.indexer.report import IndexReport, IndexSettings, Interrupted, Meter, ProgressSink, Silent
from tsembed_search.indexer.stages import Feeder, embed_all
from tsembed_search.indexer.writing import Writer
from tsembed_search.interrupts import Interrupts
from tsembed_search.ownership import Owner, owned
from tsembed_search.paths import indexed_form
from tsembed_search.whereabouts import OFFLINE

if TYPE_CHECKING:
    from tsembed_search.model.backbone import ModelInfo
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.store.base import Store

StoreOpener = Callable[["ModelInfo | None"], "Store | None"]
"""Called first with None: opens the store if it exists, else returns None and makes nothing. Called again with the
model's info, only when there was none and there is something to put in: creates it. `run_index` closes it."""

_PORTION: Final = 512
_JOBS: Final = 256
_BETWEEN_TRIES: Final = 0.2
_BETWEEN_LOOKS: Final = 0.02
_MOST_WORKERS: Final = 16
_FINGERPRINT: Final = "fingerprint"
_READS_PAGES: Final = "reads_pages"


def run_index(
    settings: IndexSettings,
    *,
    embedder: Callable[[], Embedder],
    store: StoreOpener,
    progress: ProgressSink | None = None,
) -> IndexReport:
    """Brings the index up to date with `settings.paths`. See the module's docstring."""
    meter = Meter(progress or Silent())
    selection = Selection(settings.include, settings.exclude, hidden=settings.hidden)
    crawl = Crawl(
        settings.paths,
        selection,
        follow_links=settings.follow_links,
        skip=settings.folder,
        known=lambda path: _knows(settings.folder, path),
    )

    def on_wait(owner: Owner | None) -> None:
        meter.note(f"Waiting for {owner or 'another process'}.")

    with Interrupts() as interrupts, ExitStack() as stack:
        try:
            if not settings.dry_run or settings.folder.exists():
                stack.enter_context(owned(settings.folder, "indexing", wait=settings.wait, on_wait=on_wait))
            run = _Run(settings, embedder, store, crawl, meter, interrupts, stack)
            run.check()
            run.crawl()
            if settings.dry_run:
                run.predict()
                return meter.finished()
            complete = run.embed()
            run.tidy(complete)
            if complete:
                return meter.finished()
        except KeyboardInterrupt:
            pass
        raise Interrupted(meter.finished())


class _Run:
    """One run, stage by stage."""

    def __init__(
        self,
        settings: IndexSettings,
        embedder: Callable[[], Embedder],
        opener: StoreOpener,
        crawl: Crawl,
        meter: Meter,
        interrupts: Interrupts,
        stack: ExitStack,
    ) -> None:
        self._settings = settings
        self._load = embedder
        self._opener = opener
        self._crawl = crawl
        self._meter = meter
        self._interrupts = interrupts
        self._stack = stack
        path = settings.folder / NAME
        self._manifest = Manifest(None if settings.dry_run and not path.exists() else path)
        stack.callback(self._manifest.close)
        self._store: Store | None = None
        self._embedder: Embedder | None = None
        self._begun = False

    def check(self) -> None:
        """Opens the store, and sees to it that it and the manifest tell of the same points."""
        self._store = self._opened()
        made_with = self._manifest.get(_FINGERPRINT)
        if self._store is None or made_with not in (None, self._settings.fingerprint):
            if self._settings.dry_run:
                self._manifest.close()
                self._manifest = Manifest(None)
            else:
                self._manifest.clear()
        if self._store is not None:
            self._meter.report.items.total = self._store.count()
        if self._settings.dry_run:
            return
        if self._store is not None:
            mending.agree(self._manifest, self._store, self._meter.note)
        if self._manifest.get(_FINGERPRINT) is None:
            self._manifest.put(_FINGERPRINT, self._settings.fingerprint)

    def _opened(self) -> Store | None:
        """The store. Waits for a search that has it open, if the settings say so."""
        wait = self._settings.wait
        deadline = None if wait is None else time.monotonic() + wait
        rescued = False
        while True:
            try:
                store = self._opener(None)
                break
            except DamagedIndexError as error:
                if self._settings.dry_run or rescued:
                    raise
                rescued = True
                mending.salvaged(self._settings.address, error, self._meter.note)
            except IndexBusyError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
                time.sleep(_BETWEEN_TRIES)
        if store is not None:
            self._stack.callback(store.close)
        return store

    def crawl(self) -> None:
        """Finds what is new, changed or gone."""
        meter = self._meter
        meter.enter("crawling")
        told = self._manifest.get(_READS_PAGES)
        reads_pages = None if told is None else told == "yes"
        recipes = valid_recipes(self._settings.pages, reads_pages)
        self._changes = Changes(self._manifest, recipes, retry_skipped=self._settings.retry_skipped)
        listing = iter(self._crawl)
        while portion := list(islice(listing, _PORTION)):
            for problem in portion:
                if isinstance(problem, Problem):
                    meter.skip(problem.path, problem.reason)
                    self._changes.keep(problem.path)
            compared = self._changes.compare([found for found in portion if isinstance(found, Found)])
            meter.count("unchanged", compared.unchanged)
            for path, reason in compared.skipped:
                meter.skip(path, reason)
            meter.found += len(portion)
            meter.ignored = self._crawl.ignored
            meter.tick()
        self._guard = Guard(self._manifest, self._changes, self._crawl.roots, self._crawl.disks)
        self._changes.find_vanished(self._crawl.roots, self._guard.place_of)
        if not self._settings.prune_empty:
            self._guard.look(most=self._settings.prune)
            self._remember(finished=False)
        meter.total = meter.done() + self._changes.todo_count()
        self._intake = Intake(self._manifest, self._changes, meter, self._settings, reads_pages)

    def predict(self) -> None:
        """Counts what a run would do. Reads every new file to tell renamed ones from new ones."""
        self._meter.enter("checking")
        for found in self._changes.todo():
            job = self._intake.examine(found)
            if job is not None:
                old = self._manifest.file(found.path)
                self._meter.count("updated" if old is not None and old.sha else "added")
                self._intake.in_flight.close(job)
            self._meter.tick()
        self._settle_vanished()
        for paths in self._changes.vanished() if self._settings.prune else ():
            self._meter.count("removed", len(paths))

    def _settle_vanished(self) -> None:
        """Takes off the list of what vanished what is only away, now that all that is new is known."""
        if not self._settings.prune_empty:
            self._guard.look_again()
        self._remember(finished=True)

    def _remember(self, *, finished: bool) -> None:
        self._meter.report.offline = self._guard.offline
        if not self._settings.dry_run:
            self._guard.remember(finished=finished)

    def embed(self) -> bool:
        """Reads and embeds what is new. False when it was stopped before the end."""
        if not self._changes.todo_count():
            return True
        if self._intake.must_know_the_model:
            self._prepare_model()
        self._meter.enter("checking")
        flow = Flow()
        jobs: queue.Queue[Job | None] = queue.Queue(_JOBS)
        flow.start(lambda: self._intake.run(flow, jobs), "intake")
        try:
            with self._interrupts.deferred(flow.stop):
                while jobs.empty() and not flow.stopped:
                    time.sleep(_BETWEEN_LOOKS)
                    self._meter.tick()
            # What is new may be known content in other places: then there is nothing for the model to do.
            if not flow.stopped and jobs.queue[0] is not None:
                self._prepare_model()
                self._embed(flow, jobs)
            complete = not flow.stopped
        finally:
            flow.stop()
            flow.wait()
        flow.check()
        return complete

    def _prepare_model(self) -> None:
        """Loads the model, and makes the store for it if there is none."""
        if self._embedder is not None:
            return
        self._meter.enter("loading the model")
        self._embedder = self._load()
        info = self._embedder.info
        if info.fingerprint != self._settings.fingerprint:
            raise IndexMismatchError(
                f"The model {info.name} that was loaded is not the one that was named.",
                "It may have been replaced just now: run the command again.",
            )
        reads_pages = self._embedder.inputs.reads_pages
        self._intake.learn(reads_pages)
        self._manifest.put(_READS_PAGES, "yes" if reads_pages else "no")
        if self._store is None:
            self._store = self._opener(info)
            if self._store is not None:
                self._stack.callback(self._store.close)
        self._begin()

    def _begin(self) -> None:
        if not self._begun and self._store is not None:
            mending.begin_changes(self._manifest, self._store)
            self._begun = True

    def _embed(self, flow: Flow, jobs: queue.Queue[Job | None]) -> None:
        assert self._embedder is not None and self._store is not None
        settings, info = self._settings, self._embedder.info
        workers = settings.workers or default_workers(info.device)
        feeder = Feeder(settings, self._embedder, jobs, workers, self._meter)
        writer = Writer(
            self._store, self._manifest, info, self._intake.in_flight, self._meter, settings.points_per_write
        )
        self._meter.enter("embedding")
        writer.start(flow)
        feeder.start(flow)
        try:
            with self._interrupts.deferred(flow.stop):
                embed_all(self._embedder, flow, feeder.ready, writer, self._meter)
        except Stopped:
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
        """Forgets what vanished, removes what no file has any more, and tells the store where things are now.

        After a run that was stopped, nothing is taken for vanished: it may turn out to have been renamed.
        """
        meter = self._meter
        meter.enter("cleaning up")
        if complete:
            self._settle_vanished()
        if complete and self._settings.prune:
            for paths in self._changes.vanished():
                self._manifest.forget(paths)
                meter.count("removed", len(paths))
                meter.tick()
        if self._manifest.homeless(1) or self._manifest.moved(1):
            self._begin()
        if self._store is None:
            return
        if self._begun:
            removed = mending.sweep(self._manifest, self._store, meter.tick)
            meter.count_items("removed", removed)
            mending.update_places(self._manifest, self._store, meter.tick)
            meter.report.items.total = self._store.count()
        self._tell_offline(self._store)
        if complete and self._begun:
            meter.enter("optimizing")
            self._store.optimize()
            self._calibrate()

    def _tell_offline(self, store: Store) -> None:
        """Lets searches know which folders are offline."""
        lost = [indexed_form(Path(path)) for path, _, missing in self._manifest.places() if missing]
        if store.metadata.get(OFFLINE, []) != lost:
            store.write_metadata({**store.metadata, OFFLINE: lost})

    def _calibrate(self) -> None:
        """Measures how scores of different kinds compare, for a model that does not say so itself."""
        if self._store is None or self._embedder is None or self._embedder.info.calibration is not None:
            return
        from tsembed_search.search.calibrate import measured_calibration

        measured = measured_calibration(self._store, self._embedder)
        if measured is not None:
            self._store.write_metadata({**self._store.metadata, "calibration": measured.to_json()})


def _knows(folder: Path, path: str) -> bool:
    """Whether an index remembers files at a path or below it."""
    if not (folder / NAME).exists():
        return False
    with manifest_to_read(folder / NAME) as manifest:
        return manifest.count_below(path) > 0


def default_workers(device: str) -> int:
    """How many decoding processes keep the model busy: on a GPU as many as there are cores, else half of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cores - 1 if device.startswith("cuda") else cores // 2))
