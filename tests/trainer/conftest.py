"""Mini with fresh adapters, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.fixtures import one_thread as one_thread

if TYPE_CHECKING:
    from tsembed_search.model.backbone import Trainable
    from tsembed_search.model.expert_settings import AdapterSettings


@pytest.fixture(scope="module")
def small_base() -> Iterator[None]:
    """Mini with two of its six layers: how a run begins, goes on and ends does not depend on how deep a model is."""
    from tsembed_search.model.backbones import mini_encoder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini_encoder, "_LAYERS", 2)
        yield


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outlasts a test."""
    monkeypatch.setenv("TSEMBED_HOME", str(tmp_path / "home"))


@pytest.fixture
def adapted() -> Callable[[AdapterSettings], Trainable]:
    """Makes mini with adapters that do something: B is not zero. Always with the same weights."""
    import torch

    from tsembed_search.model.backbones import mini

    def make(settings: AdapterSettings) -> Trainable:
        backbone: Trainable = mini.load("cpu")
        torch.manual_seed(0)
        adapters = backbone.adapt(settings)
        with torch.no_grad():
            for layer in adapters.layers.values():
                layer.up.weight.normal_(std=0.02)
        return backbone

    return make
