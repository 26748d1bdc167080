"""All that a recipe says, as frozen dataclasses: one for each table of the TOML file.

Defaults are those of the whole method on `mini`; the recipes in `recipes/` say what differs. pydantic checks every
value against its field's type; `AdapterSettings` is the model's own class.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final, Literal, get_args, get_type_hints

from annotated_types import Interval, MinLen

from tsembed_search.errors import UsageError
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.trainer.path_training import PathTraining

LEAST_LEARNED_TEMPERATURE = 0.01
"""A learned tau goes no lower (Radford et al., arXiv 2103.00020)."""

ENOUGH_LOSSES = 20
"""So many losses there are before one can be called high."""

Weight = Annotated[float, Interval(ge=0, le=1e6)]
Share = Annotated[float, Interval(ge=0, le=1)]
LearningRate = Annotated[float, Interval(ge=0, le=1e30)]
Decay = Annotated[float, Interval(ge=0, lt=1)]
ShareOrNumber = Annotated[float, Interval(ge=0, le=1e9)]
Number = Annotated[int, Interval(ge=1, le=1_000_000)]
NumberOrNone = Annotated[int, Interval(ge=0, le=1_000_000)]
Text = Annotated[str, MinLen(1)]


@dataclass(frozen=True)
class DataSettings:
    """The part of the data that is used: see `data.training.load`. `validation`: the share of identities held out, or a
    number of rows. `weights`, `caps`: per task, or pattern of names, how often it is drawn and its most rows.
    `only`: the tasks that are read, none means all. `images`: folders to look for images in first. `instructions`: they
    go where the data's layout has them, all before the text, all into the model's own prompt, or nowhere.
    """

    validation: ShareOrNumber = 0.02
    weights: Mapping[str, Weight] = field(default_factory=dict)
    caps: Mapping[str, Annotated[int, Interval(ge=1, le=10**12)]] = field(default_factory=dict)
    only: tuple[Text, ...] = ()
    images: tuple[Text, ...] = ()
    instructions: Literal["layout", "text", "field", "none"] = "layout"


@dataclass(frozen=True)
class ModelSettings:
    """`base`: a model's name, hub name or folder, which stays frozen. A checkpoint's adapters are trained on, as they
    are: then the recipe's own `adapter` table does not count.
    """

    base: Text = "mini-base"


@dataclass(frozen=True)
class LossSettings:
    """`temperature` tau of InfoNCE, `learn_temperature`: where it starts from. `symmetric`: queries compete for a
    document, too. `dimensions`: Matryoshka prefixes that are trained besides the whole vector. `depths`: numbers of
    blocks after which the vector is trained as well, and `shallow_distillation_weight`: how much it is then held to
    that of the whole model. `margin`: a candidate whose cosine is above the positive's by more than that is taken for a
    false negative (None: never), and so is one above the share `margin_relative` of it (NV-Retriever: 0.95), and one
    whose cosine to the positive itself is `duplicates` or more. `scope`: negatives come from the whole batch, or from
    the query's own task. `balance`, `z`: weights of the routing losses. `distillation_weight`,
    `query_distillation_weight`: how much documents, and queries that are texts without an instruction, are held to what
    they are without experts. `more`: losses of other names, each with its settings.
    """

    temperature: Annotated[float, Interval(ge=1e-4, le=1e4)] = 0.05
    learn_temperature: bool = False
    symmetric: bool = True
    dimensions: tuple[Number, ...] = ()
    depths: tuple[Number, ...] = ()
    margin: Annotated[float, Interval(ge=0, le=2)] | None = 0.3
    margin_relative: Share | None = None
    duplicates: Share | None = None
    scope: Literal["batch", "task"] = "batch"
    balance: Weight = 0.01
    z: Weight = 0.0001
    distillation_weight: Weight = 0.0
    query_distillation_weight: Weight = 0.0
    shallow_distillation_weight: Weight = 1.0
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def terms(self) -> dict[str, dict[str, Any]]:
        """The losses that are summed, by their names in `LOSSES`, each with its weight and its own settings."""
        held = {"distillation": self.distillation_weight, "query_distillation": self.query_distillation_weight}
        if self.depths:
            held["shallow_distillation"] = self.shallow_distillation_weight
        return {
            "contrastive": {
                "temperature": self.temperature,
                "learn": self.learn_temperature,
                "dimensions": self.dimensions,
            },
            "balance": {"weight": self.balance},
            "z": {"weight": self.z},
            **{name: {"weight": weight} for name, weight in held.items() if weight},
            **{name: dict(settings) for name, settings in self.more.items()},
        }


@dataclass(frozen=True)
class NegativeSettings:
    """The choice of negatives that count, in stage 2. `weighting`: `none` is InfoNCE, `eans` by likeness of experts,
    `shuffled` is EANS with its weights dealt out anew within each row, `llave` by likeness of vectors. `beta`: how
    sharply. `compared_with`: whose experts those of a negative are compared with, the query's or its target's. `mode`:
    `weight` all, or `sample` the `top_k` best. `queue`: documents of past steps that join the pool. `hard_negatives`:
    taken from a row of the data, at most.
    """

    weighting: Literal["none", "eans", "shuffled", "llave"] = "eans"
    beta: Annotated[float, Interval(ge=0, le=10_000)] = 3.0
    compared_with: Literal["query", "target"] = "target"
    mode: Literal["weight", "sample"] = "weight"
    top_k: Number = 32
    queue: NumberOrNone = 0
    hard_negatives: NumberOrNone = 1


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW. `learning_rate` is that of the experts. `warmup`: a share of the steps (below 1) or a number. `clip`: the
    largest norm of the gradient (0: any).
    """

    learning_rate: LearningRate = 1e-3
    router_learning_rate: LearningRate = 1e-3
    projector_learning_rate: LearningRate = 1e-3
    paths_learning_rate: LearningRate = 1e-3
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup: ShareOrNumber = 0.1
    weight_decay: Annotated[float, Interval(ge=0, le=1000)] = 0.0
    beta1: Decay = 0.9
    beta2: Decay = 0.98
    clip: Annotated[float, Interval(ge=0, le=1e30)] = 1.0


