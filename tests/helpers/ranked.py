"""Vectors to rank, and a ranking of them that looks at the whole table of scores."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from tsembed_search.ranking.metrics import TIE, Ranks


def units(random: np.random.Generator, count: int, width: int = 8) -> np.ndarray:
    vectors = random.standard_normal((count, width)).astype(np.float32)
    # a few of them twice, so that there are ties
    vectors[count // 2 :: 7] = vectors[0]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ranks_of(scores: np.ndarray, correct: Sequence[Collection[int]]) -> Ranks:
    """Rank by `scores` `[Q, C]`; `correct[i]` holds the columns of query i's right candidates."""
    ranks = []
    for row, right in zip(scores, correct, strict=True):
        wrong = np.delete(row, sorted(right))
        best_first = sorted((row[place] for place in right), reverse=True)
        ranks += [1 + nth + int((wrong >= score - TIE).sum()) for nth, score in enumerate(best_first)]
    return Ranks(np.array(ranks), np.cumsum([0, *map(len, correct)]))
