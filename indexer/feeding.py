"""From jobs to items that are ready for the model: decoding processes, then preparing, each beside the other."""

from __future__ import annotations

import queue
import threading
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import LoadError
from tsembed_search.indexer.decoding import Decoder, Request, Transient, Watch
from tsembed_search.indexer.flow import Flow
from tsembed_search.indexer.jobs import End, Entry, Job, Ready
from tsembed_search.indexer.loaders.unit import Unit
from tsembed_search.indexer.meter import Meter
from tsembed_search.items import Item
from tsembed_search.store.schema import point_id

if TYPE_CHECKING:
    from tsembed_search.indexer.report import IndexSettings
    from tsembed_search.model.embedder import Embedder

# Decoded pictures that wait to be prepared, and prepared items that wait for the model.
_DECODED: Final = 32
_PREPARED: Final = 64


class Feeder:
    """Reads the contents in `jobs` and fills `ready`, which ends with None."""

    def __init__(
        self, settings: IndexSettings, embedder: Embedder, jobs: queue.Queue[Job | None], workers: int, meter: Meter
    ) -> None:
        self.ready: queue.Queue[Ready | End | None] = queue.Queue(_PREPARED)
        self._fingerprint = settings.fingerprint
        self._embedder = embedder
        self._jobs = jobs
        self._decoded: queue.Queue[tuple[Entry, Unit] | End | None] = queue.Queue(_DECODED)
        self._meter = meter
        self._decoders = [
            Decoder(
                embedder.inputs,
                memory=settings.memory,
                time_limit=settings.time_limit,
                on_note=lambda path, text: meter.skip(path, text, whole=False),
            )
            for _ in range(workers)
        ]
        self._working = workers
        self._lock = threading.Lock()
        self._watch: Watch | None = None

    def start(self, flow: Flow) -> None:
        """Begins, in threads."""
        self._watch = Watch(self._decoders)
        for number, decoder in enumerate(self._decoders):
            flow.start(lambda decoder=decoder: self._decode(flow, decoder), f"decode {number}")  # type: ignore[misc]
        flow.start(lambda: self._prepare(flow), "prepare")

    def kill(self) -> None:
        """Ends the decoding processes; threads that wait for them go on."""
        if self._watch is not None:
            self._watch.stop()

    def close(self) -> None:
        """Frees what is left, once the threads have ended."""
        for decoder in self._decoders:
            decoder.close()

    def _decode(self, flow: Flow, decoder: Decoder) -> None:
        while (job := flow.get(self._jobs)) is not None:
            self._meter.current = job.found.path
            try:
                self._decode_one(flow, decoder, job)
            except LoadError as error:
                if flow.stopped:
                    return
                job.failure, job.again = str(error), isinstance(error, Transient)
            flow.put(self._decoded, End(job))
        # The end is for every decoder; the last one passes it on.
        flow.put(self._jobs, None)
        with self._lock:
            self._working -= 1
            last = self._working == 0
        if last:
            flow.put(self._decoded, None)

    def _decode_one(self, flow: Flow, decoder: Decoder, job: Job) -> None:
        found = job.found
        signature = found.size, found.mtime_ns, found.inode
        sha = job.sha.hex()
        for unit in decoder.load(Request(found.path, signature, job.format.name, job.pages)):
            id = uuid.UUID(point_id(sha, unit.page, unit.chunk, self._fingerprint))
            job.ids += id.bytes
            if job.reusable and id.bytes in job.known:
                job.reused += 1
                continue
            job.sent += 1
            flow.put(self._decoded, (Entry(job, replace(unit, pixels=None), str(id)), unit))

    def _prepare(self, flow: Flow) -> None:
        while (message := flow.get(self._decoded)) is not None:
            if isinstance(message, End):
                flow.put(self.ready, message)
                continue
            entry, unit = message
            try:
                item = Item(unit.reads or unit.text, unit.pixels)
                prepared = self._embedder.prepare(item)
            except LoadError as error:
                entry.job.failure = entry.job.failure or str(error)
                continue
            flow.put(self.ready, Ready(entry, prepared))
        flow.put(self.ready, None)
