"""The last stage: points go to the store in groups, and the manifest learns of them when they are acknowledged."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.indexer.database import Content, FileRow, each_id, unpacked
from tsembed_search.indexer.intake import ContentJob, Entry, Flow, FlowStopped, InFlight, words_recipe
from tsembed_search.indexer.manifest import Manifest
from tsembed_search.indexer.report import Meter
from tsembed_search.ranking.routes import top_experts
from tsembed_search.store.base import Point
from tsembed_search.store.schema import READS, VECTORLESS, concept_fields, place_of, route_fields

if TYPE_CHECKING:
    from tsembed_search.items import Embeddings
    from tsembed_search.model.backbone import ModelInfo
    from tsembed_search.store.base import Store

# Batches that wait to be written.
_WAITING: Final = 8
# Points that wait longer than this are written though they are few, so that little is lost by a kill.
_LONGEST_WAIT: Final = 5.0
_CHECK_SECONDS: Final = 0.1

Embedded = tuple[list[Entry], "Embeddings"]


class Writer:
    """The thread that takes embedded batches, and jobs that nothing more comes of."""

    def __init__(
        self, store: Store, manifest: Manifest, info: ModelInfo, in_flight: InFlight, meter: Meter, group: int
    ) -> None:
        self._line: queue.Queue[Embedded | ContentJob | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._store = store
        self._manifest = manifest
        self._info = info
        self._in_flight = in_flight
        self._meter = meter
        self._group = group
        self._points: list[tuple[ContentJob, Point]] = []
        self._begun: set[bytes] = set()
        self._ended: list[ContentJob] = []
        self._news = 0

    def start(self, flow: Flow) -> None:
        """Begin. It goes on after the flow has been stopped, until `end`: what is embedded is kept."""
        self._thread = flow.start(self._run, "write")

    def take(self, message: Embedded | ContentJob | None) -> None:
        """Hand something over; waits for room. Raises `FlowStopped` when the thread has failed."""
        while self._thread is not None and self._thread.is_alive():
            try:
                return self._line.put(message, timeout=_CHECK_SECONDS)
            except queue.Full:
                continue
        raise FlowStopped

    def end(self) -> None:
        """Wait until everything that was handed over is in the store and the manifest, or the thread has failed."""
        with suppress(FlowStopped):
            self.take(None)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        oldest = time.monotonic()
        while True:
            with suppress(queue.Empty):
                message = self._line.get(timeout=_LONGEST_WAIT)
                if message is None:
                    break
                if not self._points and not self._news:
                    oldest = time.monotonic()
                if isinstance(message, ContentJob):
                    message.ended = True
                    self._ended.append(message)
                    self._news += 1
                else:
                    entries, found = message
                    points = map(self._point, entries, found.vectors, found.routes, self._classes(found))
                    self._points += [(entry.job, point) for entry, point in zip(entries, points, strict=True)]
            waited = time.monotonic() - oldest > _LONGEST_WAIT
            if waited or max(len(self._points), self._news) >= self._group:
                self._write()
                oldest = time.monotonic()
        self._write()

    def _write(self) -> None:
        """One group: mark what begins, write the points, then settle what is complete."""
        points, self._points, self._news = self._points, [], 0
        if points:
            begun = {job.sha: job for job, _ in points if job.sha not in self._begun}
            if begun:
                self._manifest.begin([(job.sha, job.stored_as) for job in begun.values()])
                self._begun.update(begun)
            for at in range(0, len(points), self._group):
                self._store.upsert([point for _, point in points[at : at + self._group]])
            for job, _ in points:
                job.acknowledged += 1
            bare = sum(job.words for job, _ in points)
            self._meter.count_items("stored", bare)
            self._meter.count_items("embedded", len(points) - bare)
        settled = [job for job in self._ended if job.settled]
        self._ended = [job for job in self._ended if not job.settled]
        self._settle(settled)

    def _settle(self, jobs: list[ContentJob]) -> None:
        finished: list[tuple[Content, list[FileRow], bool]] = []
        for job in jobs:
            self._begun.discard(job.sha)
            if job.failure is not None:
                self._fail(job, job.failure)
                continue
            if stale := job.known and job.known - set(each_id(job.ids)):
                self._manifest.begin([(job.sha, job.stored_as)])
                self._store.delete(unpacked(b"".join(sorted(stale))))
                self._meter.count_items("removed", len(stale))
            files = [FileRow.of(found, job.sha, job.stored_as, sure=sure) for found, sure in self._in_flight.close(job)]
            self._count(job, files)
            content = Content(job.sha, job.stored_as, False, bytes(job.ids))
            finished.append((content, files, not job.reused))
        if finished:
            self._manifest.finish(finished)

    def _fail(self, job: ContentJob, reason: str) -> None:
        files = self._in_flight.close(job)
        for found, _ in files:
            self._meter.skip(found.path, reason)
        if not job.again:
            recipe = words_recipe(job.recipe) if job.words else job.recipe
            self._manifest.skip([FileRow.of(found, None, recipe, reason, sure=sure) for found, sure in files])

    def _count(self, job: ContentJob, files: list[FileRow]) -> None:
        self._meter.count_items("reused", job.reused + (len(files) - 1) * (len(job.ids) // 16))
        for file in files:
            old = self._manifest.file(file.path)
            same = old is not None and old.sha == job.sha
            self._meter.count("unchanged" if same else "updated" if old is not None and old.sha else "added")

    def _classes(self, found: Embeddings) -> Sequence[Any]:
        """The classes that pictures show, where the index keeps them."""
        if found.classes is None or not self._store.has_concepts:
            return [None] * len(found)
        return list(found.classes)

    def _point(self, entry: Entry, vector: Any, route: Any, classes: Any) -> Point:
        """The point of one item; its job's first file is its place until others are known."""
        job, unit = entry.job, entry.unit
        place = place_of(job.found.path, job.found.root, job.found.mtime_ns)
        payload: dict[str, Any] = {
            "kind": unit.kind, **place, "places": [place], "page": unit.page, "chunk": unit.chunk, "text": unit.text,
            "width": unit.width, "height": unit.height, "bytes": job.found.size, "sha": job.sha.hex(),
            "model": self._info.fingerprint, "indexed_at": time.time(),
        }  # fmt: skip
        if job.words:
            payload[VECTORLESS] = True
            if unit.reads:
                payload[READS] = unit.reads
        if unit.title:
            payload["title"] = unit.title
        if unit.start is not None:
            payload |= {"start": unit.start, "end": unit.end}
        if unit.headings:
            payload["headings"] = list(unit.headings)
        if unit.lines is not None:
            payload["lines"] = list(unit.lines)
        if unit.page_label is not None:
            payload["page_label"] = unit.page_label
        if self._info.routes is not None and not job.words:
            payload |= {**route_fields(route), "top_experts": top_experts(route, self._info.routes[1])}
        if classes is not None:
            payload |= concept_fields(classes)
        return Point(entry.id, vector, payload)
