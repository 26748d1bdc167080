"""All that a recipe says, as frozen dataclasses: one per table of the TOML file.

Defaults are those of the whole method on `mini`; the recipes in `recipes/` say what differs. Reading files is
`recipe.py`'s; what a value means and which values make sense is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tsembed_search.errors import UsageError

if TYPE_CHECKING:
    from tsembed_search.model.moe_lora import AdapterSettings


@dataclass(frozen=True)
class Data:
    """What of the data is used: see `data.load`. `validation`: the share of identities held out, or how many rows.
    `weights`, `caps`: per task, or pattern of names, how often it is drawn and how many rows it has at most. `only`:
    the tasks that are read, none means all. `images`: folders to look for images in first. `instructions`: they go
    where the data's layout has them, all before the text, all into the model's own prompt, or nowhere.
    """

    validation: float = 0.02
    weights: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    instructions: Literal["layout", "text", "field", "none"] = "layout"


@dataclass(frozen=True)
class Model:
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

    experts: int = 4
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    level: Literal["token", "sequence"] = "sequence"
    temperature: float = 0.3
    top_k: int | None = None
    noise: float = 0.1
    shared: bool = False
    projections: tuple[str, ...] | None = None
    blocks: tuple[int, ...] | None = None
    projector: bool = False
    tokens: Literal["all", "last", "text", "image"] = "all"

    def settings(self) -> AdapterSettings:
        """What `adapt` takes. Raises `ModelError` for values that make no sense."""
        from tsembed_search.model.moe_lora import PROJECTIONS, AdapterSettings
        from tsembed_search.model.routing import RouterSettings

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
class Loss:
    """`temperature` tau of InfoNCE, `learn_temperature`: where it starts from. `both_directions`: queries compete for a
    document, too. `dimensions`: Matryoshka prefixes that are trained besides the whole vector. `margin`: a candidate
    whose cosine is above the positive's by more than that is taken for a false negative (None: never). `scope`:
    negatives come from the whole batch, or from the query's own task. `balance`, `z`: weights of the routing losses.
    `keep`, `keep_queries`: how much documents, and queries that are texts without an instruction, are held to what they
    are without experts, so that what the base knows is not lost.
    """

    temperature: float = 0.05
    learn_temperature: bool = False
    both_directions: bool = True
    dimensions: tuple[int, ...] = ()
    margin: float | None = 0.3
    scope: Literal["batch", "task"] = "batch"
    balance: float = 0.01
    z: float = 0.0001
    keep: float = 0.0
    keep_queries: float = 0.0


@dataclass(frozen=True)
class Negatives:
    """What decides which negatives count, in stage 2. `weighting`: `none` is InfoNCE, `eans` by likeness of experts,
    `shuffled` is EANS with its weights dealt out anew within each row, `llave` by likeness of vectors. `beta`: how
    sharply. `compared_with`: whose experts those of a negative are compared with, the query's or its target's. `mode`:
    `weight` all, or `sample` the `keep` best. `queue`: documents of past steps that join the pool. `explicit`: hard
    negatives taken from a row of the data, at most.
    """

    weighting: Literal["none", "eans", "shuffled", "llave"] = "eans"
    beta: float = 3.0
    compared_with: Literal["query", "target"] = "target"
    mode: Literal["weight", "sample"] = "weight"
    keep: int = 32
    queue: int = 0
    explicit: int = 1


@dataclass(frozen=True)
class Optimizer:
    """AdamW. `rate` of the experts, `router_rate` of the routers, `projector_rate` of the projector. `warmup`: a share
    of the steps (below 1) or a number. `clip`: the largest norm of the gradient (0: any).
    """

    rate: float = 1e-3
    router_rate: float = 1e-3
    projector_rate: float = 1e-3
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.98
    clip: float = 1.0


@dataclass(frozen=True)
class Stages:
    """`switch`: when stage 2 begins, as a share of the steps (0: at once, 1: never), or `auto`: when the routing
    entropy has settled, at the latest after `latest`. `router_factor`: how fast routers go on learning (0: frozen).
    """

    switch: float | Literal["auto"] = 0.3
    latest: float = 0.5
    router_factor: float = 0.1


@dataclass(frozen=True)
class Batch:
    """`size`: rows of a global batch, over all ranks. `sub_batch`: rows of one task that come together. `mixing`: tasks
    are drawn in proportion to weight · rows^(1/mixing); 1 is by size, infinity is evenly. `tokens`: padded tokens that
    are computed with gradients at once (None: what suits the device).
    """

    size: int = 64
    sub_batch: int = 16
    mixing: float = 2.0
    tokens: int | None = None


@dataclass(frozen=True)
class Run:
    """`steps`, `seed`. `precision`: auto is bfloat16 on a GPU. `checkpointing`: recompute blocks to save memory.
    `compile`: through torch.compile. `checkpoint_every`, `validate_every`: steps (0: only at the end).
    `validation_rows`: at most, per task. `patience`: validations without a new best before it stops (0: never).
    `spike`: it stops when three losses in a row are above that many times the median of the last fifty (0: never).
    `workers`: threads that read pictures (None: by cores). `cache`: keep a frozen vision tower's output on disk.
    """

    steps: int = 300
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpointing: bool = False
    compile: bool = False
    checkpoint_every: int = 100
    validate_every: int = 100
    validation_rows: int = 200
    patience: int = 0
    spike: float = 5.0
    workers: int | None = None
    cache: bool = True


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. `expected`: what a full run takes, in words, for people: memory, time, and the command."""

    name: str = "tsembed"
    about: str = ""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    adapter: Adapter = field(default_factory=Adapter)
    loss: Loss = field(default_factory=Loss)
    negatives: Negatives = field(default_factory=Negatives)
    optimizer: Optimizer = field(default_factory=Optimizer)
    stages: Stages = field(default_factory=Stages)
    batch: Batch = field(default_factory=Batch)
    run: Run = field(default_factory=Run)
    expected: Mapping[str, str] = field(default_factory=dict)


