"""Losses against their formulas, and masks that nothing passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers.loss_batches import a_batch, objective, packed, unit
from tsembed_search.items import Item
from tsembed_search.trainer.losses import negatives as masks
from tsembed_search.trainer.losses.base import NEGATIVE, POSITIVE, Labels, Pairs, Side, label, labels
from tsembed_search.trainer.losses.contrastive import InfoNCE
from tsembed_search.trainer.settings import LossSettings, NegativeSettings

WIDTH = 8 + 3 * 6 + 1


def everything(queries: Tensor, documents: Tensor, backward: bool = False) -> Pairs:
    valid = ~torch.eye(len(queries), len(documents), dtype=torch.bool)
    return Pairs(queries, documents, Side(valid), Side(valid[:, : len(queries)].T) if backward else None)


class TestInfoNCE:
    @pytest.mark.parametrize("extra", [0, 5])
    def test_is_cross_entropy(self, extra: int) -> None:
        queries, documents = unit(6, 8), unit(6 + extra, 8, seed=1)
        logits = queries @ documents.T / 0.07
        target = torch.arange(6)
        expected = functional.cross_entropy(logits, target)
        torch.testing.assert_close(InfoNCE(0.07)(everything(queries, documents)), expected)
        both = (expected + functional.cross_entropy(logits[:, :6].T, target)) / 2
        torch.testing.assert_close(InfoNCE(0.07)(everything(queries, documents, backward=True)), both)

    def test_a_row_without_negatives_costs_nothing(self) -> None:
        queries = unit(2, 8).requires_grad_()
        valid = torch.tensor([[False, False], [True, False]])
        loss = InfoNCE(0.1)(Pairs(queries, unit(2, 8, seed=1), Side(valid)))
        loss.backward()
        assert queries.grad is not None
        assert loss.isfinite() and not queries.grad[0].any() and queries.grad[1].any()

    def test_learned_temperature(self) -> None:
        fixed, learned = InfoNCE(0.05), InfoNCE(0.05, learn=True)
        pairs = everything(unit(4, 8), unit(4, 8, seed=1))
        assert fixed(pairs) == learned(pairs)
        learned(pairs).backward()
        assert learned.log_scale.grad is not None and learned.log_scale.grad != 0
        assert fixed.log_scale.grad is None and fixed.temperature == pytest.approx(0.05)
        with torch.no_grad():
            learned.log_scale.fill_(99)
        learned.bound()
        assert learned.temperature == pytest.approx(0.01)

    @pytest.mark.parametrize("start", [0.01, 0.0100001, 0.0101, 0.05, 1.0])
    def test_a_learned_temperature_leaves_its_bound(self, start: float) -> None:
        """Where the loss asks for it, at the bound as well as elsewhere."""
        loss = InfoNCE(start, learn=True)
        wrong = everything(unit(4, 8), -unit(4, 8))
        optimiser = torch.optim.AdamW(loss.parameters(), lr=1e-2, weight_decay=0.0)
        for _ in range(5):
            before = loss.temperature
            optimiser.zero_grad()
            loss(wrong).backward()
            optimiser.step()
            loss.bound()
            assert loss.temperature > before

    def test_weights(self) -> None:
        queries, documents = unit(3, 8), unit(3, 8, seed=1)
        weights = torch.tensor([[1.0, 0.5, 1.5], [2.0, 1.0, 0.0001], [1.0, 1.0, 1.0]])
        pairs = Pairs(queries, documents, Side(~torch.eye(3, dtype=torch.bool), weights.log()))
        e = (queries @ documents.T / 0.1).exp()
        rows = [e[i, i] / (e[i, i] + sum(weights[i, j] * e[i, j] for j in range(3) if j != i)) for i in range(3)]
        torch.testing.assert_close(InfoNCE(0.1)(pairs), -torch.stack(rows).log().mean())

    def test_matryoshka(self) -> None:
        pairs = everything(unit(5, 8), unit(7, 8, seed=1))
        inner = InfoNCE(0.1)
        first = functional.normalize(pairs.queries[:, :3], dim=-1), functional.normalize(pairs.documents[:, :3], dim=-1)
        expected = (inner(pairs) + inner(everything(*first))) / 2
        torch.testing.assert_close(InfoNCE(0.1, dimensions=[3])(pairs), expected)


class TestMasks:
    def test_by_identity_content_and_task(self) -> None:
        rows = [label(POSITIVE, Item(text), task, one) for text, task, one in
                [("cat", 0, "a"), ("dog", 0, "b"), ("cat", 1, "c"), ("cow", 1, "a")]]  # fmt: skip
        table = labels([*rows, label(NEGATIVE, Item("dog"), 0)]).table
        assert masks.candidates(table[:4], table).int().tolist() == [
            [0, 1, 0, 0, 1],  # the third has its content, the fourth its identity
            [1, 0, 1, 1, 0],  # the hard negative is its very target
            [0, 1, 0, 1, 1],
            [0, 1, 1, 0, 1],
        ]
        assert masks.candidates(table[:4], table, "task")[0].int().tolist() == [0, 1, 0, 0, 1]
        assert masks.candidates(table[:4], table, "task")[3].int().tolist() == [0, 0, 1, 0, 0]

    def test_pictures_are_told_apart_by_their_file(self) -> None:
        one, other = (label(POSITIVE, Item(image=name), 0) for name in ("a.png", "b.png"))
        assert one[2] != other[2] and one == label(POSITIVE, Item(image="a.png"), 0)

    def test_by_similarity(self) -> None:
        similarity = torch.tensor([[0.5, 0.7, 0.4], [0.2, 0.1, 0.15], [0.9, 0.3, 0.8]])
        valid = ~torch.eye(3, dtype=torch.bool)

        def left(alike: Tensor | None = None, **margins: float | None) -> list[list[int]]:
            settings = LossSettings(**({"margin": None} | margins))  # type: ignore[arg-type]
            found: list[list[int]] = masks.without_false(valid, similarity, settings, alike).int().tolist()
            return found

        assert left(margin=0.15) == [[0, 0, 1], [1, 0, 1], [1, 1, 0]]
        assert left() == valid.int().tolist()
        assert left(margin_relative=1.0) == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]
        assert left(margin_relative=0.7) == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
        alike = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.1], [0.2, 0.1, 1.0]])
        assert left(alike, duplicates=0.9) == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
        assert left(alike) == valid.int().tolist()

    def test_a_share_of_a_cosine_below_nothing_lies_below_it(self) -> None:
        similarity = torch.tensor([[-0.4, -0.41], [-0.5, -0.2]])
        found = masks.without_false(~torch.eye(2, dtype=torch.bool), similarity, LossSettings(margin_relative=0.9))
        assert found.int().tolist() == [[0, 0], [1, 0]]

    @pytest.mark.parametrize(("duplicates", "felt"), [(None, True), (0.99, False)])
    def test_duplicates_of_a_target_do_not_push(self, duplicates: float | None, felt: bool) -> None:
        """Targets 0 and 1 are nearly the same, and so are queries 0 and 1; the third is another."""
        rows, batch = packed(6), a_batch(["a", "b", "c"])
        rows[4, :8] = rows[3, :8]
        rows[1, :8] = rows[0, :8]
        rows.requires_grad_()
        loss = LossSettings(margin=None, balance=0.0, z=0.0, duplicates=duplicates)
        outcome = objective(loss, NegativeSettings("none"))(rows, batch, 1, 0)
        assert outcome.figures["mask_rate"] == pytest.approx(0.0 if felt else 1 / 3)
        outcome.total.backward()
        assert rows.grad is not None and rows.grad[:, :8].any(1).all()

    @pytest.mark.parametrize("weighting", ["none", "eans", "shuffled", "llave"])
    @pytest.mark.parametrize("mode", ["weight", "sample"])
    @pytest.mark.parametrize("dimensions", [(), (4,)])
    def test_masked_pairs_get_no_gradient(self, weighting: Any, mode: Any, dimensions: tuple[int, ...]) -> None:
        """Rows 0 and 1 have the same target, and the last negative is too close to be one: moving any of them must not
        be felt by the others.
        """
        batch = a_batch(["a", "a"], negatives=1)
        rows = packed(5)
        rows[4, :8] = rows[0, :8]  # the hard negative is what query 0 looks like
        rows[4, :8] += 0.01
        rows.requires_grad_()
        loss = LossSettings(dimensions=dimensions, margin=0.05, balance=0.0, z=0.0)
        outcome = objective(loss, NegativeSettings(weighting, mode=mode))(rows, batch, 2, 0)
        outcome.total.backward()
        assert rows.grad is not None
        assert not rows.grad[[0, 2]].any(), "query 0 has no negative that is one"
        assert rows.grad[1].any() and rows.grad[4].any(), "query 1 has one"
        assert outcome.figures["mask_rate"] == pytest.approx(0.75)


class TestObjective:
    def test_parts(self) -> None:
        rows, batch = packed(12), a_batch(list("abcdef"))
        outcome = objective(LossSettings(balance=0.5, z=0.1))(rows, batch, 1, 0)
        parts = {name: float(part) for name, part in outcome.parts.items()}
        assert parts["z"] == 1.5 and parts["balance"] >= 0.9
        assert float(outcome.total) == pytest.approx(parts["contrastive"] + 0.5 * parts["balance"] + 0.15, rel=1e-5)
        assert outcome.figures["expert_load"].shape == (2, 3)
        assert 0 < float(outcome.figures["routing_entropy"]) < 1

    def test_routing_gets_gradients_from_routing_losses_alone(self) -> None:
        rows = packed(12).requires_grad_()
        objective()(rows, a_batch(list("abcdef")), 2, 0).total.backward()
        assert rows.grad is not None
        routes, probabilities, choices, z = rows.grad[:, 8:].split([6, 6, 6, 1], dim=1)
        assert not routes.any() and not choices.any()
        assert probabilities.any() and z.any()

    def test_the_order_of_items_does_not_matter(self) -> None:
        """Processes bring their items in turn, so queries and documents are mixed."""
        rows, batch = packed(12), a_batch(list("abcdef"))
        order = torch.tensor([0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11])
        whole = objective()(rows, batch, 2, 0)
        mixed = objective()(rows[order], Labels(batch.table[order]), 2, 0)
        torch.testing.assert_close(whole.total, mixed.total)

    def test_the_mean_follows(self) -> None:
        first = objective()
        first(packed(12), a_batch(list("abcdef")), 1, 0)
        torch.testing.assert_close(first.mean, packed(12)[:, 8:14].mean(0))
        first(packed(12, seed=5), a_batch(list("abcdef")), 1, 1)
        torch.testing.assert_close(first.mean, (packed(12) + packed(12, seed=5))[:, 8:14].mean(0) / 2)

    def test_figures(self) -> None:
        queries, documents = unit(4, 8), unit(4, 8, seed=3)
        rows = packed(8)
        rows[:4, :8], rows[4:, :8] = queries, documents
        figures = objective(LossSettings(margin=None))(rows, a_batch(list("abcd")), 1, 0).figures
        cosine = queries @ documents.T
        hardest = cosine.masked_fill(torch.eye(4, dtype=torch.bool), -9).amax(1).mean()
        torch.testing.assert_close(figures["hardness"], hardest)
        torch.testing.assert_close(figures["positive"], cosine.diagonal().mean())
        assert figures["mask_rate"] == 0
        assert not math.isnan(float(figures["kappa_cosine_correlation"]))

    def test_queue(self) -> None:
        plain, queued = objective(), objective(negatives=NegativeSettings(queue=5))
        for step in range(2):
            rows, batch = packed(12, seed=step * 9), a_batch([f"{step}{one}" for one in "abcdef"])
            a, b = plain(rows, batch, 1, step), queued(rows, batch, 1, step)
        assert b.parts["contrastive"] > a.parts["contrastive"], "five more negatives compete"
        state = {name: tensor.clone() for name, tensor in queued.state_dict().items()}
        assert state["queue.packed"].shape == (5, WIDTH)
        again = objective(negatives=NegativeSettings(queue=5))
        again.load_state_dict(state)
        rows, batch = packed(12, seed=99), a_batch(list("uvwxyz"))
        assert torch.equal(again(rows, batch, 1, 2).total, queued(rows, batch, 1, 2).total)

    def test_a_queue_holds_no_negatives_of_its_own_kind(self) -> None:
        """Documents that come again are known by what they are."""
        queued = objective(negatives=NegativeSettings(queue=6))
        rows, batch = packed(12), a_batch(list("abcdef"))
        first, second = queued(rows, batch, 1, 0), queued(rows, batch, 1, 1)
        assert second.parts["contrastive"] > first.parts["contrastive"]
        assert float(second.figures["mask_rate"]) > float(first.figures["mask_rate"])
