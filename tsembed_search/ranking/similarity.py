"""Similarity: the one place where vectors of queries and of items are compared. And exact rankings in little memory.

A ranking of many candidates computes scores block by block and never keeps them. What is kept of each query is where
its right candidates came out and, for reranking, its best wrong ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from tsembed_search.ranking.metrics import TIE, Ranks

if TYPE_CHECKING:
    from torch import Tensor

    Vectors = TypeVar("Vectors", NDArray[np.float32], Tensor)

Ints = NDArray[np.int64]
Matrix = NDArray[np.float32]

_QUERIES: Final = 256
_CANDIDATES: Final = 8192


def similarity(queries: Vectors, items: Vectors) -> Vectors:
    """Return the cosines `[Q, N]` of unit vectors `[Q, D]` and `[N, D]`, of arrays as of tensors."""
    return queries @ items.T


def pair_similarity(one: Matrix, other: Matrix) -> Matrix:
    """Return the cosines `[B]` of unit vectors `[B, D]`, row by row."""
    pairs: Matrix = np.einsum("nd,nd->n", one, other)
    return pairs


@dataclass(frozen=True)
class Rows:
    """Rows of a matrix, without a copy of it: `[N, D]`, number i being `matrix[rows[i]]`."""

    matrix: Matrix
    rows: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: slice | int | Ints) -> Matrix:
        part: Matrix = self.matrix[self.rows[chosen]]
        return part


@dataclass(frozen=True)
class Ranked:
    """The ranking of Q queries by cosine. R: right candidates of all queries together.

    `ranks`: where they came out; `right`, `right_scores` `[R]`: which they are, and their cosines, in the same order.
    `wrong`, `wrong_scores` `[Q, depth]`: each query's best wrong candidates, best first; where there are fewer, -1 and
    minus infinity.
    """

    ranks: Ranks
    right: Ints
    right_scores: Matrix
    wrong: Ints
    wrong_scores: Matrix

    @property
    def rows(self) -> Ints:
        """`[R]`: the query of each right candidate."""
        return np.repeat(np.arange(len(self.ranks)), np.diff(self.ranks.starts))


def rank(
    queries: Matrix | Rows,
    candidates: Matrix | Rows,
    correct: Sequence[frozenset[int]],
    choices: Sequence[Sequence[int]] | None = None,
    *,
    left_out: Sequence[frozenset[int]] | None = None,
    depth: int = 0,
) -> Ranked:
    """Rank candidates `[C, D]` for queries `[Q, D]`, all unit vectors, and keeps the `depth` best wrong ones.

    `correct`, `choices` and `left_out` are as in `RankingTask`. Memory beyond the vectors does not grow with Q times C.
    Raises `ValueError` for a query without a right candidate among its choices, and for vectors that are not finite.
    """
    if not all(correct):
        raise ValueError("every query needs a right candidate")
    starts = np.cumsum([0, *map(len, correct)], dtype=np.int64)
    right = np.asarray([place for each in correct for place in sorted(each)], dtype=np.int64)
    rows = np.repeat(np.arange(len(correct)), np.diff(starts))
    scores = np.empty(len(right), np.float32)
    before = np.empty(len(right), np.int64)
    wrong = np.full((len(correct), depth), -1, np.int64)
    wrong_scores = np.full((len(correct), depth), -np.inf, np.float32)
    at_once = _QUERIES if choices is None else 1
    for start in range(0, len(correct), at_once):
        stop = min(len(correct), start + at_once)
        part = slice(starts[start], starts[stop])
        never = left_out[start:stop] if left_out is not None else [frozenset[int]()] * (stop - start)
        block = _Block(queries[start:stop], candidates, rows[part] - start, right[part], never, depth)
        if choices is None:
            for first in range(0, len(candidates), _CANDIDATES):
                block.add(candidates[first : first + _CANDIDATES], first)
        else:
            places = np.asarray(choices[start], dtype=np.int64)
            if not correct[start].issubset(choices[start]):
                raise ValueError("a right candidate is not among the choices")
            block.add(candidates[places], places)
        scores[part], before[part] = block.right_scores, block.before
        wrong[start:stop], wrong_scores[start:stop] = block.wrong, block.wrong_scores
    order = np.lexsort((-scores, rows))
    places = np.arange(len(rows)) - starts[rows] + 1
    return Ranked(Ranks(before[order] + places, starts), right[order], scores[order], wrong, wrong_scores)


class _Block:
    """Some queries `[q, D]` while candidates pass by. `rows`, `right` `[r]`: their right candidates; `never`: those of
    each query that are not ranked at all.
    """

    def __init__(
        self,
        queries: Matrix,
        candidates: Matrix | Rows,
        rows: Ints,
        right: Ints,
        never: Sequence[frozenset[int]],
        depth: int,
    ) -> None:
        self.queries, self.rows, self.right, self.depth = queries, rows, right, depth
        self.right_scores = np.empty(len(right), np.float32)
        for start in range(0, len(right), _CANDIDATES):
            part = slice(start, start + _CANDIDATES)
            self.right_scores[part] = pair_similarity(queries[rows[part]], candidates[right[part]])
        self.before = np.zeros(len(right), np.int64)
        self.wrong = np.full((len(queries), depth), -1, np.int64)
        self.wrong_scores = np.full((len(queries), depth), -np.inf, np.float32)
        self._starts = np.searchsorted(rows, np.arange(len(queries) + 1))
        self._one_each = bool((np.diff(self._starts) == 1).all())
        self._never_rows = np.repeat(np.arange(len(never)), [len(each) for each in never])
        self._never = np.asarray([place for each in never for place in each], dtype=np.int64)

    def add(self, candidates: Matrix, places: int | Ints) -> None:
        """Counts candidates `[c, D]`; `places`: where they are among all, or where the first is."""
        scores = similarity(self.queries, candidates)
        if not np.isfinite(scores).all():  # every comparison with NaN is false, and what is right would come first
            raise ValueError("scores are not finite")
        if isinstance(places, int):
            for rows, known in ((self.rows, self.right), (self._never_rows, self._never)):
                inside = (known >= places) & (known < places + len(candidates))
                scores[rows[inside], known[inside] - places] = -np.inf
            places = np.arange(places, places + len(candidates))
        else:
            scores[:, np.isin(places, np.concatenate([self.right, self._never]))] = -np.inf
        thresholds = self.right_scores - np.float32(TIE)
        if self._one_each:
            self.before += (scores >= thresholds[:, None]).sum(axis=1)
        else:
            for row in range(len(self.queries)):
                part = slice(self._starts[row], self._starts[row + 1])
                self.before[part] += scores.shape[1] - np.searchsorted(np.sort(scores[row]), thresholds[part])
        if self.depth:
            self._keep_best(scores, places)

    def _keep_best(self, scores: Matrix, places: Ints) -> None:
        if scores.shape[1] > self.depth:
            best = np.argpartition(-scores, self.depth - 1, axis=1)[:, : self.depth]
            scores, found = np.take_along_axis(scores, best, axis=1), places[best]
        else:
            found = np.broadcast_to(places, scores.shape)
        scores = np.concatenate([self.wrong_scores, scores], axis=1)
        found = np.concatenate([self.wrong, np.where(np.isinf(scores[:, self.depth :]), -1, found)], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.depth]
        self.wrong_scores = np.take_along_axis(scores, order, axis=1)
        self.wrong = np.take_along_axis(found, order, axis=1)
