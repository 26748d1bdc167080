"""Similarity: the one place where vectors of queries and of items are compared. And exact rankings in little memory.

A ranking of many candidates computes scores block by block and never keeps them. What is kept of each query is where
its right candidates came out and, for reranking, its best wrong ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def best_pairs(queries: Matrix, items: Matrix, paths: int) -> Matrix:
    """Return `[Q, N]`: the mean over a query's paths of the best cosine with any path of an item (MaxSim; Khattab and
    Zaharia, *ColBERT*, arXiv 2004.12832). Rows are `paths` equally long vectors side by side, unit as a whole.
    """
    asked, offered = (part.reshape(len(part), paths, -1) for part in (queries, items))
    total = np.zeros((len(queries), len(items)), np.float32)
    for path in range(paths):
        total += np.maximum.reduce([asked[:, path] @ offered[:, other].T for other in range(paths)])
    return total


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


def pair_similarity(queries: Matrix | Rows, rows: Ints, candidates: Matrix | Rows, places: Ints) -> Matrix:
    """Return the cosines `[R]` of query `rows[i]` and candidate `places[i]`, for every i."""
    pairs = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _CANDIDATES):
        part = slice(start, start + _CANDIDATES)
        pairs[part] = np.einsum("nd,nd->n", queries[rows[part]], candidates[places[part]])
    return pairs


def rank(
    queries: Matrix | Rows,
    candidates: Matrix | Rows,
    correct: Sequence[frozenset[int]],
    choices: Sequence[Sequence[int]] | None = None,
    *,
    left_out: Sequence[frozenset[int]] | None = None,
    depth: int = 0,
    paths: int = 1,
) -> Ranked:
    """Rank candidates `[C, D]` for queries `[Q, D]`, all unit vectors, and keep the `depth` best wrong ones.

    `correct`, `choices` and `left_out` are as in `RankingTask`. `paths`: compare by `best_pairs` of so many. Memory
    beyond the vectors does not grow with Q times C.
    Raises `ValueError` for a query without a right candidate among its choices, and for vectors that are not finite.
    """
    if not all(correct):
        raise ValueError("every query needs a right candidate")
    if choices is not None and not all(each.issubset(own) for each, own in zip(correct, choices, strict=True)):
        raise ValueError("a right candidate is not among the choices")
    starts = np.cumsum([0, *map(len, correct)], dtype=np.int64)
    right = np.asarray([place for each in correct for place in sorted(each)], dtype=np.int64)
    rows = np.repeat(np.arange(len(correct)), np.diff(starts))
    scores = pair_similarity(queries, rows, candidates, right)
    if paths > 1:
        pairs = zip(rows.tolist(), right.tolist(), strict=True)
        each = (best_pairs(queries[one : one + 1], candidates[at : at + 1], paths) for one, at in pairs)
        scores = np.array([float(found[0, 0]) for found in each], np.float32)
    before = np.zeros(len(right), np.int64)
    wrong = np.full((len(correct), depth), -1, np.int64)
    wrong_scores = np.full((len(correct), depth), -np.inf, np.float32)
    at_once = _QUERIES if choices is None else 1
    for start in range(0, len(correct), at_once):
        block, part = slice(start, start + at_once), slice(starts[start], starts[min(start + at_once, len(correct))])
        # Neither right candidates nor those that are left out count as wrong.
        gone = [(row, place) for row, places in enumerate(correct[block]) for place in places]
        if left_out is not None:
            gone += [(row, place) for row, places in enumerate(left_out[block]) for place in places]
        no_rows, no_places = np.array(gone, dtype=np.int64).T
        asked, thresholds = queries[block], scores[part] - np.float32(TIE)
        for places in _portions(len(candidates), None if choices is None else choices[start]):
            own = candidates[places]
            found = similarity(asked, own) if paths == 1 else best_pairs(asked, own, paths)
            if not np.isfinite(found).all():  # every comparison with NaN is false, and what is right would come first
                raise ValueError("scores are not finite")
            if isinstance(places, slice):
                inside = (no_places >= places.start) & (no_places < places.stop)
                found[no_rows[inside], no_places[inside] - places.start] = -np.inf
            else:
                found[:, np.isin(places, no_places)] = -np.inf
            before[part] += _reaching(found, rows[part] - start, thresholds)
            if depth:
                every = np.arange(places.start, places.stop) if isinstance(places, slice) else places
                wrong_scores[block], wrong[block] = _best(wrong_scores[block], wrong[block], found, every)
    order = np.lexsort((-scores, rows))
    places = np.arange(len(rows)) - starts[rows] + 1
    return Ranked(Ranks(before[order] + places, starts), right[order], scores[order], wrong, wrong_scores)


def _portions(count: int, choices: Sequence[int] | None) -> Iterator[slice | Ints]:
    """The places of the candidates to compare at once."""
    if choices is not None:
        yield np.asarray(choices, dtype=np.int64)
        return
    for first in range(0, count, _CANDIDATES):
        yield slice(first, min(count, first + _CANDIDATES))


def _reaching(scores: Matrix, rows: Ints, thresholds: Matrix) -> Ints:
    """For each threshold `[r]`, the number of scores `[q, c]` in its row that reach it; `rows` ascend."""
    if len(rows) == len(scores):  # one for each row
        one_each: Ints = (scores >= thresholds[:, None]).sum(axis=1)
        return one_each
    reaching = np.empty(len(rows), np.int64)
    for row in range(len(scores)):
        own = slice(*np.searchsorted(rows, [row, row + 1]))
        reaching[own] = scores.shape[1] - np.searchsorted(np.sort(scores[row]), thresholds[own])
    return reaching


def _best(known_scores: Matrix, known: Ints, scores: Matrix, places: Ints) -> tuple[Matrix, Ints]:
    """The best of the known `[q, depth]` and of new ones `[q, c]`: their scores and places."""
    depth = known.shape[1]
    found = np.broadcast_to(places, scores.shape)
    if scores.shape[1] > depth:
        best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        scores, found = np.take_along_axis(scores, best, axis=1), places[best]
    found = np.concatenate([known, np.where(np.isinf(scores), -1, found)], axis=1)
    scores = np.concatenate([known_scores, scores], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)