@dataclass(frozen=True)
class StageSettings:
    """`switch`: when stage 2 begins, as a share of the steps (0: at once, 1: never), or `auto`: when the routing
    entropy has settled, at the latest after `latest`. `router_factor`: how fast routers go on learning (0: frozen).
    """

    switch: Share | Literal["auto"] = 0.3
    latest: Share = 0.5
    router_factor: Share = 0.1


@dataclass(frozen=True)
class BatchSettings:
    """`size`: rows of a global batch, over all processes. `sub_batch`: rows of one task that come together.
    `task_temperature`: tasks are drawn in proportion to weight · rows^(1/task_temperature); 1 is by size, infinity is
    evenly. `tokens`: padded tokens that are computed with gradients at once (None: what suits the device).
    """

    size: Annotated[int, Interval(ge=2, le=1_000_000)] = 64
    sub_batch: Number = 16
    task_temperature: Annotated[float, Interval(ge=0.1, le=math.inf)] = 2.0
    tokens: Annotated[int, Interval(ge=1, le=10**9)] | None = None


@dataclass(frozen=True)
class RunSettings:
    """`steps`, `seed`. `precision`: auto is bfloat16 on a GPU. `gradient_checkpointing`: compute blocks twice, to save
    memory. `compile`: through torch.compile. `checkpoint_every`, `validate_every`: steps (0: only at the end).
    `validation_rows`: at most, per task. `patience`: validations without a new best before it stops (0: never).
    `spike`: it stops when three losses in a row are above that many times the median of the last fifty (0: never).
    `workers`: threads that read pictures (None: by cores). `cache`: keep a frozen vision tower's output on disk.
    """

    steps: Annotated[int, Interval(ge=1, le=10_000_000)] = 300
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    checkpoint_every: NumberOrNone = 100
    validate_every: NumberOrNone = 100
    validation_rows: Annotated[int, Interval(ge=2, le=10**9)] = 200
    patience: NumberOrNone = 0
    spike: Annotated[float, Interval(ge=0, le=1e6)] = 5.0
    workers: Annotated[int, Interval(ge=1, le=1024)] | None = None
    cache: bool = True


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. `expected`: what a full run takes, in words, for people: memory, time, and the command."""

    name: str = "tsembed"
    about: str = ""
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    adapter: AdapterSettings = field(
        default_factory=lambda: AdapterSettings(experts=4, rank=8, alpha=16.0, dropout=0.05, noise=0.1)
    )
    paths: PathTraining = field(default_factory=PathTraining)
    loss: LossSettings = field(default_factory=LossSettings)
    negatives: NegativeSettings = field(default_factory=NegativeSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    stages: StageSettings = field(default_factory=StageSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    run: RunSettings = field(default_factory=RunSettings)
    expected: Mapping[str, str] = field(default_factory=dict)


TABLES: Final = ("data", "model", "adapter", "paths", "loss", "negatives", "optimizer", "stages", "batch", "run")
"""The tables of a recipe, in their order."""


def check(recipe: Recipe) -> None:
    """Raise `UsageError` for values that make no sense, alone or together, and say which would."""
    for table in TABLES:
        part = getattr(recipe, table)
        for key, hint in hints_of(type(part)).items():
            checked(f"{table}.{key}", getattr(part, key), hint)
    for wrong, what, advice in _together(recipe):
        if wrong:
            raise UsageError(f"{what} makes no sense as it is.", advice)


def _together(recipe: Recipe) -> Iterator[tuple[bool, str, str]]:
    """Rules that one field's type cannot say: if it is broken, what is wrong, and what to do."""
    loss, optimizer = recipe.loss, recipe.optimizer
    for key, value in (("data.validation", recipe.data.validation), ("optimizer.warmup", optimizer.warmup)):
        rows = "rows" if key == "data.validation" else "steps"
        yield value >= 1 and value != int(value), key, f"Use a share below 1, or a whole number of {rows}."
    yield len(set(loss.dimensions)) < len(loss.dimensions), "loss.dimensions", "Name each of them once."
    yield len(set(loss.depths)) < len(loss.depths), "loss.depths", "Name each of them once."
    both = bool(loss.depths) and recipe.paths.count > 0
    yield both, "loss.depths with paths.count", "Use one of the two: what paths are after fewer blocks is not trained."
    alone = loss.scope == "task" and recipe.batch.sub_batch < 2
    yield alone, "batch.sub_batch with loss.scope = task", "Use 2 or more."
    many = recipe.paths.kind == "expert" and recipe.paths.count > recipe.adapter.experts
    yield many, "paths.count with paths.kind = expert", f"Use {recipe.adapter.experts} or less, one path per expert."
    yield 0 < recipe.run.spike <= 1, "run.spike", "Use a number above 1, or 0."
    fastest = max(optimizer.learning_rate, optimizer.projector_learning_rate)
    most = f"Use {1 / max(fastest, 1e-3):g} or less, or every step turns the weights round."
    yield fastest * optimizer.weight_decay > 1, "optimizer.weight_decay with this learning rate", most
    low = loss.learn_temperature and loss.temperature < LEAST_LEARNED_TEMPERATURE
    least = f"Use {LEAST_LEARNED_TEMPERATURE:g} or more: a learned one never falls below that."
    yield low, f"loss.temperature = {loss.temperature:g} with loss.learn_temperature", least
    if loss.more:
        from tsembed_search.trainer.losses.base import make

        for name, settings in loss.more.items():
            make(name, settings)


