"""Mini's eye: EfficientNet-Lite2 (Tan and Le, arXiv 1905.11946; the Lite variants are Google's), made fast on a CPU.

Batch norms are folded into the convolutions, activations and residual sums are fused into them through oneDNN, memory
is channels-last, and large batches go through in slices that stay in the cache: see `benchmarks/mini_vision.py`.

What mini learns to see: from the vision tower's features to the model's tokens, beside the soft caption.

The soft caption says which of a thousand classes a picture resembles, and nothing else. The projector adds to each of
its tokens what the features say: of the whole picture, and of one quarter of it, so that places count, too. It starts
at zero, so that an untrained one changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import functional

from tsembed_search.model.backbones.mini_encoder import HIDDEN
from tsembed_search.model.backbones.mini_spec import FEATURES

_BATCH_NORM_EPSILON = 1e-3

SLICE = 4

"""Pictures that pass the tower together on a CPU; a slice of another size differs in the last bits."""


# kernel, stride, expansion, repeats: the stages of EfficientNet-Lite2; widths come with the weights.
_STAGES = ((3, 1, 1, 1), (3, 2, 6, 3), (5, 2, 6, 3), (3, 2, 6, 4), (5, 1, 6, 4), (5, 2, 6, 5), (3, 1, 6, 1))


@dataclass(frozen=True)
class _Step:
    """One fused convolution. `opens`: a block starts here; `residual`: the block's input is added to the result."""

    weight: Tensor
    bias: Tensor
    stride: int
    padding: int
    groups: int
    relu6: bool
    opens: bool = False
    residual: bool = False


class VisionTower:
    """Pictures to ImageNet logits. Frozen: it has no gradients and is no `nn.Module`."""

    def __init__(self, state: Mapping[str, Tensor], size: int, device: torch.device) -> None:
        """`state`: the published checkpoint's tensors; `size`: the input's side in pixels."""
        self.steps = [_moved(step, device) for step in _fold(state, size)]
        self.head = state["_fc.weight"].to(device), state["_fc.bias"].to(device)
        self.fused = device.type == "cpu" and hasattr(torch.ops.mkldnn, "_convolution_pointwise")

    def logits(self, pixels: Tensor) -> Tensor:
        """uint8 RGB `[B, H, W, 3]` to logits `[B, 1000]`."""
        return self.see(pixels, lambda features: features[:, :0, 0, 0])[0]

    def see(self, pixels: Tensor, pooled: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """uint8 RGB `[B, H, W, 3]` to logits `[B, 1000]`, and what `pooled` makes of features `[b, 1280, h, w]`."""
        run = self._run_fused if self.fused else self._run
        seen = [run(_normalised(part)) for part in (torch.split(pixels, SLICE) if self.fused else (pixels,))]
        logits = torch.cat([F.linear(features.mean((2, 3)), *self.head) for features in seen])
        return logits, torch.cat([pooled(features) for features in seen])

    def _run_fused(self, x: Tensor) -> Tensor:
        convolution = torch.ops.mkldnn._convolution_pointwise
        kept = x
        for step in self.steps:
            kept = x if step.opens else kept
            geometry = [step.padding] * 2, [step.stride] * 2, [1, 1], step.groups
            if step.residual:
                x = convolution.binary(x, kept, step.weight, step.bias, *geometry, "add", 1.0, None, [], None)
            elif step.relu6:
                x = convolution(x, step.weight, step.bias, *geometry, "hardtanh", [0.0, 6.0], "")
            else:
                x = convolution(x, step.weight, step.bias, *geometry, "none", [], "")
        return x

    def _run(self, x: Tensor) -> Tensor:
        kept = x
        for step in self.steps:
            kept = x if step.opens else kept
            x = F.conv2d(x, step.weight, step.bias, step.stride, step.padding, 1, step.groups)
            if step.relu6:
                x = F.hardtanh_(x, 0.0, 6.0)
            if step.residual:
                x = x + kept
        return x


def _normalised(pixels: Tensor) -> Tensor:
    """uint8 `[B, H, W, 3]` to float `[B, 3, H, W]` as TensorFlow trained it, channels last in memory."""
    return pixels.float().sub_(127).mul_(1 / 128).permute(0, 3, 1, 2)


def _fold(state: Mapping[str, Tensor], size: int) -> list[_Step]:
    """Folds batch norms into convolutions: `w' = w·g`, `b' = beta - mean·g`, with `g = gamma / sqrt(var + eps)`."""

    def step(convolution: str, norm: str, stride: int, side: int, relu6: bool, **flags: bool) -> _Step:
        raw = state[f"{convolution}.weight"]
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _BATCH_NORM_EPSILON)
        weight = raw * scale[:, None, None, None]
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        groups = raw.shape[0] if raw.shape[1] == 1 else 1
        weight, padding = _padded(weight, stride, side)
        return _Step(weight, bias, stride, padding, groups, relu6, **flags)

    steps = [step("_conv_stem", "_bn0", 2, size, True)]
    side, block = math.ceil(size / 2), 0
    for _, first_stride, expansion, repeats in _STAGES:
        for repeat in range(repeats):
            name, stride, inner = f"_blocks.{block}.", first_stride if repeat == 0 else 1, repeat > 0
            if expansion > 1:
                steps.append(step(name + "_expand_conv", name + "_bn0", 1, side, True, opens=True))
            steps.append(step(name + "_depthwise_conv", name + "_bn1", stride, side, True))
            side = math.ceil(side / stride)
            steps.append(step(name + "_project_conv", name + "_bn2", 1, side, False, residual=inner))
            block += 1
    return [*steps, step("_conv_head", "_bn1", 1, side, True)]


def _padded(weight: Tensor, stride: int, side: int) -> tuple[Tensor, int]:
    """TensorFlow's SAME padding. Where it needs one more at the end, the kernel gets a leading zero row and column."""
    kernel = weight.shape[-1]
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    if total % 2:
        weight = F.pad(weight, [1, 0, 1, 0])
    return weight.contiguous(memory_format=torch.channels_last), (total + 1) // 2


def _moved(step: _Step, device: torch.device) -> _Step:
    weight = step.weight.to(device, memory_format=torch.channels_last)
    return replace(step, weight=weight, bias=step.bias.to(device))


PARTS = 4

"""A picture's quarters, one for each token of the soft caption."""

QUARTER = 6, 3

"""The side of each in the last layer, which has nine rows and columns, and the step from one to the next."""


def parts(features: Tensor) -> Tensor:
    """The tower's last layer `[P, 1280, 9, 9]`, averaged over quarters that overlap: `[P, 4, 1280]`, row by row."""
    return functional.avg_pool2d(features, *QUARTER).flatten(2).transpose(1, 2)


class Projector(nn.Module):
    """Token i is `caption_i + W_i n(mean of the parts) + V n(part i)`, n being the layer norm without weights."""

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__()
        self.whole = nn.Linear(FEATURES, PARTS * HIDDEN)
        self.part = nn.Linear(FEATURES, HIDDEN)
        for layer in (self.whole, self.part):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.to(device)

    def forward(self, captions: Tensor, features: Tensor) -> Tensor:
        """Soft captions `[P, 4, 384]` and features `[P, 4, 1280]` to tokens `[P, 4, 384]`."""
        whole = self.whole(functional.layer_norm(features.mean(1), (FEATURES,)))
        part = self.part(functional.layer_norm(features, (FEATURES,)))
        tokens: Tensor = captions + whole.unflatten(1, (PARTS, HIDDEN)) + part
        return tokens
