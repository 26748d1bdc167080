"""The settings of adapters and their routers; a recipe's table `adapter` is this class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Final, Literal, get_args

from annotated_types import Interval

from tsembed_search.errors import ModelError

Tokens = Literal["all", "last", "text", "image"]

PROJECTIONS: Final = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("query", "key", "value", "dense"),
)
"""The usual names of the projections, in most decoders and in BERT's encoder."""


@dataclass(frozen=True)
class RouterSettings:
    """`experts` E. `level`: one gate per token or per item. `temperature` tau: small makes gates sharp. `top_k`: only
    that many experts per gate, renormalised (None: all). `noise`: deviation of what is added to the logits in training.
    `tokens`: those that an item's route is made of, see `counted_tokens`. At token level it is the mean of their gates;
    at sequence level the gate is that of their mean.

    Raises `ModelError` for values that make no sense.
    """

    experts: Annotated[int, Interval(ge=1, le=1024)] = 8
    level: Literal["token", "sequence"] = "sequence"
    temperature: Annotated[float, Interval(ge=1e-4, le=1e4)] = 0.3
    top_k: Annotated[int, Interval(ge=1, le=1024)] | None = None
    noise: Annotated[float, Interval(ge=0, le=1000)] = 0.0
    tokens: Tokens = "all"

    def __post_init__(self) -> None:
        if self.experts < 1:
            raise ModelError(f"There cannot be {self.experts} experts.", "Use one or more.")
        if self.level not in ("token", "sequence"):
            raise ModelError(f"{self.level!r} is not a level of routing.", "Use token or sequence.")
        if self.tokens not in get_args(Tokens):
            raise ModelError(
                f"{self.tokens!r} does not say which tokens a route is made of.", f"Use {', '.join(get_args(Tokens))}."
            )
        if self.top_k is not None and not 1 <= self.top_k <= self.experts:
            raise ModelError(
                f"A gate cannot choose {self.top_k} of {self.experts} experts.",
                f"Set top_k to a number from 1 to {self.experts}, or leave it out.",
            )
        if not self.temperature > 0 or not self.noise >= 0:
            raise ModelError(
                f"A router cannot have temperature {self.temperature} and noise {self.noise}.",
                "The temperature has to be above 0, the noise 0 or more.",
            )


@dataclass(frozen=True, kw_only=True)
class AdapterSettings(RouterSettings):
    """The adapters with their routers: `rank` r per expert; `alpha` scales them by alpha / r. `experts = 1` is the
    plain LoRA of that rank. `shared`: one more expert, for every token.

    `projections`: names (`q_proj`) or patterns of paths within a block (`mlp.*`), None for the usual ones. `blocks`:
    the numbers of those that are adapted, None for all. `projector`: the model's way from pictures to tokens is
    trained, too; only `mini` has a projector to train.
    """

    rank: Annotated[int, Interval(ge=1, le=8192)] = 4
    alpha: Annotated[float, Interval(gt=0, le=1e6)] = 8.0
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    shared: bool = False
    projections: tuple[str, ...] | None = None
    blocks: tuple[Annotated[int, Interval(ge=0, le=100_000)], ...] | None = None
    projector: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise ModelError(f"An expert cannot have rank {self.rank}.", "Use 1 or more.")
        for name in ("projections", "blocks"):
            if getattr(self, name) == ():
                raise ModelError(f"There are no {name} to adapt.", f"Name one or more in {name}, or leave it out.")

    @property
    def width(self) -> int:
        """Rows of A: all experts' ranks together."""
        return (self.experts + self.shared) * self.rank

    def to_json(self) -> dict[str, Any]:
        """The form in `tsembed.json`: the router's settings in a table of their own, projections by name."""
        flat = asdict(self)
        router = {field.name: flat.pop(field.name) for field in fields(RouterSettings)}
        return {"router": router} | flat | {"projections": self.projections or PROJECTIONS}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> AdapterSettings:
        """The inverse of `to_json`; `paths` beside them are not its own. Raises `KeyError`, `TypeError` or `ModelError`
        for what makes no sense.
        """
        given = {**said, **said["router"]}
        del given["router"]
        given.pop("paths", None)
        projections, blocks = tuple(said["projections"]), said["blocks"]
        given["projections"] = None if projections == PROJECTIONS else projections
        return cls(**given | {"blocks": None if blocks is None else tuple(blocks)})
