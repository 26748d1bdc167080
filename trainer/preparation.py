"""From what a person gives to a run: the recipe and the data, or a dry run of both on a tiny model."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from tsembed_search.data.rows import Row, Task
from tsembed_search.data.training import DataSet, load
from tsembed_search.errors import UsageError
from tsembed_search.items import Item
from tsembed_search.model.registry import MODELS
from tsembed_search.paths import typed
from tsembed_search.trainer import job
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.job import Job, TrainReport
from tsembed_search.trainer.settings import Recipe

_SMALL: Final = 2500  # rows: a fiftieth of fewer would say little about the others
_FEW_TASKS: Final = 3  # with fewer, experts have no tasks to part
_FEW_ROWS: Final = 1000
_PASSES_OF_FEW, _PASSES_OF_MANY = 10, 3
_STEPS_ON_CPU, _STEPS_ON_GPU = (30, 600), (100, 5000)
_DRY_STEPS, _DRY_ROWS, _DRY_DIMENSIONS = 4, 8, 8


class ReadyRun(NamedTuple):
    """A recipe and its data. `why`: in words, why this recipe was chosen; empty when it was asked for."""

    recipe: Recipe
    data: DataSet
    why: str = ""


def named(name: str | None, changes: Sequence[str]) -> Recipe:
    """Return a recipe by its name or file, `tsembed` without one, with changes (`key=value`). Raises `UsageError`."""
    return placed(recipes.load(name or "tsembed", changes))


def prepared(name: str | None, changes: Sequence[str], sources: Sequence[str], device: str) -> ReadyRun:
    """Read data from `sources`, with the recipe that is asked for or, without a `name`, one that suits the data and the
    device. Of few rows, more are held out. Raises `UsageError` and `LoadError`.
    """
    from tsembed_search.model.backbone import pick

    asked = named(name, changes)
    data = rows_for(asked, sources)
    if name is not None:
        return ReadyRun(asked, data)
    if sum(len(task) for task in data.train) < _SMALL:
        asked = recipes.changed(asked, ["data.validation=0.1", *changes])
        data = rows_for(asked, sources)
    found, why = suited(data.train, gpu=pick(device).type == "cuda")
    return ReadyRun(placed(recipes.changed(replace(found, data=asked.data), changes)), data, why)


def resumed(out: Path, name: str | None, changes: Sequence[str], sources: Sequence[str]) -> ReadyRun:
    """Return what the run in `out` was begun with, and what is to be otherwise now. Raises `UsageError`."""
    known, begun = job.read(out)
    asked = placed(recipes.changed(known, changes) if name is None else recipes.load(name, changes))
    return ReadyRun(asked, rows_for(asked, sources or begun["sources"]))


def rows_for(recipe: Recipe, sources: Sequence[str]) -> DataSet:
    """Read rows from files, folders and the hub, as a recipe wants them. Raises `UsageError` and `LoadError`."""
    said = recipe.data
    folders = [Path(folder).expanduser() for folder in said.images]
    for given, folder in zip(said.images, folders, strict=True):
        if not folder.is_dir():
            raise UsageError(f"data.images names {given}, which is no folder.", "Name a folder that is there.")
    return load(
        list(sources),
        validation=said.validation,
        seed=recipe.run.seed,
        weights=said.weights,
        caps=said.caps,
        only=said.only,
        images=folders,
        instructions=None if said.instructions == "layout" else said.instructions,
    )


def placed(recipe: Recipe) -> Recipe:
    """Return the recipe with places that mean the same in any folder: of pictures, and of a base model."""
    images = tuple(str(typed(folder)) for folder in recipe.data.images)
    base = recipe.model.base
    if base not in MODELS and typed(base).is_dir():
        base = str(typed(base))
    return replace(recipe, data=replace(recipe.data, images=images), model=replace(recipe.model, base=base))


def suited(tasks: Collection[Task], gpu: bool) -> tuple[Recipe, str]:
    """Choose a recipe by how much data there is, for whoever names none; also say why that one.

    Few tasks or rows get the single LoRA. The batch leaves each step something to choose from; steps go through the
    data a few times, within what a machine does in about an hour.
    """
    rows = sum(len(task) for task in tasks)
    few = len(tasks) < _FEW_TASKS or rows < _FEW_ROWS
    found = recipes.load("lora" if few else "tsembed")
    identities = len({task.identity(row) for task in tasks for row in range(len(task))})
    size = max(2, min(256 if gpu else found.batch.size, identities // 2))
    least, most = _STEPS_ON_GPU if gpu else _STEPS_ON_CPU
    steps = min(most, max(least, round((_PASSES_OF_FEW if few else _PASSES_OF_MANY) * rows / size)))
    every = max(1, steps // 6)
    batch = {"size": size, "sub_batch": min(found.batch.sub_batch, size)}
    run = {"steps": steps, "validate_every": every, "checkpoint_every": every}
    why = f"{rows:,} rows of {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}: the recipe {found.name}"
    return recipes.apply(found, {"batch": batch, "run": run}), f"{why}, {steps} steps of {size} rows."


def dry_run(recipe: Recipe, tasks: Sequence[Task] = (), device: str = "cpu") -> tuple[Recipe, TrainReport]:
    """Walk a recipe through stages, pieces, validation, checkpoints and calibration, in a folder that is removed.

    `tasks`: the data, of which a few rows are used; made-up rows without. Also return the recipe as it was walked.
    Raises `UsageError` when there is no tiny model of its base, and whatever a run can raise.
    """
    from tsembed_search.model.backbones import tiny
    from tsembed_search.trainer.loop import train

    with tempfile.TemporaryDirectory() as folder:
        small = shrunk(recipe)
        family = tiny.family_of(recipe.model.base)
        if family is not None:
            small = replace(small, model=replace(small.model, base=str(tiny.make(family, Path(folder) / "tiny"))))
            if small.loss.dimensions:  # the tiny model has fewer
                small = recipes.apply(small, {"loss": {"dimensions": (_DRY_DIMENSIONS,)}})
            if small.loss.depths:
                small = recipes.apply(small, {"loss": {"depths": (1,)}})
        made: Sequence[Task] = [_MadeUp("words", 0), _MadeUp("pictures", 1)]
        return small, train(Job(small, tasks or made, made, Path(folder) / "run", device))


def shrunk(recipe: Recipe) -> Recipe:
    """Return the recipe with a few steps of a few rows, in pieces, and a switch in the middle if it has one."""
    switch = recipe.stages.switch
    run = {"steps": _DRY_STEPS, "checkpoint_every": 2, "validate_every": _DRY_STEPS, "validation_rows": 8}
    changes: dict[str, dict[str, Any]] = {
        "adapter": {"blocks": None},
        "batch": {"size": _DRY_ROWS, "sub_batch": min(recipe.batch.sub_batch, _DRY_ROWS // 2), "tokens": 128},
        "stages": {"switch": 0.5 if switch == "auto" or 0 < switch < 1 else switch},
        "run": run | {"workers": 1, "cache": False},
        "optimizer": {"warmup": 1},
    }
    return recipes.apply(recipe, changes)


@dataclass(frozen=True)
class _MadeUp:
    """A task of small pictures and words. `kind` says which of the two the target is."""

    name: str
    kind: int
    meta: str = ""
    weight: float = 1.0

    def __len__(self) -> int:
        return 2 * _DRY_ROWS

    def __getitem__(self, row: int) -> Row:
        shape = (28, 56, 3) if row % 2 else (56, 28, 3)
        picture = Item(image=np.random.default_rng([self.kind, row]).integers(0, 256, shape, dtype=np.uint8))
        words = Item(f"picture {row} of {self.name}")
        query, target = (words, picture) if self.kind else (picture, words)
        return Row(query, target, self.identity(row), (Item(f"not {row}"),))

    def identity(self, row: int) -> str:
        """Return a name of its own for each row."""
        return f"{self.kind}/{row}"

    def batch(self, row: int) -> int:
        """Return 0: the rows may meet any others."""
        return 0
