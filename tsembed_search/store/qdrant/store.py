"""A Qdrant server or cluster, through qdrant-client.

The index NAME is the collection `tsembed-NAME`; what the index says about itself is in the collection's metadata. The
server builds and keeps its search graph by itself. Importing qdrant-client takes seconds, so it happens in functions.

A Qdrant server's conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from qdrant_client import models

from tsembed_search.errors import StoreError
from tsembed_search.store.base import (
    FILTERED_HNSW_EF,
    HNSW_EF,
    OVERSAMPLING,
    Payload,
    Point,
    Record,
    StoreInfo,
    StoreSettings,
    check_id,
    check_payload,
    check_points,
    check_queries,
)
from tsembed_search.store.filters import Filter
from tsembed_search.store.qdrant import collection
from tsembed_search.store.qdrant.connection import Connection
from tsembed_search.store.schema import PATH_KEYS, PAYLOAD_INDEXES, VECTOR_NAME, with_path_keys
from tsembed_search.store.translate import (
    ENOUGH,
    Native,
    facet_checked,
    most_frequent,
    scroll_checked,
    search_checked,
    translate,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


T = TypeVar("T")


UPLOADS: Final = 4

"""How many batches are under way at once."""


_BATCH_BYTES: Final = 2_000_000

_PAGE = 256

_IDS = 1000

_QUERIES = 64

_MAX_LIMIT = 2**31


class ServerStore:
    """A `Store` (see `base.py`) on a Qdrant server. Made by `create` or `open`."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._client = connection.client
        self._name = name
        self._collection = collection.name_of(name)
        self._version = collection.version(connection)
        self._settings, self._metadata = collection.read(connection, name)

    @staticmethod
    def exists(connection: Connection, name: str) -> bool:
        """Whether the server has the index."""
        return collection.exists(connection, name)

    @classmethod
    def create(cls, connection: Connection, name: str, settings: StoreSettings) -> ServerStore:
        """A new collection. Raises `StoreError` when there is one already, or the server will not make it."""
        collection.create(connection, name, settings)
        return cls(connection, name)

    @classmethod
    def open(cls, connection: Connection, name: str) -> ServerStore:
        """The collection of the index. Raises `StoreError` when there is none, or when another program made it."""
        return cls(connection, name)

    @property
    def dim(self) -> int:
        return self._settings.dim

    @property
    def settings(self) -> StoreSettings:
        """What was chosen at creation."""
        return self._settings

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self._metadata)

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        check_payload("the metadata", metadata)
        collection.write_metadata(self._connection, self._name, self._settings, metadata)
        self._metadata = dict(metadata)

    def upsert(self, points: Sequence[Point]) -> None:
        """Adds or replaces points, in batches, several at a time. Every batch is acknowledged when it returns."""
        from qdrant_client import models

        if not points:
            return
        ids, vectors = check_points(points, self.dim)
        for id, point in zip(ids, points, strict=True):
            check_payload(f"the payload of item {id}", point.payload)
        # Batches race each other, so of two points with one id only the last may be sent.
        made = {
            id: models.PointStruct(id=id, vector={VECTOR_NAME: vector}, payload=with_path_keys(point.payload))
            for id, vector, point in zip(ids, vectors.tolist(), points, strict=True)
        }
        self._upload(list(made.values()), _batch_size(points[0], self.dim))

    def _upload(self, points: list[Any], size: int) -> None:
        batches = [points[at : at + size] for at in range(0, len(points), size)]
        with ThreadPoolExecutor(1 if self._connection.in_memory else min(UPLOADS, len(batches))) as pool:
            sent = [pool.submit(self._send, batch) for batch in batches]
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

    def _send(self, batch: list[Any]) -> None:
        self._write("add items", partial(self._client.upsert, self._collection, batch, wait=True))

    def set_payload(self, id: str, payload: Mapping[str, Any]) -> None:
        point = check_id(id)
        check_payload(f"the payload of item {id}", payload)
        if not self._read(
            "read an item", partial(self._client.retrieve, self._collection, [point], with_payload=False)
        ):
            raise StoreError(f"The index has no item {id}.")
        change = partial(self._client.set_payload, self._collection, with_path_keys(payload), [point], wait=True)
        self._write("change an item", change)

    def delete(self, ids: Sequence[str]) -> None:
        from qdrant_client import models

        gone = [check_id(id) for id in ids]
        for at in range(0, len(gone), _IDS):
            chosen = models.PointIdsList(points=list(gone[at : at + _IDS]))
            self._write("remove items", partial(self._client.delete, self._collection, chosen, wait=True))

    def search(
        self,
        vectors: NDArray[np.float32],
        limit: int,
        where: Filter | None = None,
        *,
        offset: int = 0,
        with_vectors: bool = False,
        fields: Sequence[str] | None = None,
        exact: bool = False,
    ) -> list[list[Record]]:
        queries = check_queries(vectors, self.dim)
        native = self._native(where)
        if limit <= 0 or not len(queries):
            return [[] for _ in queries]
        payload = True if fields is None or not native.exact else list(fields) or False

        def ask(limit: int, offset: int = 0) -> list[list[Record]]:
            requests = self._requests(queries.tolist(), native, limit, offset, payload, with_vectors, exact)
            return [
                hits for at in range(0, len(requests), _QUERIES) for hits in self._query(requests[at : at + _QUERIES])
            ]

        if native.exact:
            return ask(limit, offset)
        return [found[offset:] for found in search_checked(ask, where, offset + limit)]

    def _requests(
        self,
        queries: list[list[float]],
        native: Native[Any],
        limit: int,
        offset: int,
        with_payload: bool | list[str],
        with_vectors: bool,
        exact: bool,
    ) -> list[Any]:
        from qdrant_client import models

        quantization = None
        if self._settings.quantize != "none":
            quantization = models.QuantizationSearchParams(
                ignore=exact, rescore=True, oversampling=OVERSAMPLING[self._settings.quantize]
            )
        ef = HNSW_EF if native.condition is None else FILTERED_HNSW_EF
        params = None
        if not self._connection.in_memory:  # It is always exact, and warns about anything else.
            # A server counts what passes in each segment by itself, and scans, or makes a detour below this share.
            acorn = models.AcornSearchParams(enable=True, max_selectivity=ENOUGH) if native.condition else None
            params = models.SearchParams(hnsw_ef=ef, exact=exact, quantization=quantization, acorn=acorn)
        return [
            models.QueryRequest(
                query=query,
                using=VECTOR_NAME,
                filter=native.condition,
                params=params,
                limit=min(limit, _MAX_LIMIT),
                offset=min(offset, _MAX_LIMIT),
                with_payload=with_payload,
                with_vector=with_vectors,
            )
            for query in queries
        ]

    def _query(self, requests: list[Any]) -> list[list[Record]]:
        answers = self._read("search", partial(self._client.query_batch_points, self._collection, requests))
        return [[_record(hit) for hit in answer.points] for answer in answers]

    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> list[Record]:
        wanted = [check_id(id) for id in ids]
        payload: bool | list[str] = True if fields is None else list(fields) or False
        found = {}
        for at in range(0, len(wanted), _IDS):
            some = wanted[at : at + _IDS]
            read = partial(
                self._client.retrieve, self._collection, some, with_payload=payload, with_vectors=with_vectors
            )
            found.update({str(record.id): record for record in self._read("read items", read)})
        return [_record(found[id]) for id in wanted if id in found]

    def scroll(
        self, where: Filter | None = None, *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> Iterator[Record]:
        native = self._native(where)
        if native.exact:
            return self._pages(native, fields, with_vectors)
        return scroll_checked(lambda needed: self._pages(native, needed, with_vectors), where, fields)

    def _pages(self, native: Native[Any], fields: Sequence[str] | None, with_vectors: bool) -> Iterator[Record]:
        payload: bool | list[str] = True if fields is None else list(fields) or False
        read = partial(
            self._client.scroll,
            self._collection,
            scroll_filter=native.condition,
            limit=_PAGE,
            with_payload=payload,
            with_vectors=with_vectors,
        )
        offset = None
        while True:
            page, offset = self._read("read items", partial(read, offset=offset))
            yield from map(_record, page)
            if offset is None:
                return

    def count(self, where: Filter | None = None) -> int:
        native = self._native(where)
        if not native.exact:
            return sum(1 for _ in self.scroll(where, fields=()))
        counted = self._read(
            "count items", partial(self._client.count, self._collection, count_filter=native.condition, exact=True)
        )
        return int(counted.count)

    def facet(self, key: str, where: Filter | None = None, limit: int = 1000) -> dict[str, int]:
        if PAYLOAD_INDEXES.get(key) != "keyword":
            raise StoreError(f"Values of {key!r} cannot be counted.")
        native = self._native(where)
        if not native.exact:
            return facet_checked(self.scroll(where, fields=[key.partition("[].")[0]]), key, limit)
        answer = self._read(
            "count items",
            partial(
                self._client.facet,
                self._collection,
                key,
                facet_filter=native.condition,
                limit=min(limit, _MAX_LIMIT),
                exact=True,
            ),
        )
        return most_frequent({str(hit.value): int(hit.count) for hit in answer.hits}, limit)

    def optimize(self) -> None:
        """Only gives the points of an older index their path keys: a server optimises by itself, while it answers."""
        if self._settings.path_keys:
            return
        collection.begin_path_keys(self._connection, self._name)
        waiting: list[Record] = []
        for record in self.scroll(fields=["places"]):
            waiting.append(record)
            if len(waiting) == _PAGE:
                self._add_path_keys(waiting)
                waiting = []
        self._add_path_keys(waiting)
        settings = replace(self._settings, path_keys=True)
        # Last: until then, searches do without.
        collection.write_metadata(self._connection, self._name, settings, self._metadata)
        self._settings = settings

    def _add_path_keys(self, records: Sequence[Record]) -> None:
        from qdrant_client import models

        changes = [
            models.SetPayloadOperation(
                set_payload=models.SetPayload(
                    payload={PATH_KEYS: with_path_keys(record.payload).get(PATH_KEYS, [])}, points=[record.id]
                )
            )
            for record in records
        ]
        if changes:
            write = partial(self._client.batch_update_points, self._collection, changes, wait=True)
            self._write("bring items up to date", write)

    def info(self) -> StoreInfo:
        facts = self._read("ask about the index", partial(self._client.get_collection, self._collection))
        details = {
            "url": self._connection.place,
            "collection": self._collection,
            "status": str(facts.status.value),
            "segments": str(facts.segments_count),
            "shards": str(self._settings.shards),
            "replicas": str(self._settings.replicas),
            "quantize": self._settings.quantize,
        }
        engine = "Qdrant " + ("in memory" if self._connection.in_memory else ".".join(map(str, self._version)))
        return StoreInfo(engine, self.count(), int(facts.indexed_vectors_count or 0), details)

    def close(self) -> None:
        """Ends the connection. Closing twice does no harm."""
        self._connection.close()

    def _native(self, where: Filter | None) -> Native[Any]:

        native = translate(where, ServerDialect(self._version), path_keys=self._settings.path_keys)
        return Native(as_filter(native.condition), native.exact)

    def _read(self, doing: str, call: Callable[[], T]) -> T:
        return self._connection.ask(doing, call)

    def _write(self, doing: str, call: Callable[[], T]) -> T:
        return self._connection.ask(doing, call, self._connection.writing)


def _batch_size(point: Point, dim: int) -> int:
    """Points per request: 64 to 256, fewer when they are large."""
    numbers = dim + len(point.payload.get("route", ()))
    return max(64, min(256, _BATCH_BYTES // (20 * numbers + 1000)))


def _record(raw: Any) -> Record:
    vector = raw.vector[VECTOR_NAME] if raw.vector else None
    payload: Payload = raw.payload or {}
    return Record(
        id=str(raw.id),
        payload=payload,
        score=float(getattr(raw, "score", 0.0)),
        vector=None if vector is None else np.asarray(vector, dtype=np.float32),
    )


_RANGE = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


@dataclass(frozen=True)
class ServerDialect:
    """The `Dialect` (see `translate.py`) of a server. Prefixes came with version 1.19, substrings with 1.20."""

    version: tuple[int, int]

    def equals(self, key: str, value: str) -> Any:
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))

    def one_of(self, key: str, values: Sequence[str]) -> Any:
        return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))

    def compares(self, key: str, op: str, number: float) -> Any:
        bounds = {"gte": number, "lte": number} if op == "=" else {_RANGE[op]: number}
        return models.FieldCondition(key=key, range=models.Range(**bounds))

    def starts_with(self, key: str, text: str) -> Any:
        if self.version < (1, 19):
            return None
        return models.FieldCondition(key=key, match=models.MatchPrefix(prefix=text))

    def contains(self, key: str, text: str) -> Any:
        if self.version < (1, 20):
            return None
        return models.FieldCondition(key=key, match=models.MatchSubstring(substring=text))

    def nothing(self) -> Any:
        return models.HasIdCondition(has_id=[])

    def all_of(self, parts: Sequence[Any]) -> Any:
        return models.Filter(must=list(parts))

    def any_of(self, parts: Sequence[Any]) -> Any:
        return models.Filter(should=list(parts))

    def none_of(self, parts: Sequence[Any]) -> Any:
        return models.Filter(must_not=list(parts))


def as_filter(condition: Any) -> Any:
    """A condition as the filter that requests take; None stays None."""
    if condition is None or isinstance(condition, models.Filter):
        return condition
    return models.Filter(must=[condition])
