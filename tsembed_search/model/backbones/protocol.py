"""The contract between a model and everything that uses one.

A model says what it is (`ModelInfo`) and what its inputs must look like (`InputSpec`, small, picklable and free of
torch, so that decoding workers can shape inputs without loading the model), turns items into `Prepared` inputs on the
CPU, and embeds batches of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tsembed_search.items import Item, Role

if TYPE_CHECKING:
    import torch

    from tsembed_search.model.calibration import Calibration
    from tsembed_search.model.moe_lora import Adapters, AdapterSettings


@dataclass(frozen=True)
class ImageSpec:
    """How a picture is shaped before it reaches the model.

    `size` `(H, W)`: exactly that, the aspect ratio kept by white bars when `pad`, else not. Without `size` the aspect
    ratio is kept, the sides are multiples of `multiple` and the area lies within `min_pixels` and `max_pixels` (both in
    pixels).
    """

    size: tuple[int, int] | None = None
    pad: bool = False
    multiple: int = 1
    min_pixels: int = 0
    max_pixels: int = 1024 * 1024


@dataclass(frozen=True)
class TextSpec:
    """How text is measured: a `tokenizers` JSON file and the most tokens of content that one item may have.

    `max_tokens` leaves room for the special tokens and the prompt that the model adds.
    """

    tokenizer_file: Path
    max_tokens: int
    overlap: int = 32


@dataclass(frozen=True)
class InputSpec:
    """All that a decoding worker needs to know of a model. `reads_pages`: it understands a rendered page by eye."""

    image: ImageSpec
    text: TextSpec
    reads_pages: bool = False


@dataclass(frozen=True)
class ModelInfo:
    """What a model is. `fingerprint` covers base, adapter, pooling, prompt and resolution: two models whose vectors
    may be compared have the same one, and an index holds vectors of one fingerprint only.

    `routes`: (L adapted blocks, E experts), or None without experts. `route_weight`: how much routes should count when
    hits are reranked by them (0..1), or None where that was not measured.
    """

    name: str
    fingerprint: str
    dim: int
    parameters: int
    device: str
    dtype: str
    routes: tuple[int, int] | None = None
    calibration: Calibration | None = None
    notes: dict[str, str] = field(default_factory=dict)
    route_weight: float | None = None


@dataclass(frozen=True)
class Prepared:
    """One item ready for the model. `tokens` is what it costs, in tokens of the model's sequence (a picture's patches
    count as what they cost): the unit of batch budgets.
    """

    tokens: int
    data: Any


@dataclass(frozen=True)
class Encoded:
    """`vectors` `[B, D]`, unit length, float32, on the model's device; `routes` `[B, L·E]` likewise, or None."""

    vectors: torch.Tensor
    routes: torch.Tensor | None = None


@dataclass(frozen=True)
class Traced:
    """A batch in training, in its order and with gradients, on the model's device.

    `vectors` `[B, D]` as `forward` gives them. `routes` `[B, L·E]` raw: not centred, each block's E numbers sum to 1.
    `probabilities` `[B, L, E]`: each item's mean probabilities, before top-k. `choices` `[B, L, E]`: the share of its
    tokens that liked each expert best, without gradient. `z`: the mean square of the routers' log-sum-exp. Together the
    last three make the routing losses (`routing.load_balance`, and `z` itself); without `losses` they are empty and 0.
    """

    vectors: torch.Tensor
    routes: torch.Tensor
    probabilities: torch.Tensor
    choices: torch.Tensor
    z: torch.Tensor


class Backbone(Protocol):
    """A multimodal encoder. `prepare` is cheap CPU work; `forward` runs without gradients unless asked otherwise.

    An item's vector is the same alone and in any batch (cosine at least 0.9999 in float32).
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def inputs(self) -> InputSpec: ...

    @property
    def batch_tokens(self) -> int:
        """A token budget per batch (padding included) that suits the model and its device."""
        ...

    def prepare(self, item: Item, role: Role = "document") -> Prepared: ...

    def forward(self, batch: Sequence[Prepared]) -> Encoded: ...


class Adaptable(Backbone, Protocol):
    """A backbone that can carry MoE-LoRA adapters, and so be trained. `adapt` puts fresh ones on it."""

    info: ModelInfo
    adapters: Adapters | None

    @property
    def blocks(self) -> torch.nn.ModuleList:
        """The transformer blocks that adapters go into."""
        ...

    def adapt(self, settings: AdapterSettings) -> Adapters: ...

    def trace(self, batch: Sequence[Prepared], losses: bool = True) -> Traced:
        """The model on a batch, for training. Gradients flow to adapters and routers. Needs adapters."""
        ...

    def plain(self, batch: Sequence[Prepared]) -> torch.Tensor:
        """The model without its experts on a batch: vectors `[B, D]`, without gradients. Needs adapters."""
        ...

    def train(self, mode: bool = True) -> None:
        """Turns dropout and router noise on or off."""
        ...

    def checkpoint(self) -> None:
        """Trades time for memory: in training mode, blocks are computed again in the backward pass."""
        ...

    def training_tokens(self, checkpointing: bool = False) -> int:
        """A budget of padded tokens with gradients at once that suits the model and its device."""
        ...
