"""Which documents count as negatives of which query. All losses share these masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Side:
    """Negatives in one direction: `valid` `[B, M]` bool, and the logarithms of their weights `[B, M]` (None: all 0).

    Column i of row i is the row's positive and never valid.
    """

    valid: Tensor
    log_weights: Tensor | None = None


def candidates(queries: Tensor, documents: Tensor, scope: Literal["batch", "task"] = "batch") -> Tensor:
    """`[B, M]` bool: the documents that a query could be told from, by what they are.

    `queries` `[B, 4]` and `documents` `[M, 4]` are rows of `Labels.table`, those of the positives for `queries`, and
    documents begin with these. Left out are the positive itself, what has its identity and what is the same content.
    """
    different = queries[:, None, 1] != documents[None, :, 1]
    different &= queries[:, None, 2] != documents[None, :, 2]
    if scope == "task":
        different &= queries[:, None, 3] == documents[None, :, 3]
    return different


def without_false(valid: Tensor, similarity: Tensor, margin: float | None) -> Tensor:
    """`valid` less what looks like a false negative: `similarity` `[B, M]` above the positive's (column i of row i) by
    more than `margin`.
    """
    if margin is None:
        return valid
    return valid & (similarity <= similarity.diagonal().unsqueeze(1) + margin)
