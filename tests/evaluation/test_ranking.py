"""Blockwise ranking equals ranking by the whole table of scores; reranking equals doing it by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tsembed_search.ranking import similarity as ranking
from tsembed_search.ranking.metrics import TIE, Ranks, ranks_of
from tsembed_search.ranking.reranking import Kappas, kappas, reranked
from tsembed_search.ranking.similarity import rank


def units(random: np.random.Generator, count: int, width: int = 8) -> np.ndarray:
    vectors = random.standard_normal((count, width)).astype(np.float32)
    # a few of them twice, so that there are ties
    vectors[count // 2 :: 7] = vectors[0]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(params=[1, 3])
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple:
    """Queries, candidates and right ones (up to `param` each), ranked in blocks far smaller than they are."""
    monkeypatch.setattr(ranking, "_QUERIES", 4)
    monkeypatch.setattr(ranking, "_CANDIDATES", 7)
    random = np.random.default_rng(request.param)
    queries, candidates = units(random, 23), units(random, 60)
    sizes = random.integers(1, request.param + 1, size=23)
    correct = [frozenset(random.choice(60, size=size, replace=False).tolist()) for size in sizes]
    return queries, candidates, correct


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


def test_the_best_wrong_candidates_are_kept(case: tuple) -> None:
    queries, candidates, correct = case
    found = rank(queries, candidates, correct, depth=10)
    scores = queries @ candidates.T
    for row, right in enumerate(correct):
        expected = sorted((score for place, score in enumerate(scores[row]) if place not in right), reverse=True)[:10]
        np.testing.assert_allclose(found.wrong_scores[row], expected, atol=1e-6)
        np.testing.assert_allclose(scores[row, found.wrong[row]], expected, atol=1e-6)
        assert not right & set(found.wrong[row].tolist())


@pytest.mark.parametrize("depth", [5, 59, 100])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_reranking_is_what_one_would_do_by_hand(case: tuple, depth: int, weight: float) -> None:
    queries, candidates, correct = case
    random = np.random.default_rng(9)
    query_routes, routes = units(random, len(queries), 5), units(random, len(candidates), 5)
    found = rank(queries, candidates, correct, depth=depth)
    kappa = kappas(found, query_routes, routes)
    expected = by_hand(found.ranks, queries @ candidates.T, query_routes @ routes.T, correct, depth, weight)
    result = reranked(found, kappa, weight)
    assert [sorted(part) for part in np.split(result.ranks, result.starts[1:-1])] == expected
    assert all((np.diff(part) > 0).all() for part in np.split(result.ranks, result.starts[1:-1]))
    if weight == 0:
        np.testing.assert_array_equal(result.ranks, found.ranks.ranks)


def by_hand(
    ranks: Ranks, cosines: np.ndarray, kappa: np.ndarray, correct: list[frozenset[int]], depth: int, weight: float
) -> list[list[int]]:
    """Sort by cosine, wrong ones first among ties; sort the first `depth` again by the mixed score."""
    result = []
    for row, right in enumerate(correct):
        order = pessimistic(cosines[row], range(cosines.shape[1]), right)
        mixed = (1 - weight) * cosines[row] + weight * kappa[row]
        order = pessimistic(mixed, order[:depth], right) + order[depth:]
        result.append(sorted(order.index(place) + 1 for place in right))
    return result


def pessimistic(scores: np.ndarray, places: object, right: frozenset[int]) -> list[int]:
    """Places by score; a right one goes behind every wrong one that is not clearly below it."""
    ordered = sorted((p for p in places if p not in right), key=lambda p: -scores[p])  # type: ignore[attr-defined]
    for place in sorted((p for p in places if p in right), key=lambda p: -scores[p]):  # type: ignore[attr-defined]
        last = max((i for i, p in enumerate(ordered) if p in right or scores[p] >= scores[place] - TIE), default=-1)
        ordered.insert(last + 1, place)
    return ordered


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


def test_routes_that_say_nothing_change_nothing(case: tuple) -> None:
    queries, candidates, correct = case
    found = rank(queries, candidates, correct, depth=100)
    flat = Kappas(np.zeros_like(found.right_scores), np.zeros_like(found.wrong_scores))
    np.testing.assert_array_equal(reranked(found, flat, 0.5).best() <= 1, found.ranks.best() <= 1)
