"""Expert-aware negatives: what the weights are, that beta 0 changes nothing, and what the controls do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.loss_batches import SHAPE, a_batch, objective, packed
from tsembed_search.model.routing import centred, load_balance
from tsembed_search.trainer.losses import negatives as eans
from tsembed_search.trainer.losses.base import Pairs, Side, unpack
from tsembed_search.trainer.losses.contrastive import InfoNCE
from tsembed_search.trainer.settings import LossSettings, NegativeSettings


def scores_and_mask(seed: int, rows: int = 5, columns: int = 9) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return torch.rand(rows, columns, generator=chance) * 2 - 1, torch.rand(rows, columns, generator=chance) > 0.4


@pytest.mark.parametrize("weighting", ["eans", "shuffled", "llave"])
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("dimensions", [(), (4,)])
def test_beta_zero_is_infonce(weighting: Any, both: bool, dimensions: tuple[int, ...]) -> None:
    loss = LossSettings(symmetric=both, dimensions=dimensions)
    rows, batch = packed(16), a_batch(list("abcdef"), negatives=4)
    plain, weighted, sharp = (
        objective(loss, NegativeSettings(kind, beta))(rows, batch, 2, 0).total
        for kind, beta in (("none", 1.0), (weighting, 0.0), (weighting, 1.0))
    )
    assert torch.equal(plain, weighted)
    assert not torch.isclose(plain, sharp)


def test_stage_one_is_infonce() -> None:
    rows, batch = packed(12), a_batch(list("abcdef"))
    assert torch.equal(
        objective(negatives=NegativeSettings("eans"))(rows, batch, 1, 0).total,
        objective(negatives=NegativeSettings("none"))(rows, batch, 2, 0).total,
    )


@pytest.mark.parametrize("queue", [0, 5])
def test_experts_are_compared_with_the_targets(queue: int) -> None:
    """Documents count by how like their experts are to the right one's; queries by how like to the right query's."""
    rows, batch = packed(14), a_batch(list("abcd"), negatives=2)
    made = objective(negatives=NegativeSettings("eans", 1.0, "target", queue=queue))
    made(packed(10, seed=7), a_batch(list("wxyz"), negatives=2), 1, 0)  # fills the queue, moves the mean
    earlier = made.queue.packed
    found = made(rows[:10], batch, 2, 1).total
    traced = unpack(rows[:10], SHAPE)
    old = [] if earlier is None else [unpack(earlier, SHAPE)]
    routes = [centred(one, made.mean) for one in (traced.routes[:4], traced.routes[4:], *(o.routes for o in old))]
    queries, documents = routes[0], torch.cat(routes[1:])
    vectors = torch.cat([traced.vectors[4:], *(o.vectors for o in old)])
    cosine = traced.vectors[:4] @ vectors.T
    valid = ~torch.eye(4, len(documents), dtype=torch.bool) & (cosine <= cosine.diagonal()[:, None] + 0.3)
    back = ~torch.eye(4, dtype=torch.bool) & (cosine.diagonal()[:, None] + 0.3 >= cosine[:, :4].T)
    sides = (
        Side(valid, eans.log_weights(documents[:4] @ documents.T, valid, 1.0)),
        Side(back, eans.log_weights(queries @ queries.T, back, 1.0)),
    )
    expected = InfoNCE(0.05)(Pairs(traced.vectors[:4], vectors, *sides))
    routing = 0.01 * load_balance(traced.probabilities, traced.choices) + 0.0001 * traced.z
    torch.testing.assert_close(found, expected + routing)


@given(st.integers(0, 999), st.floats(0.01, 20))
@hypothesis_settings(max_examples=50, deadline=None)
def test_weights_have_a_mean_of_one_and_grow_with_the_score(seed: int, beta: float) -> None:
    scores, valid = scores_and_mask(seed)
    weights = eans.log_weights(scores, valid, beta).exp()
    assert weights.isfinite().all()
    for row, (score, mask) in enumerate(zip(scores, valid, strict=True)):
        if mask.any():
            assert weights[row][mask].mean() == pytest.approx(1, rel=1e-4)
            assert torch.equal(weights[row][mask].argsort(), score[mask].argsort()) or beta < 0.1
        assert (weights[row][~mask] == 1).all()


def test_weights_by_the_formula() -> None:
    scores, valid = scores_and_mask(3)
    expected = (2 * scores).exp() * valid
    expected = expected / (expected.sum(1, keepdim=True) / valid.sum(1, keepdim=True))
    torch.testing.assert_close(eans.log_weights(scores, valid, 2.0).exp() * valid, expected)


@given(st.integers(0, 999))
@hypothesis_settings(max_examples=50, deadline=None)
def test_shuffled_deals_the_same_scores_anew(seed: int) -> None:
    scores, valid = scores_and_mask(seed)
    dealt = eans.shuffled(scores, valid, torch.Generator().manual_seed(seed))
    for row in range(len(scores)):
        assert torch.equal(dealt[row][valid[row]].sort().values, scores[row][valid[row]].sort().values)
    again = eans.shuffled(scores, valid, torch.Generator().manual_seed(seed))
    assert torch.equal(dealt[valid], again[valid])
    other = eans.shuffled(scores, valid, torch.Generator().manual_seed(seed + 1))
    assert not torch.equal(dealt[valid], other[valid])


def test_sampling_keeps_the_best() -> None:
    scores, valid = scores_and_mask(1, columns=12)
    kept = eans.best(scores, valid, 3)
    for row in range(len(scores)):
        best = scores[row][valid[row]].sort(descending=True).values[:3]
        assert torch.equal(scores[row][kept[row]].sort(descending=True).values, best)
    assert torch.equal(eans.best(scores, valid, 12), valid)
    few = torch.zeros_like(valid)
    few[:, 0] = True
    assert torch.equal(eans.best(scores, few, 3), few), "what is not valid does not become so"


def test_sampling_from_a_queue_prefers_the_same_experts() -> None:
    settings = NegativeSettings("eans", mode="sample", top_k=2)
    side = eans.weighted(settings, *scores_and_mask(5)[:1], torch.zeros(5, 9), scores_and_mask(5)[1], torch.Generator())
    assert (side.valid.sum(1) <= 2).all() and side.log_weights is None


def test_no_gradient_through_scores() -> None:
    rows, batch = packed(12).requires_grad_(), a_batch(list("abcdef"))
    objective(LossSettings(balance=0.0, z=0.0), NegativeSettings("eans", 5.0))(rows, batch, 2, 0).total.backward()
    assert rows.grad is not None
    assert not rows.grad[:, 8:].any()


def test_one_expert_makes_it_infonce() -> None:
    """Routes that are all alike say nothing, and then EANS says nothing."""
    rows, batch = packed(12), a_batch(list("abcdef"))
    rows[:, 8:14] = 1 / 3
    eans_, plain = (objective(negatives=NegativeSettings(kind))(rows, batch, 2, 0).total for kind in ("eans", "none"))
    torch.testing.assert_close(eans_, plain)
