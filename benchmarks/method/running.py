"""Makes the runs of a plan, one after the other or a few side by side; what is done already is not done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from plan import Run

RESULT = "test.json"
_QUERIES = 200  # of a task, always the same ones


def make(runs: Sequence[Run], data: Path, out: Path, workers: int) -> list[str]:
    """Makes what is missing, `workers` at a time, each on as many cores as there are for it. Gives the failed ones."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}

    def one(run: Run) -> str | None:
        if done(run, out):
            return None
        (out / run.folder).parent.mkdir(parents=True, exist_ok=True)
        log = (out / run.folder).with_suffix(".log")
        with log.open("a") as file:
            for command in commands(run, data, out):
                if subprocess.run(command, env=environment, stdout=file, stderr=file, check=False).returncode:
                    print(f"failed: {run.folder}, see {log}", flush=True)
                    return run.folder
        print(f"done: {run.folder}", flush=True)
        return None

    with ThreadPoolExecutor(workers) as pool:
        return [failed for failed in pool.map(one, runs) if failed]


def done(run: Run, out: Path) -> bool:
    """Whether nothing is left to do for a run."""
    folder = out / run.folder
    return (folder / "model").is_dir() and (not run.tested or (folder / RESULT).is_file())


def commands(run: Run, data: Path, out: Path) -> list[list[str]]:
    """The commands that are still to be run. A run that was interrupted goes on."""
    folder = out / run.folder
    found = []
    if not (folder / "model").is_dir():
        train = [str(Path(sys.executable).with_name("tsembed")), "train", "--json", "--out", str(folder)]
        if run.followed:
            places = ["--data", str(data), "--out", str(out)]
            found.append([sys.executable, str(Path(__file__).parent), "follow", run.folder, *places])
        elif (folder / "run.json").is_file():
            found.append([*train, "--resume"])
        else:
            changes = [part for change in run.changes for part in ("--set", change)]
            found.append([*train, str(data), "--recipe", run.recipe, "--seed", str(run.seed), *changes])
    if run.tested and not (folder / RESULT).is_file():
        found.append([sys.executable, str(Path(__file__).parent), "test", str(folder), "--data", str(data)])
    return found


def test(folder: Path, data: Path, splits: Sequence[str] = ("test", "unseen_test")) -> dict[str, Any]:
    """Measures a run's model on splits that it was not chosen by, query by query."""
    from tsembed_search.data.tasks import load
    from tsembed_search.evaluation.evaluate import evaluate

    tasks = load([data], splits=splits, limit=_QUERIES).tasks
    embedder = remembering(str(folder / "model") if (folder / "model").is_dir() else str(folder))
    found = evaluate(embedder, tasks)
    return {
        "metrics": list(found.metrics),
        "tasks": {
            task.name: {
                "meta": task.meta,
                "seen": task.distribution != "out",
                "queries": task.queries.tolist(),
                "values": task.values.tolist(),
            }
            for task in found.tasks
        },
    }


def remembering(model: str) -> Any:
    """An embedder that lets no picture pass the frozen vision tower twice, in one process or many."""
    from tsembed_search.model import registry
    from tsembed_search.trainer.batches import features

    return features.remembering(registry.resolve(model))


def read(run: Run, out: Path) -> dict[str, Any]:
    """What `test` found of a run."""
    return dict(json.loads((out / run.folder / RESULT).read_text(encoding="utf-8")))
