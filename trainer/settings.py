"""All that a recipe says, as frozen dataclasses: one per table of the TOML file.

Defaults are those of the whole method on `mini`; the recipes in `recipes/` say what differs. Reading files is
`recipe.py`'s; what a value means and which values make sense is written here: every number carries its `Range`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from tsembed_search.errors import UsageError

if TYPE_CHECKING:
    from tsembed_search.model.expert_settings import AdapterSettings

LEAST_LEARNED_TEMPERATURE = 0.01
"""A learned tau goes no lower (Radford et al., arXiv 2103.00020)."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting takes, from `least` to `most`. `above`: without `least` itself. `off`: one more
    number, outside of them, that switches something off.
    """

    least: float
    most: float
    above: bool = False
    off: float | None = None

    def holds(self, value: float) -> bool:
        """Say if the setting takes `value`. It never takes NaN."""
        low_enough = self.least < value if self.above else self.least <= value
        return (low_enough and value <= self.most) or value == self.off

    def advice(self, value: float) -> str:
        """Say what to use in place of `value`."""
        least = f"a number above {self.least:g}" if self.above else f"{self.least:g} or more"
        said = f"{self.most:g} or less" if value > self.most else least
        if value != value:  # NaN
            said = f"a number from {self.least:g} to {self.most:g}"
        return f"Use {said}{'' if self.off is None else f', or {self.off:g}'}."


Weight = Annotated[float, Range(0, 1e6)]
Share = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 0.999999999)]
LearningRate = Annotated[float, Range(0, 1e30)]
Temperature = Annotated[float, Range(1e-4, 1e4)]
ShareOrNumber = Annotated[float, Range(0, 1e9)]
Number = Annotated[int, Range(1, 1_000_000)]
NumberOrNone = Annotated[int, Range(0, 1_000_000)]


@dataclass(frozen=True)
class DataSettings:
    """What of the data is used: see `data.load`. `validation`: the share of identities held out, or how many rows.
    `weights`, `caps`: per task, or pattern of names, how often it is drawn and how many rows it has at most. `only`:
    the tasks that are read, none means all. `images`: folders to look for images in first. `instructions`: they go
    where the data's layout has them, all before the text, all into the model's own prompt, or nowhere.
    """

    validation: ShareOrNumber = 0.02
    weights: Mapping[str, Weight] = field(default_factory=dict)
    caps: Mapping[str, Annotated[int, Range(1, 1e12)]] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    instructions: Literal["layout", "text", "field", "none"] = "layout"


@dataclass(frozen=True)
class ModelSettings:
    """`base`: a model's name, hub name or folder, which stays frozen. A checkpoint's adapters are trained on, as they
    are: then the recipe's own `adapter` table does not count.
    """

    base: str = "mini-base"


@dataclass(frozen=True)
class Adapter:
    """The trained part: see `AdapterSettings` and `RouterSettings`. `experts = 1` is the plain LoRA of rank `rank`.

    `projections`, `blocks`: None for the usual ones, and all. `projector`: train what mini sees pictures with as well.
    `tokens`: those that a route is made of.
    """

    experts: Annotated[int, Range(1, 1024)] = 4
    rank: Annotated[int, Range(1, 8192)] = 8
    alpha: Annotated[float, Range(0, 1e6, above=True)] = 16.0
    dropout: Decay = 0.05
    level: Literal["token", "sequence"] = "sequence"
    temperature: Temperature = 0.3
    top_k: Annotated[int, Range(1, 1024)] | None = None
    noise: Annotated[float, Range(0, 1000)] = 0.1
    shared: bool = False
    projections: tuple[str, ...] | None = None
    blocks: tuple[Annotated[int, Range(0, 100_000)], ...] | None = None
    projector: bool = False
    tokens: Literal["all", "last", "text", "image"] = "all"

    def settings(self) -> AdapterSettings:
        """What `adapt` takes. Raises `ModelError` for values that make no sense."""
        from tsembed_search.model.expert_settings import PROJECTIONS, AdapterSettings, RouterSettings

        router = RouterSettings(self.experts, self.level, self.temperature, self.top_k, self.noise, self.tokens)
        return AdapterSettings(
            router,
            self.rank,
            self.alpha,
            self.dropout,
            self.shared,
            PROJECTIONS if self.projections is None else self.projections,
            self.blocks,
            self.projector,
        )


@dataclass(frozen=True)
class LossSettings:
    """`temperature` tau of InfoNCE, `learn_temperature`: where it starts from. `symmetric`: queries compete for a
    document, too. `dimensions`: Matryoshka prefixes that are trained besides the whole vector. `margin`: a candidate
    whose cosine is above the positive's by more than that is taken for a false negative (None: never). `scope`:
    negatives come from the whole batch, or from the query's own task. `balance`, `z`: weights of the routing losses.
    `distillation_weight`, `query_distillation_weight`: how much documents, and queries that are texts without an
    instruction, are held to what they
    are without experts, so that what the base knows is not lost.
    """

    temperature: Temperature = 0.05
    learn_temperature: bool = False
    symmetric: bool = True
    dimensions: tuple[Number, ...] = ()
    margin: Annotated[float, Range(0, 2)] | None = 0.3
    scope: Literal["batch", "task"] = "batch"
    balance: Weight = 0.01
    z: Weight = 0.0001
    distillation_weight: Weight = 0.0
    query_distillation_weight: Weight = 0.0


@dataclass(frozen=True)
class NegativeSettings:
    """What decides which negatives count, in stage 2. `weighting`: `none` is InfoNCE, `eans` by likeness of experts,
    `shuffled` is EANS with its weights dealt out anew within each row, `llave` by likeness of vectors. `beta`: how
    sharply. `compared_with`: whose experts those of a negative are compared with, the query's or its target's. `mode`:
    `weight` all, or `sample` the `top_k` best. `queue`: documents of past steps that join the pool. `hard_negatives`:
    taken from a row of the data, at most.
    """

    weighting: Literal["none", "eans", "shuffled", "llave"] = "eans"
    beta: Annotated[float, Range(0, 10_000)] = 3.0
    compared_with: Literal["query", "target"] = "target"
    mode: Literal["weight", "sample"] = "weight"
    top_k: Number = 32
    queue: NumberOrNone = 0
    hard_negatives: NumberOrNone = 1


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW. `learning_rate` is that of the experts. `warmup`: a share
    of the steps (below 1) or a number. `clip`: the largest norm of the gradient (0: any).
    """

    learning_rate: LearningRate = 1e-3
    router_learning_rate: LearningRate = 1e-3
    projector_learning_rate: LearningRate = 1e-3
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup: ShareOrNumber = 0.1
    weight_decay: Annotated[float, Range(0, 1000)] = 0.0
    beta1: Decay = 0.9
    beta2: Decay = 0.98
    clip: Annotated[float, Range(0, 1e30)] = 1.0


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
    """`size`: rows of a global batch, over all ranks. `sub_batch`: rows of one task that come together.
    `task_temperature`: tasks are drawn in proportion to weight · rows^(1/task_temperature); 1 is by size, infinity is
    evenly. `tokens`: padded tokens that
    are computed with gradients at once (None: what suits the device).
    """

    size: Annotated[int, Range(2, 1_000_000)] = 64
    sub_batch: Number = 16
    task_temperature: Annotated[float, Range(0.1, math.inf)] = 2.0
    tokens: Annotated[int, Range(1, 1e9)] | None = None


