"""Blockwise ranking equals ranking by the whole table of scores."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from helpers.ranked import ranks_of, units
from tsembed_search.ranking.similarity import rank


def test_blocks_do_not_change_ranks(case: tuple) -> None:
    queries, candidates, correct = case
    whole = ranks_of((queries @ candidates.T).astype(np.float64), correct)
    found = rank(queries, candidates, correct).ranks
    np.testing.assert_array_equal(found.ranks, whole.ranks)
    np.testing.assert_array_equal(found.starts, whole.starts)


def test_each_query_can_have_candidates_of_its_own(case: tuple) -> None:
    queries, candidates, correct = case
    random = np.random.default_rng(5)
    choices = [sorted(right | set(random.choice(60, size=20).tolist())) for right in correct]
    scores = np.full((len(queries), 60), -np.inf)
    for row, places in enumerate(choices):
        scores[row, places] = (queries @ candidates.T)[row, places]
    found = rank(queries, candidates, correct, choices, depth=10)
    np.testing.assert_array_equal(found.ranks.ranks, ranks_of(scores, correct).ranks)
    assert all(set(wrong.tolist()) <= {*places, -1} for wrong, places in zip(found.wrong, choices, strict=True))
    with pytest.raises(ValueError, match="not among the choices"):
        rank(queries, candidates, correct, [[59 if 59 not in right else 58] for right in correct])


def test_refusals(case: tuple) -> None:
    queries, candidates, correct = case
    with pytest.raises(ValueError, match="needs a right candidate"):
        rank(queries, candidates, [*correct[:-1], frozenset()])
    with pytest.raises(ValueError, match="not finite"):
        rank(queries * np.nan, candidates, correct)


def test_the_best_wrong_candidates_are_kept(case: tuple) -> None:
    queries, candidates, correct = case
    found = rank(queries, candidates, correct, depth=10)
    scores = queries @ candidates.T
    for row, right in enumerate(correct):
        expected = sorted((score for place, score in enumerate(scores[row]) if place not in right), reverse=True)[:10]
        np.testing.assert_allclose(found.wrong_scores[row], expected, atol=1e-6)
        np.testing.assert_allclose(scores[row, found.wrong[row]], expected, atol=1e-6)
        assert not right & set(found.wrong[row].tolist())


def test_memory_does_not_grow_with_queries_times_candidates() -> None:
    random = np.random.default_rng(0)
    queries, candidates = units(random, 512, 4), units(random, 60_000, 4)
    whole = queries.shape[0] * candidates.shape[0] * 4
    tracemalloc.start()
    try:
        rank(queries, candidates, [frozenset({n}) for n in range(512)], depth=100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < whole / 2
