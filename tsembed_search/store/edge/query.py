"""A search as Qdrant Edge is asked: its conditions, the walk over the graph, its requests and its records.

A walk goes over points that pass the filter. When few do, the graph falls into pieces, and most of the nearest are
never reached (measured: recall@10 of .85 where a quarter of the points passes, of .53 at 3%). So a filtered search
chooses its way by how many points pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import cache
from typing import Any, Final
from uuid import UUID

import numpy as np

from tsembed_search.ranking.concepts import Shown
from tsembed_search.ranking.words import Words
from tsembed_search.store.base import HNSW_EF, OVERSAMPLING, Quantize, Record
from tsembed_search.store.filtered import Ask, Dialect, wanted_vectors
from tsembed_search.store.schema import VECTOR_NAME

FEW: Final = 5_000
"""So few points are compared one by one with the original vectors, where those of one bit per dimension would miss
some. Otherwise the engine compares all of them by itself, up to `shard.SCAN_KB`, with compressed vectors first."""

MANY: Final = 0.6
"""The share of points from which on the graph holds together."""

_DETOUR_EF: Final = 64


@cache
def dialect() -> Dialect:
    """Return Qdrant Edge's conditions."""
    import qdrant_edge as engine

    return Dialect(
        engine,
        engine.RangeFloat,
        lambda ids: engine.HasIdCondition({UUID(id) for id in ids}),
        engine.HasVectorCondition,
    )


class Walk(Enum):
    """`GRAPH`: as always. `SCAN`: compare all that pass. `DETOUR`: also over neighbours that do not pass (ACORN, Patel
    et al., arXiv 2403.04871), which finds more, needs fewer candidates, and takes about four times as long.
    """

    GRAPH = "graph"
    SCAN = "scan"
    DETOUR = "detour"


def walk(passing: int, total: int, quantize: Quantize) -> Walk:
    """Return the way for a filter that lets `passing` of all points pass."""
    if passing >= MANY * total:
        return Walk.GRAPH
    return Walk.SCAN if quantize == "binary" and passing <= FEW else Walk.DETOUR


def nearest(shard: Any, ask: Ask, quantize: Quantize, limit: int, offset: int) -> list[list[Record]]:
    """Search an open shard for the hits of each query, best first."""
    import qdrant_edge as engine

    as_filter = dialect().as_filter
    condition = as_filter(ask.condition)
    if ask.exact:
        way = Walk.SCAN
    elif condition is None or ask.using != VECTOR_NAME:
        way = Walk.GRAPH
    else:
        passing = int(shard.count(engine.CountRequest(exact=False, filter=condition)))
        way = walk(passing, int(shard.info().points_count), quantize)
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
            query=engine.Query.Nearest(sparse(query) if isinstance(query, Words | Shown) else query, using=ask.using),
            filter=as_filter(own),
            params=parameters,
            with_payload=ask.payload,
            with_vector=wanted_vectors(ask.with_vectors),
        )
        for query, own in ask.each()
    ]
    answers = shard.query_batch(engine.QueryBatchRequest(requests))
    return [records(hits, ask.payload, ask.with_vectors, scored=True) for hits in answers]


def sparse(vector: Words | Shown) -> Any:
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
