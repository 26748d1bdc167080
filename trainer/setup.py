"""What a run is made of before its first step: the model with its adapters, precision, a budget, random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from tsembed_search.errors import ModelError, UsageError
from tsembed_search.model.backbone import Trainable, has_bfloat16
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.settings import Recipe
from tsembed_search.version import __version__

_PROGRAMS = 32  # with gradients and without, with padding and without, and so on: all that one part may be compiled to


def adapted(backbone: Any, recipe: Recipe) -> Trainable:
    """The backbone with fresh adapters, always the same ones for a seed, or with those that it has: training goes on
    from a checkpoint. Raises `ModelError` when it can carry none, and `UsageError` when the recipe asks for what the
    model does not have.
    """
    if not hasattr(backbone, "adapt"):
        raise ModelError(
            f"{recipe.model.base} cannot be the base of training.",
            "Use mini-base, a transformers model or a checkpoint: --set model.base=mini-base",
        )
    if backbone.adapters is None:
        seed_step(recipe.run.seed, 0, 0)
        settings = recipe.adapter
        try:
            backbone.adapt(settings)
        except ModelError as error:
            raise UsageError(
                f"The adapter table does not suit {recipe.model.base}. {error.message}", error.hint
            ) from error
    trainable: Trainable = backbone
    dim = trainable.info.dim
    if beyond := [one for one in recipe.loss.dimensions if one > dim]:
        raise UsageError(
            f"loss.dimensions cannot have {beyond[0]}: vectors of {recipe.model.base} have {dim} numbers.",
            f"Use numbers below {dim}.",
        )
    return trainable


def weights_dtype(precision: str) -> torch.dtype | None:
    """What the base's weights are held in: float32 where a run asks for it, else what suits the device (None)."""
    return torch.float32 if precision == "float32" else None


def precision(name: str, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Makes the context of a forward pass: `auto` computes in bfloat16 on a GPU that has it, else in float32.

    Raises `UsageError` on a Mac's GPU, on which the passes of a step cannot draw the same random numbers twice.
    """
    if device.type == "mps":
        raise UsageError("Training does not run on the GPU of a Mac yet; embedding does.", "Use --device cpu.")
    if name == "float32" or (name == "auto" and not has_bfloat16(device)):
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def compile_model(backbone: Trainable, **options: Any) -> None:
    """Runs the parts of the model's blocks, attention and what follows it, through torch.compile from now on.

    Only them: they are where the time goes. A vision tower asks for numbers midway, and checkpointing, which happens
    around a block, cannot be compiled. Routers are left out: each notes what it decides under its block's number, and
    a number that differs is another program. `options` are those of `Module.compile`.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = _PROGRAMS
    assert backbone.adapters is not None
    backbone.adapters.leave_routers_to_python()
    for block in backbone.blocks:
        for part in block.children():
            part.compile(dynamic=True, **options)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Starts torch's and Python's random numbers of one step."""
    number = (seed * 1_000_003 + step) * 4099 + rank
    torch.manual_seed(number)
    random.seed(number)


def header(job: Job, backbone: Trainable, trained: Sequence[Tensor], tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the first record of the log says of recipe, model and data."""
    info = backbone.info
    return {
        "version": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "name": job.recipe.name,
        "recipe": recipes.to_json(job.recipe),
        "seed": job.recipe.run.seed,
        "steps": job.recipe.run.steps,
        "device": info.device,
        "model": {
            "name": info.name,
            "dim": info.dim,
            "parameters": info.parameters,
            "trainable": sum(parameter.numel() for parameter in trained),
            "routes": list(info.routes or ()),
        },
        "data": {
            "sources": list(job.sources),
            "tasks": list(tasks),
            "validation": [{"name": task.name, "meta": task.meta, "rows": len(task)} for task in job.held_out],
            "problems": job.problems,
        },
    }
