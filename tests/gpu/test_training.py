"""Whole runs on a simulated GPU: every part of a run on pictures in files, in float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.device_simulation import SimulatedGPU
from helpers.training_data import Listed, small, two_tasks, weights
from tsembed_search.data.rows import Row
from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.model.embedder import Embedder
from tsembed_search.trainer import loop
from tsembed_search.trainer.job import Job, Stopped, TrainReport
from tsembed_search.trainer.log import read

SMALL = ("steps=4", "batch.tokens=200", "validate_every=2", "checkpoint_every=2", "validation_rows=4", "cache=false")


def job(out: Path, base: str, pictures: list[Path], *overrides: str, **changes: Any) -> Job:
    """A short run on words, and on pictures in files with their names, in pieces."""
    rows = [Row(Item(f"picture {at}"), Item(image=one), str(at)) for at, one in enumerate(pictures)]
    tasks = [Listed("pictures", rows, "retrieval"), two_tasks()[0]]
    recipe = small(f"model.base={base}", *SMALL, *overrides)
    return replace(Job(recipe, tasks, tasks, out, "cuda"), **changes)


def records(out: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read(out / "log.jsonl") if record["kind"] == kind]


def train(job: Job, **gpu: Any) -> tuple[TrainReport, SimulatedGPU]:
    with SimulatedGPU(**gpu) as simulated:
        return loop.train(job), simulated


@pytest.fixture
def base(request: pytest.FixtureRequest, tiny: Callable[[str], str]) -> str:
    """A model to train, by its name or family; of mini two layers."""
    if not request.param.startswith("mini"):
        return tiny(request.param)
    request.getfixturevalue("small_base")
    return str(request.param)


@pytest.mark.parametrize(
    ("base", "precision"),
    [
        ("mini-base", "float32"),
        ("qwen2-vl", "bfloat16"),
        pytest.param("mini-base", "bfloat16", marks=pytest.mark.slow),
        pytest.param("qwen2-vl", "float32", marks=pytest.mark.slow),
        pytest.param("qwen3-vl", "bfloat16", marks=pytest.mark.slow),
        pytest.param("smolvlm", "bfloat16", marks=pytest.mark.slow),
    ],
    indirect=["base"],
)
def test_whole_run(base: str, precision: str, pictures: list[Path], tmp_path: Path) -> None:
    """Stages, pieces, checkpointing, queue, validation, calibration, saving; stopped, resumed, and trained on."""
    out, overrides = (
        tmp_path / "run",
        ("queue=4", "run.gradient_checkpointing=true", f"run.precision={precision}", "loss.distillation_weight=0.5"),
    )
    with pytest.raises(Stopped):
        stops = iter([False, False, False, True])
        train(job(out, base, pictures, *overrides, stop=lambda: next(stops)))
    report, gpu = train(job(out, base, pictures, *overrides, resume=True))
    assert gpu.peak > 0 and (report.steps, report.stage_switch) == (4, 3)
    assert {record["kind"] for record in read(out / "log.jsonl")} >= {"calibration", "experts", "gradients"}
    assert not [note for note in records(out, "note") if "memory" in note["message"]]
    assert records(out, "run")[0]["precision"] == precision
    more = ("steps=1", f"run.precision={precision}")
    on, _ = train(job(tmp_path / "on", str(out / "model"), pictures, *more, held_out=[]))
    assert on.checkpoint is not None
    before, after = weights(out / "model"), weights(on.checkpoint)
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    moved = [not torch.equal(before[name], after[name]) for name in before]
    assert sum(moved) >= len(moved) / 2, "A waits for B to leave zero where validation was best before the first step"


def test_training_on_moves_every_weight(tiny: Callable[[str], str], pictures: list[Path], tmp_path: Path) -> None:
    """A step at a gentle rate is less than a weight's last digit in bfloat16."""
    gentle = (
        "optimizer.learning_rate=1e-6",
        "router_learning_rate=1e-6",
        "steps=3",
        "run.precision=bfloat16",
        "warmup=0",
    )
    first, _ = train(job(tmp_path / "first", tiny("qwen2-vl"), pictures, "optimizer.learning_rate=0.01", "steps=2"))
    on, _ = train(job(tmp_path / "on", str(first.checkpoint), pictures, *gentle, held_out=[]))
    assert first.checkpoint is not None and on.checkpoint is not None
    before, after = weights(first.checkpoint), weights(on.checkpoint)
    moves = torch.cat([(after[name].float() - before[name]).abs().flatten() for name in before])
    assert (moves > 0).float().mean() > 0.8
    assert moves.max() < 1e-5, "rounding would be more"


def test_an_embedder_takes_the_base_s_precision(
    tiny: Callable[[str], str], pictures: list[Path], tmp_path: Path
) -> None:
    report, _ = train(job(tmp_path / "run", tiny("qwen2-vl"), pictures, "steps=1"))
    with SimulatedGPU():
        ref = registry.resolve(str(report.checkpoint))
        loaded: Any = loading.load(ref)
        assert {tensor.dtype for tensor in loaded.adapters.expert_parameters()} == {torch.float32}
        embedder = Embedder(loaded)
        assert {tensor.dtype for tensor in loaded.adapters.expert_parameters()} == {torch.bfloat16}
        assert embedder.embed([Item("a")]).routes.any()


@pytest.mark.parametrize(
    ("precision", "capability", "said", "held"),
    [
        ("float32", (8, 0), "float32", torch.float32),
        ("auto", (8, 0), "bfloat16", torch.bfloat16),
        ("auto", (7, 5), "float32", torch.float32),
        ("bfloat16", (7, 5), "bfloat16", torch.float32),
    ],
)
def test_the_log_says_the_precision(
    precision: str,
    capability: tuple[int, int],
    said: str,
    held: torch.dtype,
    tiny: Callable[[str], str],
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the log calls float32 is float32, the base's weights too."""
    seen: list[torch.dtype] = []
    load = loading.load

    def loaded(*args: Any) -> Any:
        backbone: Any = load(*args)
        seen.extend({parameter.dtype for parameter in backbone.model.parameters()})
        return backbone

    monkeypatch.setattr(loading, "load", loaded)
    overrides = ("steps=1", f"run.precision={precision}")
    train(job(tmp_path / "run", tiny("qwen2-vl"), pictures, *overrides, held_out=[]), capability=capability)
    assert records(tmp_path / "run", "run")[0]["precision"] == said and seen == [held]
