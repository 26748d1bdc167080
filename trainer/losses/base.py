"""Losses: what they are given of a batch, their contract, and the table of them.

A loss is a class in a file of this folder (or of another package) and a line in `LOSSES`. A recipe gives it its weight
and its settings by its name: `[loss.more.NAME]`; those that come with the package have keys of their own in `[loss]`.

A batch is one tensor with a row for each item, so that it can be cached in pieces (`gradcache`) and gathered from
several processes (`distributed`) without knowing what is in it:

    [vector D | route L·E | probabilities L·E | choices L·E | z | paths P·D' | shallow K·D ]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from tsembed_search.data.rows import content, number
from tsembed_search.errors import UsageError
from tsembed_search.items import Item
from tsembed_search.model.routing import Traced
from tsembed_search.registry import Registry

QUERY, POSITIVE, NEGATIVE = 0, 1, 2
"""The role of an item in its row."""


class Shape(NamedTuple):
    """D numbers of a vector, L adapted blocks, E experts, P paths, each with `path` numbers, and K `depths` after which
    there is a vector as well.
    """

    dim: int
    blocks: int
    experts: int
    paths: int = 0
    path: int = 0
    depths: int = 0

    @property
    def width(self) -> int:
        """W, the numbers that `pack` makes of an item."""
        return self.dim + 3 * self.blocks * self.experts + 1 + self.paths * self.path + self.depths * self.dim


def pack(traced: Traced) -> Tensor:
    """`[N, W]` float32, with gradients."""
    rows = len(traced.vectors)
    parts = (
        traced.vectors,
        traced.routes,
        traced.probabilities.flatten(1),
        traced.choices.flatten(1),
        traced.z.expand(rows, 1),
        *(more.flatten(1) for more in (traced.paths, traced.shallow) if more is not None),
    )
    return torch.cat([part.float() for part in parts], dim=1)


def unpack(packed: Tensor, shape: Shape) -> Traced:
    """The inverse of `pack`, over however many batches; `z` is the mean."""
    dim, blocks, experts, count, one, depths = shape
    width = blocks * experts
    sizes = [dim, width, width, width, 1, count * one, depths * dim]
    vectors, routes, probabilities, choices, z, paths, shallow = torch.split_with_sizes(packed, sizes, dim=1)
    matrix = (len(packed), blocks, experts)
    return Traced(
        vectors,
        routes,
        probabilities.reshape(matrix),
        choices.detach().reshape(matrix),
        z.mean(),
        paths.reshape(len(packed), count, one) if count else None,
        shallow.reshape(len(packed), depths, dim) if depths else None,
    )


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
    """One row of `Labels`; `asked` is the `question` of the query. A hard negative has its content as its identity."""
    shown = content(item)
    return [role, shown if identity is None else number("identity", identity), shown, task, asked]


def labels(rows: Sequence[Sequence[int]], answers: Iterable[tuple[int, int]] = ()) -> Labels:
    """`Labels` of the rows that `label` made, and of pairs of a question and a content."""
    pairs = torch.tensor(sorted(answers), dtype=torch.int64).reshape(-1, 2)
    return Labels(torch.tensor(rows, dtype=torch.int64).reshape(-1, 5), pairs)


@dataclass(frozen=True)
class Side:
    """Negatives in one direction: `valid` `[B, M]` bool, and the logarithms of their weights `[B, M]` (None: all 0).

    Column i of row i is the row's positive and never valid.
    """

    valid: Tensor
    log_weights: Tensor | None = None


@dataclass(frozen=True)
class Pairs:
    """`queries` `[B, D]` and `documents` `[M, D]`, of unit length; document i is what query i should find, and M >= B.

    `forward`: the documents that compete for a query `[B, M]`; `backward`: the queries that compete for a document
    `[B, B]` (None: only the one direction counts).
    """

    queries: Tensor
    documents: Tensor
    forward: Side
    backward: Side | None = None

    def cut(self, dimensions: int) -> Pairs:
        """The same pairs, of vectors cut to their first numbers and made unit again."""
        queries, documents = (functional.normalize(v[:, :dimensions], dim=-1) for v in (self.queries, self.documents))
        return Pairs(queries, documents, self.forward, self.backward)


@dataclass(frozen=True)
class Held:
    """Items of this process that a loss compares with what they are without adapters: their `places` `[n]` among its
    items, and where they are without adapters, `vectors` `[n, D]`; `total` of them in all processes. `sum` adds up a
    number over processes.
    """

    places: Tensor
    vectors: Tensor
    total: float
    sum: Callable[[float], float]


@dataclass(frozen=True)
class LossInputs:
    """All that a loss may look at: the `pairs` of the whole batch, `traced` of all its items with their `labels`, and
    of this process's own items the vectors `own` `[n, D]`, with those that are `held` for this loss. `paths`: the same
    pairs in each parallel path; then `pairs` are of what the paths are together. `shallow`: the same pairs after fewer
    blocks.
    """

    pairs: Pairs
    traced: Traced
    labels: Labels
    own: Tensor
    held: Held | None = None
    paths: Sequence[Pairs] = ()
    shallow: Sequence[Pairs] = ()


class Loss(Protocol):
    """One summand of what a step minimises, made by its settings. It may be a module with parameters of its own."""

    def __call__(self, batch: LossInputs) -> Tensor:
        """Return a scalar. Gradients flow to `pairs`, `traced` and `own`."""
        ...


@runtime_checkable
class Holding(Protocol):
    """A loss that compares items with what they are without adapters."""

    def held(self, labels: Labels, bare: Sequence[int]) -> Sequence[int]:
        """Return the places of those among the process's items. `bare`: queries that are texts without instruction."""
        ...


LOSSES: Final[Registry[Callable[..., Loss]]] = Registry(
    "loss",
    "tsembed.losses",
    {
        "contrastive": "tsembed_search.trainer.losses.contrastive:InfoNCE",
        "balance": "tsembed_search.trainer.losses.routing:LoadBalance",
        "z": "tsembed_search.trainer.losses.routing:RouterZ",
        "distillation": "tsembed_search.trainer.losses.distillation:Distillation",
        "query_distillation": "tsembed_search.trainer.losses.distillation:QueryDistillation",
        "shallow_distillation": "tsembed_search.trainer.losses.distillation:ShallowDistillation",
        "paths": "tsembed_search.trainer.losses.paths:PathContrastive",
        "vclub": "tsembed_search.trainer.losses.paths:VClub",
        "orthogonal": "tsembed_search.trainer.losses.paths:Orthogonal",
    },
)


def make(name: str, settings: Mapping[str, Any]) -> tuple[Loss, float]:
    """Make a loss of a recipe. Return it with its weight, 1 if its settings say none. Raises `UsageError`."""
    own = dict(settings)
    weight = own.pop("weight", 1.0)
    try:
        if isinstance(weight, bool) or not 0 <= weight <= 1e6:
            raise ValueError("its weight has to be a number from 0 to 1e6")
        return LOSSES.get(name)(**own), float(weight)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The loss {name} cannot be made: {error}.", "Look at its settings in the recipe.") from error
