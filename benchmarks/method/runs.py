"""What runs left behind: test figures, logs and checkpoints, read from their folders. What is not there is None."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from plan import Run
from running import RESULT

from tsembed_search.evaluation.results import TaskScores
from tsembed_search.trainer import log

Json = dict[str, Any]
Floats = NDArray[np.float64]
METRICS: Final = ("hit@1", "recall@10")
"""What is reported of a test, by the names that evaluation gives them. Choices are made by the first."""


def name_and_seed(folder: str) -> tuple[str, int]:
    """`variants/moe-eans-2` is `moe-eans`, 2. Raises `ValueError` for a folder without a seed."""
    name, _, seed = Path(folder).name.rpartition("-")
    return name, int(seed)


def found(out: Path, part: str) -> dict[str, dict[int, Path]]:
    """Folders of runs below `part`, planned or not: name to seed to folder, seeds ascending."""
    runs: dict[str, dict[int, Path]] = {}
    for log_file in sorted((out / part).glob(f"*/{log.NAME}")):
        name, _, seed = log_file.parent.name.rpartition("-")
        if name and seed.isdigit():
            runs.setdefault(name, {})[int(seed)] = log_file.parent
    return {name: dict(sorted(seeds.items())) for name, seeds in runs.items()}


def missing(planned: Sequence[Run], out: Path) -> list[str]:
    """Folders of planned runs that are not finished, or not tested although they should be."""
    return [run.folder for run in planned if not _complete(run, out / run.folder)]


def _complete(run: Run, folder: Path) -> bool:
    return (folder / "model").is_dir() and (not run.tested or (folder / RESULT).is_file())


def tested(folder: Path) -> list[TaskScores] | None:
    """A run's test figures, query by query, in the metrics of `METRICS`."""
    path = folder / RESULT
    if not path.is_file():
        return None
    said = json.loads(path.read_text(encoding="utf-8"))
    columns = [said["metrics"].index(name) for name in METRICS]
    return [
        TaskScores(
            name,
            one["meta"],
            "in" if one["seen"] else "out",
            0,  # how many candidates there were is not kept
            np.asarray(one["queries"], dtype=np.int64),
            np.asarray(one["values"], dtype=np.float64).reshape(len(one["queries"]), -1)[:, columns],
        )
        for name, one in said["tasks"].items()
    ]


def tests(folders: Mapping[int, Path]) -> dict[int, list[TaskScores]]:
    """The tests of a run's seeds; seeds without one are left out."""
    return {seed: one for seed, folder in folders.items() if (one := tested(folder)) is not None}


def records(folder: Path) -> list[Json]:
    """A run's log."""
    path = folder / log.NAME
    return list(log.read(path)) if path.is_file() else []


def last(found: Sequence[Json], kind: str) -> Json | None:
    """The last record of a kind."""
    return next((record for record in reversed(found) if record["kind"] == kind), None)


def validated(found: Sequence[Json]) -> Json | None:
    """The last validation of a run that has ended; None while it runs, when only the untrained model was measured."""
    end = last(found, "end")
    return last(found, "validation") if end is not None and end["reason"] != "interrupted" else None


def by_meta(tasks: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of tasks by their meta-task, given each one's meta-task."""
    metas: dict[str, list[str]] = {}
    for name, meta in tasks.items():
        metas.setdefault(meta, []).append(name)
    return metas
