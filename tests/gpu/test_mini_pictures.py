"""Mini's pictures on a GPU, wherever what was seen of them lies, in every precision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.device_simulation import SimulatedGPU
from tsembed_search.items import Item, Role
from tsembed_search.model.backbone import Prepared
from tsembed_search.model.backbones import mini
from tsembed_search.trainer.batches import features
from tsembed_search.trainer.settings import Recipe


def adapted(projector: bool, device: str = "cuda") -> mini.Mini:
    backbone = mini.load(device)
    torch.manual_seed(0)
    adapters = backbone.adapt(replace(Recipe().adapter, rank=2, projector=projector))
    with torch.no_grad():
        for parameter in adapters.projector_parameters():
            parameter.normal_(std=0.02)
    return backbone


def prepared(backbone: mini.Mini, wanted: Sequence[tuple[Item, Role]]) -> list[Prepared]:
    kept = features.preparer_for(backbone, "test", cache=False, workers=1)
    try:
        return [one for one in kept.prepare(wanted) if isinstance(one, Prepared)]
    finally:
        kept.close()


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("projector", [False, True])
def test_files_and_arrays_and_texts_together(projector: bool, bfloat16: bool, pictures: list[Path]) -> None:
    """Files were seen before and lie on the CPU; arrays are seen now; both are in one batch with texts."""
    array = np.random.default_rng(9).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    wanted: list[tuple[Item, Role]] = [(Item("a", pictures[0]), "query"), (Item(image=array), "document")]
    wanted += [(Item(image=pictures[1]), "document"), (Item("words alone"), "query")]
    on_cpu = adapted(projector, "cpu")
    expected = on_cpu.trace(prepared(on_cpu, wanted), losses=False).vectors.detach()
    with SimulatedGPU(), torch.autocast("cuda", torch.bfloat16) if bfloat16 else nullcontext():
        backbone = adapted(projector)
        backbone.adapters.load_state_dict(on_cpu.adapters.state_dict())  # type: ignore[union-attr]
        ready = prepared(backbone, wanted)
        for _ in range(2):  # the second time nothing is looked at
            found = backbone.trace(ready, losses=False).vectors
            assert found.is_cuda and (found.float().cpu() * expected).sum(1).min() > 0.99
        plain = backbone.without_adapters(ready)
        assert plain.is_cuda and plain.shape == expected.shape


@pytest.mark.parametrize("bfloat16", [False, True])
def test_what_is_seen_does_not_depend_on_precision(bfloat16: bool, pictures: list[Path]) -> None:
    """What a bfloat16 run keeps on disk serves a float32 run as well."""
    backbone = adapted(True, "cpu")
    items = [backbone.prepare(Item(image=one)) for one in pictures]
    exact = backbone.look(items)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        found = backbone.look(items)
    for one, other in zip(found, exact, strict=True):
        assert one is not None and other is not None and torch.equal(one, other) and one.dtype == torch.float16
