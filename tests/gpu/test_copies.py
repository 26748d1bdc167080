"""Copies between CPU and GPU, and waits for the GPU: as many for a large batch as for a small one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.device_simulation import SimulatedGPU
from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.model.backbones import mini
from tsembed_search.model.embedder import Embedder
from tsembed_search.trainer.batches import features

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def counted(embedder: Embedder, gpu: SimulatedGPU, items: list[Item]) -> tuple[int, int]:
    """Copies and waits of one batch."""
    prepared = [embedder.prepare(item) for item in items]
    embedder.encode(prepared)
    gpu.reset()
    embedder.encode(prepared)
    return gpu.copies, gpu.waits


@pytest.mark.parametrize("name", ["mini-base", "mini"])
def test_mini_does_not_wait_for_every_text(name: str) -> None:
    """What goes there and comes back does so at once, however many there are."""
    with SimulatedGPU() as gpu:
        embedder = Embedder.load(name)
        few = counted(embedder, gpu, [Item("a few words") for _ in range(4)])
        many = counted(embedder, gpu, [Item("a few words " * (at % 9 + 1)) for at in range(1, 200)])
    assert few == many


def test_mini_does_not_wait_for_every_picture() -> None:
    with SimulatedGPU() as gpu:
        embedder = Embedder.load("mini-base")
        few, many = (counted(embedder, gpu, [Item("words", PICTURE)] * count + [Item("more")]) for count in (1, 6))
    assert few == many


def test_what_is_looked_at_comes_back_at_once() -> None:
    """In training: pixels go there together, what was seen comes back together, and goes there again together."""
    few, many = (looked_at(count) for count in (2, 6))
    assert few == many


def looked_at(count: int) -> list[tuple[int, int]]:
    """Copies and waits while that many pictures are looked at, and while what was seen is embedded."""
    with SimulatedGPU() as gpu:
        backbone: Any = loading.load(registry.resolve("mini-base"))
        backbone.tower, backbone.table  # noqa: B018  are loaded now
        backbone.look([backbone.prepare(Item(image=PICTURE))])
        gpu.reset()
        seen = backbone.look([backbone.prepare(Item(image=PICTURE)) for _ in range(count)])
        looking = (gpu.copies, gpu.waits)
        assert all(one is not None and not one.is_cuda for one in seen)
        kept = [backbone.prepare(Item(image=PICTURE), seen=one) for one in seen]
        gpu.reset()
        backbone.forward(kept)
        assert gpu.waits == 0, "what was seen before goes in without a stop"
        assert isinstance(backbone, mini.Mini) and features.preparer_for(backbone, "test", cache=False, workers=1)
        return [looking, (gpu.copies, gpu.waits)]


@pytest.mark.parametrize("family", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl", "smolvlm", "idefics3", "llava-onevision"])
def test_families_do_not_wait_for_every_text(family: str, tiny: Callable[[str], str]) -> None:
    with SimulatedGPU() as gpu:
        embedder = Embedder.load(tiny(family))
        few = counted(embedder, gpu, [Item("a few words") for _ in range(2)])
        assert few == counted(embedder, gpu, [Item("a few words " * (at % 9 + 1)) for at in range(40)])
    assert few[0] <= 4 and few[1] <= 3
