"""The half of a store that is the same for all engines that filter.

A filter becomes an engine's own condition (see `conditions`). What that lets through too much, `filters.matches`, the
reference, takes out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from tsembed_search.errors import StoreError, UsageError
from tsembed_search.ranking.concepts import ConceptVector
from tsembed_search.ranking.words import Words
from tsembed_search.store.base import Record, Search, StoreSettings, check_queries
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


class Ask(NamedTuple):
    """A search as an engine is asked: `query` is a list of numbers, words or concepts, `condition` what `where` became.

    `payload` is what is wanted of the payloads: all (True), nothing (False) or these keys. `loose` is that of `Native`.
    `exact`: compare all points that pass. `unchecked`: the filter, where the condition lets more points pass.
    """

    query: Any
    limit: int
    offset: int = 0
    condition: Any = None
    payload: bool | list[str] = False
    with_vectors: bool = False
    exact: bool = False
    loose: Any = None
    unchecked: Filter | None = None

    @property
    def using(self) -> str:
        """The name of the vectors that are searched."""
        if isinstance(self.query, ConceptVector):
            return CONCEPTS_NAME
        return WORDS_NAME if isinstance(self.query, Words) else VECTOR_NAME

    def wider(self, times: int) -> Ask:
        """Return the search for so many more points that enough of them should match, where they are to be checked."""
        if self.unchecked is None:
            return self
        wanted = self.offset + self.limit
        return self._replace(limit=min(times * (wanted + wanted // 2 + 5), MAX_LIMIT), offset=0)

    def checked(self, hits: list[Record], asked: int) -> list[Record] | None:
        """Return those of the hits that match; None when there may be more, of so many that were `asked` for."""
        if self.unchecked is None:
            return hits
        wanted = self.offset + self.limit
        good = [hit for hit in hits if matches(self.unchecked, hit.payload)]
        return good[self.offset : wanted] if len(good) >= wanted or len(hits) < asked else None


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
    def _nearest(self, asks: Sequence[Ask]) -> list[list[Record]]:
        """The hits of each search that pass its condition, best first."""

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
        ask = self._ask(limit, offset, where, fields)._replace(with_vectors=with_vectors, exact=exact)
        return self._answers([ask._replace(query=query) for query in check_queries(vectors, self.dim).tolist()])

    def find(self, searches: Sequence[Search]) -> list[list[Record]]:
        """See `Store.find`."""
        vectors = {id(one.query): one.query for one in searches if not isinstance(one.query, Words | ConceptVector)}
        checked = check_queries(np.stack([*vectors.values()]), self.dim).tolist() if vectors else []
        queries: dict[int, Any] = dict(zip(vectors, checked, strict=True))
        asks = [
            self._ask(one.limit, one.offset, one.where, ())
            if one.ids is None
            else Ask(None, len(one.ids), condition=self._dialect.with_ids(list(one.ids)), exact=True)
            for one in searches
        ]
        rows = zip(asks, searches, strict=True)
        return self._answers([ask._replace(query=queries.get(id(one.query), one.query)) for ask, one in rows])

    def _ask(self, limit: int, offset: int, where: Filter | None, fields: Sequence[str] | None) -> Ask:
        """A search without a query yet."""
        native = self._native(where)
        payload = wanted_payload(fields if native.exact else None)
        unchecked = None if native.exact else where
        limits = min(limit, MAX_LIMIT), min(offset, MAX_LIMIT)
        return Ask(None, *limits, native.condition, payload, loose=native.loose, unchecked=unchecked)

    def _answers(self, asks: Sequence[Ask]) -> list[list[Record]]:
        """The hits of each search; those that an inexact condition lets through are checked."""
        found: list[list[Record]] = [[] for _ in asks]
        pending, times = [row for row, ask in enumerate(asks) if ask.limit > 0], 1
        while pending:  # ask for more until enough of them match
            asked = [asks[row].wider(times) for row in pending]
            short = []
            for row, ask, hits in zip(pending, asked, self._nearest(asked), strict=True):
                if (kept := asks[row].checked(hits, ask.limit)) is None:
                    short.append(row)
                else:
                    found[row] = kept
            pending, times = short, 4 * times
        return found

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
