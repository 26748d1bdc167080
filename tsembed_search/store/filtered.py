"""The half of a store that is the same for all engines that filter: what an engine lets through too much is checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from tsembed_search.errors import StoreError
from tsembed_search.store.base import Record, check_queries
from tsembed_search.store.filters import CHECKED_KEYS, Filter, matches
from tsembed_search.store.schema import PAYLOAD_INDEXES
from tsembed_search.store.translate import Dialect, translate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

C = TypeVar("C")

MAX_LIMIT: Final = 2**31
"""The most hits or values that the engines can be asked for."""


@dataclass(frozen=True)
class Ask(Generic[C]):
    """A batch of searches, as an engine is asked: `queries` `[Q][D]`, and the `condition` that `where` became.

    `payload` is what is wanted of the payloads: all (True), nothing (False) or these keys.
    """

    queries: list[list[float]]
    where: Filter | None
    condition: C | None
    payload: bool | list[str]
    with_vectors: bool
    exact: bool


class FilteredStore(ABC, Generic[C]):
    """`search`, `scroll`, `count` and `facet` of a `Store` (see `base.py`), over what an engine can do by itself."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """The size of the vectors."""

    @property
    @abstractmethod
    def _dialect(self) -> Dialect[C]:
        """The engine's conditions."""

    @abstractmethod
    def _nearest(self, ask: Ask[C], limit: int, offset: int) -> list[list[Record]]:
        """The hits of each query that pass the condition, best first."""

    @abstractmethod
    def _pages(self, condition: C | None, payload: bool | list[str], with_vectors: bool) -> Iterator[Record]:
        """All points that pass the condition."""

    @abstractmethod
    def _counted(self, condition: C | None) -> int:
        """The number of points that pass the condition."""

    @abstractmethod
    def _values(self, key: str, condition: C | None, limit: int) -> Mapping[str, int]:
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
        native = translate(where, self._dialect)
        if limit <= 0 or not len(queries):
            return [[] for _ in queries]
        payload = wanted_payload(fields if native.exact else None)
        ask = Ask(queries.tolist(), where, native.condition, payload, with_vectors, exact)
        if native.exact:
            return self._nearest(ask, min(limit, MAX_LIMIT), min(offset, MAX_LIMIT))
        hits = _search_checked(lambda some: self._nearest(ask, min(some, MAX_LIMIT), 0), where, offset + limit)
        return [found[offset:] for found in hits]

    def scroll(
        self, where: Filter | None = None, *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> Iterator[Record]:
        """See `Store.scroll`."""
        native = translate(where, self._dialect)
        if native.exact:
            return self._pages(native.condition, wanted_payload(fields), with_vectors)
        needed = None if fields is None else sorted({*fields, *CHECKED_KEYS})
        records = self._pages(native.condition, wanted_payload(needed), with_vectors)
        return _only((record for record in records if matches(where, record.payload)), fields)

    def count(self, where: Filter | None = None) -> int:
        """See `Store.count`."""
        native = translate(where, self._dialect)
        return self._counted(native.condition) if native.exact else sum(1 for _ in self.scroll(where, fields=()))

    def facet(self, key: str, where: Filter | None = None, limit: int = 1000) -> dict[str, int]:
        """See `Store.facet`."""
        if PAYLOAD_INDEXES.get(key) != "keyword":
            raise StoreError(f"Values of {key!r} cannot be counted.")
        native = translate(where, self._dialect)
        if native.exact:
            counts = self._values(key, native.condition, min(limit, MAX_LIMIT))
        else:
            counts = _facet_checked(self.scroll(where, fields=[key.partition("[].")[0]]), key)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])


def wanted_payload(fields: Sequence[str] | None) -> bool | list[str]:
    """Return `fields` as engines take them: all (True), nothing (False) or these keys."""
    return True if fields is None else list(fields) or False


def _search_checked(
    search: Callable[[int], list[list[Record]]], where: Filter | None, wanted: int
) -> list[list[Record]]:
    """The first `wanted` matching hits of each query: asks an inexact `search(limit)` for more until they are there."""
    limit = wanted + wanted // 2 + 5
    while True:
        found = search(limit)
        kept = [[hit for hit in hits if matches(where, hit.payload)] for hits in found]
        if all(len(good) >= wanted or len(hits) < limit for good, hits in zip(kept, found, strict=True)):
            return [good[:wanted] for good in kept]
        limit *= 4


def _only(records: Iterable[Record], fields: Sequence[str] | None) -> Iterator[Record]:
    for record in records:
        if fields is None:
            yield record
        else:
            yield record._replace(payload={key: value for key, value in record.payload.items() if key in fields})


def _facet_checked(records: Iterable[Record], key: str) -> Counter[str]:
    parent, _, inner = key.partition("[].")
    counts: Counter[str] = Counter()
    for record in records:
        found = record.payload.get(parent)
        values = [entry.get(inner) for entry in found or ()] if inner else found if isinstance(found, list) else [found]
        counts.update({value for value in values if value is not None})
    return counts
