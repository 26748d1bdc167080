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
from tsembed_search.model.backbones.protocol import Adaptable
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.settings import Recipe
from tsembed_search.version import __version__


def adapted(backbone: Any, recipe: Recipe) -> Adaptable:
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
        settings = recipe.adapter.settings()
        try:
            backbone.adapt(settings)
        except ModelError as error:
            raise UsageError(
                f"The adapter table does not suit {recipe.model.base}. {error.message}", error.hint
            ) from error
    adaptable: Adaptable = backbone
    dim = adaptable.info.dim
    if beyond := [one for one in recipe.loss.dimensions if one > dim]:
        raise UsageError(
            f"loss.dimensions cannot have {beyond[0]}: vectors of {recipe.model.base} have {dim} numbers.",
            f"Use numbers below {dim}.",
        )
    return adaptable


def precision(name: str, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Makes the context of a forward pass: `auto` computes in bfloat16 on a GPU, in float32 on a CPU."""
    if name == "float32" or (name == "auto" and device.type == "cpu"):
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def tokens(backbone: Adaptable, device: torch.device) -> int:
    """Tokens with gradients that fit: activations of a backward pass take several times those of a forward pass."""
    return backbone.batch_tokens if device.type == "cpu" else max(1024, backbone.batch_tokens // 4)


def compile_model(backbone: Any) -> None:
    """Runs the model through torch.compile from now on."""
    for name in ("model", "encoder"):
        if isinstance(module := getattr(backbone, name, None), torch.nn.Module):
            module.compile()


def seed_step(seed: int, step: int, rank: int) -> None:
    """Starts torch's and Python's random numbers of one step."""
    number = (seed * 1_000_003 + step) * 4099 + rank
    torch.manual_seed(number)
    random.seed(number)


def header(job: Job, backbone: Adaptable, trained: Sequence[Tensor], tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
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
