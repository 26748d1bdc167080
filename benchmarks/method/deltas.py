"""What training changed in a model's weights: the product of A and B of every projection, without ever forming it.

With experts it is their uniform mixture. Adapters of one seed begin with the same A, so that equal B would be equal
changes; two independent ones would have a cosine near zero.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from runs import Floats

from tsembed_search.model import checkpoint

_A, _B = ".lora_A.weight", ".lora_B.weight"
_BLOCK = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Change:
    """`pairs`: of each projection A `[R, d_in]` and scaled B `[d_out, R]`, their product being the change."""

    pairs: Mapping[str, tuple[Floats, Floats]]

    @staticmethod
    def of(tensors: Mapping[str, ArrayLike], scale: float) -> Change:
        """From tensors under PEFT's names, in any order; `scale` is alpha / r."""
        names = sorted(name.removesuffix(_A) for name in tensors if name.endswith(_A))
        return Change({name: (_exact(tensors[name + _A]), scale * _exact(tensors[name + _B])) for name in names})

    @staticmethod
    def read(model: Path) -> Change:
        """From a checkpoint's folder."""
        from safetensors.numpy import load_file

        config = json.loads((model / checkpoint.CONFIG).read_text(encoding="utf-8"))
        return Change.of(load_file(model / checkpoint.EXPERTS), config["lora_alpha"] / config["r"])

    def blocks(self) -> dict[int, list[str]]:
        """Names of the projections of each block."""
        found: dict[int, list[str]] = {}
        for name in self.pairs:
            number = _BLOCK.search(name)
            assert number is not None, f"{name} is in no block"
            found.setdefault(int(number[1]), []).append(name)
        return dict(sorted(found.items()))


def product(one: Change, other: Change, names: list[str] | None = None) -> float:
    """The inner product of two changes, over some projections or all of them."""
    total = 0.0
    for name in names or list(one.pairs):
        (a, b), (c, d) = one.pairs[name], other.pairs[name]
        total += float(((b.T @ d) * (a @ c.T)).sum())
    return total


def cosine(one: Change, other: Change, names: list[str] | None = None) -> float | None:
    """The cosine of two changes; None where one of them is zero."""
    lengths = product(one, one, names) * product(other, other, names)
    return product(one, other, names) / lengths**0.5 if lengths > 0 else None


def cosines_by_block(one: Change, other: Change) -> list[float | None]:
    """`[L]`: the cosine in each block."""
    return [cosine(one, other, names) for names in one.blocks().values()]


def sketch(change: Change, width: int) -> Floats:
    """`[width]`: a change seen from fixed random directions, so that lengths and angles of many can be compared.

    A direction of a projection is a product of two vectors of random signs, u^T B A v. The same names and shapes have
    the same directions always; distances between sketches are those between changes, within about width^-0.5.
    """
    random = np.random.default_rng(0)
    total: Floats = np.zeros(width)
    for name in sorted(change.pairs):
        a, b = change.pairs[name]
        left = random.integers(2, size=(width, b.shape[0])) * 2.0 - 1
        right = random.integers(2, size=(a.shape[1], width)) * 2.0 - 1
        total += ((left @ b) * (a @ right).T).sum(1)
    return np.asarray(total * width**-0.5)


def _exact(tensor: ArrayLike) -> Floats:
    return np.asarray(tensor, dtype=np.float64)
