"""Metrics of ranked retrieval, all from the ranks of the right candidates.

A tie counts against the model: a wrong candidate that scores as much as a right one is ranked before it. A model that
scores everything alike then scores 0. It would score 1 if the order in the file decided, since MMEB lists the right
candidate first. Scores closer than `TIE` are equal: float32 does not tell them apart reliably.

Formulas as in `trec_eval` with binary relevance; nDCG after Järvelin and Kekäläinen, *Cumulated gain-based evaluation
of IR techniques*, TOIS 2002.

Intervals: how far a mean over queries could have been off by the choice of queries.

Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993: queries are drawn anew with replacement, and the mean of
each draw is taken; the interval spans the middle 95% of those means. For a mean over tasks, queries are drawn anew
within each task. Two models are compared by the differences on the same queries (a paired bootstrap).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

TIE: Final = 1e-6
METRICS: Final = ("hit@1", "recall@10", "ndcg@10", "mrr")
"""The metrics that are reported unless more is asked for."""
RESAMPLES: Final = 2000
_AT_ONCE: Final = 1 << 22
_NAME: Final = re.compile(r"(hit|recall|ndcg)@([1-9]\d*)|mrr")


@dataclass(frozen=True)
class Ranks:
    """The ranks of the right candidates of Q queries, R of them in all.

    `ranks` `[R]`: 1 is the best; ascending within a query. `starts` `[Q + 1]`: query i has those from `starts[i]` up to
    `starts[i + 1]`, at least one.
    """

    ranks: Ints
    starts: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1

    def best(self) -> Ints:
        """Return `[Q]`: the rank of each query's best right candidate."""
        return self.ranks[self.starts[:-1]]

    def hit(self, k: int) -> Floats:
        """Return `[Q]`: 1 where a right candidate is among the first k, else 0."""
        import numpy as np

        return (self.best() <= k).astype(np.float64)

    def recall(self, k: int) -> Floats:
        """Return `[Q]`: the share of a query's right candidates that are among the first k."""
        import numpy as np

        shares: Floats = self._sums((self.ranks <= k).astype(np.float64)) / np.diff(self.starts)
        return shares

    def ndcg(self, k: int) -> Floats:
        """Return `[Q]`: the sum of 1 / log2(rank + 1) over right candidates among the first k, over its most."""
        import numpy as np

        gains = np.where(self.ranks <= k, 1 / np.log2(self.ranks + 1.0), 0.0)
        ideal = np.cumsum(1 / np.log2(np.arange(2.0, k + 2)))
        shares: Floats = self._sums(gains) / ideal[np.minimum(np.diff(self.starts), k) - 1]
        return shares

    def mrr(self) -> Floats:
        """Return `[Q]`: 1 over the rank of the best right candidate, however far down it is."""
        inverse: Floats = 1.0 / self.best()
        return inverse

    def metric(self, name: str) -> Floats:
        """Return `[Q]`: the metric `hit@K`, `recall@K`, `ndcg@K` or `mrr`. Raises `UsageError` for other names."""
        kind, k = parsed(name)
        if kind == "mrr":
            return self.mrr()
        values: Floats = {"hit": self.hit, "recall": self.recall, "ndcg": self.ndcg}[kind](k)
        return values

    def table(self, names: Sequence[str] = METRICS) -> Floats:
        """Return `[Q, M]`: the named metrics side by side."""
        import numpy as np

        return np.stack([self.metric(name) for name in names], axis=1)

    def take(self, queries: NDArray[np.bool_]) -> Ranks:
        """Return those of some queries, chosen by a mask `[Q]`."""
        import numpy as np

        sizes = np.diff(self.starts)
        starts = np.concatenate([[0], np.cumsum(sizes[queries])])
        return Ranks(self.ranks[np.repeat(queries, sizes)], starts.astype(np.int64))

    def _sums(self, values: Floats) -> Floats:
        import numpy as np

        sums: Floats = np.add.reduceat(values, self.starts[:-1]) if len(self) else np.zeros(0)
        return sums


