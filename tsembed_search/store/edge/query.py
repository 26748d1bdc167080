"""A search as Qdrant Edge is asked: its conditions, the walk over the graph, its requests and its records.

A walk goes over points that pass the filter. When few do, the graph falls into pieces, and most of the nearest are
never reached (measured: recall@10 of .85 where a quarter of the points passes, of .53 at 3%). So a filtered search
chooses its way by how many points pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np

from tsembed_search.ranking.concepts import ConceptVector
from tsembed_search.ranking.words import Words
from tsembed_search.store.base import HNSW_EF, OVERSAMPLING, Quantize, Record
from tsembed_search.store.conditions import Dialect
from tsembed_search.store.filtered import Ask, wanted_vectors
from tsembed_search.store.schema import VECTOR_NAME

FEW: Final = 5_000
"""So few points are compared one by one with the original vectors, where those of one bit per dimension would miss
some. Otherwise the engine compares all of them by itself, up to `shard.SCAN_KB`, with compressed vectors first."""

MANY: Final = 0.6
"""The share of points from which on the graph holds together."""

SOME: Final = 0.2
LARGE: Final = 15_000
"""The share and the number of points from which on it is best to find more of all points, and see which of them pass.
"""

_DETOUR_EF: Final = 64
_SPARE: Final = 20
_MOST_COUNTS: Final = 256


@cache
def dialect() -> Dialect:
    """Return Qdrant Edge's conditions."""
    import qdrant_edge as engine

    return Dialect(
        engine,
        engine.RangeFloat,
        lambda ids: engine.HasIdCondition(set(ids)),
        engine.HasVectorCondition,
    )


class Walk(Enum):
    """`GRAPH`: as always. `SCAN`: compare all that pass. `DETOUR`: also over neighbours that do not pass (ACORN, Patel
    et al., arXiv 2403.04871), which finds more, needs fewer candidates, and takes about ten times as long as a walk
    without a filter. `SIEVE`: walk without the filter, for so many points that enough of them should pass, and compare
    those that do; a query whose nearest points do not pass takes the detour then. A filter with texts that paths
    contain is sieved, too: from what passes the rest of it.
    """

    GRAPH = "graph"
    SCAN = "scan"
    DETOUR = "detour"
    SIEVE = "sieve"


def walk(passing: int, total: int, quantize: Quantize) -> Walk:
    """Return the way for a filter that lets `passing` of all points pass."""
    if passing >= MANY * total:
        return Walk.GRAPH
    if passing >= max(SOME * total, LARGE):
        return Walk.SIEVE
    return Walk.SCAN if quantize == "binary" and passing <= FEW else Walk.DETOUR


class Counts:
    """About how many points of a shard pass a condition. Each is counted once, until points change: then `clear`."""

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}
        self._kinds: set[str] | None = None

    def clear(self) -> None:
        """Forget all counts."""
        self._known.clear()
        self._kinds = None

    def says_nothing(self, shard: Any, condition: Any) -> bool:
        """Tell whether a condition is on the only kind that there is. Every point has a kind, so all of them pass, and
        to check each takes time.
        """
        value = getattr(condition.match, "value", None) if getattr(condition, "key", None) == "kind" else None
        if not isinstance(value, str):
            return False
        if self._kinds is None:
            import qdrant_edge as engine

            # Kinds of points that were removed may be among them.
            self._kinds = {hit.value for hit in shard.facet(engine.FacetRequest("kind", exact=False)).hits if hit.count}
        return self._kinds == {value}

    def passing(self, shard: Any, condition: Any) -> int:
        """Return about how many points pass, all without a condition; 0 only where none passes."""
        if (known := self._known.get(condition)) is None:
            if len(self._known) >= _MOST_COUNTS:
                self.clear()
            known = _counted(shard, condition) or _counted(shard, condition, exact=True)
            self._known[condition] = known
        return known


def nearest(shard: Any, asks: Sequence[Ask], quantize: Quantize, counts: Counts) -> list[list[Record]]:
    """Search an open shard for the hits of each search, best first."""
    found: list[list[Record]] = [[] for _ in asks]
    direct: dict[int, Walk] = {}
    sieved: dict[int, Ask] = {}
    asks = [ask._replace(condition=None) if counts.says_nothing(shard, ask.condition) else ask for ask in asks]
    for row, ask in enumerate(asks):
        way = _way(shard, ask, quantize, counts)
        if isinstance(way, Ask):
            sieved[row] = way
        elif way is not None:
            direct[row] = way
    for row, hits in zip(
        direct, _asked(shard, [asks[row] for row in direct], quantize, [*direct.values()]), strict=True
    ):
        found[row] = hits
    if sieved:
        among = nearest(shard, [*sieved.values()], quantize, counts)
        for row, hits in zip(sieved, _sieved(shard, [asks[row] for row in sieved], among, quantize), strict=True):
            found[row] = hits
    return found


