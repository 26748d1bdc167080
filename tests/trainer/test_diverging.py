"""A model that has diverged is never the best one, never saved, and the run says so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.training_data import job
from tsembed_search.errors import ModelError
from tsembed_search.trainer import loop
from tsembed_search.trainer.log import read
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.optimizer import Optimizer
from tsembed_search.trainer.schedule import DivergedError
from tsembed_search.trainer.validation import Validation

pytestmark = pytest.mark.usefixtures("one_block")

FAST = ("optimizer.learning_rate=1e30", "warmup=0")


def finite(run: Path) -> bool:
    """Whether all tensors that a run has left are finite, and none of them is a model."""
    files = [load_file(file) for file in run.rglob("*.safetensors")]
    return not (run / "model").exists() and all(
        bool(torch.isfinite(one.float()).all()) for file in files for one in file.values()
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ("steps=1",),
        ("steps=1", "validate_every=0", "experts=1"),
        ("steps=3", "checkpoint_every=1"),
        ("steps=3", "validate_every=1"),
        ("steps=3", "batch.tokens=24", "queue=8", "switch=0"),
        ("steps=3", "patience=1", "validate_every=1", "learn_temperature=true"),
    ],
    ids=lambda overrides: " ".join(overrides),
)
@pytest.mark.parametrize("measured", [True, False])
def test_at_a_rate_beyond_all_measure(overrides: tuple[str, ...], measured: bool, tmp_path: Path) -> None:
    """Weights are finite after the step, and what is computed with them is not: at the last step, too."""
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"has diverged.*step \d") as caught:
        train(job(out, *FAST, *overrides, **({} if measured else {"held_out": []})))
    assert caught.value.exit_code == 1 and finite(out)
    validated = [record["step"] for record in read(out / "log.jsonl") if record["kind"] == "validation"]
    assert validated == ([0] if measured else []), "what it measured afterwards does not count"


def test_weights_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state before stays, and the run goes on from there."""
    step = Optimizer.step

    def overflowing(self: Optimizer, number: int, router_factor: float = 1.0) -> Any:
        found = step(self, number, router_factor)
        if number == 5:
            with torch.no_grad():
                self.shared[0].view(-1)[0] = math.inf
        return found

    monkeypatch.setattr(Optimizer, "step", overflowing)
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match="step 5 of stage 2: weights are not finite") as caught:
        train(job(out))
    assert "step-00000004" in caught.value.hint and finite(out)
    monkeypatch.undo()
    assert train(job(out, resume=True)).steps == 6


def test_figures_that_are_not_numbers_are_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([0.5, math.nan])

    def measure(*_: Any) -> tuple[Validation, dict[str, Any]]:
        hit = next(measured)
        return Validation({"words": {"meta": "", "hit@1": hit, "mrr": hit, "n": 9}}), {}

    monkeypatch.setattr(loop.validation, "measure", measure)
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match="step 1 of stage 1: vectors are not finite"):
        train(job(out, "validate_every=1", "checkpoint_every=1"))
    assert not (out / "states").exists() and not (out / "model").exists()
    monkeypatch.undo()
    assert train(job(out, "validate_every=1", "checkpoint_every=1", resume=True)).steps == 6


def test_a_base_that_gives_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked = loop.validation.rank_tasks

    def broken(*arguments: Any) -> Any:
        found = ranked(*arguments)
        for ranking in found.values():
            ranking.queries.vectors[0] = math.nan
        return found

    monkeypatch.setattr(loop.validation, "rank_tasks", broken)
    with pytest.raises(ModelError, match="Before any step, vectors are not finite"):
        train(job(tmp_path / "run"))
