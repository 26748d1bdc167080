"""The beginning of a run: its model, its log with the first record, and remarks for the person who started it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import torch
from torch import Tensor

from tsembed_search.errors import ModelError, UsageError
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import ModelRef, Trainable
from tsembed_search.model.moe_lora import Adapters
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.batches.sampler import Sampler
from tsembed_search.trainer.distributed import Processes
from tsembed_search.trainer.gradcache import seed_step
from tsembed_search.trainer.job import Job, begin, check_free, check_same, in_words, summary
from tsembed_search.trainer.log import NAME, Log
from tsembed_search.trainer.losses.base import Shape
from tsembed_search.trainer.settings import Recipe, Situation, without_effect
from tsembed_search.version import __version__


@dataclass(frozen=True)
class Model:
    """The model that is trained: `start` is the one that the recipe names, `base` the frozen one behind it."""

    backbone: Trainable
    start: ModelRef
    base: ModelRef

    @property
    def adapters(self) -> Any:
        """The part of it that is trained."""
        return self.backbone.adapters

    @property
    def device(self) -> torch.device:
        """Where its adapters are."""
        return cast(Tensor, next(self.adapters.expert_parameters())).device

    @property
    def shape(self) -> Shape:
        """The numbers of a vector, of adapted blocks, and of experts."""
        dim, paths = self.backbone.info.dim, self.adapters.paths
        blocks, experts = self.adapters.shape
        if paths is None:
            return Shape(dim, blocks, experts, depths=len(self.adapters.depths))
        return Shape(dim, blocks, experts, paths.settings.count, dim // paths.settings.dim(1))


def loaded(job: Job, processes: Processes, device: str) -> tuple[Sampler, dict[str, Any], Model]:
    """Check data and folder, and load the model. Also return the facts on the data. Raises what `train` does."""
    with in_words(job.out):
        sampler = Sampler(job.train, job.recipe.batch, job.recipe.run.seed)
        facts = {"tasks": summary(job.train), "held_out": summary(job.held_out)}
        if job.resume:
            check_same(job.out, job.recipe, **facts)
        elif processes.first:
            check_free(job.out)
    start = registry.resolve(job.recipe.model.base)
    dtype = torch.float32 if job.recipe.run.precision == "float32" else None
    backbone = adapted(loading.load(start, device, dtype), job.recipe)
    return sampler, facts, Model(backbone, start, loading.base_behind(start))


def adapted(backbone: Any, recipe: Recipe) -> Trainable:
    """Return the backbone with its own adapters, or fresh ones by the seed. Raises `ModelError` and `UsageError`."""
    base = recipe.model.base
    if not backbone.info.trainable:
        raise ModelError(
            f"{base} cannot be the base of training.",
            "Set model.base to mini-base, a transformers model or a checkpoint.",
        )
    trainable: Trainable = backbone
    if trainable.adapters is None:
        seed_step(recipe.run.seed, 0, 0)
        try:
            trainable.adapt(recipe.adapter)
        except ModelError as error:
            raise UsageError(f"The adapter table does not suit {base}. {error.message}", error.hint) from error
    if recipe.paths.count and trainable.adapters is not None and trainable.adapters.paths is None:
        seed_step(recipe.run.seed, 0, 1)
        try:
            trainable.add_paths(recipe.paths.settings)
        except ModelError as error:
            raise UsageError(f"The paths table does not suit {base}. {error.message}", error.hint) from error
    dim = trainable.info.dim
    if beyond := [one for one in recipe.loss.dimensions if one > dim]:
        raise UsageError(
            f"loss.dimensions cannot have {beyond[0]}: vectors of {base} have {dim} numbers.",
            f"Use numbers below {dim}.",
        )
    if recipe.loss.depths and trainable.adapters is not None:
        trainable.adapters.depths = _depths(recipe, trainable, trainable.adapters)
    return trainable


def _depths(recipe: Recipe, trainable: Trainable, adapters: Adapters) -> tuple[int, ...]:
    """The recipe's depths, ascending. Raises `UsageError`."""
    base, depths = recipe.model.base, sorted(recipe.loss.depths)
    if adapters.paths is not None:
        raise UsageError(f"loss.depths does not go with the parallel paths of {base}.", "Leave it out: [].")
    least, most = adapters.blocks[0] + 1, len(trainable.blocks) - 1
    if wrong := [one for one in depths if not least <= one <= most]:
        raise UsageError(
            f"loss.depths cannot have {wrong[0]}: {base} has {most + 1} blocks, and block {least} is the first with "
            "experts.",
            f"Use numbers from {least} to {most}." if least <= most else "Leave it out: [].",
        )
    return tuple(depths)


def begun(job: Job, processes: Processes, facts: Mapping[str, Any]) -> Log:
    """Open the log, and make the folder of a new run first; both are the first process's."""
    with in_words(job.out):
        if not processes.first:
            return Log(None)
        if not job.resume:
            begin(job.out, job.recipe, job.sources, **facts)
        return Log(job.out / NAME, *job.observers)


def header(job: Job, model: Model, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first record of the log, on recipe, model and data."""
    info = model.backbone.info
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
            "trainable": sum(parameter.numel() for parameter in model.adapters.parameters()),
            "routes": list(info.routes or ()),
        },
        "data": {
            "sources": list(job.sources),
            "tasks": list(facts["tasks"]),
            "validation": [{name: task[name] for name in ("name", "meta", "rows")} for task in facts["held_out"]],
            "problems": job.problems,
        },
    }


def remarks(job: Job, model: Model, sampler: Sampler) -> list[str]:
    """Return what a person should know before the first step."""
    untold = [task.name for task in job.held_out if len({task.identity(row) for row in range(len(task))}) < 2]
    measured = len(untold) < len(job.held_out)
    projector = model.adapters.projector is not None
    met = Situation(model.shape.experts, projector, model.shape.dim, sampler.identities, measured, model.shape.paths)
    said = without_effect(job.recipe, job.chosen, met)
    if model.start != model.base:
        goes_on = f"The adapters of {model.start.name} are trained on; the recipe's own adapter table does not count."
        said.insert(0, goes_on)
    if not measured:
        said.append("Nothing is measured: no rows are held out that have two different targets.")
    elif untold:
        said.append(f"Not measured, for want of two different targets among held-out rows: {', '.join(untold)}.")
    return said
