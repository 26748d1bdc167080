"""The contract of losses, what they are given of a batch, and the masks that all of them share.

A loss is a class in a file of this folder (or of another package) and a line in `LOSSES`. A recipe gives it its weight
and its settings by its name: `[loss.more.NAME]`; those that come with the package have keys of their own in `[loss]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from tsembed_search.errors import UsageError
from tsembed_search.model.routing import Traced
from tsembed_search.registry import Registry
from tsembed_search.trainer.packing import Labels


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
    of this process's own items the vectors `own` `[n, D]`, with those that are `held` for this loss.
    """

    pairs: Pairs
    traced: Traced
    labels: Labels
    own: Tensor
    held: Held | None = None


class Loss(Protocol):
    """One summand of what a step minimises, made as `LOSSES.get(name)(**settings)`. It may be a module with trained
    parameters of its own; `held` is optional.
    """

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
        "contrastive": "tsembed_search.trainer.losses.contrastive:Contrastive",
        "balance": "tsembed_search.trainer.losses.routing:LoadBalance",
        "z": "tsembed_search.trainer.losses.routing:RouterZ",
        "distillation": "tsembed_search.trainer.losses.distillation:Distillation",
        "query_distillation": "tsembed_search.trainer.losses.distillation:QueryDistillation",
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


def candidates(
    queries: Tensor,
    documents: Tensor,
    scope: Literal["batch", "task"] = "batch",
    answers: Tensor | None = None,
) -> Tensor:
    """Return, as `[B, M]` bool, the documents that a query could be told from, by what they are.

    `queries` `[B, 5]` and `documents` `[M, 5]` are rows of `Labels.table`; documents begin with the queries' positives.
    `answers` is that of `Labels`. Left out are the positive itself, what has its identity, its content or the query's,
    and whatever is right for an equal query.
    """
    positives = documents[: len(queries)]
    different = positives[:, None, 1] != documents[None, :, 1]
    different &= positives[:, None, 2] != documents[None, :, 2]
    different &= queries[:, None, 2] != documents[None, :, 2]
    different &= (queries[:, None, 4] != documents[None, :, 4]) | (queries[:, None, 4] == 0)
    if answers is not None and len(answers):
        different &= ~_answering(queries[:, 4], documents[:, 2], answers)
    if scope == "task":
        different &= positives[:, None, 3] == documents[None, :, 3]
    return different


def _answering(asked: Tensor, contents: Tensor, answers: Tensor) -> Tensor:
    """`[B, M]` bool: the contents `[M]` that are right for what is asked `[B]`, by pairs of both `[P, 2]`."""
    questions, row = torch.unique(asked, return_inverse=True)
    shown, column = torch.unique(contents, return_inverse=True)
    known = answers[torch.isin(answers[:, 0], questions) & torch.isin(answers[:, 1], shown)].T.contiguous()
    right = torch.zeros(len(questions), len(shown), dtype=torch.bool, device=asked.device)
    right[torch.searchsorted(questions, known[0]), torch.searchsorted(shown, known[1])] = True
    return right[row][:, column]


def without_false(valid: Tensor, similarity: Tensor, margin: float | None) -> Tensor:
    """Return `valid` less likely false negatives: `similarity` `[B, M]` above the positive's (column i of row i) by
    more than `margin`.
    """
    if margin is None:
        return valid
    return valid & (similarity <= similarity.diagonal().unsqueeze(1) + margin)
