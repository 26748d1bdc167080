"""A search as Qdrant Edge is asked: its conditions, the walk over the graph, its requests and its records.

A walk goes over points that pass the filter. Fields with links of their own in the graph keep those together; with any
other filter that few pass, the graph falls into pieces and most of the nearest are never reached (measured: recall@10
of 0.53 where a folder held 3% of the points). So a filtered search chooses its way by how many points pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import cache
from typing import Any, Final
from uuid import UUID

import numpy as np

from tsembed_search.ranking.words import Words
from tsembed_search.store.base import ENOUGH, FILTERED_HNSW_EF, HNSW_EF, OVERSAMPLING, Quantize, Record
from tsembed_search.store.filtered import Ask, Dialect, wanted_vectors
from tsembed_search.store.filters import And, Condition, Filter, Not, Or
from tsembed_search.store.schema import VECTOR_NAME

FEW: Final = 20_000
"""So many points are compared one by one in the time that a detour takes."""

_LINKED: Final = frozenset({"ext", "modified", "page", "expert"})


@cache
def dialect() -> Dialect:
    """Return Qdrant Edge's conditions."""
    import qdrant_edge as engine

    return Dialect(engine, engine.RangeFloat, lambda ids: engine.HasIdCondition({UUID(id) for id in ids}))


class Walk(Enum):
    """`GRAPH`: as always. `SCAN`: compare all that pass. `DETOUR`: also over neighbours that do not pass (ACORN, Patel
    et al., arXiv 2403.04871), which finds as much and takes about five times as long.
    """

    GRAPH = "graph"
    SCAN = "scan"
    DETOUR = "detour"


def walk(where: Filter | None, passing: Callable[[], int], total: Callable[[], int]) -> Walk:
    """Return the way for a filter. `passing` and `total` estimate numbers of points, and are asked when it matters."""
    fields = [condition.field for condition in _conditions(where) if condition.field != "kind"]
    if not fields or (len(fields) == 1 and fields[0] in _LINKED):
        return Walk.GRAPH
    some = passing()
    if some >= ENOUGH * total():
        return Walk.GRAPH
    return Walk.SCAN if some <= FEW else Walk.DETOUR


def _conditions(where: Filter | None) -> Iterator[Condition]:
    match where:
        case Condition():
            yield where
        case And(parts) | Or(parts):
            for part in parts:
                yield from _conditions(part)
        case Not(part):
            yield from _conditions(part)


def nearest(shard: Any, ask: Ask, quantize: Quantize, limit: int, offset: int) -> list[list[Record]]:
    """Search an open shard for the hits of each query, best first."""
    import qdrant_edge as engine

    as_filter = dialect().as_filter
    condition = as_filter(ask.condition)

    def passing() -> int:
        return int(shard.count(engine.CountRequest(exact=False, filter=condition)))

    way = Walk.SCAN if ask.exact else walk(ask.where, passing, lambda: int(shard.info().points_count))
    quantization = None
    if quantize != "none":
        quantization = engine.QuantizationSearchParams(
            ignore=way is Walk.SCAN, rescore=True, oversampling=OVERSAMPLING[quantize]
        )
    parameters = engine.SearchParams(
        hnsw_ef=HNSW_EF if condition is None else FILTERED_HNSW_EF,
        exact=way is Walk.SCAN,
        quantization=quantization,
        acorn=engine.AcornSearchParams(True, 1.0) if way is Walk.DETOUR else None,
    )
    requests = [
        engine.QueryRequest(
            limit=limit,
            offset=offset,
            query=engine.Query.Nearest(sparse(query) if isinstance(query, Words) else query, using=ask.using),
            filter=as_filter(own),
            params=parameters,
            with_payload=ask.payload,
            with_vector=wanted_vectors(ask.with_vectors),
        )
        for query, own in ask.each()
    ]
    answers = shard.query_batch(engine.QueryBatchRequest(requests))
    return [records(hits, ask.payload, ask.with_vectors, scored=True) for hits in answers]


def sparse(words: Words) -> Any:
    """Return words as the engine takes them."""
    import qdrant_edge as engine

    return engine.SparseVector(words.terms.tolist(), words.weights.tolist())


def records(
    found: Sequence[Any], payload: bool | list[str], with_vectors: bool, *, scored: bool = False
) -> list[Record]:
    """Return what the engine gave. Its accessors take their time for what was not asked for, too."""
    return [
        Record(
            str(raw.id),
            (raw.payload or {}) if payload else {},
            raw.score if scored else 0.0,
            np.asarray(raw.vector[VECTOR_NAME], dtype=np.float32) if with_vectors else None,
        )
        for raw in found
    ]
