"""One thread, and what the tests on a simulated GPU share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from PIL import Image


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads on tiny tensors cost more than they bring."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a family's tiny model."""
    made: dict[str, str] = {}

    def folder(family: str) -> str:
        if family not in made:
            made[family] = str(tiny_models.make(family, tmp_path_factory.mktemp(family)))
        return made[family]

    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four small pictures in files."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (40 + 8 * seed, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())
