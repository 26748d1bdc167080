"""Training where memory is short: steps begin anew in smaller pieces, single items are left out, the model is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.device_simulation import SimulatedGPU
from helpers.training_data import Listed, job, same, two_tasks, weights
from tsembed_search.data.rows import Row
from tsembed_search.errors import ModelError, UsageError
from tsembed_search.items import Item, Role
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import Prepared, autocast
from tsembed_search.model.embedder import Embedder
from tsembed_search.trainer import diagnostics, gradcache, loop
from tsembed_search.trainer import job as folder
from tsembed_search.trainer.batches import features
from tsembed_search.trainer.job import Job, Stopped, TrainReport
from tsembed_search.trainer.log import read
from tsembed_search.trainer.settings import Recipe
from tsembed_search.trainer.validation import Embedding

SHORT = ("steps=2", "validate_every=0", "checkpoint_every=0", "queue=4", "stages.switch=0")


def notes(out: Path) -> list[str]:
    """What the log says of memory."""
    found = [record["message"] for record in read(out / "log.jsonl") if record["kind"] == "note"]
    return [message for message in found if "memory" in message]


def short(out: Path, base: str, *overrides: str, **changes: Any) -> Job:
    return job(out, f"model.base={base}", *SHORT, *overrides, **({"held_out": [], "device": "cuda"} | changes))


def trained(job: Job, limit: int = 2**40) -> tuple[TrainReport, int]:
    """The report, and the most bytes that were on the GPU."""
    with SimulatedGPU(limit) as gpu:
        return loop.train(job), gpu.peak


@pytest.mark.parametrize(
    "overrides",
    [pytest.param((), marks=pytest.mark.slow), ("run.gradient_checkpointing=true", "loss.distillation_weight=1")],
)
def test_pieces_too_large_are_halved_once(
    overrides: tuple[str, ...], tiny: Callable[[str], str], tmp_path: Path
) -> None:
    """And the run is then the same as one that had the smaller budget from the beginning."""
    base = tiny("qwen2-vl")
    large, small = "batch.tokens=784", "batch.tokens=392"
    _, needs = trained(short(tmp_path / "large", base, large, *overrides))
    expected, fits = trained(short(tmp_path / "small", base, small, *overrides))
    assert fits < needs
    found, peak = trained(short(tmp_path / "found", base, large, *overrides), (fits + needs) // 2)
    assert peak <= (fits + needs) // 2
    said = notes(tmp_path / "found")
    assert len(said) == 1 and "392 at once from now on" in said[0]
    assert expected.checkpoint is not None and found.checkpoint is not None
    assert same(weights(found.checkpoint), weights(expected.checkpoint))


def test_one_item_too_large_leaves_its_row_out(tiny: Callable[[str], str], tmp_path: Path) -> None:
    """The run goes on with the others."""
    base, overrides = tiny("qwen2-vl"), ("batch.tokens=100",)
    words = two_tasks()[0]
    _, fits = trained(short(tmp_path / "small", base, *overrides, train=[words]))
    long = Row(Item("a very long text " * 60), Item("its target"), "long")
    rows = Listed("words", [long, *words.rows[:7]], "retrieval")
    report, _ = trained(short(tmp_path / "run", base, *overrides, train=[rows]), int(1.2 * fits))
    assert report.steps == 2 and report.checkpoint is not None
    assert any("with gradients does not fit in memory" in line for line in notes(tmp_path / "run"))


def test_validation_measures_what_fits(tiny: Callable[[str], str]) -> None:
    backbone_items = [*(Item(f"text {at}") for at in range(8)), Item("a very long text " * 60)]
    with SimulatedGPU() as gpu:
        backbone: Any = loading.load(registry.resolve(tiny("qwen2-vl")))
        backbone.adapt(replace(Recipe().adapter, rank=2))
        kept = features.preparer_for(backbone, "test", cache=False, workers=1)
        embedding = Embedding(backbone, kept, autocast("bfloat16", gpu.device))
        wanted: list[tuple[Item, Role]] = [(item, "document") for item in backbone_items]
        embedding.embed(wanted[:8])
        gpu.reset()
        whole, _ = embedding.embed(wanted[:8])
        gpu.limit = gpu.peak - 1  # eight at once do not fit
        found, places = embedding.embed(wanted)
        kept.close()
    assert places == list(range(8)) and embedding.remarks[0].endswith("does not fit in memory: not measured.")
    torch.testing.assert_close(found.vectors, whole.vectors, atol=0.02, rtol=0)


def test_when_nothing_fits_it_says_what_to_do(tiny: Callable[[str], str], tmp_path: Path) -> None:
    base = tiny("qwen2-vl")
    with SimulatedGPU() as gpu:
        embedder = Embedder.load(base)
        weights_alone = gpu.live
        del embedder
    with pytest.raises(ModelError, match="do not fit in the memory") as error:
        trained(short(tmp_path / "run", base, "batch.size=4"), weights_alone + 220_000)
    assert "run.gradient_checkpointing" in error.value.hint


@contextmanager
def watching_the_end(gpu: SimulatedGPU, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The peaks of the steps, and of what compares the tasks at the end."""
    peaks: list[int] = []
    compare = diagnostics.task_gradients

    def watched(*args: Any, **kwargs: Any) -> Any:
        peaks.append(gpu.peak)
        gpu.reset()
        found = compare(*args, **kwargs)
        peaks.append(gpu.peak)
        return found

    monkeypatch.setattr(diagnostics, "task_gradients", watched)
    yield peaks


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_the_end_takes_no_more_than_a_step(
    checkpointing: str, tiny: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (
        "batch.tokens=1000",
        f"run.gradient_checkpointing={checkpointing}",
        "run.precision=bfloat16",
        "steps=2",
    )
    rows = [[Row(Item(f"{name} {at} " + "of " * 150), Item(f"{at}"), str(at)) for at in range(8)] for name in "ab"]
    tasks = [Listed(name, own) for name, own in zip("ab", rows, strict=True)]
    with SimulatedGPU() as gpu, watching_the_end(gpu, monkeypatch) as peaks:
        loop.train(short(tmp_path / "run", tiny("qwen2-vl"), *overrides, train=tasks))
    steps, end = peaks
    assert end <= steps
    assert any(record["kind"] == "gradients" for record in read(tmp_path / "run/log.jsonl"))


def test_the_model_is_saved_before_tasks_are_compared(
    tiny: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*args: Any, **kwargs: Any) -> Any:
        assert (tmp_path / "run/model/adapter_model.safetensors").is_file()
        raise gradcache.PieceTooLargeError([0])

    monkeypatch.setattr(diagnostics, "task_gradients", no_room)
    report, _ = trained(short(tmp_path / "run", tiny("qwen2-vl"), "steps=1"))
    assert report.checkpoint == tmp_path / "run/model"
    assert notes(tmp_path / "run") == ["There is too little memory to compare the gradients of tasks."]


@pytest.mark.parametrize(
    "changed", ["batch.tokens=64", pytest.param("run.gradient_checkpointing=true", marks=pytest.mark.slow)]
)
def test_what_saves_memory_may_change(changed: str, tiny: Callable[[str], str], tmp_path: Path) -> None:
    """What the advice says can be done: go on with another budget, or with checkpointing."""
    base, stops = tiny("qwen2-vl"), iter([False, True])
    with pytest.raises(Stopped):
        trained(short(tmp_path / "run", base, "batch.tokens=256", stop=lambda: next(stops)))
    report, _ = trained(short(tmp_path / "run", base, "batch.tokens=256", changed, resume=True))
    assert report.steps == 2


@pytest.mark.parametrize("changed", ["adapter.tokens=last", "run.precision=bfloat16", "run.seed=3", "batch.size=4"])
def test_what_changes_the_run_may_not(changed: str, tmp_path: Path) -> None:
    begun = job(tmp_path / "run")
    folder.begin(begun.out, begun.recipe, [], folder.summary(begun.train))
    other = job(tmp_path / "run", changed)
    with pytest.raises(UsageError, match="was begun with"):
        folder.check_same(begun.out, other.recipe, folder.summary(begun.train))
    compiled = job(tmp_path / "run", "run.compile=true")
    folder.check_same(begun.out, compiled.recipe, folder.summary(begun.train))


def test_gradients_are_those_of_the_whole(tiny: Callable[[str], str]) -> None:
    """Comparing tasks in pieces finds what it finds at once."""
    backbone: Any = loading.load(registry.resolve(tiny("qwen2-vl")), "cpu")
    backbone.adapt(replace(Recipe().adapter, rank=2, dropout=0.3, noise=0.5))
    for layer in backbone.adapters.layers.values():
        torch.nn.init.normal_(layer.up.weight, std=0.02)
    for parameter in backbone.adapters.parameters():
        parameter.requires_grad_(True)
    kept, cpu = features.preparer_for(backbone, "test", cache=False, workers=1), torch.device("cpu")

    def passes(tokens: int) -> Any:
        return SimpleNamespace(backbone=backbone, tokens=tokens, device=cpu, precision=autocast("float32", cpu))

    found = [diagnostics.task_gradients(passes(tokens), kept, two_tasks(), Recipe()) for tokens in (10**6, 10**6, 60)]
    kept.close()
    for name, whole in found[0].items():
        assert torch.equal(whole, found[1][name]), "neither dropout nor noise"
        assert whole.abs().max() > 0
        torch.testing.assert_close(found[2][name], whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
    assert all(parameter.grad is None for parameter in backbone.adapters.parameters())


def test_pictures_are_looked_at_as_many_at_once_as_fit(pictures: list[Path]) -> None:
    """By the loader, whatever the budget said."""
    with SimulatedGPU() as gpu:
        backbone: Any = loading.load(registry.resolve("mini-base"))
        kept = features.preparer_for(backbone, "test", cache=False, workers=1)
        backbone.look([backbone.prepare(Item(image=one)) for one in pictures[:1] * 4])
        gpu.reset()
        before = gpu.live
        backbone.look([backbone.prepare(Item(image=one)) for one in pictures])
        gpu.limit = gpu.peak
        files = [pictures[0].parent / f"copy{at}.png" for at in range(8)]
        for at, file in enumerate(files):
            Image.fromarray(np.full((30, 30, 3), 9 * at, np.uint8)).save(file)
        found = kept.prepare([(Item(image=file), "document") for file in files])
        kept.close()
        assert gpu.refused == 1 and gpu.peak > before
    assert all(isinstance(one, Prepared) and one.data.pixels is None for one in found)
