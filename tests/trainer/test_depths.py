"""Vectors after fewer blocks, trained beside the whole model's: `loss.depths`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.loss_batches import a_batch, packed, unit
from helpers.training_data import job, same, two_tasks, weights
from tsembed_search.errors import UsageError
from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import Trainable
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.trainer import gradcache, recipe, state
from tsembed_search.trainer.job import Stopped
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.losses.base import LossInputs, Pairs, Shape, Side, pack, unpack
from tsembed_search.trainer.losses.contrastive import InfoNCE
from tsembed_search.trainer.losses.distillation import ShallowDistillation
from tsembed_search.trainer.objective import Objective
from tsembed_search.trainer.preparation import dry_run
from tsembed_search.trainer.settings import LossSettings, NegativeSettings, Recipe, check

pytestmark = pytest.mark.usefixtures("small_base")

SHAPE = Shape(8, 2, 3, depths=2)
FOUR = a_batch(["a", "b", "c", "d"])


def shallow(rows: int, seed: int = 9) -> Tensor:
    """Packed rows of a batch, with two more vectors each."""
    return torch.cat([packed(rows), unit(rows, 2, 8, seed=seed).flatten(1)], 1)


def test_unpacking_undoes_packing() -> None:
    rows = shallow(5)
    found = unpack(rows, SHAPE)
    assert SHAPE.width == rows.shape[1] and found.paths is None and found.shallow is not None
    assert torch.equal(found.shallow, unit(5, 2, 8, seed=9)) and torch.equal(pack(found), rows)


@pytest.mark.parametrize("dimensions", [(), (3,), (3, 8)])
def test_the_loss_is_a_mean_over_depths_and_prefixes(dimensions: tuple[int, ...]) -> None:
    valid = Side(~torch.eye(4, dtype=torch.bool))
    every = [Pairs(unit(4, 8, seed=at), unit(4, 8, seed=10 + at), valid) for at in range(3)]
    batch = LossInputs(every[0], unpack(shallow(8), SHAPE), FOUR, unit(8, 8), shallow=every[1:])
    alone = InfoNCE(0.1)
    lengths = [8, *(one for one in dimensions if one < 8)]
    expected = torch.stack([alone(one.cut(length)) for one, length in itertools.product(every, lengths)]).mean()
    torch.testing.assert_close(InfoNCE(0.1, dimensions=dimensions)(batch), expected)


def test_shallow_vectors_follow_and_are_not_followed() -> None:
    rows = shallow(8).requires_grad_()
    traced = unpack(rows, SHAPE)
    pairs = Pairs(unit(4, 8), unit(4, 8), Side(~torch.eye(4, dtype=torch.bool)))
    loss = ShallowDistillation()(LossInputs(pairs, traced, FOUR, traced.vectors))
    cosines = [
        torch.nn.functional.cosine_similarity(rows[:, -16 + 8 * at :][:, :8], rows[:, :8]).mean() for at in (0, 1)
    ]
    torch.testing.assert_close(loss, 1 - (cosines[0] + cosines[1]) / 2)
    (gradient,) = torch.autograd.grad(loss, rows)
    assert not gradient[:, :-16].any() and bool(gradient[:, -16:].any())


@pytest.mark.parametrize("queue", [0, 6])
def test_masks_are_those_of_the_whole_and_old_documents_have_their_depths(queue: int) -> None:
    settings = LossSettings(margin=0.05, balance=0, z=0, depths=(1, 2), shallow_distillation_weight=0)
    objective = Objective(settings, NegativeSettings("eans", queue=queue), SHAPE)
    seen: list[LossInputs] = []
    contrastive = objective.losses["contrastive"]

    def watched(batch: LossInputs) -> Tensor:
        seen.append(batch)
        return contrastive(batch)

    objective.losses["contrastive"] = watched
    for step in range(3):
        objective(shallow(8, seed=step), FOUR, 2, step)
    batch = seen[-1]
    assert len(batch.shallow) == 2 and not batch.paths
    for place, pairs in enumerate(batch.shallow):
        assert pairs.forward is batch.pairs.forward and pairs.backward is batch.pairs.backward
        assert pairs.documents.shape == batch.pairs.documents.shape == (4 + queue, 8)
        documents = [unit(8, 2, 8, seed=step)[4:, place] for step in (2, 0, 1)]
        expected = {tuple(row.tolist()) for row in torch.cat(documents)}
        assert {tuple(row.tolist()) for row in pairs.documents} <= expected


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_in_pieces(checkpointing: bool, adapted: Callable[[AdapterSettings], Trainable]) -> None:
    backbone = adapted(replace(Recipe().adapter, rank=2, dropout=0, noise=0))
    assert backbone.adapters is not None
    backbone.adapters.depths = (1,)
    if checkpointing:
        backbone.enable_gradient_checkpointing()
    backbone.train()
    texts = [" ".join(["apple", "boat", "cat"][: 1 + at % 3] * (1 + at)) for at in range(8)]
    items = [backbone.prepare(Item(text)) for text in texts]
    parameters = list(backbone.adapters.parameters())
    shape = Shape(384, *backbone.adapters.shape, depths=1)
    results = []
    for tokens in (10_000, 30):
        loss = LossSettings(temperature=0.2, depths=(1,), dimensions=(64,))
        objective = Objective(loss, NegativeSettings("eans"), shape)
        for parameter in parameters:
            parameter.grad = None
        total = lambda whole, of=objective: of(whole, FOUR, 2, 0).total  # noqa: E731
        gradcache.backward(backbone.trace, items, total, tokens, torch.device("cpu"))
        results.append([torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in parameters])
    for whole, pieces in zip(*results, strict=True):
        assert (whole - pieces).abs().max() <= 1e-4 * max(float(whole.abs().max()), 1e-3)


def stopped(model: Path) -> tuple[float, float]:
    """The loss of the vectors after one block, and their mean cosine to the whole model's, over all rows."""
    rows = [row for task in two_tasks() for row in {one.identity: one for one in task.rows}.values()]
    found = []
    for cut in (":1blocks", ""):
        backbone = loading.load(registry.resolve(f"{model}{cut}"), "cpu")
        asked, right = (
            backbone.forward([backbone.prepare(one) for one in items]).vectors
            for items in ([row.query for row in rows], [row.positive for row in rows])
        )
        found.append((torch.as_tensor(asked).detach(), torch.as_tensor(right).detach()))
    (asked, right), (whole, _) = found
    loss = InfoNCE(0.1)(Pairs(asked, right, Side(~torch.eye(len(asked), dtype=torch.bool))))
    return float(loss), float((asked * whole).sum(-1).mean())