def checked(key: str, value: Any, hint: Any) -> Any:
    """Return `value` as the type that the setting has. Raises `UsageError`."""
    from pydantic import ValidationError

    if value == "none" and type(None) in get_args(hint):
        return None
    try:
        return _adapter(hint).validate_python(tuple(value) if isinstance(value, list) else value, strict=True)
    except ValidationError as error:
        said = repr(value)
        said = said if len(said) <= 60 else f"{said[:60]}..."
        raise UsageError(f"{key} cannot be {said}.", _advice(error.errors(), hint)) from error


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


def hints_of(table: Any) -> dict[str, Any]:
    """Return the types of the keys of a table's class, with their bounds."""
    return _hints(table)


@cache
def _hints(table: Any) -> dict[str, Any]:
    return get_type_hints(table, include_extras=True)


_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "tuple_type": "a list",
    "dict_type": "a table of names",
}


def _advice(errors: Sequence[Mapping[str, Any]], hint: Any) -> str:
    """Say what a setting takes, in place of pydantic's words."""
    words, verb = [], "Use"
    for error in errors:
        bounds = error.get("ctx", {})
        if "ge" in bounds or "gt" in bounds:
            words.append(f"{bounds['ge']:g} or more" if "ge" in bounds else f"a number above {bounds['gt']:g}")
        elif "le" in bounds or "lt" in bounds:
            words.append(f"{bounds['le']:g} or less" if "le" in bounds else f"a number below {bounds['lt']:g}")
        else:
            verb, expected = "It takes", bounds.get("expected", "").replace("'", "").replace(" or ", ", ")
            words.append(expected or _KINDS.get(error["type"], error["msg"]))
    words += ["none"] if type(None) in get_args(hint) else []
    return f"{verb} {' or '.join(dict.fromkeys(words))}."


