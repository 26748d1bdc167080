"""Reranking by shared experts, for variety and by a model of another package; and what a weight of routes would do."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.ranked import units
from tsembed_search.ranking.metrics import TIE, Ranks
from tsembed_search.ranking.reranking import (
    Candidate,
    Given,
    Kappas,
    Query,
    by_experts,
    by_variety,
    kappas,
    reranked,
    sweep,
)
from tsembed_search.ranking.similarity import rank

QUERY = Query(np.array([1, 0], np.float32), np.array([1, 0], np.float32), "text")


def candidate(id: str, score: float, kappa: float = 0.0, angle: float = 0.0) -> Candidate:
    vector = np.array([np.cos(angle), np.sin(angle)], np.float32)
    return Candidate(id, "image", score, 2 * score - 1, {}, vector, route_similarity=kappa)


def ids(candidates: list[Candidate]) -> list[str]:
    return [one.id for one in candidates]


class TestByExperts:
    CANDIDATES = (candidate("a", 0.9, -0.8), candidate("b", 0.8, 0.9), candidate("c", 0.3, 1.0))

    @pytest.mark.parametrize("weight", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
    def test_order_is_the_methods(self, weight: float) -> None:
        """Uncalibrated, the score is (1 + cosine) / 2, and the order that of (1 - w) cosine + w kappa."""
        found = by_experts(QUERY, self.CANDIDATES, Given(weight))
        method = {one.id: (1 - weight) * one.similarity + weight * one.route_similarity for one in self.CANDIDATES}
        assert ids(found) == sorted(method, key=lambda id: -method[id])
        for one in found:
            assert one.score == pytest.approx((1 + method[one.id]) / 2)

    def test_ends(self) -> None:
        assert ids(by_experts(QUERY, self.CANDIDATES, Given(0.0))) == ["a", "b", "c"]
        assert ids(by_experts(QUERY, self.CANDIDATES, Given(1.0))) == ["c", "b", "a"]
        assert by_experts(QUERY, [], Given(0.5)) == []

    def test_equals_keep_their_order(self) -> None:
        same = [candidate(name, 0.5, 0.5) for name in "dacb"]
        assert ids(by_experts(QUERY, same, Given(0.7))) == list("dacb")

    def test_rounding_leaves_scores_in_range(self) -> None:
        assert by_experts(QUERY, [candidate("a", 1.0, 1.0000002)], Given(1.0))[0].score == 1.0


class TestByVariety:
    def test_what_is_alike_moves_down(self) -> None:
        found = by_variety(
            QUERY, [candidate("a", 0.9), candidate("twin", 0.89), candidate("b", 0.8, angle=1.4)], Given()
        )
        assert ids(found) == ["a", "b", "twin"]
        assert [one.score for one in found] == [0.9, 0.8, 0.89]

    def test_beyond_a_hundred_nothing_moves(self) -> None:
        many = [candidate(str(place), 1 - place / 500, angle=place % 7) for place in range(130)]
        found = by_variety(QUERY, many, Given())
        assert sorted(ids(found), key=int) == ids(many)
        assert ids(found)[:100] != ids(many)[:100]
        assert ids(found)[100:] == ids(many)[100:]
        assert by_variety(QUERY, [], Given()) == []


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


def test_routes_that_say_nothing_change_nothing(case: tuple) -> None:
    queries, candidates, correct = case
    found = rank(queries, candidates, correct, depth=100)
    flat = Kappas(np.zeros_like(found.right_scores), np.zeros_like(found.wrong_scores))
    np.testing.assert_array_equal(reranked(found, flat, 0.5).best() <= 1, found.ranks.best() <= 1)


class TestSweep:
    def test_the_weight_that_ranks_best(self, case: tuple) -> None:
        """Routes that know the right candidates earn a weight, and the smallest of those that rank equally well."""
        queries, candidates, correct = case
        found = rank(queries, candidates, correct, depth=100)
        knowing = Kappas(np.ones_like(found.right_scores), np.zeros_like(found.wrong_scores))
        swept = sweep([(found, knowing)])
        assert [weight for weight, _ in swept.curve] == [step / 20 for step in range(21)]
        curve = dict(swept.curve)
        assert curve[swept.weight] == max(curve.values()) > curve[0.0]
        assert all(value < curve[swept.weight] for weight, value in swept.curve if weight < swept.weight)
        assert swept.gain == pytest.approx(curve[swept.weight] - curve[0.0]) and 0 < swept.error < swept.gain
        assert swept.queries == len(queries)

    def test_tasks_count_alike_and_only_chosen_queries(self, case: tuple) -> None:
        queries, candidates, correct = case
        found = rank(queries, candidates, correct, depth=100)
        routes = units(np.random.default_rng(3), 83, 5)
        pair = found, kappas(found, routes[:23], routes[23:])
        first, few, none = (np.arange(23) < count for count in (23, 4, 0))
        swept = sweep([pair, pair, pair], (0.0, 0.4), [first, few, none])
        each = [[reranked(*pair, weight).mrr()[mask].mean() for mask in (first, few)] for weight in (0.0, 0.4)]
        assert [mean for _, mean in swept.curve] == pytest.approx([np.mean(means) for means in each])
        assert swept.queries == 27
