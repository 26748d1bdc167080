"""From jobs to embedded items: decoding processes, preparing, and batches for the model, each beside the others."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from queue import Queue
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from tsembed_search.documents.decoders import Decoder, Request, Transient, Watch
from tsembed_search.documents.document import Unit
from tsembed_search.errors import LoadError, ModelError
from tsembed_search.indexer.intake import ContentJob, Entry, Flow
from tsembed_search.indexer.report import IndexOptions, Meter
from tsembed_search.indexer.writing import Writer
from tsembed_search.items import Item
from tsembed_search.store.schema import READS, point_id

if TYPE_CHECKING:
    from tsembed_search.items import Embeddings
    from tsembed_search.model.backbone import Prepared
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.model.unloaded import Unloaded
    from tsembed_search.store.base import Payload, Store

# Decoded pictures that wait to be prepared, and prepared items that wait for the model.
_DECODED: Final = 32
_PREPARED: Final = 64
# Lengths within a group differ by this factor at most, so that at most this share of a batch is padding.
_SPREAD: Final = 1.2
# What waits, in batches: more finds fuller groups, less holds less memory.
_WAITING: Final = 6
_BETWEEN_TICKS: Final = 0.1

T = TypeVar("T")
Ready = tuple[Entry, "Prepared"]
Batch = Sequence[Ready]


class Feeder:
    """The threads that read the contents in `jobs` and fill `ready`: with items, with each job when nothing more comes
    of it, and with None at the end. Texts that `store` has by their words are read from it, not from their files.
    """

    def __init__(
        self,
        options: IndexOptions,
        embedder: Embedder | Unloaded,
        jobs: Queue[ContentJob | None],
        workers: int,
        meter: Meter,
        store: Store,
    ) -> None:
        self._store = store
        self.ready: Queue[Ready | ContentJob | None] = Queue(_PREPARED)
        self._embedder = embedder
        self._jobs = jobs
        self._decoded: Queue[tuple[Entry, Unit] | ContentJob | None] = Queue(_DECODED)
        self._meter = meter
        self._decoders = [
            Decoder(
                embedder.inputs,
                memory=options.memory,
                time_limit=options.time_limit,
                on_note=lambda path, text: meter.skip(path, text, whole=False),
            )
            for _ in range(workers)
        ]
        self._watch: Watch | None = None

    def start(self, flow: Flow) -> None:
        """Begin, in threads."""
        self._watch = Watch(self._decoders)
        for number, decoder in enumerate(self._decoders):
            flow.start(partial(self._decode, flow, decoder), f"decode {number}")
        flow.start(lambda: self._prepare(flow), "prepare")

    def kill(self) -> None:
        """End the decoding processes; threads that wait for them go on."""
        if self._watch is not None:
            self._watch.stop()

    def close(self) -> None:
        """Free what is left, once the threads have ended."""
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
            flow.put(self._decoded, job)
        flow.put(self._jobs, None)  # the end is for every decoder
        flow.put(self._decoded, None)

    def _decode_one(self, flow: Flow, decoder: Decoder, job: ContentJob) -> None:
        found = job.found
        signature = found.size, found.mtime_ns, found.inode
        sha = job.sha.hex()
        names = tuple(format.name for format in job.formats)
        units = self._stored(job) or decoder.units(
            Request(found.path, names, signature, job.pages, pixels=not job.words)
        )
        for unit in units:
            id = uuid.UUID(point_id(sha, unit.page, unit.chunk, self._embedder.info.fingerprint))
            job.ids += id.bytes
            if job.reusable and id.bytes in job.known:
                job.reused += 1
                continue
            job.sent += 1
            flow.put(self._decoded, (Entry(job, replace(unit, pixels=None), str(id)), unit))

    def _stored(self, job: ContentJob) -> list[Unit]:
        """The units of a content whose words are stored, if all of them are texts; else none."""
        if job.words or not job.has_words:
            return []
        records = self._store.retrieve([str(uuid.UUID(bytes=id)) for id in job.known])
        texts = [stored_text(record.payload) for record in records if record.payload.get("kind") == "text"]
        return texts if len(texts) == len(job.known) else []

    def _prepare(self, flow: Flow) -> None:
        decoding = len(self._decoders)
        while decoding:
            message = flow.get(self._decoded)
            if message is None:
                decoding -= 1
            elif isinstance(message, ContentJob):
                flow.put(self.ready, message)
            else:
                entry, unit = message
                try:
                    # Of a picture that is stored by its words, there is only its size.
                    bare = unit.kind if entry.job.words and unit.pixels is None else None
                    prepared = self._embedder.prepare(Item(unit.reads or unit.text or bare, unit.pixels))
                    flow.put(self.ready, (entry, prepared))
                except LoadError as error:
                    entry.job.failure = entry.job.failure or str(error)
        flow.put(self.ready, None)


def stored_text(payload: Payload) -> Unit:
    """Return the text that a point was made of, as its file gave it."""
    lines = payload.get("lines")
    return Unit(
        "text", payload["page"], payload["chunk"], payload["text"], payload.get("start"), payload.get("end"),
        reads=payload.get(READS), headings=tuple(payload.get("headings", ())), lines=lines and (lines[0], lines[1]),
        page_label=payload.get("page_label"), title=payload.get("title"),
    )  # fmt: skip


def embed_all(
    embedders: Sequence[Embedder | Unloaded],
    flow: Flow,
    ready: Queue[Ready | ContentJob | None],
    writer: Writer,
    meter: Meter,
) -> None:
    """Embed what comes through `ready` until None, and hand it to the writer; each embedder works in its own thread.

    Raises `FlowStopped` when the run ends early; the flow has the error of an embedder that failed.
    """
    due: Queue[Batch | None] = Queue(len(embedders))

    def work(embedder: Embedder | Unloaded) -> None:
        while (batch := flow.get(due)) is not None:
            _embed(embedder, batch, writer)

    workers = [flow.start(partial(work, embedder), f"embed {number}") for number, embedder in enumerate(embedders)]
    pool: Pool[Entry] = Pool(min(embedder.batch_tokens for embedder in embedders))
    try:
        while (message := flow.get(ready, meter.tick)) is not None:
            if isinstance(message, ContentJob):
                writer.take(message)
                continue
            for batch in pool.add(*message):
                flow.put(due, batch, meter.tick)
            meter.tick()
        for last in (*pool.rest(), *[None] * len(embedders)):
            flow.put(due, last, meter.tick)
    except BaseException:
        flow.stop()
        raise
    finally:
        for worker in workers:
            while worker.is_alive():
                worker.join(_BETWEEN_TICKS)
                meter.tick()


def _embed(embedder: Embedder | Unloaded, batch: Batch, writer: Writer) -> None:
    # Of a file that failed midway nothing more is wanted.
    wanted = [(entry, prepared) for entry, prepared in batch if entry.job.failure is None]
    if not wanted:
        return
    for entries, embeddings in _encoded(embedder, wanted):
        writer.take((entries, embeddings))


def _encoded(embedder: Embedder | Unloaded, batch: Batch) -> Iterator[tuple[list[Entry], Embeddings]]:
    """Embed a batch, or when the model fails on it each item alone: one that it cannot take fails only its file."""
    try:
        parts = list(embedder.embed_stream([batch]))
    except ModelError:
        if len(batch) == 1:
            raise
    else:
        for entries, found in parts:
            if isinstance(found, ModelError):
                entries[0].job.failure = _reason(found)
            else:
                yield entries, found
        return
    failed: list[tuple[Entry, ModelError]] = []
    for entry, prepared in batch:
        try:
            yield [entry], embedder.encode([prepared])
        except ModelError as error:
            failed.append((entry, error))
    if len(failed) == len(batch):
        raise failed[0][1]
    for entry, reason in failed:
        entry.job.failure = _reason(reason)


def _reason(error: ModelError) -> str:
    return f"The model cannot embed it: {error}"


class Pool(Generic[T]):
    """Items that wait until some of similar length fill the budget of one batch.

    `model.embedder.batches` sorts a window of a stream; this gives the first batch without waiting for a window, and
    bounds what waits by tokens (hence by bytes), not by count.
    """

    def __init__(self, budget_tokens: int) -> None:
        self._budget = budget_tokens
        self._groups: dict[int, list[tuple[T, Prepared]]] = {}
        self._longest: dict[int, int] = {}
        self._tokens = 0

    def add(self, item: T, prepared: Prepared) -> Iterator[list[tuple[T, Prepared]]]:
        """Take one item; gives the batches that are due now (seldom more than one)."""
        key = math.ceil(math.log(max(1, prepared.tokens), _SPREAD))
        group = self._groups.setdefault(key, [])
        longest = max(self._longest.get(key, 0), prepared.tokens)
        if group and (len(group) + 1) * longest > self._budget:
            yield self._take(key)
            group, longest = self._groups.setdefault(key, []), prepared.tokens
        group.append((item, prepared))
        self._longest[key] = longest
        self._tokens += prepared.tokens
        while self._tokens > _WAITING * self._budget and len(self._groups) > 1:
            yield self._take(max(self._groups, key=lambda each: len(self._groups[each]) * self._longest[each]))

    def rest(self) -> Iterator[list[tuple[T, Prepared]]]:
        """Give everything that still waits, in as few batches as the budget allows."""
        from tsembed_search.model.embedder import batches  # a run that embeds nothing needs none of it

        waiting = [each for group in self._groups.values() for each in group]
        self._groups.clear()
        self._longest.clear()
        self._tokens = 0
        yield from batches(waiting, self._budget, max(1, len(waiting)))

    def _take(self, key: int) -> list[tuple[T, Prepared]]:
        group = self._groups.pop(key)
        self._longest.pop(key)
        self._tokens -= sum(prepared.tokens for _, prepared in group)
        return group
