"""A search as Qdrant Edge is asked: its conditions, the walk over the graph, its requests and its records.

A walk goes over points that pass the filter. When few do, the graph falls into pieces, and most of the nearest are
never reached (measured: recall@10 of .85 where a quarter of the points passes, of .53 at 3%). So a filtered search
chooses its way by how many points pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from functools import cache
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

    def clear(self) -> None:
        """Forget all counts."""
        self._known.clear()

    def passing(self, shard: Any, condition: Any) -> int:
        """Return about how many points pass, all without a condition; 0 only where none passes."""
        if (known := self._known.get(condition)) is None:
            if len(self._known) >= _MOST_COUNTS:
                self.clear()
            known = _counted(shard, condition) or _counted(shard, condition, exact=True)
            self._known[condition] = known
        return known


def nearest(shard: Any, ask: Ask, quantize: Quantize, limit: int, offset: int, counts: Counts) -> list[list[Record]]:
    """Search an open shard for the hits of each query, best first."""
    if ask.exact:
        return _asked(shard, ask, quantize, limit, offset, Walk.SCAN)
    if ask.condition is None:
        return _asked(shard, ask, quantize, limit, offset, Walk.GRAPH)
    passing = counts.passing(shard, ask.condition)
    if not passing:
        return [[] for _ in ask.queries]
    if ask.using != VECTOR_NAME:
        return _asked(shard, ask, quantize, limit, offset, Walk.GRAPH)
    total = counts.passing(shard, None)
    way = walk(passing, total, quantize)
    through = None if way is Walk.SIEVE else ask.loose
    if way is Walk.SIEVE or through is not None:
        some = int(1.5 * (limit + offset) * counts.passing(shard, through) / passing) + _SPARE
        if some < counts.passing(shard, through):
            return _sieved(shard, ask, quantize, limit, offset, through, some, counts)
    return _asked(shard, ask, quantize, limit, offset, Walk.DETOUR if way is Walk.SIEVE else way)


def _counted(shard: Any, condition: Any, exact: bool = False) -> int:
    import qdrant_edge as engine

    if condition is None:
        return int(shard.info().points_count)
    return int(shard.count(engine.CountRequest(exact=exact, filter=dialect().as_filter(condition))))


def _sieved(
    shard: Any, ask: Ask, quantize: Quantize, limit: int, offset: int, through: Any, some: int, counts: Counts
) -> list[list[Record]]:
    """The hits among `some` points that pass another condition, or none: so many that enough of them should be hits."""
    wide = replace(ask, condition=through, payload=False, with_vectors=False, loose=None)
    among = nearest(shard, wide, quantize, some, 0, counts)
    within = [dialect().all_of([dialect().with_ids([hit.id for hit in own]), ask.condition]) for own in among]
    found = _asked(shard, replace(ask, conditions=within, exact=True), quantize, limit, offset, Walk.SCAN)
    if short := [row for row, own in enumerate(found) if len(own) < limit]:
        again = replace(ask, queries=[ask.queries[row] for row in short])  # type: ignore[arg-type]
        for row, own in zip(short, _asked(shard, again, quantize, limit, offset, Walk.DETOUR), strict=True):
            found[row] = own
    return found


def _asked(shard: Any, ask: Ask, quantize: Quantize, limit: int, offset: int, way: Walk) -> list[list[Record]]:
    """The hits of each query, found in one way."""
    import qdrant_edge as engine

    quantization = None
    if quantize != "none":
        quantization = engine.QuantizationSearchParams(
            ignore=way is Walk.SCAN, rescore=True, oversampling=OVERSAMPLING[quantize]
        )
    parameters = engine.SearchParams(
        hnsw_ef=_DETOUR_EF if way is Walk.DETOUR else HNSW_EF,
        exact=way is Walk.SCAN,
        quantization=quantization,
        acorn=engine.AcornSearchParams(True, 1.0) if way is Walk.DETOUR else None,
    )
    requests = [
        engine.QueryRequest(
            limit=limit,
            offset=offset,
            query=engine.Query.Nearest(
                sparse(query) if isinstance(query, Words | ConceptVector) else query, using=ask.using
            ),
            filter=dialect().as_filter(own),
            params=parameters,
            with_payload=ask.payload,
            with_vector=wanted_vectors(ask.with_vectors),
        )
        for query, own in ask.each()
    ]
    answers = shard.query_batch(engine.QueryBatchRequest(requests))
    return [records(hits, ask.payload, ask.with_vectors, scored=True) for hits in answers]


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
            str(raw.id),
            (raw.payload or {}) if payload else {},
            raw.score if scored else 0.0,
            _dense(raw) if with_vectors else None,
        )
        for raw in found
    ]


def _dense(raw: Any) -> Any:
    """A point's dense vector `[D]`; None when it has none."""
    found = (raw.vector or {}).get(VECTOR_NAME)
    return None if found is None else np.asarray(found, dtype=np.float32)
