"""The half of a store that is the same for all engines that filter.

A filter becomes an engine's own condition (see `conditions`). What that lets through too much, `filters.matches`, the
reference, takes out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tsembed_search.errors import StoreError, UsageError
from tsembed_search.ranking.concepts import ConceptVector
from tsembed_search.ranking.words import Words
from tsembed_search.store.base import Record, StoreSettings, check_queries
from tsembed_search.store.conditions import Dialect, Native, translate
from tsembed_search.store.filters import CHECKED_KEYS, Filter, fields_of, matches
from tsembed_search.store.schema import (
    CONCEPTS_NAME,
    PAYLOAD_INDEXES,
    VECTOR_NAME,
    WORD_FIELDS,
    WORDS_NAME,
    words_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LIMIT: Final = 2**31
"""The most hits or values that the engines can be asked for."""


@dataclass(frozen=True)
class Ask:
    """A batch of searches, as an engine is asked: `queries` `[Q][D]`, words or concepts, and the `condition` that
    `where` became.

    `conditions`, where there are any, hold for one query each, in place of that. `payload` is what is wanted of the
    payloads: all (True), nothing (False) or these keys. `loose` is that of `Native`.
    """

    queries: list[list[float]] | Sequence[Words] | Sequence[ConceptVector]
    condition: Any = None
    payload: bool | list[str] = False
    with_vectors: bool = False
    exact: bool = False
    conditions: Sequence[Any] = ()
    loose: Any = None

    @property
    def using(self) -> str:
        """The name of the vectors that are searched."""
        if isinstance(self.queries[0], ConceptVector):
            return CONCEPTS_NAME
        return WORDS_NAME if isinstance(self.queries[0], Words) else VECTOR_NAME

    def each(self) -> Iterator[tuple[list[float] | Words | ConceptVector, Any]]:
        """Give every query with its condition."""
        return zip(self.queries, self.conditions or [self.condition] * len(self.queries), strict=True)


class FilteredStore(ABC):
    """`search`, `scroll`, `count` and `facet` of a `Store` (see `base.py`), over what an engine can do by itself."""

    _dialect: Dialect

    def __init__(self, settings: StoreSettings, metadata: dict[str, Any]) -> None:
        self.settings = settings
        self._metadata = metadata

    @property
    def dim(self) -> int:
        """The size of the vectors."""
        return self.settings.dim

    @property
    def has_concepts(self) -> bool:
        """See `Store.has_concepts`."""
        return self.settings.concepts

    @property
    def metadata(self) -> dict[str, Any]:
        """Facts of the index about itself."""
        return dict(self._metadata)

    def _native(self, where: Filter | None) -> Native:
        """The engine's form of a filter. Raises `UsageError` for concepts, where the store has none."""
        if not self.settings.concepts and "concept" in fields_of(where):
            raise UsageError(
                "This index does not know what its pictures show.",
                "Its model tells no concepts, or it was made before they were kept. Index the files again under "
                "another name: {index}.",
            )
        return _translated(where, self._dialect)

    @abstractmethod
    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> list[Record]:
        """See `Store.retrieve`."""

    @abstractmethod
    def _nearest(self, ask: Ask, limit: int, offset: int) -> list[list[Record]]:
        """The hits of each query that pass the condition, best first."""

    @abstractmethod
    def _pages(self, condition: Any, payload: bool | list[str], with_vectors: bool) -> Iterator[Record]:
        """All points that pass the condition."""

    @abstractmethod
    def _counted(self, condition: Any) -> int:
        """The number of points that pass the condition."""

    @abstractmethod
    def _values(self, key: str, condition: Any, limit: int, exact: bool) -> Mapping[str, int]:
        """Count the points that pass the condition by the values of a field."""

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
        """See `Store.search`. Points whose payload had to be read to find them come with all of it."""
        queries = check_queries(vectors, self.dim)
        native = self._native(where)
        if limit <= 0 or not len(queries):
            return [[] for _ in queries]
        payload = wanted_payload(fields if native.exact else None)
        ask = Ask(queries.tolist(), native.condition, payload, with_vectors, exact, loose=native.loose)
        return self._found(ask, where, native.exact, limit, offset)

    def search_words(
        self, queries: Sequence[Words], limit: int, where: Filter | None = None, *, offset: int = 0
    ) -> list[list[Record]]:
        """See `Store.search_words`."""
        return self._found_sparse(queries, limit, where, offset)

    def search_concepts(
        self, queries: Sequence[ConceptVector], limit: int, where: Filter | None = None, *, offset: int = 0
    ) -> list[list[Record]]:
        """See `Store.search_concepts`."""
        return self._found_sparse(queries, limit, where, offset)

    def _found_sparse(
        self, queries: Sequence[Words] | Sequence[ConceptVector], limit: int, where: Filter | None, offset: int
    ) -> list[list[Record]]:
        native = self._native(where)
        if limit <= 0 or not queries:
            return [[] for _ in queries]
        return self._found(Ask(queries, native.condition, not native.exact), where, native.exact, limit, offset)

    def scores(
        self, ids: Sequence[Sequence[str]], queries: NDArray[np.float32] | Sequence[Words] | Sequence[ConceptVector]
    ) -> list[dict[str, float]]:
        """See `Store.scores`."""
        rows = [row for row, own in enumerate(ids) if own]
        asked: Any = [queries[row] for row in rows]
        scored: list[dict[str, float]] = [{} for _ in ids]
        if rows:
            sparse = isinstance(asked[0], Words | ConceptVector)
            given = asked if sparse else check_queries(np.stack(asked), self.dim).tolist()
            conditions = [self._dialect.with_ids(list(ids[row])) for row in rows]
            found = self._nearest(Ask(given, exact=True, conditions=conditions), max(map(len, ids)), 0)
            for row, records in zip(rows, found, strict=True):
                scored[row] = {record.id: record.score for record in records}
        return scored

    def _found(self, ask: Ask, where: Filter | None, exact: bool, limit: int, offset: int) -> list[list[Record]]:
        """The hits of each query from `offset` on; those that an inexact condition lets through are checked."""
        if exact:
            return self._nearest(ask, min(limit, MAX_LIMIT), min(offset, MAX_LIMIT))
        wanted = offset + limit
        some = wanted + wanted // 2 + 5
        while True:  # ask for more until enough of them match
            found = self._nearest(ask, min(some, MAX_LIMIT), 0)
            kept = [[hit for hit in hits if matches(where, hit.payload)] for hits in found]
            if all(len(good) >= wanted or len(hits) < some for good, hits in zip(kept, found, strict=True)):
                return [good[offset:wanted] for good in kept]
            some *= 4

    def _changed_words(self, payloads: Mapping[str, Mapping[str, Any]]) -> dict[str, Words]:
        """The words of those points whose texts or names change. Raises `StoreError` for one that is not there."""
        found = {record.id: record.payload for record in self.retrieve(list(payloads), fields=WORD_FIELDS)}
        if gone := [id for id in payloads if id not in found]:
            raise StoreError(f"The index has no item {gone[0]}.")
        changed = {id: own for id, own in payloads.items() if own.keys() & set(WORD_FIELDS)}
        return {id: words_of({**found[id], **own}) for id, own in changed.items()}

    def scroll(
        self, where: Filter | None = None, *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> Iterator[Record]:
        """See `Store.scroll`."""
        native = self._native(where)
        if native.exact:
            yield from self._pages(native.condition, wanted_payload(fields), with_vectors)
            return
        needed = None if fields is None else sorted({*fields, *CHECKED_KEYS})
        for record in self._pages(native.condition, wanted_payload(needed), with_vectors):
            if not matches(where, record.payload):
                continue
            if fields is not None:
                record = record._replace(payload={key: record.payload[key] for key in fields if key in record.payload})
            yield record

    def count(self, where: Filter | None = None) -> int:
        """See `Store.count`."""
        native = self._native(where)
        return self._counted(native.condition) if native.exact else sum(1 for _ in self.scroll(where, fields=()))

    def count_vectors(self) -> int:
        """See `Store.count_vectors`."""
        return self._counted(self._dialect.has_vector)

    def facet(self, key: str, where: Filter | None = None, limit: int = 1000, exact: bool = True) -> dict[str, int]:
        """See `Store.facet`."""
        if PAYLOAD_INDEXES.get(key) != "keyword":
            raise StoreError(f"Values of {key!r} cannot be counted.")
        native = self._native(where)
        if native.exact:
            counts = self._values(key, native.condition, min(limit, MAX_LIMIT), exact)
        else:
            counts = self._values_checked(key, where)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])

    def _values_checked(self, key: str, where: Filter | None) -> Counter[str]:
        parent, _, inner = key.partition("[].")
        counts: Counter[str] = Counter()
        for record in self.scroll(where, fields=[parent]):
            found = record.payload.get(parent)
            if inner:
                found = [entry.get(inner) for entry in found or ()]
            counts.update({value for value in (found if isinstance(found, list) else [found]) if value is not None})
        return counts


_translated = lru_cache(maxsize=256)(translate)  # a search asks for the same few again and again


def wanted_payload(fields: Sequence[str] | None) -> bool | list[str]:
    """Return `fields` as engines take them: all (True), nothing (False) or these keys."""
    return True if fields is None else list(fields) or False


def wanted_vectors(with_vectors: bool) -> bool | list[str]:
    """Return which vectors engines are to give: the dense one, or none."""
    return [VECTOR_NAME] if with_vectors else False


def named_vectors(dense: Any, words: Any, shown: Any = None) -> dict[str, Any]:
    """Return a point's vectors by their names; `dense` and `shown` are None where it has none."""
    named = {VECTOR_NAME: dense, WORDS_NAME: words, CONCEPTS_NAME: shown}
    return {name: vector for name, vector in named.items() if vector is not None}


def alike(payloads: Mapping[str, Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], list[str]]]:
    """Return each payload with the ids of the points that get the same one: those of one file, say."""
    groups: dict[int, tuple[Mapping[str, Any], list[str]]] = {}
    for point, payload in payloads.items():
        groups.setdefault(id(payload), (payload, []))[1].append(point)
    return list(groups.values())
