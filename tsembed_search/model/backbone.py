"""The contract between a model and everything that uses one.

A model says what it is (`ModelInfo`) and what its inputs must look like (`InputSpec`, small, picklable and free of
torch, so that decoding workers can shape inputs without loading the model), turns items into `Prepared` inputs on the
CPU, and embeds batches of those.

Below the contract: which device a model runs on, in which precision, and how many tokens fit at once. The factors of
that are measured: `benchmarks/training_memory.py` gives what a decoder block saves, `tests/gpu/test_budgets.py` holds
all of them to what models really take.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tsembed_search.errors import ModelError, UsageError
from tsembed_search.items import InputSpec, Item, Role

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from tsembed_search.model.expert_settings import AdapterSettings
    from tsembed_search.model.moe_lora import Adapters
    from tsembed_search.model.path_settings import PathSettings
    from tsembed_search.model.routing import Traced
    from tsembed_search.ranking.scores import Calibration


@dataclass(frozen=True)
class ModelInfo:
    """The facts about a model. `fingerprint` covers base, adapter, pooling, prompt and resolution: two models whose
    vectors may be compared have the same one, and an index holds vectors of one fingerprint only.

    `routes`: (L adapted blocks, E experts), or None without experts. `route_weight`: how much routes should count when
    hits are reranked by them (0..1), or None where that was not measured. `trainable`: the model is a `Trainable`.
    `engine`: what computes it, with its version unless it is PyTorch. `classes`: of how many classes it tells the
    probability in a picture; 0, or the 1,000 of ImageNet.
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
    trainable: bool = False
    engine: str = "PyTorch"
    classes: int = 0


@dataclass(frozen=True)
class ModelRef:
    """A model that exists on this machine. `folder` is None for a built-in one.

    `warning`: what a person who chooses it should know, or nothing. `whole`: of a model that is cut, the one that it is
    otherwise; then either `dim` says how many numbers are left of its vectors, or `depth` how many of its blocks.
    """

    name: str
    family: str
    fingerprint: str
    folder: Path | None = None
    warning: str = field(default="", compare=False)
    whole: ModelRef | None = None
    dim: int | None = None
    depth: int | None = None

    @property
    def uncut(self) -> ModelRef:
        """The model that it is without any cut."""
        return self if self.whole is None else self.whole.uncut


@dataclass(frozen=True)
class BuiltIn:
    """A model that a package brings along, an entry of `MODELS`: a checkpoint in `folder`, or a model whose
    `fingerprint` is known without loading it. `loader`, as `module:function`, takes a device.
    """

    family: str
    folder: Path | None = None
    fingerprint: str = ""
    loader: str = ""


@dataclass(frozen=True)
class Prepared:
    """One item ready for the model. `tokens` is what it costs, in tokens of the model's sequence (a picture's patches
    count as what they cost): the unit of batch budgets.
    """

    tokens: int
    data: Any


@dataclass(frozen=True)
class Encoded:
    """`vectors` `[B, D]`, unit length, float32, on the model's device; `routes` `[B, L·E]` likewise, or None.

    `classes` `[B, C]`: the probabilities of `ModelInfo.classes` in pictures, flattened as the model likes them; rows of
    zeros for items without, None for a model that tells none. Arrays where the model needs no torch.
    """

    vectors: torch.Tensor | NDArray[np.float32]
    routes: torch.Tensor | NDArray[np.float32] | None = None
    classes: torch.Tensor | NDArray[np.float32] | None = None


class Backbone(Protocol):
    """A multimodal encoder. `prepare` is cheap CPU work; `forward` runs without gradients unless asked otherwise.

    An item's vector is the same alone and in any batch (cosine at least 0.9999 in float32).
    """

    @property
    def info(self) -> ModelInfo:
        """The facts about the model."""

    @property
    def inputs(self) -> InputSpec:
        """The form that the model's inputs must have."""

    @property
    def batch_tokens(self) -> int:
        """A token budget per batch (padding included) that suits the model and its device."""

    def prepare(self, item: Item, role: Role = "document") -> Prepared:
        """Return an item as the model takes it. Raises `LoadError` for a picture that cannot be read."""

    def forward(self, batch: Sequence[Prepared]) -> Encoded:
        """Embed a batch: unit vectors `[B, D]`, and routes `[B, L·E]` of a model with experts."""


