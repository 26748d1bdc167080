"""Reranking by experts, as evaluation does it: for many weights at once, and a weight chosen on half of the queries.

    score = (1 - lambda) · cos(q, d) + lambda · kappa(q, d)        over the first 100 hits

with kappa the dot product of centred unit routes. The form is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tsembed_search.ranking.metrics import TIE, Ranks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.ranking.similarity import Ranked, Rows

    Matrix = NDArray[np.float32]

WEIGHTS: Final = tuple(step / 20 for step in range(21))
"""The weights of a sweep: 0, 0.05, ..., 1."""


@dataclass(frozen=True)
class Kappas:
    """Kappa of each query with its right candidates `[R]` and its best wrong ones `[Q, depth]`, as in `Ranked`."""

    right: Matrix
    wrong: Matrix


def kappas(ranked: Ranked, queries: Matrix | Rows, candidates: Matrix | Rows) -> Kappas:
    """Kappas from the routes of queries `[Q, L·E]` and of candidates `[C, L·E]`."""
    import numpy as np

    sizes = np.diff(ranked.ranks.starts)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    right = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 4096):
        part = slice(start, start + 4096)
        right[part] = np.einsum("nd,nd->n", queries[rows[part]], candidates[ranked.right[part]])
    wrong = np.zeros(ranked.wrong.shape, np.float32)
    for row, places in enumerate(ranked.wrong):
        wrong[row] = candidates[places] @ queries[row]  # what is not there (-1) has a score of minus infinity anyway
    return Kappas(right, wrong)


def reranked(ranked: Ranked, kappa: Kappas, weight: float) -> Ranks:
    """The ranks after reranking the first hits (as many as wrong candidates were kept) with a weight from 0 to 1.

    Ties count against the model, as everywhere. A right candidate further down keeps its rank.
    """
    import numpy as np

    ranks = ranked.ranks
    depth = ranked.wrong.shape[1]
    rows = np.repeat(np.arange(len(ranks)), np.diff(ranks.starts))
    within = ranks.ranks <= depth
    right = (1 - weight) * ranked.right_scores + weight * kappa.right
    missing = ranked.wrong < 0
    wrong = (1 - weight) * np.where(missing, 0, ranked.wrong_scores) + weight * kappa.wrong
    wrong[missing] = -np.inf
    # The right ones among the first hits leave so much less room for wrong ones there.
    room = depth - np.bincount(rows[within], minlength=len(ranks))
    wrong[np.arange(depth)[None, :] >= room[:, None]] = -np.inf
    result = ranks.ranks.copy()
    order = np.flatnonzero(within)
    order = order[np.lexsort((-right[order], rows[order]))]
    if len(order):
        firsts = np.searchsorted(rows[order], rows[order], side="left")
        before = np.empty(len(order), np.int64)
        for start in range(0, len(order), 4096):
            part = order[start : start + 4096]
            before[start : start + 4096] = (wrong[rows[part]] >= (right[part] - TIE)[:, None]).sum(axis=1)
        result[np.flatnonzero(within)] = before + np.arange(len(order)) - firsts + 1
    return replace(ranks, ranks=result)
