"""A batch as losses see it: one row per item, with all that the model says of it, and what the item is.

Rows of one tensor, so that a batch can be cached in pieces (`gradcache`) and gathered from several processes
(`distributed`) without knowing what is in it:

    [vector D | route L·E | probabilities L·E | choices L·E | z]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

from tsembed_search.data.rows import content
from tsembed_search.items import Item
from tsembed_search.model.routing import Traced

QUERY, POSITIVE, NEGATIVE = 0, 1, 2
"""The role of an item in its row."""


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
    """The labels of N items: `table` `[N, 5]` int64 with role, identity of the target, content, task, and what is asked
    (see `label`). `answers` `[P, 2]` int64: what is asked, and a content that is right for it, where rows other
    than an item's own tell.

    Within each role items are in the order of their rows; each row has one query and one positive.
    """

    table: Tensor
    answers: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))

    @property
    def role(self) -> Tensor:
        """`QUERY`, `POSITIVE` or `NEGATIVE`: `[N]`."""
        return self.table[:, 0]

    def of(self, *roles: int) -> Tensor:
        """The places of the items of some roles, role after role."""
        return torch.cat([(self.role == role).nonzero().squeeze(1) for role in roles])


def label(role: int, item: Item, task: int, identity: str | None = None, asked: int = 0) -> list[int]:
    """One row of `Labels`. A hard negative has no identity but its content, and answers nothing: `asked` is 0.
    `asked`: the `question` of the row's query.
    """
    shown = content(item)
    return [role, shown if identity is None else _number(f"identity\0{identity}"), shown, task, asked]


def labels(rows: Sequence[Sequence[int]], answers: Iterable[tuple[int, int]] = ()) -> Labels:
    """`Labels` of the rows that `label` made, and of pairs of a question and a content."""
    pairs = torch.tensor(sorted(answers), dtype=torch.int64).reshape(-1, 2)
    return Labels(torch.tensor(rows, dtype=torch.int64).reshape(-1, 5), pairs)


def _number(text: str) -> int:
    """63 bits that stand for a text, the same in every process and run."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1
