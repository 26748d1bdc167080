"""Mini with fresh adapters, on one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from helpers.fixtures import one_thread as one_thread
from helpers.fixtures import own_home as own_home
from helpers.fixtures import small_base as small_base

if TYPE_CHECKING:
    from tsembed_search.model.backbone import Trainable
    from tsembed_search.model.expert_settings import AdapterSettings


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