def _way(shard: Any, ask: Ask, quantize: Quantize, counts: Counts) -> Walk | Ask | None:
    """The way that a search goes; the search whose hits are sieved for it; or None where no point passes."""
    if ask.exact:
        return Walk.SCAN
    if ask.condition is None:
        return Walk.GRAPH
    passing = counts.passing(shard, ask.condition)
    if not passing:
        return None
    if ask.using != VECTOR_NAME:
        return Walk.GRAPH
    way = walk(passing, counts.passing(shard, None), quantize)
    through = None if way is Walk.SIEVE else ask.loose
    if way is Walk.SIEVE or through is not None:
        some = int(1.5 * (ask.limit + ask.offset) * counts.passing(shard, through) / passing) + _SPARE
        if some < counts.passing(shard, through):
            return Ask(ask.query, some, condition=through)
    return Walk.DETOUR if way is Walk.SIEVE else way


def _counted(shard: Any, condition: Any, exact: bool = False) -> int:
    import qdrant_edge as engine

    if condition is None:
        return int(shard.info().points_count)
    return int(shard.count(engine.CountRequest(exact=exact, filter=dialect().as_filter(condition))))


def _sieved(
    shard: Any, asks: Sequence[Ask], among: Sequence[Sequence[Record]], quantize: Quantize
) -> list[list[Record]]:
    """The hits of each search among points that were found: so many that enough of them should be hits."""
    within = [
        ask._replace(
            condition=dialect().all_of([dialect().with_ids([hit.id for hit in own]), ask.condition]), exact=True
        )
        for ask, own in zip(asks, among, strict=True)
    ]
    found = _asked(shard, within, quantize, [Walk.SCAN] * len(asks))
    short = [row for row, own in enumerate(found) if len(own) < asks[row].limit]
    again = _asked(shard, [asks[row] for row in short], quantize, [Walk.DETOUR] * len(short))
    for row, own in zip(short, again, strict=True):
        found[row] = own
    return found


def _asked(shard: Any, asks: Sequence[Ask], quantize: Quantize, ways: Sequence[Walk]) -> list[list[Record]]:
    """The hits of each search, found in its way."""
    import qdrant_edge as engine

    if not asks:
        return []
    requests = [
        engine.QueryRequest(
            limit=ask.limit,
            offset=ask.offset,
            query=engine.Query.Nearest(
                ask.query if isinstance(ask.query, list) else sparse(ask.query), using=ask.using
            ),
            filter=dialect().as_filter(ask.condition),
            params=_parameters(way, quantize),
            with_payload=ask.payload,
            with_vector=wanted_vectors(ask.with_vectors),
        )
        for ask, way in zip(asks, ways, strict=True)
    ]
    answers = shard.query_batch(engine.QueryBatchRequest(requests))
    return [records(hits, ask.payload, ask.with_vectors, scored=True) for ask, hits in zip(asks, answers, strict=True)]


@cache
def _parameters(way: Walk, quantize: Quantize) -> Any:
    import qdrant_edge as engine

    quantization = None
    if quantize != "none":
        quantization = engine.QuantizationSearchParams(
            ignore=way is Walk.SCAN, rescore=True, oversampling=OVERSAMPLING[quantize]
        )
    return engine.SearchParams(
        hnsw_ef=_DETOUR_EF if way is Walk.DETOUR else HNSW_EF,
        exact=way is Walk.SCAN,
        quantization=quantization,
        acorn=engine.AcornSearchParams(True, 1.0) if way is Walk.DETOUR else None,
    )


def sparse(vector: Words | ConceptVector) -> Any:
    """Return words, or concepts, as the engine takes them."""
    import qdrant_edge as engine

    places, weights = vector
    return engine.SparseVector(places.tolist(), weights.tolist())


def records(
    found: Sequence[Any], payload: bool | list[str], with_vectors: bool, *, scored: bool = False
) -> list[Record]:
    """Return what the engine gave. Its accessors take their time for what was not asked for, too."""
    return [
        Record(
            _spelled(raw.id.int),
            (raw.payload or {}) if payload else {},
            raw.score if scored else 0.0,
            _dense(raw) if with_vectors else None,
        )
        for raw in found
    ]


@lru_cache(maxsize=4096)
def _spelled(number: int) -> str:
    """An id as text: a search meets the same ones several times, and to spell one takes longer than all else of it."""
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _dense(raw: Any) -> Any:
    """A point's dense vector `[D]`; None when it has none."""
    found = (raw.vector or {}).get(VECTOR_NAME)
    return None if found is None else np.asarray(found, dtype=np.float32)