@dataclass(frozen=True)
class Situation:
    """The situation of a recipe: `experts` of the model, if its `projector` is trained, D numbers of a vector as `dim`,
    the `most` rows that a batch can have, if anything is `measured` on held-out rows, and how many `paths` there are.
    """

    experts: int
    projector: bool
    dim: int
    most: int
    measured: bool
    paths: int = 0


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
    if met.paths < 2:
        apart = ("separation", "separation_weight", "separation_warmup", "fits")
        yield tuple(f"paths.{key}" for key in apart), "there are no two paths to keep apart"
    elif recipe.paths.separation in ("none", "orthogonal"):
        yield ("paths.fits",), f"paths.separation = {recipe.paths.separation} learns no network"
    if recipe.paths.kind == "expert":
        yield ("paths.length",), "a path of kind expert has no tokens"
    if not met.paths:
        mine = ("paths.kind", "paths.length", "paths.combine", "paths.weight", "optimizer.paths_learning_rate")
        yield mine, "there are no paths, see paths.count"
    if not met.projector:
        yield ("optimizer.projector_learning_rate",), "the projector is not trained, see adapter.projector"
    if not recipe.loss.depths:
        yield ("loss.shallow_distillation_weight",), "no vector after fewer blocks is trained, see loss.depths"
    if met.dim in recipe.loss.dimensions:
        yield ("loss.dimensions",), f"{met.dim} is the whole vector, which is trained anyway"
    if recipe.batch.sub_batch > recipe.batch.size:
        yield ("batch.sub_batch",), f"a batch has {recipe.batch.size} rows"
    if recipe.batch.size > met.most:
        yield ("batch.size",), f"no more than {met.most} rows of a batch can have different targets"
    if optimizer.warmup >= run.steps and run.steps > 1:
        yield ("optimizer.warmup",), f"there are {run.steps} steps, so the full rate is reached at the last one alone"
    if run.steps <= ENOUGH_LOSSES:
        yield ("run.spike",), f"a loss is called high after {ENOUGH_LOSSES} others, and there are {run.steps} steps"
    if run.checkpoint_every > run.steps:
        yield ("run.checkpoint_every",), f"there are {run.steps} steps; the state is saved after the last one"
    if run.validate_every > run.steps:
        yield ("run.validate_every",), f"there are {run.steps} steps; it validates after the last one"
    if run.patience and not 0 < run.validate_every < run.steps:
        yield ("run.patience",), "it validates at the end only, see run.validate_every"
    if not met.measured:
        keys = ("run.validate_every", "run.validation_rows", "run.patience")
        yield keys, "nothing is measured, for no rows are held out that could be"
