"""What stays on the GPU, and the most that is there at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers.device_simulation import SimulatedGPU
from tsembed_search.items import Item
from tsembed_search.model import loading, registry, routing
from tsembed_search.model.backbone import Prepared, Trainable, autocast
from tsembed_search.trainer.settings import Recipe

TEXTS = [f"text {number} with some more words" for number in range(8)]


def adapted(base: str, *, checkpointing: bool) -> Trainable:
    backbone: Any = loading.load(registry.resolve(base))
    torch.manual_seed(0)
    backbone.adapt(replace(Recipe().adapter, rank=2, dropout=0.1))
    for parameter in backbone.adapters.parameters():
        parameter.requires_grad_(True)
    if checkpointing:
        backbone.enable_gradient_checkpointing()
    backbone.train(True)
    return backbone  # type: ignore[no-any-return]


def passed(backbone: Trainable, items: Sequence[Prepared], precision: Callable[[], Any]) -> None:
    """One pass there and back."""
    with precision():
        traced = backbone.trace(items)
    (traced.vectors.sum() + traced.probabilities.sum() + traced.z).backward()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen2-vl", "mini"])
def test_after_a_pass_only_weights_and_gradients_stay(family: str, precision: str, tiny: Callable[[str], str]) -> None:
    """Routers that are computed again leave nothing behind."""
    with SimulatedGPU() as gpu:
        backbone = adapted("mini-base" if family == "mini" else tiny(family), checkpointing=True)
        assert backbone.adapters is not None
        context = autocast(precision, gpu.device)
        before = gpu.live
        passed(backbone, [backbone.prepare(Item(text)) for text in TEXTS], context)
        gc.collect()
        gradients = sum(one.grad.nbytes for one in backbone.adapters.parameters() if one.grad is not None)
        assert gradients > 0
        assert gpu.live - before == gradients


@pytest.mark.parametrize("family", ["qwen2-vl", "mini"])
def test_checkpointing_keeps_the_blocks_inputs_and_computes_one_block_at_a_time(
    family: str, tiny: Callable[[str], str]
) -> None:
    with SimulatedGPU() as gpu:
        peaks = []
        for checkpointing in (False, True):
            backbone = adapted("mini-base" if family == "mini" else tiny(family), checkpointing=checkpointing)
            items = [backbone.prepare(Item(text)) for text in TEXTS]
            passed(backbone, items, autocast("float32", gpu.device))
            before = gpu.live
            gpu.reset()
            traced = backbone.trace(items)
            kept = gpu.live - before
            traced.vectors.sum().backward()
            peaks.append((kept, gpu.peak - before))
            del traced
        (kept, peak), (kept_less, peak_less) = peaks
        assert kept_less < 0.4 * kept and peak_less < 0.8 * peak


def test_of_blocks_computed_again_one_trace_is_there_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds on to the graph of its block's router, which the backward pass has done with."""
    alive: list[int] = []
    made: list[weakref.ref[routing.Trace]] = []

    class Counted(routing.Trace):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(weakref.ref(self))
            alive.append(sum(one() is not None for one in made))

    backbone = adapted("mini-base", checkpointing=True)
    monkeypatch.setattr(routing, "Trace", Counted)
    passed(backbone, [backbone.prepare(Item(text)) for text in TEXTS], nullcontext)
    assert len(made) == 7, "one for the pass there, and one for each block"
    assert max(alive) <= 2
