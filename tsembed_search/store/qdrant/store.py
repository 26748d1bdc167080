"""A Qdrant server or cluster, through qdrant-client.

The index NAME is the collection `tsembed-NAME`; what the index says about itself is in the collection's metadata. The
server builds and keeps its search graph by itself. Importing qdrant-client takes seconds, so this module is imported
in functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from qdrant_client import models

from tsembed_search.errors import StoreError
from tsembed_search.ranking.concepts import ConceptVector
from tsembed_search.ranking.words import Words
from tsembed_search.store.base import (
    ENOUGH,
    FILTERED_HNSW_EF,
    HNSW_EF,
    OVERSAMPLING,
    Point,
    Record,
    StoreInfo,
    check_id,
    check_payload,
    check_some,
    unheard,
)
from tsembed_search.store.conditions import Dialect
from tsembed_search.store.filtered import (
    Ask,
    FilteredStore,
    alike,
    named_vectors,
    wanted_payload,
    wanted_vectors,
)
from tsembed_search.store.qdrant import collection
from tsembed_search.store.qdrant.connection import MEMORY as IN_MEMORY
from tsembed_search.store.qdrant.connection import Connection
from tsembed_search.store.schema import VECTOR_NAME, WORDS_NAME, concepts_of, with_path_keys, words_of

if TYPE_CHECKING:
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store.base import StoreSettings

T = TypeVar("T")

UPLOADS: Final = 4
"""Batches that are under way at once."""

_BATCH_BYTES: Final = 2_000_000
_PAGE: Final = 256
_IDS: Final = 1000
_QUERIES: Final = 64
_SUBSTRINGS: Final = (1, 20)  # the version that can look for a part of a value


class ServerStore(FilteredStore):
    """A `Store` (see `base.py`) on a Qdrant server: the collection of the index `name`.

    Raises `StoreError` when there is none, or when another program made it. `collection.py` makes them.
    """

    def __init__(self, connection: Connection, name: str) -> None:
        self._version = collection.version(connection)
        super().__init__(*collection.read(connection, name))
        self._connection = connection
        self._client = connection.client
        self._collection = collection.name_of(name)
        substrings = self._version >= _SUBSTRINGS
        self._dialect = Dialect(
            models,
            models.Range,
            lambda ids: models.HasIdCondition(has_id=[*ids]),
            lambda name: models.HasVectorCondition(has_vector=name),
            substrings=substrings,
        )

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata as a whole."""
        check_payload("the metadata", metadata)
        content = collection.content_of(self.settings, metadata)
        write = partial(self._client.update_collection, self._collection, metadata=content)
        self._write("write the metadata", write)
        self._metadata = dict(metadata)

    def upsert(self, points: Sequence[Point]) -> None:
        """Add or replace points, in batches, several at a time. Every batch is acknowledged when it returns."""
        if not points:
            return
        ids, vectors = check_some(points, self.dim)
        for id, point in zip(ids, points, strict=True):
            check_payload(f"the payload of item {id}", point.payload)
        # Batches race each other, so of two points with one id only the last may be sent.
        made = {
            id: models.PointStruct(
                id=id,
                vector=named_vectors(vector, _sparse(words_of(point.payload)), self._shown(point.payload)),
                payload=with_path_keys(point.payload),
            )
            for id, vector, point in zip(ids, vectors, points, strict=True)
        }
        sent, size = list(made.values()), _batch_size(points[0], self.dim)
        self._upload([sent[at : at + size] for at in range(0, len(sent), size)])

    def _shown(self, payload: Mapping[str, Any]) -> Any:
        shown = concepts_of(payload) if self.settings.concepts else None
        return None if shown is None else _sparse(shown)

    def _upload(self, batches: list[list[Any]]) -> None:
        with ThreadPoolExecutor(1 if self._connection.in_memory else min(UPLOADS, len(batches))) as pool:
            calls = [partial(self._client.upsert, self._collection, batch, wait=True) for batch in batches]
            sent = [pool.submit(self._write, "add items", call) for call in calls]
            try:
                for each in sent:
                    each.result()
            except BaseException:
                # One has failed for good, or Ctrl-C: the others need not be patient.
                self._connection.give_up()
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                self._connection.resume()

    def set_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        """See `Store.set_payloads`. Of very many, some are changed when the connection is lost."""
        own = {check_id(id): payload for id, payload in payloads.items()}
        for id, payload in own.items():
            check_payload(f"the payload of item {id}", payload)
        words = self._changed_words(own)
        entries = list(own.items())
        for at in range(0, len(entries), _IDS):
            some = dict(entries[at : at + _IDS])
            vectors = [
                models.PointVectors(id=id, vector={WORDS_NAME: _sparse(words[id])}) for id in some if id in words
            ]
            operations: list[Any] = []
            if vectors:
                operations.append(models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=vectors)))
            for payload, ids in alike(some):
                change = models.SetPayload(payload=with_path_keys(payload), points=[*ids])
                operations.append(models.SetPayloadOperation(set_payload=change))
            call = partial(self._client.batch_update_points, self._collection, operations, wait=True)
            self._write("change items", call)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that are not there do no harm."""
        gone = [check_id(id) for id in ids]
        for at in range(0, len(gone), _IDS):
            chosen = models.PointIdsList(points=list(gone[at : at + _IDS]))
            self._write("remove items", partial(self._client.delete, self._collection, chosen, wait=True))

    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> list[Record]:
        """Return those of the points that exist, in the order asked."""
        wanted = [check_id(id) for id in ids]
        payload, vectors = wanted_payload(fields), wanted_vectors(with_vectors)
        found = {}
        for at in range(0, len(wanted), _IDS):
            some = wanted[at : at + _IDS]
            read = partial(
                self._client.retrieve,
                self._collection,
                some,
                with_payload=payload,
                with_vectors=vectors,
            )
            found.update({str(record.id): record for record in self._read("read items", read)})
        return [_record(found[id]) for id in wanted if id in found]

    def _nearest(self, asks: Sequence[Ask]) -> list[list[Record]]:
        requests = [
            models.QueryRequest(
                query=ask.query if isinstance(ask.query, list) else _sparse(ask.query),
                using=ask.using,
                filter=self._dialect.as_filter(ask.condition),
                params=self._parameters(ask),
                limit=ask.limit,
                offset=ask.offset,
                with_payload=ask.payload,
                with_vector=wanted_vectors(ask.with_vectors),
            )
            for ask in asks
        ]
        found: list[list[Record]] = []
        for at in range(0, len(requests), _QUERIES):
            search = partial(self._client.query_batch_points, self._collection, requests[at : at + _QUERIES])
            found += [[_record(hit) for hit in answer.points] for answer in self._read("search", search)]
        return found

    def _parameters(self, ask: Ask) -> Any:
        # In memory it is always exact, and warns about anything else.
        if ask.using != VECTOR_NAME or self._connection.in_memory:
            return None
        quantization = None
        if self.settings.quantize != "none":
            quantization = models.QuantizationSearchParams(
                ignore=ask.exact, rescore=True, oversampling=OVERSAMPLING[self.settings.quantize]
            )
        # A server counts what passes in each segment by itself, and scans, or makes a detour below this share.
        filtered = ask.condition is not None
        acorn = models.AcornSearchParams(enable=True, max_selectivity=ENOUGH) if filtered else None
        ef = FILTERED_HNSW_EF if filtered else HNSW_EF
        return models.SearchParams(hnsw_ef=ef, exact=ask.exact, quantization=quantization, acorn=acorn)

    def _pages(self, condition: Any, payload: bool | list[str], with_vectors: bool) -> Iterator[Record]:
        read = partial(
            self._client.scroll,
            self._collection,
            scroll_filter=self._dialect.as_filter(condition),
            limit=_PAGE,
            with_payload=payload,
            with_vectors=wanted_vectors(with_vectors),
        )
        offset = None
        while True:
            page, offset = self._read("read items", partial(read, offset=offset))
            yield from map(_record, page)
            if offset is None:
                return

    def _counted(self, condition: Any) -> int:
        chosen = self._dialect.as_filter(condition)
        count = partial(self._client.count, self._collection, count_filter=chosen, exact=True)
        return int(self._read("count items", count).count)

    def _values(self, key: str, condition: Any, limit: int, exact: bool) -> dict[str, int]:
        chosen = self._dialect.as_filter(condition)
        count = partial(self._client.facet, self._collection, key, facet_filter=chosen, limit=limit, exact=exact)
        return {str(hit.value): int(hit.count) for hit in self._read("count items", count).hits}

    def optimize(self, tell: Callable[[float | None], None] = unheard) -> None:
        """Do nothing: a server optimises by itself, while it answers."""

    def info(self) -> StoreInfo:
        """Return facts for people."""
        facts = self._read("ask about the index", partial(self._client.get_collection, self._collection))
        details = {
            "url": self._connection.place,
            "collection": self._collection,
            "status": str(facts.status.value),
            "segments": str(facts.segments_count),
            "shards": str(self.settings.shards),
            "replicas": str(self.settings.replicas),
            "quantize": self.settings.quantize,
            "concepts": "yes" if self.settings.concepts else "no",
        }
        engine = "Qdrant " + ("in memory" if self._connection.in_memory else ".".join(map(str, self._version)))
        points = self.count()
        # A server counts the words and concepts of each point, too, as indexed vectors.
        others = points + (self._counted(self._dialect.has_concepts) if self.settings.concepts else 0)
        return StoreInfo(engine, points, max(0, int(facts.indexed_vectors_count or 0) - others), details)

    def close(self) -> None:
        """End the connection. Closing twice does no harm."""
        self._connection.close()

    def _read(self, doing: str, call: Callable[[], T]) -> T:
        return self._connection.ask(doing, call)

    def _write(self, doing: str, call: Callable[[], T]) -> T:
        return self._connection.ask(doing, call, self._connection.writing)


def _batch_size(point: Point, dim: int) -> int:
    """Points per request: 64 to 256, fewer when they are large."""
    numbers = dim + len(point.payload.get("route", ()))
    return max(64, min(256, _BATCH_BYTES // (20 * numbers + 1000)))


def _sparse(vector: Words | ConceptVector) -> Any:
    places, weights = vector
    return models.SparseVector(indices=places.tolist(), values=weights.tolist())


def _record(raw: Any) -> Record:
    vector = raw.vector.get(VECTOR_NAME) if raw.vector else None
    numbers = None if vector is None else np.asarray(vector, dtype=np.float32)
    return Record(str(raw.id), raw.payload or {}, float(getattr(raw, "score", 0.0)), numbers)


class QdrantEngine:
    """The `Engine` (see `store/base.py`) of an address whose store is a Qdrant server's URL."""

    def _connection(self, address: IndexAddress) -> Connection:
        return Connection(address.store)

    def exists(self, address: IndexAddress) -> bool:
        """Tell whether the server has a collection of the index's name."""
        with closing(self._connection(address)) as connection:
            return collection.exists(connection, address.name)

    def metadata(self, address: IndexAddress) -> dict[str, Any] | None:
        """Return the index's facts about itself; None when there is no collection."""
        with closing(self._connection(address)) as connection:
            return collection.read(connection, address.name)[1] if collection.exists(connection, address.name) else None

    def open(self, address: IndexAddress, *, writing: bool = False) -> ServerStore:
        """Open the index's collection. When `writing`, questions are as patient as changes."""
        connection = self._connection(address)
        store = ServerStore(connection, address.name)
        if writing:  # a run has begun: from now on its questions can wait, as its changes can
            connection.reading = connection.writing
        return store

    def create(self, address: IndexAddress, settings: StoreSettings) -> ServerStore:
        """Make the index's collection and open it for writing."""
        collection.create(self._connection(address), address.name, settings)
        return self.open(address, writing=True)

    def delete(self, address: IndexAddress) -> None:
        """Delete the index's collection. Raises `StoreError` when there is none, or when it is not one of ours."""
        with closing(self._connection(address)) as connection:
            collection.read(connection, address.name)  # only what is ours
            delete = partial(connection.client.delete_collection, collection.name_of(address.name))
            connection.ask(f"delete the index {address.name!r}", delete, connection.writing)

    def salvage(self, address: IndexAddress) -> int:
        """Raise `StoreError`: there is nothing to rescue from here."""
        raise StoreError(f"What the server at {address.store} holds cannot be rescued from here.", "Look at its log.")


class MemoryEngine(QdrantEngine):
    """The engine of an address whose store is `memory`: its indexes last as long as the process."""

    @cached_property
    def _only(self) -> Connection:
        return Connection(IN_MEMORY)

    def _connection(self, address: IndexAddress) -> Connection:
        return self._only


QDRANT: Final = QdrantEngine()
MEMORY: Final = MemoryEngine()
