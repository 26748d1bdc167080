"""What one token takes on a GPU while a large model is trained: the figures behind `batch.tokens` of the recipes.

    python benchmarks/training_memory.py [--size qwen2-vl-2b] [--experts 4 --rank 4]

Builds two decoder blocks of the real size with random weights on the CPU, runs them under autocast to bfloat16 as a run
does, and adds up what PyTorch saves for the backward pass. Weights, optimiser and the vision tower, which is frozen and
saves nothing, come on top.
"""

from __future__ import annotations

import argparse
from typing import Any
from unittest import mock

import torch
from real_size import SIZES, model
from torch import Tensor

from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.moe_lora import attach

_TOKENS = 128
_BLOCKS = 2


def saved_bytes(size: str, experts: int, rank: int, dropout: float, checkpointing: bool = False) -> float:
    """Bytes saved per token and block."""
    decoder, adapters = _adapted(size, experts, rank, dropout)
    weights = {tensor.untyped_storage().data_ptr() for tensor in decoder.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            kept[place] = tensor
        return tensor

    if checkpointing:
        decoder.gradient_checkpointing_enable(
            {"use_reentrant": False, "context_fn": adapters.routing.checkpoint_context}
        )
    inputs = torch.randn(1, _TOKENS, SIZES[size]["text"]["hidden_size"], dtype=torch.bfloat16)
    with (
        mock.patch.object(
            torch.nn.functional, "dropout", lambda x, p, training, inplace=False: _dropout(x, p, training)
        ),
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        adapters.tracing(None, losses=True) as trace,
    ):
        traced = trace.finished(decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1])
    assert traced.vectors.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / _TOKENS / _BLOCKS


def _dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """As CUDA computes it, which saves one byte per number; the CPU's own saves a mask of x's kind."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _adapted(size: str, experts: int, rank: int, dropout: float) -> tuple[Any, Any]:
    inner = model(size, blocks=_BLOCKS, depth=1).model
    decoder = inner.text_model if hasattr(inner, "text_model") else inner.language_model
    adapters = attach(
        decoder, AdapterSettings(experts, noise=0.1, rank=rank, alpha=4.0 * rank, dropout=dropout), "layers"
    )
    for parameter in adapters.parameters():
        parameter.requires_grad_(True)
    decoder.train(True)
    return decoder, adapters


def main() -> None:
    """Prints a line per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), help="default: all of them")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    asked = parser.parse_args()
    print("size           KiB per token and block    MB per token    GB at 4,096    8,192    16,384 tokens")
    for size in [asked.size] if asked.size else SIZES:
        each = saved_bytes(size, asked.experts, asked.rank, asked.dropout)
        whole = each * SIZES[size]["blocks"]
        ahead = "".join(f"{whole * tokens / 1e9:11.1f}" for tokens in (4096, 8192, 16384))
        print(f"{size:14} {each / 1024:24.0f} {whole / 1e6:15.2f} {ahead}")


if __name__ == "__main__":
    main()
