"""What reranking adds to a search: `--rerank expert` and `--rerank mmr` for 100 candidates, in the embedded engine.

    python benchmarks/rerank.py [--items N] [--rounds N] [--json]

An index of random vectors whose items carry routes, for two models: `mini` (384 dimensions, 6 x 8 experts) and `large`
(1536 dimensions, 28 x 8 experts). A query is searched for 10 hits without reranking and with it, one after the other;
a round is a pass over all queries. Figures are medians over rounds, of milliseconds per query:

    added_ms          expert: with reranking less without: fetching 100 candidates instead of 10, and reordering them
    added_cpu_ms      the same in processor time of all threads, which other work on the machine disturbs less
    reorder_ms        expert: of that, the reordering (routes compared, scores mixed, sorted)
    mmr_added_ms      the same as added_ms for mmr, which fetches vectors as well

The aim for `added_ms` is at most 3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tsembed_search.paths import IndexAddress
from tsembed_search.ranking.reranking import Candidate, Given, Query, by_experts
from tsembed_search.search.results import SearchOptions
from tsembed_search.search.searcher import Searcher, routed
from tsembed_search.store import opening
from tsembed_search.store.base import Point, Store, StoreSettings
from tsembed_search.store.schema import point_id, route_fields

MODELS = {"mini": (384, 6, 8), "large": (1536, 28, 8)}
"""Dimensions, blocks, experts."""
QUERIES = 20


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit length."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def fill(store: Store, items: int, dim: int, blocks: int, experts: int) -> None:
    """Pictures with random vectors and routes."""
    rng = np.random.default_rng(0)
    for start in range(0, items, 512):
        count = min(512, items - start)
        vectors = unit(rng.standard_normal((count, dim), dtype=np.float32))
        routes = unit(rng.standard_normal((count, blocks * experts), dtype=np.float32))
        points = []
        for row in range(count):
            name = f"{start + row}.jpg"
            place = {"path": f"/pictures/{name}", "root": "/pictures", "rel": name, "ext": "jpg", "mtime": 1e9}
            payload: dict[str, Any] = {
                **place, "kind": "image", "places": [place], "page": None, "chunk": None, "text": None, "width": 640,
                "height": 480, "bytes": 100_000, "sha": name, "model": "m", "indexed_at": 0.0,
                **route_fields(routes[row]), "top_experts": ["b0e1", "b1e0"],
            }  # fmt: skip
            points.append(Point(point_id(name, None, None, "m"), vectors[row], payload))
        store.upsert(points)
    store.optimize()


def per_query(run: Callable[[Query], object], queries: list[Query]) -> NDArray[np.float64]:
    """Milliseconds, as a clock has them and of processor time: `[2]`."""
    started = time.perf_counter(), time.process_time()
    for query in queries:
        run(query)
    return np.subtract((time.perf_counter(), time.process_time()), started) * 1000 / len(queries)


def measure(items: int, rounds: int, dim: int, blocks: int, experts: int) -> dict[str, float]:
    """The figures of one model."""
    rng = np.random.default_rng(1)
    queries = [
        Query(vector, route, "text")
        for vector, route in zip(
            unit(rng.standard_normal((QUERIES, dim), dtype=np.float32)),
            unit(rng.standard_normal((QUERIES, blocks * experts), dtype=np.float32)),
            strict=True,
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = opening.open_or_create(IndexAddress("benchmark", f"edge:{folder}"), StoreSettings(dim))
        fill(store, items, dim, blocks, experts)
        searcher = Searcher(store, experts=experts)
        ways = {
            "none": SearchOptions(),
            "expert": SearchOptions(rerank="expert", route_weight=0.3),
            "mmr": SearchOptions(rerank="mmr"),
        }
        records = store.search(queries[0].vector[None], 100)[0]
        candidates = [Candidate(one.id, "image", one.score, one.score, one.payload) for one in records]
        took: list[dict[str, NDArray[np.float64]]] = []
        for turn in range(rounds + 1):
            times = {
                name: per_query(lambda query, way=way: searcher.search([query], way), queries)  # type: ignore[misc]
                for name, way in (ways.items() if turn % 2 else reversed(ways.items()))
            }
            times["reorder"] = per_query(
                lambda query: by_experts(query, routed(query, candidates), Given(0.3)), queries
            )
            took.append(times)
        store.close()
    del took[0]
    added, added_cpu = np.median([one["expert"] - one["none"] for one in took], axis=0)
    return {
        "added_ms": float(added),
        "added_cpu_ms": float(added_cpu),
        "reorder_ms": statistics.median(one["reorder"][0] for one in took),
        "mmr_added_ms": statistics.median(one["mmr"][0] - one["none"][0] for one in took),
        "search_ms": statistics.median(one["none"][0] for one in took),
        "expert_vs_none": statistics.median(one["expert"][0] / one["none"][0] for one in took),
    }


def main() -> None:
    """Measures and prints; with `--json`, one object last."""
    parser = argparse.ArgumentParser(description=cast(str, __doc__).splitlines()[0])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = {name: measure(options.items, options.rounds, *model) for name, model in MODELS.items()}
    for name, figures in result.items():
        print(name)
        for figure, value in figures.items():
            print(f"  {figure:<16}{value:8.2f}")
    if options.json:
        print(json.dumps({**result, "items": options.items, "candidates": 100, "rounds": options.rounds}))


if __name__ == "__main__":
    main()