def parsed(name: str) -> tuple[str, int]:
    """Return a metric's kind and its K (0 for `mrr`). Raises `UsageError`."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"There is no metric called {name!r}.", "Use hit@K, recall@K, ndcg@K (with a number) or mrr.")
    return (match[1], int(match[2])) if match[1] else ("mrr", 0)


def ranks_of(scores: NDArray[np.floating], correct: Sequence[Collection[int]]) -> Ranks:
    """Rank by `scores` `[Q, C]`; `correct[i]` holds the columns of query i's right candidates.

    A candidate with a score of minus infinity is not there for that query. Raises `ValueError` for NaN, and for a query
    without a right candidate.
    """
    import numpy as np

    scores = np.asarray(scores)
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    starts = starts_of([len(each) for each in correct])
    rows = np.repeat(np.arange(len(correct)), np.diff(starts))
    columns = np.asarray([place for each in correct for place in each], dtype=np.int64)
    right = scores[rows, columns]
    wrong = scores.copy()
    wrong[rows, columns] = -np.inf
    before = np.asarray([int((wrong[row] >= score - TIE).sum()) for row, score in zip(rows, right, strict=True)])
    return Ranks(before.astype(np.int64)[by_score(rows, right)] + places_of(starts), starts)


def starts_of(sizes: Sequence[int]) -> Ints:
    """Return `[Q + 1]` from the number of right candidates of each query. Raises `ValueError` where that is 0."""
    import numpy as np

    if any(size < 1 for size in sizes):
        raise ValueError("every query needs a right candidate")
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))]).astype(np.int64)


def places_of(starts: Ints) -> Ints:
    """Return `[R]`: 1, 2, ... within each query."""
    import numpy as np

    return np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts)) + 1


def by_score(rows: Ints, scores: NDArray[np.floating]) -> Ints:
    """Return the order of right candidates: query by query, the highest score first."""
    import numpy as np

    return np.lexsort((-scores, rows))


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Say if a difference is clear of chance, as far as the choice of queries goes."""
        return self.low > 0 or self.high < 0


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share among `count` (Wilson, *Probable inference*, JASA 1927)."""
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def means_of_draws(values: Floats, name: str, resamples: int = RESAMPLES) -> Floats:
    """Return `[resamples, M]`: means over Q queries drawn anew, of per-query values `[Q, M]`.

    The same `name` and Q draw the same queries, so that draws of two models on one task belong together.
    """
    import numpy as np

    count = len(values)
    random = np.random.default_rng(zlib.crc32(name.encode("utf-8", "backslashreplace")))
    means = np.empty((resamples, values.shape[1]))
    step = max(1, _AT_ONCE // max(1, count))
    for start in range(0, resamples, step):
        stop = min(resamples, start + step)
        drawn = random.integers(count, size=(stop - start, count)) + np.arange(stop - start)[:, None] * count
        often = np.bincount(drawn.ravel(), minlength=(stop - start) * count).reshape(stop - start, count)
        means[start:stop] = often @ values / count
    return means


def estimates(means: Floats, draws: Floats) -> list[Estimate]:
    """Return one estimate for each of M metrics, from `means` `[M]` and `draws` `[resamples, M]`."""
    import numpy as np

    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return [Estimate(float(mean), float(a), float(b)) for mean, a, b in zip(means, low, high, strict=True)]


def over_tasks(values: Sequence[Floats], names: Sequence[str]) -> list[Estimate]:
    """Return estimates of the mean over tasks, which count alike, from per-query values `[Q_t, M]`."""
    import numpy as np

    draws = np.mean([means_of_draws(each, name) for each, name in zip(values, names, strict=True)], axis=0)
    return estimates(np.mean([each.mean(axis=0) for each in values], axis=0), draws)
