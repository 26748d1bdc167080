"""Tiny random models, each made once per run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.fixtures import model_folder as model_folder
from helpers.fixtures import one_thread as one_thread
from helpers.fixtures import small_base as small_base

if TYPE_CHECKING:
    from tsembed_search.model.embedder import Embedder


@pytest.fixture(scope="session")
def tiny_embedder(model_folder: Callable[[str], Path]) -> Callable[[str], Embedder]:
    """The loaded tiny model of a family, on the CPU in float32."""
    from tsembed_search.model.embedder import Embedder

    loaded: dict[str, Embedder] = {}

    def embedder(family: str) -> Embedder:
        if family not in loaded:
            loaded[family] = Embedder.load(str(model_folder(family)), device="cpu")
        return loaded[family]

    return embedder
