"""The beginning of a run: its model, its folder and log, and remarks on settings that have no effect."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import torch
from torch import Tensor

from tsembed_search.errors import ModelError, UsageError
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import ModelRef, Trainable
from tsembed_search.trainer import gradcache
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.batches.sampler import Sampler
from tsembed_search.trainer.distributed import Processes
from tsembed_search.trainer.job import Job, begin, check_free, check_same, in_words, summary
from tsembed_search.trainer.log import NAME, Log
from tsembed_search.trainer.optimizer import Optimizer
from tsembed_search.trainer.packing import Shape
from tsembed_search.trainer.settings import Recipe
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
        return Shape(self.backbone.info.dim, *self.adapters.shape)


def loaded(job: Job, processes: Processes, device: str) -> tuple[Sampler, dict[str, Any], Model]:
    """Check data and folder, and load the model. Raises what `train` does."""
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
    """Return the backbone with fresh adapters, always the same ones for a seed, or with those that it has: training
    goes on from a checkpoint. Raises `ModelError` when it can carry none, and `UsageError` when the recipe asks for
    what the model does not have.
    """
    base = recipe.model.base
    if not backbone.info.trainable:
        raise ModelError(
            f"{base} cannot be the base of training.",
            "Set model.base to mini-base, a transformers model or a checkpoint.",
        )
    trainable: Trainable = backbone
    if trainable.adapters is None:
        gradcache.seed_step(recipe.run.seed, 0, 0)
        try:
            trainable.adapt(recipe.adapter)
        except ModelError as error:
            raise UsageError(f"The adapter table does not suit {base}. {error.message}", error.hint) from error
    dim = trainable.info.dim
    if beyond := [one for one in recipe.loss.dimensions if one > dim]:
        raise UsageError(
            f"loss.dimensions cannot have {beyond[0]}: vectors of {base} have {dim} numbers.",
            f"Use numbers below {dim}.",
        )
    return trainable


def begun(job: Job, processes: Processes, facts: Mapping[str, Any]) -> Log:
    """Open the log, and make the folder of a new run first; both are the first process's."""
    with in_words(job.out):
        if not processes.first:
            return Log(None)
        if not job.resume:
            begin(job.out, job.recipe, job.sources, **facts)
        return Log(job.out / NAME, *job.observers)


def header(job: Job, model: Model, optimizer: Optimizer, facts: Mapping[str, Any]) -> dict[str, Any]:
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
            "trainable": sum(parameter.numel() for parameter in optimizer.shared),
            "routes": list(info.routes or ()),
        },
        "data": {
            "sources": list(job.sources),
            "tasks": list(facts["tasks"]),
            "validation": [{"name": task.name, "meta": task.meta, "rows": len(task)} for task in job.held_out],
            "problems": job.problems,
        },
    }


def remarks(job: Job, model: Model, sampler: Sampler) -> list[str]:
    """Return what a person should know before the first step."""
    told = [task for task in job.held_out if len({task.identity(row) for row in range(len(task))}) > 1]
    untold = [task.name for task in job.held_out if task not in told]
    shape, projector = model.shape, model.adapters.projector is not None
    met = Situation(shape.experts, projector, shape.dim, sampler.identities, bool(told))
    said = without_effect(job.recipe, job.chosen, met)
    if model.start != model.base:
        goes_on = f"The adapters of {model.start.name} are trained on; the recipe's own adapter table does not count."
        said.insert(0, goes_on)
    if not told:
        said.append("Nothing is measured: no rows are held out that have two different targets.")
    elif untold:
        said.append(f"Not measured, for want of two different targets among held-out rows: {', '.join(untold)}.")
    return said


_ENOUGH = 20  # losses before `watch` calls one high


@dataclass(frozen=True)
class Situation:
    """The situation of a recipe: `experts` of the model, if its `projector` is trained, D numbers of a vector as `dim`,
    the `most` rows that a batch can have, and if anything is `measured` on held-out rows.
    """

    experts: int
    projector: bool
    dim: int
    most: int
    measured: bool


def without_effect(recipe: Recipe, chosen: Collection[str], met: Situation) -> list[str]:
    """A line for each of the `chosen` keys that has no effect."""
    told = {key: why for keys, why in _idle(recipe, met) for key in keys if key in chosen}
    return [f"{key} has no effect: {why}." for key, why in told.items()]


def _idle(recipe: Recipe, met: Situation) -> Iterator[tuple[tuple[str, ...], str]]:
    """Keys without effect, and why. The first reason of several comes last."""
    run, negatives, stages, optimizer = recipe.run, recipe.negatives, recipe.stages, recipe.optimizer
    weights = ("negatives.beta", "negatives.compared_with", "negatives.mode", "negatives.top_k")
    if negatives.mode == "weight":
        yield ("negatives.top_k",), "negatives.mode = weight weighs all of them"
    else:
        yield ("negatives.beta",), "negatives.mode = sample weighs nothing"
    if negatives.weighting == "llave":
        yield ("negatives.compared_with",), "negatives.weighting = llave compares no experts"
    if negatives.weighting == "none":
        yield weights, "negatives.weighting is none"
    if stages.switch == 1:
        yield ("negatives.weighting", *weights, "stages.router_factor"), "stage 2 never begins, for stages.switch is 1"
    if stages.switch != "auto":
        yield ("stages.latest",), "stages.switch is not auto"
    if met.experts == 1:
        router = ("level", "temperature", "top_k", "noise", "tokens")
        yield tuple(f"adapter.{key}" for key in router), "there is one expert, so nothing is routed"
        yield (
            ("loss.balance", "loss.z", "optimizer.router_learning_rate", "stages.router_factor"),
            "there is one expert",
        )
        if negatives.weighting in ("eans", "shuffled"):
            yield ("negatives.weighting", *weights), "there is one expert, so no two items differ in theirs"
    if not met.projector:
        yield ("optimizer.projector_learning_rate",), "the projector is not trained, see adapter.projector"
    if met.dim in recipe.loss.dimensions:
        yield ("loss.dimensions",), f"{met.dim} is the whole vector, which is trained anyway"
    if recipe.batch.sub_batch > recipe.batch.size:
        yield ("batch.sub_batch",), f"a batch has {recipe.batch.size} rows"
    if recipe.batch.size > met.most:
        yield ("batch.size",), f"no more than {met.most} rows of a batch can have different targets"
    if optimizer.warmup >= run.steps and run.steps > 1:
        yield ("optimizer.warmup",), f"there are {run.steps} steps, so the full rate is reached at the last one alone"
    if run.steps <= _ENOUGH:
        yield ("run.spike",), f"a loss is called high after {_ENOUGH} others, and there are {run.steps} steps"
    if run.checkpoint_every > run.steps:
        yield ("run.checkpoint_every",), f"there are {run.steps} steps; the state is saved after the last one"
    if run.validate_every > run.steps:
        yield ("run.validate_every",), f"there are {run.steps} steps; it validates after the last one"
    if run.patience and not 0 < run.validate_every < run.steps:
        yield ("run.patience",), "it validates at the end only, see run.validate_every"
    if not met.measured:
        keys = ("run.validate_every", "run.validation_rows", "run.patience")
        yield keys, "nothing is measured, for no rows are held out that could be"
