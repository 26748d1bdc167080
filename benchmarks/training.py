"""What training costs besides the model: `python benchmarks/training.py --json`.

    trainer_vs_bare_loop   items per second of whole runs, over a bare loop: the same model, batches and optimiser, one
                           graph, InfoNCE, nothing drawn, read, cached in pieces, logged or measured (floor 0.9)
    eans_vs_infonce        time of a step with expert-aware negatives, over one with ordinary ones (at most 1.02)
    memory_growth          peak memory beyond the loaded model at four times the batch, over that at once the batch,
                           under GradCache and one token budget (flat: at most 1.2), and without GradCache
    seen_before            items per second of a step on pictures that have passed the vision tower, over new ones

Rounds alternate; ratios are medians over rounds. Memory is measured in processes of their
own, and on Linux only.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from torch.nn import functional

from tsembed_search.data.rows import Row
from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.ranking.similarity import similarity
from tsembed_search.trainer import gradcache, recipe
from tsembed_search.trainer.batches import features
from tsembed_search.trainer.batches.loader import read
from tsembed_search.trainer.batches.sampler import Sampler
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.losses.base import Labels, Shape
from tsembed_search.trainer.objective import Objective
from tsembed_search.trainer.settings import NegativeSettings, Recipe

WORDS = "river village music church station season family water house king battle school red apple old dog sea".split()
_WHOLE = 10**9  # a budget that makes one piece


@dataclass(frozen=True)
class Texts:
    """A task of random texts of one to three dozen words, all different."""

    name: str
    rows: int
    meta: str = ""
    weight: float = 1.0

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Row:
        chance = random.Random(f"{self.name}/{row}")
        query, target = (" ".join(chance.choices(WORDS, k=chance.randint(12, 36))) for _ in range(2))
        return Row(Item(query), Item(target), self.identity(row))

    def identity(self, row: int) -> str:
        """Each row is one of its own."""
        return f"{self.name}/{row}"

    def batch(self, row: int) -> int:
        """Rows may meet any others."""
        return 0


TASKS = [Texts("first", 2000), Texts("second", 2000)]


def settings(size: int, *overrides: str) -> Recipe:
    """The whole method without checkpoints and validation, in one piece."""
    fixed = (f"batch.size={size}", "validate_every=0", "checkpoint_every=0", f"batch.tokens={_WHOLE}", "workers=1")
    return recipe.load("tsembed", [*fixed, *overrides])


def model(chosen: Recipe) -> Trainable:
    """Mini with adapters, in training mode."""
    torch.manual_seed(0)
    backbone: Any = loading.load(registry.resolve("mini-base"), "cpu")
    backbone.adapt(chosen.adapter)
    backbone.train(True)
    trainable: Trainable = backbone
    return trainable


def batches(backbone: Trainable, chosen: Recipe, count: int) -> list[tuple[list[Prepared], Labels]]:
    """The batches that a run would see."""
    sampler = Sampler(TASKS, chosen.batch, chosen.run.seed)
    preparer = features.Preparer(backbone, 1)
    return [read(TASKS, sampler.next(), preparer, 0)[:2] for _ in range(count)]


def bare_loop(size: int, steps: int) -> float:
    """Items per second of forward, loss, backward, step."""
    chosen = settings(size)
    backbone = model(chosen)
    assert backbone.adapters is not None
    parameters = [*backbone.adapters.expert_parameters(), *backbone.adapters.router_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4)
    ready = batches(backbone, chosen, steps)
    started = 0.0
    for number, (items, _) in enumerate(ready):
        if number == 1:
            started = time.perf_counter()
        vectors = backbone.trace(items, losses=False).vectors
        logits = similarity(vectors[: len(items) // 2], vectors[len(items) // 2 :]) / chosen.loss.temperature
        target = torch.arange(len(logits))
        loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        torch.autograd.backward(loss / 2)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return sum(len(items) for items, _ in ready[1:]) / (time.perf_counter() - started)


def whole_run(size: int, steps: int) -> float:
    """Items per second of a run, from the end of its first step to that of its last."""
    times: list[float] = []
    items: list[int] = []

    def watch(record: Any) -> None:
        if record["kind"] == "step":
            times.append(time.perf_counter())
            items.append(record["items"])

    with tempfile.TemporaryDirectory() as folder:
        train(Job(settings(size, f"steps={steps}"), TASKS, [], Path(folder) / "run", "cpu", observers=[watch]))
    return sum(items[1:]) / (times[-1] - times[0])


def step_time(backbone: Trainable, batch: tuple[list[Prepared], Labels], weighting: str, tokens: int = _WHOLE) -> float:
    """Seconds of one step's loss and gradients."""
    chosen = settings(2)
    assert backbone.adapters is not None
    objective = Objective(
        chosen.loss,
        NegativeSettings(weighting),
        Shape(backbone.info.dim, *backbone.adapters.shape),  # type: ignore[arg-type]
    )
    items, labels = batch
    started = time.perf_counter()
    gradcache.backward(
        backbone.trace, items, lambda packed: objective(packed, labels, 2, 0).total, tokens, torch.device("cpu")
    )
    return time.perf_counter() - started


