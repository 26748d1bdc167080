"""Which way a filtered search goes."""

from __future__ import annotations

import pytest

from tsembed_search.store.edge.query import Walk, walk


@pytest.mark.parametrize(
    ("passing", "total", "way"),
    [(900, 1000, Walk.GRAPH), (100, 1000, Walk.SCAN), (30_000, 1_000_000, Walk.DETOUR), (0, 0, Walk.GRAPH)],
)
def test_filters_go_by_how_many_points_pass(passing: int, total: int, way: Walk) -> None:
    assert walk(passing, total, "binary") is way


def test_the_engine_compares_few_by_itself() -> None:
    assert walk(100, 1000, "none") is walk(100, 1000, "scalar") is Walk.DETOUR
