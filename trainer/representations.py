"""What losses see of a batch: one row per item, with all that the model says of it and what the item is.

Rows of one tensor, so that a batch can be cached in pieces (`gradcache`) and gathered from several processes (`ranks`)
without knowing what is in it:

    [vector D | route L·E | probabilities L·E | choices L·E | z]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsembed_search.items import Item
from tsembed_search.model.backbones.protocol import Traced

QUERY, POSITIVE, NEGATIVE = 0, 1, 2
"""What an item is to its row."""


class Shape(NamedTuple):
    """D numbers of a vector, L adapted blocks, E experts."""

    dim: int
    blocks: int
    experts: int

    @property
    def width(self) -> int:
        """W, the numbers that `pack` makes of an item."""
        return self.dim + 3 * self.blocks * self.experts + 1


def pack(traced: Traced) -> Tensor:
    """`[N, D + 3·L·E + 1]` float32, with gradients."""
    rows = len(traced.vectors)
    parts = (
        traced.vectors,
        traced.routes,
        traced.probabilities.flatten(1),
        traced.choices.flatten(1),
        traced.z.expand(rows, 1),
    )
    return torch.cat([part.float() for part in parts], dim=1)


def unpack(packed: Tensor, shape: Shape) -> Traced:
    """The inverse of `pack`, over however many batches; `z` is the mean."""
    dim, blocks, experts = shape
    width = blocks * experts
    vectors, routes, probabilities, choices, z = torch.split_with_sizes(packed, [dim, width, width, width, 1], dim=1)
    matrix = (len(packed), blocks, experts)
    return Traced(vectors, routes, probabilities.reshape(matrix), choices.detach().reshape(matrix), z.mean())


@dataclass(frozen=True)
class Labels:
    """What N items are: `table` `[N, 4]` int64 with role, identity of the target, content and task of each.

    Within each role items are in the order of their rows; each row has one query and one positive.
    """

    table: Tensor

    @property
    def role(self) -> Tensor:
        """`QUERY`, `POSITIVE` or `NEGATIVE`: `[N]`."""
        return self.table[:, 0]

    def of(self, *roles: int) -> Tensor:
        """The places of the items of some roles, role after role."""
        return torch.cat([(self.role == role).nonzero().squeeze(1) for role in roles])


def label(role: int, item: Item, task: int, identity: str | None = None) -> list[int]:
    """One row of `Labels`. A hard negative has no identity but its content."""
    content = _number(f"{item.text or ''}\0{_picture(item.image)}")
    return [role, content if identity is None else _number(f"identity\0{identity}"), content, task]


def labels(rows: Sequence[Sequence[int]]) -> Labels:
    """`Labels` of the rows that `label` made."""
    return Labels(torch.tensor(rows, dtype=torch.int64).reshape(-1, 4))


def _picture(image: Any) -> str:
    """A picture's file; one that is in memory by its pixels."""
    if image is None or isinstance(image, Path):
        return str(image or "")
    return blake2b(np.asarray(image).tobytes()).hexdigest()


def _number(text: str) -> int:
    """63 bits that stand for a text, the same in every process and run."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1
