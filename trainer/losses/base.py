"""Which documents count as negatives of which query. All losses share these masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """Negatives in one direction: `valid` `[B, M]` bool, and the logarithms of their weights `[B, M]` (None: all 0).

    Column i of row i is the row's positive and never valid.
    """

    valid: Tensor
    log_weights: Tensor | None = None


def candidates(
    queries: Tensor,
    documents: Tensor,
    scope: Literal["batch", "task"] = "batch",
    answers: Tensor | None = None,
) -> Tensor:
    """`[B, M]` bool: the documents that a query could be told from, by what they are.

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
    """`[B, M]` bool: which contents `[M]` are right for what is asked `[B]`, by pairs of both `[P, 2]`."""
    questions, row = torch.unique(asked, return_inverse=True)
    shown, column = torch.unique(contents, return_inverse=True)
    known = answers[torch.isin(answers[:, 0], questions) & torch.isin(answers[:, 1], shown)].T.contiguous()
    right = torch.zeros(len(questions), len(shown), dtype=torch.bool, device=asked.device)
    right[torch.searchsorted(questions, known[0]), torch.searchsorted(shown, known[1])] = True
    return right[row][:, column]


def without_false(valid: Tensor, similarity: Tensor, margin: float | None) -> Tensor:
    """`valid` less what looks like a false negative: `similarity` `[B, M]` above the positive's (column i of row i) by
    more than `margin`.
    """
    if margin is None:
        return valid
    return valid & (similarity <= similarity.diagonal().unsqueeze(1) + margin)
