"""A GPU in words: what it can do, and which models and recipes fit on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def words(device: torch.device) -> tuple[str, str]:
    """Return what a GPU can do, in words, and advice that follows from it, which may be empty."""
    import torch

    from tsembed_search.model import backbone as devices
    from tsembed_search.model.backbones import hf

    free = devices.free_bytes(device) or 0
    parts = [devices.describe(device), f"{free / 1e9:.1f} GB free"]
    native = devices.has_bfloat16(device)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        parts.append(f"compute capability {major}.{minor}")
    parts.append("bfloat16" if native else "no bfloat16: large models run in float32, slower and with twice the memory")
    kinds = {"flash_attention_2": "flash attention", "sdpa": "PyTorch's own attention"}
    attention = kinds[hf.attention(device)]
    return f"{', '.join(parts)}, {attention}", _for_recipes(free, device)


def _for_recipes(free: int, device: torch.device) -> str:
    """Say which of the recipes for models of two billion parameters fit."""
    from tsembed_search.model.backbone import LEAST_TOKENS, TWO_BILLION, TWO_BILLION_BYTES, has_bfloat16

    if device.type == "mps":
        return "Training does not run on the GPU of a Mac yet: tsembed train --device cpu."
    factor = 1 if has_bfloat16(device) else 2
    left = free // factor - TWO_BILLION_BYTES
    if left < 2 * LEAST_TOKENS * TWO_BILLION.checkpointed:
        return "The recipes for models of two billion parameters (mmeb-...) do not fit; those for mini do."
    plain, checkpointed = (TWO_BILLION.training_tokens(left, checkpointing) for checkpointing in (False, True))
    if left < 2 * LEAST_TOKENS * TWO_BILLION.training:
        return f"The recipes mmeb-... fit with --set run.gradient_checkpointing=true --set batch.tokens={checkpointed}."
    return (
        f"The recipes mmeb-... fit with batch.tokens of {plain} or less, or of {checkpointed} with "
        "--set run.gradient_checkpointing=true."
    )