class Trainable(Backbone, Protocol):
    """A backbone that can carry MoE-LoRA adapters, and so be trained. `adapt` puts fresh ones on it."""

    info: ModelInfo
    adapters: Adapters | None

    @property
    def look_width(self) -> int:
        """Numbers in each row of what a frozen part gives for a picture: see `Looking`. 0: there is no such part."""

    @property
    def blocks(self) -> torch.nn.ModuleList:
        """The transformer blocks that adapters go into."""

    def adapt(self, settings: AdapterSettings) -> Adapters:
        """Put fresh adapters on the model. Raises `ModelError` for settings that it cannot have."""

    def add_paths(self, settings: PathSettings) -> None:
        """Give the model fresh parallel paths beside its adapters. Raises `ModelError` for paths it cannot have."""

    def trace(self, batch: Sequence[Prepared], losses: bool = True) -> Traced:
        """The model on a batch, for training. Gradients flow to adapters and routers. Needs adapters."""

    def without_adapters(self, batch: Sequence[Prepared]) -> torch.Tensor:
        """The model without its experts on a batch: vectors `[B, D]`, without gradients. Needs adapters."""

    def train(self, mode: bool = True) -> None:
        """Turns dropout and router noise on or off."""

    def enable_gradient_checkpointing(self) -> None:
        """Trades time for memory: in training mode, blocks are computed again in the backward pass."""

    def training_tokens(self, checkpointing: bool = False) -> int:
        """A budget of padded tokens with gradients at once that suits the model and its device."""

    def compile(self, **options: Any) -> None:
        """Runs the parts of the blocks through torch.compile from now on. `options` are those of `Module.compile`."""


class Looking(Trainable, Protocol):
    """A trainable model with a frozen part that turns pictures into something short, which training does not change."""

    def look(self, batch: Sequence[Prepared]) -> list[torch.Tensor | None]:
        """Return what the frozen part sees in each item's picture, None without one."""

    def prepare(self, item: Item, role: Role = "document", seen: torch.Tensor | None = None) -> Prepared:
        """As a backbone's `prepare`; with what `look` gave, the picture is not opened."""


LEAST_TOKENS = 1024
MOST_TOKENS = 32768
"""Beyond this a large GPU gains nothing."""
_FORWARD_SHARE, _TRAINING_SHARE = 0.5, 0.75  # of the free memory: other programs, fragmentation, kernels' own space
# Bytes per token: of a forward pass, per unit of the decoder's widest layer; of what a block in training saves for its
# backward pass, per unit of its hidden and its inner width; of a vision tower's forward pass, per patch.
_DECODER, _HIDDEN, _INNER = 64, 50, 8
_TOWER, _PIXEL = 8, 12
_ELSEWHERE = "Choose auto or cpu: {device}."


def pick(name: str = "auto") -> torch.device:
    """`auto` (the first CUDA GPU, else the CPU), `cpu`, `cuda`, `cuda:i` or `mps`, the GPU of a Mac.

    Raises `ModelError` when there is none such.
    """
    import torch

    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ModelError("The device mps does not exist: this is no Mac whose GPU PyTorch can use.", _ELSEWHERE)
        return torch.device("mps")
    count = torch.cuda.device_count() if unusable_gpu() is None else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdigit()) or name.endswith(":"):
        raise ModelError(f"{name!r} is not a device.", "Use auto, cpu, cuda, cuda:1 or mps.")
    index = int(number or 0)
    if index >= count:
        found = f"there are {count}" if count else unusable_gpu() or "there is no GPU that this PyTorch can use"
        raise ModelError(f"The device {name} does not exist: {found}.", _ELSEWHERE)
    return torch.device("cuda", index)


