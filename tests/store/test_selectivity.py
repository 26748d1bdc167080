"""Which way a filtered search goes, and that numbers of points are asked for only when they matter."""

from __future__ import annotations

import pytest

from tsembed_search.search.where import parse_where
from tsembed_search.store.edge.query import Walk, walk


@pytest.mark.parametrize("text", ["kind=image", "page<=3", "kind=text and modified>=@1", "not ext=pdf"])
def test_fields_with_links_need_no_count(text: str) -> None:
    def never() -> int:
        raise AssertionError

    assert walk(parse_where(text), never, never) is Walk.GRAPH
    assert walk(None, never, never) is Walk.GRAPH


@pytest.mark.parametrize("text", ["path~/a", "kind=image and path~/a", "page=1 and modified>=@1", "page=1 or ext=pdf"])
@pytest.mark.parametrize(
    ("passing", "total", "way"),
    [(900, 1000, Walk.GRAPH), (100, 1000, Walk.SCAN), (30_000, 1_000_000, Walk.DETOUR), (0, 0, Walk.GRAPH)],
)
def test_other_filters_go_by_how_many_points_pass(text: str, passing: int, total: int, way: Walk) -> None:
    assert walk(parse_where(text), lambda: passing, lambda: total) is way
