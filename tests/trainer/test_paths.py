"""Training of parallel paths: losses against their formulas, gradients in pieces, and runs from recipe to model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from helpers.loss_batches import a_batch, unit
from helpers.training_data import job, same, weights
from tsembed_search.errors import UsageError
from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import Trainable
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.path_settings import PathSettings
from tsembed_search.trainer import gradcache, recipe, state
from tsembed_search.trainer.job import Stopped
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.losses.base import Shape, pack, unpack
from tsembed_search.trainer.losses.paths import Orthogonal, VClub, pairs_of
from tsembed_search.trainer.objective import Objective
from tsembed_search.trainer.path_training import PathTraining
from tsembed_search.trainer.settings import LossSettings, NegativeSettings, Recipe

pytestmark = pytest.mark.usefixtures("small_base")

PATHS = ("paths.count=3", "paths.length=2", "separation_warmup=4", "steps=6")


def correlated(rho: float, seed: int = 0, rows: int = 256, dim: int = 4) -> tuple[Tensor, Tensor]:
    """Samples `[1, N, D]` of two Gaussians whose numbers correlate by rho, one by one."""
    x, noise = torch.randn(2, 1, rows, dim, generator=torch.Generator().manual_seed(seed))
    return x, rho * x + (1 - rho**2) ** 0.5 * noise


def fitted(rho: float, fixed: bool = False) -> float:
    """The bound on samples that q was not fitted to."""
    q = VClub(2, 4, fixed=fixed, hidden=32, learning_rate=1e-2)
    for seed in range(300):
        q.fit(*correlated(rho, seed))
    return float(q.information(*correlated(rho, 1000, 4096)))


class TestVClub:
    @pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.9])
    def test_gaussians_of_known_information(self, rho: float) -> None:
        """With the true q, the bound on Gaussians is D·rho²/(1 - rho²), above their information, -D/2·log(1 - rho²)."""
        exact, information = 4 * rho**2 / (1 - rho**2), -2 * math.log(1 - rho**2)
        found = fitted(rho)
        assert found == pytest.approx(exact, rel=0.15, abs=0.2)
        assert found > information or rho == 0

    @pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
    def test_the_fixed_form(self, rho: float) -> None:
        """With a variance of 1 the bound is D·rho², however little is left to chance."""
        assert fitted(rho, fixed=True) == pytest.approx(4 * rho**2, abs=0.2)

    def test_its_gradient_makes_paths_tell_less_of_each_other(self) -> None:
        x, y = correlated(0.9, rows=512)
        q = VClub(2, 4, hidden=32, learning_rate=1e-2)
        y = y.clone().requires_grad_()
        adam = torch.optim.Adam([y], 0.02)
        for _ in range(200):
            q.fit(x, y)
            adam.zero_grad()
            q.information(x, y).sum().backward()
            adam.step()
        centred, moved = x[0] - x[0].mean(0), y.detach()[0] - y.detach()[0].mean(0)
        after = (centred * moved).sum(0) / (centred.norm(dim=0) * moved.norm(dim=0))
        assert after.abs().max() < 0.5

    def test_it_is_never_below_nothing_and_q_is_frozen_in_it(self) -> None:
        paths = unit(16, 3, 8).requires_grad_()
        q = VClub(3, 8)
        loss = q.between(paths)
        assert loss >= 0
        loss.backward()
        assert not [name for name, tensor in q.named_buffers() if tensor.requires_grad]

    def test_the_shuffled_control_finds_nothing_in_common(self) -> None:
        """Paths that tell all of one another tell nothing of other items."""
        q, control = (VClub(2, 8, hidden=32, learning_rate=1e-2, shuffled=shuffled) for shuffled in (False, True))
        for seed in range(60):
            same = unit(64, 1, 8, seed=seed).expand(64, 2, 8)
            bound, other = q.between(same), control.between(same)
        assert bound > 5 * other >= 0

    def test_its_memory_is_all_of_it(self) -> None:
        """Copied by its state dict, it goes on to the last bit."""
        first, copy = VClub(3, 8), VClub(3, 8)
        for _ in range(3):
            first.between(unit(16, 3, 8))
        copy.load_state_dict(first.state_dict())
        for seed in range(3):
            assert torch.equal(first.between(unit(16, 3, 8, seed=seed)), copy.between(unit(16, 3, 8, seed=seed)))


def test_orthogonal() -> None:
    right = torch.eye(4)[:3].expand(5, 3, 4)
    assert Orthogonal().between(right) == 0
    assert Orthogonal().between(right[:, :1].expand(5, 3, 4)) == 1
    first, second = pairs_of(right)
    assert first.shape == second.shape == (3, 5, 4)
    assert Orthogonal().between(torch.cat([right[:, :2], right[:, :1]], 1)) == pytest.approx(1 / 3)


SHAPE = Shape(8, 2, 3, 2, 8)
FOUR = a_batch(["a", "b", "c", "d"])


def packed(paths: Tensor) -> Tensor:
    gates = torch.full((len(paths), 6), 1 / 3)
    vector = paths[:, 0]
    return torch.cat([vector, gates, gates, gates, torch.zeros(len(paths), 1), paths.flatten(1)], 1)


class TestObjective:
    def test_packing_keeps_paths(self) -> None:
        paths = unit(8, 2, 8)
        back = unpack(packed(paths), SHAPE)
        assert back.paths is not None and torch.equal(back.paths, paths)
        assert torch.equal(pack(back), packed(paths)) and packed(paths).shape[1] == SHAPE.width

    def test_parts(self) -> None:
        """InfoNCE of the paths together, its mean over paths, and what the warm-up leaves of orthogonality."""
        plain = LossSettings(temperature=0.2, balance=0, z=0, symmetric=False, margin=None)
        chosen = PathTraining(count=2, weight=0.5, separation="orthogonal", separation_weight=3.0, separation_warmup=4)
        objective = Objective(plain, NegativeSettings("none"), SHAPE, paths=chosen)
        paths = unit(8, 2, 8)

        def info_nce(vectors: Tensor) -> Tensor:
            logits = vectors[:4] @ vectors[4:].T / 0.2
            return functional.cross_entropy(logits, torch.arange(4))

        for step in (1, 2, 9):
            outcome = objective(packed(paths), FOUR, 1, step)
            whole = info_nce(functional.normalize(paths.sum(1), dim=-1))
            alone = (info_nce(paths[:, 0]) + info_nce(paths[:, 1])) / 2
            apart = (paths[:, 0] * paths[:, 1]).sum(-1).square().mean() * min(1, {1: 1, 2: 2, 9: 3}[step] / 4)
            torch.testing.assert_close(outcome.parts["contrastive"], whole)
            torch.testing.assert_close(outcome.parts["paths"], alone)
            torch.testing.assert_close(outcome.parts["orthogonal"], apart)
            torch.testing.assert_close(outcome.total, whole + 0.5 * alone + 3 * apart)

    def test_a_queue_has_paths(self) -> None:
        objective = Objective(LossSettings(), NegativeSettings("none", queue=3), SHAPE, paths=PathTraining(count=2))
        first = objective(packed(unit(8, 2, 8)), FOUR, 1, 1)
        second = objective(packed(unit(8, 2, 8, seed=1)), a_batch(["e", "f", "g", "h"]), 1, 2)
        assert {"paths", "vclub"} <= first.parts.keys() == second.parts.keys()
        assert second.parts["paths"].isfinite()


@pytest.mark.parametrize(
    "paths",
    [PathSettings("suffix", 3, 2), PathSettings("prefix", 2, 2), PathSettings("expert", 2)],
    ids=lambda p: p.kind,
)
def test_gradients_in_pieces(paths: PathSettings, adapted: Callable[[AdapterSettings], Trainable]) -> None:
    backbone = adapted(replace(Recipe().adapter, rank=2, dropout=0, noise=0))
    backbone.add_paths(paths)
    assert backbone.adapters is not None
    backbone.train()
    texts = [" ".join(["apple", "boat", "cat"][: 1 + at % 3] * (1 + at)) for at in range(8)]
    items = [backbone.prepare(Item(text)) for text in texts]
    parameters = [*backbone.adapters.parameters()]
    shape = Shape(384, *backbone.adapters.shape, paths.count, 384)
    results = []
    for tokens in (10_000, 30):
        chosen = PathTraining(**{**paths.to_json(), "separation_warmup": 0, "separation_weight": 1.0})
        objective = Objective(LossSettings(temperature=0.2), NegativeSettings("eans"), shape, paths=chosen)
        for parameter in parameters:
            parameter.grad = None
        loss = lambda whole, of=objective: of(whole, FOUR, 2, 0).total  # noqa: E731
        gradcache.backward(backbone.trace, items, loss, tokens, torch.device("cpu"))
        results.append([torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in parameters])
    for whole, pieces in zip(*results, strict=True):
        assert (whole - pieces).abs().max() <= 1e-4 * max(float(whole.abs().max()), 1e-3)


class TestRuns:
    @pytest.mark.parametrize("kind", ["suffix", "prefix", "expert"])
    def test_resumed_is_uninterrupted(self, kind: str, tmp_path: Path) -> None:
        """To the last bit, q of vCLUB and its optimizer with it; and the model is what the run ended with."""
        chosen = (*PATHS, f"paths.kind={kind}", "noise=0.5", "dropout=0.2", "queue=6", "checkpoint_every=0")
        train(job(tmp_path / "whole", *chosen))
        asked = iter(range(9))
        with pytest.raises(Stopped):
            train(job(tmp_path / "run", *chosen, stop=lambda: next(asked) == 3))
        train(job(tmp_path / "run", *chosen, resume=True))
        states = [state.load(tmp_path / out / "states" / "step-00000006") for out in ("run", "whole")]
        assert same(states[0][0], states[1][0])
        assert any(name.startswith("objective.trained.vclub.out_square") for name in states[0][0])
        assert same(weights(tmp_path / "run" / "model"), weights(tmp_path / "whole" / "model"))
        said = json.loads((tmp_path / "run" / "model" / "tsembed.json").read_text())
        assert said["method"]["paths"] == {
            "kind": kind, "count": 3, "length": 1 if kind == "expert" else 2, "combine": "first",
        }  # fmt: skip
        back = loading.load(registry.resolve(tmp_path / "run" / "model"), "cpu")
        assert back.forward([back.prepare(Item("a cat"))]).vectors.shape == (1, 384)

    def test_no_paths_is_a_run_without_the_table(self, tmp_path: Path) -> None:
        """To the last bit."""
        train(job(tmp_path / "plain"))
        train(job(tmp_path / "none", "paths.count=0", "paths.kind=prefix", "separation=orthogonal"))
        assert same(weights(tmp_path / "plain" / "model"), weights(tmp_path / "none" / "model"))
        assert not (tmp_path / "none" / "model" / "paths.safetensors").exists()

    def test_paths_are_learned_and_trained_on(self, tmp_path: Path) -> None:
        """All vectors side by side, with what is distilled; the next run goes on with the same paths."""
        more = ("distillation_weight=0.5", "combine=concat", "validate_every=0")
        train(job(tmp_path / "first", *PATHS, *more, held_out=[]))
        first = load_file(tmp_path / "first" / "model" / "paths.safetensors")["tokens"]
        again = job(
            tmp_path / "again", f"model.base={tmp_path / 'first' / 'model'}", "paths_learning_rate=0", held_out=[]
        )
        train(again)
        second = load_file(tmp_path / "again" / "model" / "paths.safetensors")["tokens"]
        assert torch.equal(first, second)
        assert registry.resolve(tmp_path / "again" / "model").fingerprint
        assert loading.load(registry.resolve(tmp_path / "again" / "model"), "cpu").info.dim == 3 * 384
        train(job(tmp_path / "on", f"model.base={tmp_path / 'first' / 'model'}", held_out=[]))
        assert not torch.equal(first, load_file(tmp_path / "on" / "model" / "paths.safetensors")["tokens"])

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (("paths.kind=expert", "paths.count=5"), "paths.count with paths.kind = expert makes no sense"),
            (("paths.count=65",), r"paths\.count cannot be 65"),
            (("combine=maxsim",), r"paths\.combine cannot be 'maxsim'"),
            (("separation=far",), r"paths\.separation cannot be 'far'"),
        ],
    )
    def test_refused(self, settings: tuple[str, ...], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            recipe.load("tsembed", settings)

    def test_recipes(self) -> None:
        for name, length in (("pdf", 1), ("pdf-qwen2vl-2b", 16)):
            found = recipe.load(name)
            assert found.paths.settings == PathSettings("suffix", 4, length, "first")
            assert found.paths.separation == "vclub" and found.adapter.experts == 1