def may_have_gpu() -> bool:
    """Tell whether there may be a GPU that `auto` would take, without importing torch to be sure."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    if os.name == "nt":
        from ctypes.util import find_library

        return find_library("nvcuda") is not None
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))


def unusable_gpu() -> str | None:
    """Why the GPUs of this machine cannot be used, in words; None when they can, or when there are none.

    PyTorch counts GPUs without asking the driver whether it can run this build.
    """
    import torch

    if torch.cuda.is_available() or not torch.cuda.device_count():
        return None
    return (
        f"there is a GPU, but its driver does not run this PyTorch, which was built for CUDA {torch.version.cuda}: "
        "update the driver, or install a PyTorch for an older CUDA"
    )


def describe(device: torch.device) -> str:
    """`cpu`, or `cuda:0 (NVIDIA H200)`."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a GPU computes in bfloat16 itself: NVIDIA's do from compute capability 8 on (2020), AMD's all do.

    Older ones accept it, and then are slower than in float32.
    """
    import torch

    if device.type != "cuda":
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def autocast(name: str, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Return what makes the context of a forward pass in training: `auto` computes in bfloat16 on a GPU that has it,
    else in float32.

    Raises `UsageError` on a Mac's GPU, on which the passes of a step cannot draw the same random numbers twice.
    """
    import torch

    if device.type == "mps":
        raise UsageError("Training does not run on the GPU of a Mac yet; embedding does.", "Choose the CPU: {device}.")
    if name == "float32" or (name == "auto" and not has_bfloat16(device)):
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def free_bytes(device: torch.device) -> int | None:
    """Memory of a GPU that is free now; None on a CPU."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return None


def check_room(name: str, parameters: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raises `ModelError` when the weights of a model, `parameters` numbers, do not fit on a GPU, and says why."""
    free, needed = free_bytes(device), parameters * dtype.itemsize
    if free is None or needed < free:
        return
    why = "" if has_bfloat16(device) or dtype.itemsize < 4 else " (this GPU has no bfloat16, which would take half)"
    raise ModelError(
        f"The weights of {name} take {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}{why}, "
        f"and {describe(device)} has {free / 1e9:.1f} GB free.",
        "Use a smaller model, a larger GPU, or the CPU: {device}.",
    )


@dataclass(frozen=True)
class Needs:
    """Bytes per token of a forward pass, of training, and of training with checkpointing."""

    forward: float
    training: float
    checkpointed: float

    def forward_tokens(self, free: int, most: int = MOST_TOKENS) -> int:
        """Padded tokens of a batch without gradients, with `free` bytes."""
        return max(min(LEAST_TOKENS, most), min(most, int(free * _FORWARD_SHARE / self.forward)))

    def training_tokens(self, free: int, checkpointing: bool, most: int = MOST_TOKENS) -> int:
        """Padded tokens with gradients at once."""
        needed, most = (self.checkpointed, most // 2) if checkpointing else (self.training, most // 4)
        return max(min(LEAST_TOKENS, most), min(most, int(free * _TRAINING_SHARE / needed)))


TWO_BILLION = Needs(forward=574e3, training=4.45e6, checkpointed=0.62e6)
"""The needs of Qwen2-VL-2B and Qwen3-VL-2B, by `needs`, for those who ask before a model is there."""
TWO_BILLION_BYTES = 4_500_000_000
"""Their weights, in bfloat16."""


def needs(config: Any, bytes_each: int = 2) -> Needs:
    """Return what a transformers model takes per token, by its configuration, with weights of `bytes_each` bytes."""

    def first(part: Any, *names: str) -> int:
        return next((int(found) for name in names if (found := getattr(part, name, None))), 0)

    text, vision, factor = config.get_text_config(), config.vision_config, bytes_each / 2
    hidden, inner, blocks = int(text.hidden_size), int(text.intermediate_size), int(text.num_hidden_layers)
    block = factor * (_HIDDEN * hidden + _INNER * inner)
    merged = (first(vision, "spatial_merge_size") or first(config, "scale_factor") or 1) ** 2  # patches in one token
    seen = first(vision, "embed_dim", "hidden_size")
    seen += first(vision, "intermediate_size") or seen * vision.mlp_ratio
    tower = factor * merged * (_TOWER * seen + _PIXEL * 3 * int(vision.patch_size) ** 2)
    return Needs(
        forward=max(factor * _DECODER * max(hidden, inner), tower),
        training=blocks * block + tower,
        checkpointed=blocks * bytes_each * hidden + 2 * block + tower,  # blocks' inputs, and one block there and back
    )
