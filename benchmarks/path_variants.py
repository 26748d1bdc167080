"""What parallel paths bring: `python benchmarks/path_variants.py train --data mini-mmeb --out runs`, then `report`.

A small experiment on tasks of `python examples/mini/data.py`, by default the one whose rows are texts alone. The same
data, batches, steps and seeds for each of

    lora         one LoRA, no paths
    one path     one suffix as long as all four together: as many parameters
    no MIM       four suffixes, InfoNCE of each and of all together
    vclub        the same, kept apart by vCLUB: the recipe `pdf`
    orthogonal   the same, kept apart by their cosines

`train` makes the runs that are missing, seed by seed; it can be stopped and started again. `report` says what is there:
hit@1 on test, and what each variant is ahead of `lora`, on the same queries, a mean over seeds, with 95% intervals
bootstrapped over queries, and the deviation over seeds beside them. Four paths are told by the first one, by their mean
and side by side. The oracle takes whichever path is right; that of `lora` whichever of the seeds is, which shows what
several rankings find by chance.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from tsembed_search.data import tasks as evaluation_data
from tsembed_search.data import training as training_data
from tsembed_search.evaluation.diversity import path_report
from tsembed_search.evaluation.evaluate import evaluate
from tsembed_search.model.embedder import Embedder
from tsembed_search.ranking.metrics import over_tasks
from tsembed_search.trainer import recipe
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.loop import train as make_model

app = typer.Typer(add_completion=False, no_args_is_help=True)
VARIANTS = {
    "lora": ("paths.count=0",),
    "one path": ("paths.count=1", "paths.length=4"),
    "no MIM": ("separation=none",),
    "vclub": (),
    "orthogonal": ("separation=orthogonal",),
}
COMMON = (
    *("model.base=mini-base", "adapter.rank=4", "adapter.alpha=8", "adapter.dropout=0"),
    *("batch.size=32", "sub_batch=32", "separation_warmup=20", "validate_every=0", "checkpoint_every=0"),
)
Data = Annotated[Path, typer.Option("--data", help="The folder of `python examples/mini/data.py`.")]
Out = Annotated[Path, typer.Option("--out", help="Where the runs are.")]
Floats = NDArray[np.float64]


@app.command()
def train(
    data: Data,
    out: Out,
    seeds: Annotated[int, typer.Option(help="Runs of each variant.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps of a run.")] = 60,
    task: Annotated[list[str] | None, typer.Option("--task", help="Tasks to train on and to measure.")] = None,
    variant: Annotated[list[str] | None, typer.Option("--variant", help="Only these variants.")] = None,
) -> None:
    """Make the runs that are missing, and measure each on test."""
    only = task or ["gloss"]
    rows = training_data.load([data], validation=0, only=only)
    asked = evaluation_data.load([data], splits=("test",), only=only).tasks
    for seed in range(seeds):
        for name, own in VARIANTS.items():
            if variant and name not in variant:
                continue
            folder = out / f"{name.replace(' ', '-')}-{seed}"
            if (folder / "hits.json").is_file():
                continue
            chosen = recipe.load("pdf", (*COMMON, *own, f"steps={steps}", f"seed={seed}"))
            if not (folder / "model").is_dir():
                make_model(Job(chosen, rows.train, [], folder, "cpu", resume=(folder / "run.json").is_file()))
            embedder = Embedder.load(folder / "model", "cpu")
            if chosen.paths.count > 1:
                found = path_report(embedder, asked)
                hits = {
                    name: [one.values[:, at].tolist() for one in found.tasks] for at, name in enumerate(found.names)
                }
                like = found.likeness
                said: dict[str, Any] = {"cosine": like.cosine, "cka": like.alignment, "rank": like.rank}
            else:
                hits = {
                    "path 0": [one.values[:, 0].tolist() for one in evaluate(embedder, asked, metrics=["hit@1"]).tasks]
                }
                said = {}
            (folder / "hits.json").write_text(json.dumps({"hits": hits, "likeness": said}), encoding="utf-8")
            means = ", ".join(
                f"{label} {100 * np.mean([np.mean(one) for one in each]):.1f}" for label, each in hits.items()
            )
            print(f"{folder.name}: {means}", flush=True)


@app.command()
def report(out: Out) -> None:
    """Print hit@1 in percent of the runs that are there, and the differences to one LoRA, in points."""
    read = {path.parent.name: json.loads(path.read_text("utf-8")) for path in sorted(out.glob("*/hits.json"))}
    base = [one["hits"]["path 0"] for name, one in read.items() if name.rpartition("-")[0] == "lora"]
    print("variant", "seeds", "hit@1", "over seeds", "less lora", "low", "high", "cosine", "rank", sep="\t")
    for name in VARIANTS:
        runs = [one for key, one in read.items() if key.rpartition("-")[0] == name.replace(" ", "-")]
        for label in ("path 0", "mean", "concat", "maxsim", "oracle"):
            if all(label in one["hits"] for one in runs) and runs:
                _line(
                    name if label == "path 0" else f"{name}, {label}", [one["hits"][label] for one in runs], base, runs
                )
    if len(base) > 1:
        oracle = [np.max([run[task] for run in base], axis=0).tolist() for task in range(len(base[0]))]
        _line("lora, oracle of the seeds", [oracle], base, [])


def _line(name: str, found: list[list[list[float]]], base: list[list[list[float]]], runs: list[Any]) -> None:
    """A variant's figures; `found` and `base` are hits by run, task and query."""
    seeds = np.array([np.mean([np.mean(task) for task in run]) for run in found])
    count = min(len(found), len(base))
    own, other = (_mean_of(some[:count] if len(found) > 1 else some) for some in (found, base))
    (gap,) = over_tasks(
        [(a - b)[:, None] for a, b in zip(own, other, strict=True)], [str(at) for at in range(len(own))]
    )
    known = [run["likeness"] for run in runs if run["likeness"]]
    said = [np.mean([like[key] for like in known]) if known else np.nan for key in ("cosine", "rank")]
    deviation = seeds.std(ddof=1) if len(seeds) > 1 else np.nan
    figures = [f"{100 * value:.1f}" for value in (seeds.mean(), deviation)]
    changes = [f"{100 * value:+.1f}" for value in (gap.mean, gap.low, gap.high)]
    print(name, len(found), *figures, *changes, *(f"{value:.3f}" for value in said), sep="\t")


def _mean_of(runs: list[list[list[float]]]) -> list[Floats]:
    """The mean over runs of each query's hits, by task."""
    return [np.mean([run[task] for run in runs], axis=0) for task in range(len(runs[0]))]


if __name__ == "__main__":
    app()