TABLES = ("data", "model", "adapter", "loss", "negatives", "optimizer", "stages", "batch", "run")
"""The tables of a recipe, in their order."""


def check(recipe: Recipe) -> None:
    """Raises `UsageError` for values that make no sense, and says which would."""
    loss, batch, run, negatives = recipe.loss, recipe.batch, recipe.run, recipe.negatives
    rules = (
        (recipe.data.validation >= 0, "data.validation", "0 or more"),
        (all(weight >= 0 for weight in recipe.data.weights.values()), "data.weights", "0 or more"),
        (all(cap >= 1 for cap in recipe.data.caps.values()), "data.caps", "1 or more"),
        (recipe.adapter.rank >= 1, "adapter.rank", "1 or more"),
        (recipe.adapter.experts >= 1, "adapter.experts", "1 or more"),
        (0 <= recipe.adapter.dropout < 1, "adapter.dropout", "from 0 to below 1"),
        (loss.temperature > 0, "loss.temperature", "above 0"),
        (all(one > 0 for one in loss.dimensions), "loss.dimensions", "all above 0"),
        (loss.margin is None or loss.margin >= 0, "loss.margin", "0 or more, or none"),
        (min(loss.balance, loss.z) >= 0, "loss.balance, loss.z", "0 or more"),
        (min(loss.keep, loss.keep_queries) >= 0, "loss.keep, loss.keep_queries", "0 or more"),
        (negatives.beta >= 0, "negatives.beta", "0 or more"),
        (negatives.keep >= 1, "negatives.keep", "1 or more"),
        (negatives.queue >= 0 and negatives.explicit >= 0, "negatives.queue, negatives.explicit", "0 or more"),
        (recipe.optimizer.rate >= 0, "optimizer.rate", "0 or more"),
        (recipe.optimizer.router_rate >= 0, "optimizer.router_rate", "0 or more"),
        (recipe.optimizer.projector_rate >= 0, "optimizer.projector_rate", "0 or more"),
        (recipe.optimizer.warmup >= 0, "optimizer.warmup", "0 or more"),
        (recipe.stages.switch == "auto" or 0 <= recipe.stages.switch <= 1, "stages.switch", "auto, or from 0 to 1"),
        (0 <= recipe.stages.latest <= 1, "stages.latest", "from 0 to 1"),
        (0 <= recipe.stages.router_factor <= 1, "stages.router_factor", "from 0 to 1"),
        (batch.size >= 2, "batch.size", "2 or more"),
        (batch.sub_batch >= 1, "batch.sub_batch", "1 or more"),
        (loss.scope == "batch" or batch.sub_batch >= 2, "batch.sub_batch", "2 or more when loss.scope is task"),
        (batch.mixing > 0, "batch.mixing", "above 0"),
        (batch.tokens is None or batch.tokens > 0, "batch.tokens", "above 0, or none"),
        (run.steps >= 1, "run.steps", "1 or more"),
        (min(run.checkpoint_every, run.validate_every, run.patience) >= 0, "run.checkpoint_every", "0 or more"),
        (run.validation_rows >= 2, "run.validation_rows", "2 or more"),
        (run.spike == 0 or run.spike > 1, "run.spike", "above 1, or 0"),
        (run.workers is None or run.workers >= 1, "run.workers", "1 or more"),
    )
    for fine, key, wanted in rules:
        if not fine:
            raise UsageError(f"The recipe {recipe.name} has a value for {key} that makes no sense.", f"Use {wanted}.")
