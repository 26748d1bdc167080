"""A recipe walked through in small: all that a run does, in a few steps, on a tiny model of the same architecture."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tsembed_search.data.rows import Row, Task
from tsembed_search.items import Item
from tsembed_search.model.backbones import tiny
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.job import Job, TrainReport
from tsembed_search.trainer.log import Observer
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.settings import Recipe

_STEPS = 4
_ROWS = 16
_DIMENSIONS = 8


@dataclass(frozen=True)
class _Made:
    """A task of made-up rows: small pictures and words. `kind` says which of the two the target is."""

    name: str
    kind: int
    meta: str = ""
    weight: float = 1.0

    def __len__(self) -> int:
        return 2 * _ROWS

    def __getitem__(self, row: int) -> Row:
        shape = (28, 56, 3) if row % 2 else (56, 28, 3)
        picture = Item(image=np.random.default_rng([self.kind, row]).integers(0, 256, shape, dtype=np.uint8))
        words = Item(f"picture {row} of {self.name}")
        query, target = (words, picture) if self.kind else (picture, words)
        return Row(query, target, self.identity(row), (Item(f"not {row}"),))

    def identity(self, row: int) -> str:
        """Each row is one of its own."""
        return f"{self.kind}/{row}"


def dry_run(
    recipe: Recipe, tasks: Sequence[Task] = (), device: str = "cpu", observers: Sequence[Observer] = ()
) -> tuple[Recipe, TrainReport]:
    """Walks a recipe through stages, pieces, validation, checkpoints and calibration, in a folder that is removed.

    `tasks`: the data, of which a few rows are used; made-up rows without. Also gives the recipe as it was walked.
    Raises `UsageError` when there is no tiny model of its base, and whatever a run can raise.
    """
    with tempfile.TemporaryDirectory() as folder:
        small = shrunk(recipe)
        family = tiny.family_of(recipe.model.base)
        if family is not None:
            small = replace(small, model=replace(small.model, base=str(tiny.make(family, Path(folder) / "tiny"))))
            if small.loss.dimensions:  # the tiny model has fewer
                small = recipes.apply(small, {"loss": {"dimensions": (_DIMENSIONS,)}})
        made: Sequence[Task] = [_Made("words", 0), _Made("pictures", 1)]
        job = Job(small, tasks or made, made, Path(folder) / "run", device, observers=observers)
        return small, train(job)


def shrunk(recipe: Recipe) -> Recipe:
    """The recipe with a few steps of a few rows, in pieces, and a switch in the middle if it has one."""
    switch = recipe.stages.switch
    between = switch == "auto" or 0 < switch < 1
    return recipes.apply(
        recipe,
        {
            "adapter": {"blocks": None},
            "batch": {"size": _ROWS, "sub_batch": min(recipe.batch.sub_batch, _ROWS // 2), "tokens": 128},
            "stages": {"switch": 0.5 if between else switch},
            "run": {
                "steps": _STEPS,
                "checkpoint_every": 2,
                "validate_every": _STEPS,
                "validation_rows": 8,
                "workers": 1,
                "cache": False,
            },
            "optimizer": {"warmup": 1},
        },
    )
