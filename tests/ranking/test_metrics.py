"""Metrics: against an established library, and what must hold for any scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.ranked import ranks_of
from tsembed_search.errors import UsageError
from tsembed_search.ranking.metrics import METRICS, Ranks

NAMES = ("hit@1", "hit@3", "recall@1", "recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr")
TREC = ("success_1", "success_3", "recall_1", "recall_5", "recall_10", "ndcg_cut_5", "ndcg_cut_10", "recip_rank")


@st.composite
def cases(draw: st.DrawFn, levels: int = 5) -> tuple[np.ndarray, list[frozenset[int]]]:
    """Scores with few distinct values, so that ties are common, and several right candidates."""
    queries, candidates = draw(st.integers(1, 6)), draw(st.integers(1, 30))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    scores = random.integers(levels, size=(queries, candidates)) / levels
    correct = [
        frozenset(random.choice(candidates, size=random.integers(1, candidates + 1), replace=False).tolist())
        for _ in range(queries)
    ]
    return scores, correct


def trec(scores: np.ndarray, correct: list[frozenset[int]]) -> np.ndarray:
    """What trec_eval says, `[Q, M]`. It breaks ties by name, the last first; right candidates get the first names."""
    import pytrec_eval

    def name(query: int, place: int) -> str:
        return f"{'a' if place in correct[query] else 'b'}{place}"

    relevant = {str(q): {name(q, place): 1 for place in right} for q, right in enumerate(correct)}
    run = {str(q): {name(q, place): float(score) for place, score in enumerate(row)} for q, row in enumerate(scores)}
    found = pytrec_eval.RelevanceEvaluator(relevant, {"success", "recall", "ndcg_cut", "recip_rank"}).evaluate(run)
    custom = pytrec_eval.RelevanceEvaluator(relevant, {"success.1,3", "recall.1,5,10", "ndcg_cut.5,10", "recip_rank"})
    assert set(found) == set(map(str, range(len(scores))))
    rows = custom.evaluate(run)
    return np.array([[rows[str(q)][key] for key in TREC] for q in range(len(scores))])


@settings(max_examples=150, deadline=None)
@given(cases(levels=5))
def test_agrees_with_trec_eval_with_ties(case: tuple[np.ndarray, list[frozenset[int]]]) -> None:
    scores, correct = case
    np.testing.assert_allclose(ranks_of(scores, correct).table(NAMES), trec(scores, correct), atol=1e-9)


def test_agrees_with_trec_eval_on_a_large_random_case() -> None:
    random = np.random.default_rng(1)
    scores = random.standard_normal((200, 400))
    correct = [frozenset(random.choice(400, size=size, replace=False).tolist()) for size in random.integers(1, 30, 200)]
    np.testing.assert_allclose(ranks_of(scores, correct).table(NAMES), trec(scores, correct), atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_the_order_of_candidates_does_not_matter(case: tuple[np.ndarray, list[frozenset[int]]], seed: int) -> None:
    scores, correct = case
    order = np.random.default_rng(seed).permutation(scores.shape[1])
    moved = [frozenset(int(np.flatnonzero(order == place)[0]) for place in right) for right in correct]
    np.testing.assert_array_equal(
        ranks_of(scores[:, order], moved).table(NAMES), ranks_of(scores, correct).table(NAMES)
    )


@settings(max_examples=80, deadline=None)
@given(cases())
def test_bounds_and_relations(case: tuple[np.ndarray, list[frozenset[int]]]) -> None:
    scores, correct = case
    ranks = ranks_of(scores, correct)
    table = ranks.table(NAMES)
    assert ((table >= 0) & (table <= 1)).all()
    assert (ranks.metric("hit@1") <= ranks.mrr() + 1e-12).all()
    first, five, ten = (ranks.metric(f"recall@{k}") for k in (1, 5, 10))
    assert (first <= five).all() and (five <= ten).all()
    assert (ranks.metric(f"recall@{scores.shape[1]}") == 1).all()
    assert (ranks.best() >= 1).all() and (ranks.best() <= scores.shape[1]).all()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_a_higher_score_for_a_right_candidate_never_hurts(case: tuple[np.ndarray, list[frozenset[int]]]) -> None:
    scores, correct = case
    better = scores.copy()
    for row, right in enumerate(correct):
        better[row, min(right)] += 0.5
    assert (ranks_of(better, correct).table(NAMES) >= ranks_of(scores, correct).table(NAMES) - 1e-12).all()


def test_ties_count_against_the_model() -> None:
    everything_alike = ranks_of(np.zeros((1, 5)), [frozenset({0})])
    assert everything_alike.ranks.tolist() == [5]
    assert ranks_of(np.array([[1.0, 1.0, 0.0]]), [frozenset({0})]).metric("hit@1").tolist() == [0.0]
    # right candidates do not stand in each other's way
    assert ranks_of(np.array([[1.0, 1.0, 0.0]]), [frozenset({0, 1})]).metric("recall@1").tolist() == [0.5]
    assert ranks_of(np.array([[1.0, 1.0, 0.0]]), [frozenset({0, 1})]).ranks.tolist() == [1, 2]


def test_a_difference_below_what_float32_can_tell_is_a_tie() -> None:
    scores = np.array([[0.5, 0.5 - 5e-7], [0.5, 0.5 - 5e-6]])
    assert ranks_of(scores, [frozenset({0})] * 2).ranks.tolist() == [2, 1]


def test_absent_candidates_are_not_ranked() -> None:
    scores = np.array([[0.1, -np.inf, -np.inf, 0.9]])
    assert ranks_of(scores, [frozenset({0})]).ranks.tolist() == [2]


def test_a_part_of_the_queries() -> None:
    ranks = Ranks(np.array([1, 4, 2, 3, 9]), np.array([0, 2, 3, 5]))
    part = ranks.take(np.array([True, False, True]))
    assert part.ranks.tolist() == [1, 4, 3, 9] and part.starts.tolist() == [0, 2, 4]
    np.testing.assert_array_equal(part.table(METRICS), ranks.table(METRICS)[[0, 2]])


@pytest.mark.parametrize("name", ["map", "recall@0", "hit@", "mrr@10"])
def test_unknown_metrics_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no metric"):
        ranks_of(np.zeros((1, 2)), [frozenset({0})]).metric(name)
