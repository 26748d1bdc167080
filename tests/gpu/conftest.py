"""What the tests on a simulated GPU share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.fixtures import model_folder as model_folder
from helpers.fixtures import one_thread as one_thread
from helpers.fixtures import small_base as small_base


@pytest.fixture(scope="session")
def tiny(model_folder: Callable[[str], Path]) -> Callable[[str], str]:
    """The folder of a family's tiny model, as a person would name it."""
    return lambda family: str(model_folder(family))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four small pictures in files."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (40 + 8 * seed, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())
