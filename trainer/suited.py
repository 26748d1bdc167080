"""A recipe for whoever names none: by how much data there is, and on what it will be trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.rows import Task
from tsembed_search.trainer.settings import Recipe

_FEW_TASKS = 3  # with fewer, experts have no tasks to part
_FEW_ROWS = 1000
_PASSES_OF_FEW, _PASSES_OF_MANY = 10, 3
_STEPS_ON_CPU, _STEPS_ON_GPU = (30, 600), (100, 5000)


def suited(tasks: Sequence[Task], gpu: bool) -> tuple[Recipe, str]:
    """The recipe, and why that one, in words.

    Few tasks or rows get the single LoRA. The batch leaves each step something to choose from; steps go through the
    data a few times, within what a machine does in about an hour.
    """
    rows = sum(len(task) for task in tasks)
    few = len(tasks) < _FEW_TASKS or rows < _FEW_ROWS
    chosen = recipes.load("lora" if few else "tsembed")
    identities = len({task.identity(row) for task in tasks for row in range(len(task))})
    size = max(2, min(256 if gpu else chosen.batch.size, identities // 2))
    least, most = _STEPS_ON_GPU if gpu else _STEPS_ON_CPU
    steps = min(most, max(least, round((_PASSES_OF_FEW if few else _PASSES_OF_MANY) * rows / size)))
    every = max(1, steps // 6)
    changes: dict[str, dict[str, Any]] = {
        "batch": {"size": size, "sub_batch": min(chosen.batch.sub_batch, size)},
        "run": {"steps": steps, "validate_every": every, "checkpoint_every": every},
    }
    why = f"{rows:,} rows of {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}: the recipe {chosen.name}"
    return recipes.apply(chosen, changes), f"{why}, {steps} steps of {size} rows."
