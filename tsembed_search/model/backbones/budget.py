"""The number of tokens that fit on a GPU at once, from its free memory and from what a model needs per token.

The factors are measured: `benchmarks/training_memory.py` gives what a decoder block saves, `tests/gpu/test_budgets.py`
holds all of them to what models really take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LEAST_TOKENS = 1024
MOST_TOKENS = 32768
"""Beyond this a large GPU gains nothing."""
_FORWARD_SHARE, _TRAINING_SHARE = 0.5, 0.75  # of the free memory: other programs, fragmentation, kernels' own space
# Bytes per token: of a forward pass, per unit of the decoder's widest layer; of what a block in training saves for its
# backward pass, per unit of its hidden and its inner width; of a vision tower's forward pass, per patch.
_DECODER, _HIDDEN, _INNER = 64, 50, 8
_TOWER, _PIXEL = 8, 12


@dataclass(frozen=True)
class Needs:
    """Bytes per token of a forward pass, of training, and of training with checkpointing."""

    forward: float
    training: float
    checkpointed: float

    def forward_tokens(self, free: int, most: int = MOST_TOKENS) -> int:
        """Padded tokens of a batch without gradients, with `free` bytes."""
        return _within(free * _FORWARD_SHARE / self.forward, most)

    def training_tokens(self, free: int, checkpointing: bool, most: int = MOST_TOKENS) -> int:
        """Padded tokens with gradients at once."""
        needed = self.checkpointed if checkpointing else self.training
        return _within(free * _TRAINING_SHARE / needed, most // 2 if checkpointing else most // 4)


TWO_BILLION = Needs(forward=574e3, training=4.45e6, checkpointed=0.62e6)
"""The needs of Qwen2-VL-2B and Qwen3-VL-2B, by `needs`, for those who ask before a model is there."""
TWO_BILLION_BYTES = 4_500_000_000
"""Their weights, in bfloat16."""


def needs(config: Any, bytes_each: int = 2) -> Needs:
    """Return what a transformers model takes per token, by its configuration.

    `bytes_each`: of a number of its weights.
    """
    text, factor = config.get_text_config(), bytes_each / 2
    hidden, inner = int(text.hidden_size), int(text.intermediate_size)
    block = factor * (_HIDDEN * hidden + _INNER * inner)
    tower = factor * _patches_per_token(config) * _patch(config.vision_config)
    blocks = int(text.num_hidden_layers)
    return Needs(
        forward=max(factor * _DECODER * max(hidden, inner), tower),
        training=blocks * block + tower,
        checkpointed=blocks * bytes_each * hidden + 2 * block + tower,  # blocks' inputs, and one block there and back
    )


def _patches_per_token(config: Any) -> int:
    """Count how many of the vision tower's patches become one token of the decoder."""
    merge = _first(config.vision_config, "spatial_merge_size") or _first(config, "scale_factor") or 1
    return merge**2


def _patch(vision: Any) -> float:
    """Bytes of one patch in the vision tower, its pixels included, in two bytes a number."""
    hidden = _first(vision, "embed_dim", "hidden_size")
    inner = _first(vision, "intermediate_size") or hidden * vision.mlp_ratio
    return _TOWER * (hidden + inner) + _PIXEL * 3 * int(vision.patch_size) ** 2


def _first(config: Any, *names: str) -> int:
    """The first of these settings that there is; 0 without any."""
    return next((int(found) for name in names if (found := getattr(config, name, None))), 0)


def _within(tokens: float, most: int) -> int:
    return max(min(LEAST_TOKENS, most), min(most, int(tokens)))
