"""Batches as losses get them, from no model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tsembed_search.items import Item
from tsembed_search.trainer.losses.base import NEGATIVE, POSITIVE, QUERY, Labels, Shape, label, labels
from tsembed_search.trainer.objective import Objective
from tsembed_search.trainer.settings import LossSettings, NegativeSettings

SHAPE = Shape(8, 2, 3)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def packed(rows: int, seed: int = 0) -> Tensor:
    """Representations of `rows` items, as a model might give them."""
    gates = torch.randn(rows, 2, 3, generator=torch.Generator().manual_seed(seed + 1)).softmax(-1).flatten(1)
    choices = functional.one_hot(gates.view(rows, 2, 3).argmax(-1), 3).float().flatten(1)
    return torch.cat([unit(rows, 8, seed=seed), gates, gates, choices, torch.full((rows, 1), 1.5)], dim=1)


def a_batch(identities: list[str], tasks: list[int] | None = None, negatives: int = 0) -> Labels:
    tasks = tasks or [0] * len(identities)
    named = list(zip(identities, tasks, strict=True))
    rows = [label(QUERY, Item(f"q{at}"), task, one) for at, (one, task) in enumerate(named)]
    rows += [label(POSITIVE, Item(f"about {one}"), task, one) for one, task in named]
    rows += [label(NEGATIVE, Item(f"n{at}"), tasks[0]) for at in range(negatives)]
    return labels(rows)


def objective(loss: LossSettings | None = None, negatives: NegativeSettings | None = None) -> Objective:
    return Objective(loss or LossSettings(), negatives or NegativeSettings(), SHAPE)
