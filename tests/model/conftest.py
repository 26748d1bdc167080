"""Tiny random models, each made once per run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tsembed_search.model.embedder import Embedder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors are not worth sharing out: on a busy machine several threads are five times slower than one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny model. Read it; copy it before changing it."""
    import tiny_models

    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tiny_models.make(family, tmp_path_factory.mktemp("models") / family)
        return made[family]

    return folder


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
