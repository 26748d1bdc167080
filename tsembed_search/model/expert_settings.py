"""Expert settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from tsembed_search.errors import ModelError

Tokens = Literal["all", "last", "text", "image"]


@dataclass(frozen=True)
class RouterSettings:
    """`experts` E. `level`: one gate per token or per item. `temperature` tau: small makes gates sharp. `top_k`: only
    that many experts per gate, renormalised (None: all). `noise`: deviation of what is added to the logits in training.
    `tokens`: those that an item's route is made of, see `counted_tokens`. At token level it is the mean of their gates;
    at sequence level the gate is that of their mean.

    Raises `ModelError` for values that make no sense.
    """

    experts: int = 8
    level: Literal["token", "sequence"] = "sequence"
    temperature: float = 0.3
    top_k: int | None = None
    noise: float = 0.0
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


PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("query", "key", "value", "dense"),
)

"""What the projections are called in most decoders, and in BERT's encoder."""


@dataclass(frozen=True)
class AdapterSettings:
    """`rank` r per expert; `alpha` scales the adapters by alpha / r. `shared`: one more expert, for every token.

    `projections`: names (`q_proj`) or patterns of paths within a block (`mlp.*`). `blocks`: which ones, None for all.
    `projector`: what the model sees pictures with is trained, too; only `mini` has a projector to train.
    """

    router: RouterSettings = field(default_factory=RouterSettings)
    rank: int = 4
    alpha: float = 8.0
    dropout: float = 0.0
    shared: bool = False
    projections: tuple[str, ...] = PROJECTIONS
    blocks: tuple[int, ...] | None = None
    projector: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ModelError(f"An expert cannot have rank {self.rank}.", "Use 1 or more.")

    @property
    def width(self) -> int:
        """Rows of A: all experts' ranks together."""
        return (self.router.experts + self.shared) * self.rank