class TestRuns:
    def test_shallow_vectors_get_better(self, tmp_path: Path) -> None:
        """Than in a run that does not train them; and they are nearer to the whole model's."""
        chosen = ("steps=30", "validate_every=0", "checkpoint_every=0", "learning_rate=3e-3", "dropout=0", "noise=0")
        train(job(tmp_path / "none", *chosen))
        train(job(tmp_path / "depths", *chosen, "depths=[1]"))
        losses, cosines = zip(*(stopped(tmp_path / run / "model") for run in ("none", "depths")), strict=True)
        assert losses[1] < 0.8 * losses[0] and cosines[1] > cosines[0] + 0.03

    def test_resumed_is_uninterrupted(self, tmp_path: Path) -> None:
        chosen = ("depths=[1]", "dimensions=[64]", "noise=0.5", "dropout=0.2", "queue=6", "checkpoint_every=0")
        train(job(tmp_path / "whole", *chosen))
        asked = iter(range(9))
        with pytest.raises(Stopped):
            train(job(tmp_path / "run", *chosen, stop=lambda: next(asked) == 3))
        train(job(tmp_path / "run", *chosen, resume=True))
        states = [state.load(tmp_path / out / "states" / "step-00000006")[0] for out in ("run", "whole")]
        assert same(*states)
        assert same(weights(tmp_path / "run" / "model"), weights(tmp_path / "whole" / "model"))

    def test_no_depths_is_a_run_without_the_setting(self, tmp_path: Path) -> None:
        """To the last bit."""
        train(job(tmp_path / "plain"))
        train(job(tmp_path / "none", "depths=[]", "shallow_distillation_weight=7"))
        assert same(weights(tmp_path / "plain" / "model"), weights(tmp_path / "none" / "model"))

    def test_a_dry_run_walks_it(self) -> None:
        walked, report = dry_run(recipe.load("tsembed", ["depths=[3]", "model.base=Qwen/Qwen2-VL-2B-Instruct"]))
        assert walked.loss.depths == (1,) and report.steps > 0

    @pytest.mark.parametrize(
        ("chosen", "words"),
        [
            (("depths=[2]",), "cannot have 2: mini-base has 2 blocks"),
            (("depths=[1]", "adapter.blocks=[1]"), "block 2 is the first with experts"),
        ],
    )
    def test_depths_that_cannot_be_trained_are_refused(
        self, chosen: tuple[str, ...], words: str, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match=words):
            train(job(tmp_path / "run", *chosen))

    def test_a_base_with_paths_is_refused(self, tmp_path: Path) -> None:
        train(job(tmp_path / "paths", "paths.count=2", "steps=2", "validate_every=0", held_out=[]))
        with pytest.raises(UsageError, match="does not go with the parallel paths"):
            train(job(tmp_path / "run", f"model.base={tmp_path / 'paths' / 'model'}", "depths=[1]"))


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (["depths=[3, 3]"], "loss.depths makes no sense"),
        (["depths=[3]", "paths.count=2"], "loss.depths with paths.count makes no sense"),
        (["depths=[0]"], "loss.depths cannot be"),
    ],
)
def test_settings_that_make_no_sense(chosen: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(recipe.load("tsembed", chosen))
