"""Settings that a person chose and that change nothing as the others are: a wish is granted, refused or answered."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tsembed_search.trainer.settings import Recipe

_ENOUGH = 20  # losses before `watch` calls one high


@dataclass(frozen=True)
class Situation:
    """What a recipe meets: `experts` of the model, whether its `projector` is trained, D numbers of a vector as `dim`,
    `most` rows that a batch can have, and whether anything is `measured` on held-out rows.
    """

    experts: int
    projector: bool
    dim: int
    most: int
    measured: bool


def remarks(recipe: Recipe, chosen: Collection[str], met: Situation) -> list[str]:
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