def eans_vs_infonce(size: int, rounds: int) -> float:
    """Two steps on the same batch, in turns, each first every other time."""
    chosen = settings(size)
    backbone = model(chosen)
    ratios = []
    for number, batch in enumerate(batches(backbone, chosen, rounds + 1)):
        order = ("eans", "none") if number % 2 else ("none", "eans")
        taken = {weighting: step_time(backbone, batch, weighting) for weighting in order}
        ratios.append(taken["eans"] / taken["none"])
    return statistics.median(ratios[1:])


def peak(size: int, tokens: int) -> int:
    """Bytes beyond the loaded model that one step of `size` rows takes, in this process."""
    chosen = settings(size)
    backbone = model(chosen)
    [batch] = batches(backbone, chosen, 1)
    step_time(backbone, (batch[0][:1] + batch[0][size : size + 1], Labels(batch[1].table[[0, size]])), "eans", tokens)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, that of loading, is forgotten
    before = _memory("VmRSS")
    step_time(backbone, batch, "eans", tokens)
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    """A figure of Linux on this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def peak_elsewhere(size: int, tokens: int) -> int:
    """`peak` in a process of its own."""
    command = [sys.executable, __file__, "--peak", f"{size},{tokens}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return int(done.stdout.split()[-1])


def seen_before(count: int) -> float:
    """Items per second from files of pictures to gradients: known to the cache, over new to it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TSEMBED_HOME"] = folder
        numbers = np.random.default_rng(0)
        rows = []
        for at in range(count):
            file = Path(folder) / f"{at}.png"
            coarse = Image.fromarray(numbers.integers(0, 256, (9, 9, 3), np.uint8))
            coarse.resize((400, 300), Image.Resampling.BICUBIC).save(file)
            rows.append([(Item(f"picture {at}"), "query"), (Item(image=file), "document")])
        backbone = model(settings(count))
        preparer = features.preparer_for(backbone, "benchmark", workers=1)
        rates = []
        for _ in range(2):
            started = time.perf_counter()
            ready: Sequence[Any] = preparer.prepare([pair for row in rows for pair in row])  # type: ignore[misc]
            backbone.trace(ready).vectors.sum().backward()  # type: ignore[no-untyped-call]
            rates.append(2 * count / (time.perf_counter() - started))
        return rates[1] / rates[0]


def main(
    size: Annotated[int, typer.Option(help="Rows of a batch.")] = 64,
    steps: Annotated[int, typer.Option(help="Of each run.")] = 10,
    rounds: Annotated[int, typer.Option(help="Of everything.")] = 3,
    peak_of: Annotated[str, typer.Option("--peak", help="Rows and token budget: print one peak.", hidden=True)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object last.")] = False,
) -> None:
    """Measures all of it."""
    if peak_of:
        rows, tokens = map(int, peak_of.split(","))
        print(peak(rows, tokens))
        return
    found: dict[str, Any] = {}

    def tell(name: str, value: float) -> None:
        found[name] = value
        print(f"{name:>32}: {value:.3f}", flush=True)

    tell(
        "trainer_vs_bare_loop",
        statistics.median(whole_run(size, steps) / bare_loop(size, steps) for _ in range(rounds)),
    )
    tell("eans_vs_infonce", eans_vs_infonce(size, 3 * rounds))
    for name, tokens in (("memory_growth", 1024), ("memory_growth_without_gradcache", _WHOLE)):
        small, large = (peak_elsewhere(rows, tokens) for rows in (size, 4 * size))
        tell(name, large / small)
        found[name.replace("growth", "mb")] = [small >> 20, large >> 20]
    tell("seen_before", seen_before(24))
    if as_json:
        limits = {"trainer_vs_bare_loop": 0.9, "eans_vs_infonce": 1.02, "memory_growth": 1.2}
        print(json.dumps({"benchmark": "training", "rows": size, "limits": limits, **found}))


if __name__ == "__main__":
    typer.run(main)
