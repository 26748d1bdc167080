"""Clusters: equal sizes, everything once, and neighbours together."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tsembed_search.evaluation.clusters import clusters

Near = st.integers(1, 30).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, n - 1), max_size=8), min_size=n, max_size=n)
)


@given(Near, st.integers(1, 9), st.integers(0, 3))
def test_all_are_of_one_size_but_the_last(near: list[list[int]], size: int, seed: int) -> None:
    found = clusters(near, size, seed)
    counts = [number for _, number in sorted(Counter(found).items())]
    assert len(found) == len(near) and set(counts[:-1]) <= {size} and 1 <= counts[-1] <= size
    assert found == clusters(near, size, seed)


def test_what_is_taken_for_one_another_is_together() -> None:
    """Four groups of five, each thing taken for all others of its group, and for one of another that is not mutual."""
    near = [[*range(one // 5 * 5, one // 5 * 5 + 5), (one + 5) % 20] for one in range(20)]
    for seed in range(5):
        found = clusters(near, 5, seed)
        assert all(len({found[one] for one in range(start, start + 5)}) == 1 for start in range(0, 20, 5))


def test_nothing_makes_none() -> None:
    assert clusters([], 4) == []
