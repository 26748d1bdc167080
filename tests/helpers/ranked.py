"""Vectors to rank."""

from __future__ import annotations

import numpy as np


def units(random: np.random.Generator, count: int, width: int = 8) -> np.ndarray:
    vectors = random.standard_normal((count, width)).astype(np.float32)
    # a few of them twice, so that there are ties
    vectors[count // 2 :: 7] = vectors[0]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