@dataclass(frozen=True)
class RunSettings:
    """`steps`, `seed`. `precision`: auto is bfloat16 on a GPU. `checkpointing`: recompute blocks to save memory.
    `compile`: through torch.compile. `checkpoint_every`, `validate_every`: steps (0: only at the end).
    `validation_rows`: at most, per task. `patience`: validations without a new best before it stops (0: never).
    `spike`: it stops when three losses in a row are above that many times the median of the last fifty (0: never).
    `workers`: threads that read pictures (None: by cores). `cache`: keep a frozen vision tower's output on disk.
    """

    steps: Annotated[int, Range(1, 10_000_000)] = 300
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpointing: bool = False
    compile: bool = False
    checkpoint_every: NumberOrNone = 100
    validate_every: NumberOrNone = 100
    validation_rows: Annotated[int, Range(2, 1e9)] = 200
    patience: NumberOrNone = 0
    spike: Annotated[float, Range(1, 1e6, above=True, off=0)] = 5.0
    workers: Annotated[int, Range(1, 1024)] | None = None
    cache: bool = True


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. `expected`: what a full run takes, in words, for people: memory, time, and the command."""

    name: str = "tsembed"
    about: str = ""
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    adapter: Adapter = field(default_factory=Adapter)
    loss: LossSettings = field(default_factory=LossSettings)
    negatives: NegativeSettings = field(default_factory=NegativeSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    stages: StageSettings = field(default_factory=StageSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    run: RunSettings = field(default_factory=RunSettings)
    expected: Mapping[str, str] = field(default_factory=dict)


TABLES = ("data", "model", "adapter", "loss", "negatives", "optimizer", "stages", "batch", "run")
"""The tables of a recipe, in their order."""


def check(recipe: Recipe) -> None:
    """Raise `UsageError` for values that make no sense, alone or together, and say which would."""
    for key, number, allowed in numbers(recipe):
        if not allowed.holds(number):
            raise UsageError(f"{key} cannot be {repr(number)[:40]}.", allowed.advice(number))
    adapter, loss, optimizer = recipe.adapter, recipe.loss, recipe.optimizer
    fastest = max(optimizer.learning_rate, optimizer.projector_learning_rate)
    for fine, what, advice in (
        (_share_or_whole(recipe.data.validation), "data.validation", "Use a share below 1, or a whole number of rows."),
        (_share_or_whole(optimizer.warmup), "optimizer.warmup", "Use a share below 1, or a whole number of steps."),
        (
            adapter.top_k is None or adapter.top_k <= adapter.experts,
            f"adapter.top_k: a gate cannot choose {adapter.top_k} of {adapter.experts} experts. It",
            f"Use a number from 1 to {adapter.experts}, or none.",
        ),
        (adapter.projections != (), "adapter.projections", "Name one or more, or use none for the usual ones."),
        (adapter.blocks != (), "adapter.blocks", "Name one or more, or use none for all."),
        (len(set(loss.dimensions)) == len(loss.dimensions), "loss.dimensions", "Name each of them once."),
        (
            loss.scope == "batch" or recipe.batch.sub_batch >= 2,
            "batch.sub_batch with loss.scope = task",
            "Use 2 or more.",
        ),
        (
            fastest * optimizer.weight_decay <= 1,
            "optimizer.weight_decay with this rate",
            f"Use {1 / max(fastest, 1e-3):g} or less, or every step turns the weights round.",
        ),
    ):
        if not fine:
            raise UsageError(f"{what} makes no sense as it is.", advice)
    if loss.learn_temperature and loss.temperature < LEAST_LEARNED_TEMPERATURE:
        raise UsageError(
            f"loss.temperature cannot be {loss.temperature:g} where it is learned: "
            f"a learned one never falls below {LEAST_LEARNED_TEMPERATURE:g}.",
            f"Use {LEAST_LEARNED_TEMPERATURE:g} or more, or leave loss.learn_temperature out.",
        )


def numbers(recipe: Recipe) -> Iterator[tuple[str, float, Range]]:
    """All numbers of a recipe, each with its key and its range."""
    for table in TABLES:
        part = getattr(recipe, table)
        for name, hint in get_type_hints(type(part), include_extras=True).items():
            yield from _numbers(f"{table}.{name}", getattr(part, name), hint)


def _numbers(key: str, value: Any, hint: Any) -> Iterator[tuple[str, float, Range]]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if isinstance(value, int | float):
            yield key, value, inner[1]
    elif origin is Mapping:
        for name, one in value.items():
            yield from _numbers(f"{key}.{name}", one, inner[1])
    elif origin is tuple:
        for one in value or ():
            yield from _numbers(key, one, inner[0])
    elif origin is not Literal:
        for choice in inner:  # of a union
            yield from _numbers(key, value, choice)


def _share_or_whole(value: float) -> bool:
    return value < 1 or value == int(value)
