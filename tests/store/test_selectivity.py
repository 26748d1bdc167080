"""Which way a filtered search goes, and that the number of all points is asked for only when it matters."""

from __future__ import annotations

import pytest

from tsembed_search.store.selectivity import Walk, walk


@pytest.mark.parametrize(
    ("passing", "total", "way"),
    [
        (900, 1000, Walk.SCAN),
        (0, 0, Walk.SCAN),
        (50_000, 100_000, Walk.GRAPH),
        (33_000, 100_000, Walk.DETOUR),
        (15_000, 100_000, Walk.DETOUR),
        (15_000, 1_000_000, Walk.SCAN),
        (30_000, 1_000_000, Walk.DETOUR),
        (12_000, 0, Walk.GRAPH),
    ],
)
def test_the_way_goes_by_how_many_points_pass(passing: int, total: int, way: Walk) -> None:
    assert walk(lambda: passing, lambda: total) is way


def test_few_points_need_no_second_count() -> None:
    def never() -> int:
        raise AssertionError

    assert walk(lambda: 10_000, never) is Walk.SCAN
