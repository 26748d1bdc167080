"""The paths that adapters take while they are trained: a sketch of the weights' change at every checkpoint of a run.

The trainer keeps its last state only. So `Recorder` watches a run, and notes each state as it is saved:

    RUN/path.jsonl      {"step": 20, "sketch": [...]} a line; the change of the weights from fixed random directions
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from deltas import Change, sketch
from plan import Run
from runs import Floats, Json

from tsembed_search.trainer import state
from tsembed_search.trainer.log import Record

NAME: Final = "path.jsonl"
WIDTH: Final = 256

_EXPERTS = "adapters.experts."  # before the names of their tensors in a state


class Recorder:
    """An observer of a run in `folder` whose adapters are scaled by `scale`, alpha / r."""

    def __init__(self, folder: Path, scale: float) -> None:
        self._file, self._scale = folder / NAME, scale

    def __call__(self, record: Record) -> None:
        """Notes a state that was saved."""
        if record["kind"] != "checkpoint":
            return
        tensors, _ = state.load(Path(record["path"]))
        experts = {name.removeprefix(_EXPERTS): one for name, one in tensors.items() if name.startswith(_EXPERTS)}
        seen = sketch(Change.of(experts, self._scale), WIDTH)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": record["step"], "sketch": [float(f"{one:.6g}") for one in seen]}) + "\n")


def make(run: Run, data: Path, out: Path) -> None:
    """Trains a run of the plan, or goes on with it, and notes its path."""
    from tsembed_search.data.training import load
    from tsembed_search.trainer import job as run_folder
    from tsembed_search.trainer import recipe as recipes
    from tsembed_search.trainer.job import Job
    from tsembed_search.trainer.loop import train

    folder = out / run.folder
    resume = (folder / run_folder.MARKER).is_file()
    recipe = recipes.load(run.recipe, [*run.changes, f"run.seed={run.seed}"])
    said, adapter = recipe.data, recipe.adapter
    rows = load(
        [str(data)], validation=said.validation, seed=run.seed, weights=said.weights, caps=said.caps, only=said.only
    )
    job = Job(
        recipe,
        rows.train,
        rows.validation,
        folder,
        device="cpu",
        resume=resume,
        sources=[str(data)],
        observers=[Recorder(folder, adapter.alpha / adapter.rank)],
    )
    train(job)


def read(folder: Path) -> dict[int, Floats]:
    """The sketches of a run by step, from the start, where nothing has changed. Empty for a run without a path."""
    path = folder / NAME
    if not path.is_file():
        return {}
    found = {0: np.zeros(WIDTH)}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):  # a resumed run notes some steps twice, and they are the same
            record: dict[str, Any] = json.loads(line)
            found[record["step"]] = np.asarray(record["sketch"], dtype=np.float64)
    return dict(sorted(found.items()))


def drawn(found: Mapping[str, Mapping[int, Floats]]) -> Json | None:
    """All runs' paths on the two directions along which they differ most: `paths` {run: [[step, x, y]]}, `share` of
    the variance that these two hold. None without paths.
    """
    if not found:
        return None
    points = np.concatenate([list(path.values()) for path in found.values()])
    _, lengths, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    flat = {name: np.stack(list(path.values())) @ directions[:2].T for name, path in found.items()}
    total = float((lengths**2).sum())
    return {
        "share": float((lengths[:2] ** 2).sum()) / total if total else None,
        "paths": {
            name: [[step, float(x), float(y)] for step, (x, y) in zip(found[name], flat[name], strict=True)]
            for name in found
        },
    }
