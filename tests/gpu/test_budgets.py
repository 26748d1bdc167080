"""Budgets of tokens are what the GPU holds: for each family, texts and pictures, with and without gradients."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import real_size
import torch

from helpers.device_simulation import GIB, SimulatedGPU
from tsembed_search.items import Item
from tsembed_search.model import backbone as budget
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import autocast
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.moe_lora import attach
from tsembed_search.trainer import recipe
from tsembed_search.trainer.settings import Recipe

FAMILIES = ["qwen2-vl", "qwen2.5-vl", "qwen3-vl", "smolvlm", "idefics3", "llava-onevision"]
SIZES = list(real_size.SIZES)
TOKENS = 128


def on_gpu(gpu: SimulatedGPU, size: str) -> Any:
    model = real_size.model(size, blocks=1, depth=1)
    for tensor in (*model.parameters(), *model.buffers()):
        gpu.take(tensor)
    return model.model


def peak_of(gpu: SimulatedGPU, work: Callable[[], object]) -> int:
    gc.collect()
    before = gpu.live
    gpu.reset()
    kept = work()
    del kept
    return gpu.peak - before


@pytest.mark.parametrize("size", SIZES)
def test_a_forward_pass_stays_below_what_is_reckoned(size: str) -> None:
    """The decoder and the vision tower of real widths, in bytes per token."""
    with SimulatedGPU() as gpu, torch.no_grad():
        inner, needs = on_gpu(gpu, size), budget.needs(real_size.config(size))
        decoder = inner.text_model if size.startswith("smol") else inner.language_model
        words = torch.zeros(1, TOKENS, real_size.SIZES[size]["text"]["hidden_size"], device="cuda").bfloat16()
        decoded = peak_of(gpu, lambda: decoder(inputs_embeds=words, use_cache=False))
        if size.startswith("smol"):
            pixels = torch.zeros(1, 1, 3, 512, 512, device="cuda").bfloat16()
            seen = peak_of(gpu, lambda: inner.get_image_features(pixels)) / 64
        else:
            values = 3 * 2 * real_size.SIZES[size]["vision"]["patch_size"] ** 2
            patches, grid = torch.zeros(256, values, device="cuda").bfloat16(), torch.tensor([[1, 16, 16]])
            seen = peak_of(gpu, lambda: inner.get_image_features(patches, grid.to("cuda"))) / 64
    assert 0.05 * needs.forward < max(decoded / TOKENS, seen) < needs.forward


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_stays_below_what_is_reckoned(size: str, checkpointing: bool) -> None:
    """One block, of which models have about thirty."""
    with SimulatedGPU() as gpu:
        inner = on_gpu(gpu, size)
        decoder = inner.text_model if size.startswith("smol") else inner.language_model
        adapters = attach(decoder, replace(Recipe().adapter, rank=4, dropout=0.1), "layers")
        for parameter in adapters.parameters():
            parameter.requires_grad_(True)
        decoder.train(True)
        if checkpointing:
            settings = {"use_reentrant": False, "context_fn": adapters.routing.checkpoint_context}
            decoder.gradient_checkpointing_enable(settings)
        words = torch.randn(1, TOKENS, real_size.SIZES[size]["text"]["hidden_size"]).bfloat16().to("cuda")

        def there_and_back() -> None:
            with autocast("bfloat16", gpu.device)(), adapters.tracing(None, losses=True) as trace:
                traced = trace.finished(decoder(inputs_embeds=words, use_cache=False).last_hidden_state[:, -1])
            traced.vectors.float().sum().backward()

        there_and_back()
        taken = peak_of(gpu, there_and_back) / TOKENS
    one = budget.needs(real_size.config(size, blocks=1))
    reckoned = one.checkpointed if checkpointing else one.training
    assert 0.05 * reckoned < taken < 1.1 * reckoned


@pytest.mark.parametrize("gigabytes", [6, 8, 16, 24, 48, 80])
@pytest.mark.parametrize("size", SIZES)
def test_cards_get_what_they_hold(size: str, gigabytes: int) -> None:
    needs, free = budget.needs(real_size.config(size)), gigabytes * GIB
    forward, training = needs.forward_tokens(free), needs.training_tokens(free, False)
    checkpointed = needs.training_tokens(free, True)
    assert forward * needs.forward <= free and 1024 <= training <= checkpointed
    assert training * needs.training <= free or training == budget.LEAST_TOKENS
    assert forward <= needs.forward_tokens(2 * free)


@pytest.mark.parametrize("free", [2 * GIB, pytest.param(8 * GIB, marks=pytest.mark.slow)])
def test_mini_asks_the_card(free: int) -> None:
    """Pictures and texts of a whole batch fit in it, and so do those that are looked at for training."""
    picture = np.zeros((260, 260, 3), np.uint8)
    with SimulatedGPU(free) as gpu:
        backbone: Any = loading.load(registry.resolve("mini-base"))
        one = backbone.prepare(Item(image=picture))
        backbone.forward([one])
        each = peak_of(gpu, lambda: backbone.forward([one]))
        assert backbone.batch_tokens // one.tokens * each < gpu.limit - gpu.live
        text = backbone.prepare(Item("word " * 250))
        each = peak_of(gpu, lambda: backbone.forward([text] * 2)) / 2
        assert backbone.batch_tokens // text.tokens * each < gpu.limit - gpu.live
        backbone.adapt(Recipe().adapter)
        for parameter in backbone.adapters.parameters():
            parameter.requires_grad_(True)
        for checkpointing in (False, True):
            if checkpointing:
                backbone.enable_gradient_checkpointing()
            backbone.train(True)

            def there_and_back() -> None:
                backbone.trace([text] * 2).vectors.sum().backward()

            there_and_back()
            each = peak_of(gpu, there_and_back) / 2
            assert backbone.training_tokens(checkpointing) // text.tokens * each < gpu.limit - gpu.live


def test_looking_keeps_to_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pictures come at once."""
    with SimulatedGPU(GIB) as gpu:
        backbone: Any = loading.load(registry.resolve("mini-base"))
        monkeypatch.setitem(backbone.__dict__, "batch_tokens", 4 * 86)
        items = [backbone.prepare(Item(image=np.full((260, 260, 3), at, np.uint8))) for at in range(10)]
        backbone.look(items[:4])
        fits = peak_of(gpu, lambda: backbone.look(items[:4]))
        assert peak_of(gpu, lambda: backbone.look(items)) <= fits * 1.01
        assert all(seen is not None for seen in backbone.look(items))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_what_it_needs(family: str, tiny: Callable[[str], str]) -> None:
    with SimulatedGPU(8 * GIB):
        large: Any = Embedder.load(tiny(family)).backbone
        assert large.batch_tokens == budget.MOST_TOKENS and large.training_tokens(True) == budget.MOST_TOKENS // 2
    needs, little = budget.needs(large.model.config), 20_000_000
    assert 1024 <= needs.forward_tokens(little) < budget.MOST_TOKENS
    assert 1024 <= needs.training_tokens(little, False) < budget.MOST_TOKENS // 4


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mmeb-qwen2vl-2b", "qwen2-vl-2b"),
        ("mmeb-qwen2vl-2b-lora", "qwen2-vl-2b"),
        ("mmeb-qwen3vl-emb-2b", "qwen3-vl-2b"),
    ],
)
def test_recipes_take_what_they_say(name: str, size: str) -> None:
    """Weights and the tokens with gradients at once, against the gigabytes in the recipe's words."""
    found = recipe.load(name)
    assert found.batch.tokens is not None
    taken = (found.batch.tokens * budget.needs(real_size.config(size)).training + budget.TWO_BILLION_BYTES) / 1e9
    said = re.search(r"about (\d+) GB per GPU .computed", found.expected["memory"])
    assert said is not None and 0.85 * int(said[1]) < taken < 1.05 * int(said[1])
