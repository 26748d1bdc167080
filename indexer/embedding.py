"""The model's stage: batches out of prepared items, one after the other, in the thread that runs the index."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tsembed_search.errors import ModelError
from tsembed_search.indexer.batching import Pool
from tsembed_search.indexer.flow import Flow
from tsembed_search.indexer.jobs import End, Entry, Ready
from tsembed_search.indexer.meter import Meter
from tsembed_search.indexer.writing import Writer

if TYPE_CHECKING:
    from tsembed_search.items import Embeddings
    from tsembed_search.model.backbones.protocol import Prepared
    from tsembed_search.model.embedder import Embedder

Batch = Sequence[tuple[Entry, "Prepared"]]


def embed_all(
    embedder: Embedder, flow: Flow, ready: queue.Queue[Ready | End | None], writer: Writer, meter: Meter
) -> None:
    """Embeds what comes through `ready` until None, and hands it to the writer. Raises `Stopped`, `ModelError`."""
    pool: Pool[Entry] = Pool(embedder.batch_tokens)
    while (message := flow.get(ready, meter.tick)) is not None:
        if isinstance(message, End):
            writer.take(message)
            continue
        for batch in pool.add(message.entry, message.prepared):
            _embed(embedder, batch, writer)
        meter.tick()
    for batch in pool.rest():
        if flow.stopped:
            return
        _embed(embedder, batch, writer)
        meter.tick()


def _embed(embedder: Embedder, batch: Batch, writer: Writer) -> None:
    # Of a file that failed midway nothing more is wanted.
    wanted = [(entry, prepared) for entry, prepared in batch if entry.job.failure is None]
    if not wanted:
        return
    for part, embeddings in _encoded(embedder, wanted):
        writer.take(([entry for entry, _ in part], embeddings))


def _encoded(embedder: Embedder, batch: Batch) -> Iterator[tuple[Batch, Embeddings]]:
    """The batch, or when the model fails on it each item alone: one that it cannot take fails its file, not the run."""
    try:
        embeddings, too_large = embedder.encode_fitting([prepared for _, prepared in batch])
    except ModelError:
        if len(batch) == 1:
            raise
    else:
        for place, error in too_large.items():
            batch[place][0].job.failure = _reason(error)
        yield [pair for place, pair in enumerate(batch) if place not in too_large], embeddings
        return
    failed: list[tuple[Entry, ModelError]] = []
    for entry, prepared in batch:
        try:
            yield [(entry, prepared)], embedder.encode([prepared])
        except ModelError as error:
            failed.append((entry, error))
    if len(failed) == len(batch):
        raise failed[0][1]
    for entry, reason in failed:
        entry.job.failure = _reason(reason)


def _reason(error: ModelError) -> str:
    return f"The model cannot embed it: {error}"
