"""torch.compile: the blocks are few programs, which further batches of other lengths use again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.trainer.settings import Recipe


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.filterwarnings("ignore")
def test_few_programs_for_all_lengths(checkpointing: bool, tiny: Callable[[str], str]) -> None:
    import torch._dynamo  # takes seconds
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    backbone: Any = loading.load(registry.resolve(tiny("qwen2-vl")), "cpu")
    backbone.adapt(replace(Recipe().adapter, rank=2, dropout=0, noise=0))
    for parameter in backbone.adapters.parameters():
        parameter.requires_grad_(True)
    backbone.train(True)
    batches = [
        [backbone.prepare(Item("word " * (1 + (rows * at) % 11))) for at in range(2 + rows)] for rows in range(6)
    ]
    expected = [backbone.trace(items).vectors.detach() for items in batches]
    if checkpointing:
        backbone.enable_gradient_checkpointing()
    backbone.compile(backend="eager")

    def run(items: Any) -> torch.Tensor:
        traced = backbone.trace(items)
        (traced.vectors.sum() + traced.probabilities.sum()).backward()
        with torch.no_grad():
            backbone.trace(items)
        return traced.vectors.detach()

    found = [run(items) for items in batches[:4]]
    programs = counters["stats"]["unique_graphs"]
    found += [run(items) for items in batches[4:]]
    torch._dynamo.reset()
    assert counters["stats"]["unique_graphs"] == programs <= 20
    assert sum(counters["graph_break"].values()) <= 8
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
