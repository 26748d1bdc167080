"""Metrics of ranked retrieval, all from the ranks of the right candidates, and their intervals.

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

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tsembed_search.errors import UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TIE: Final = 1e-6
METRICS: Final = ("hit@1", "recall@10", "ndcg@10", "mrr")
"""The metrics that are reported unless more is asked for."""
RESAMPLES: Final = 2000
_AT_ONCE: Final = 1 << 22
_NAME: Final = re.compile(r"(hit|recall|ndcg)@([1-9]\d*)")


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

    def mrr(self) -> Floats:
        """Return `[Q]`: 1 over the rank of the best right candidate, however far down it is."""
        inverse: Floats = 1.0 / self.best()
        return inverse

    def metric(self, name: str) -> Floats:
        """Return `[Q]`: the metric `hit@K` (1 where a right candidate is among the first K, else 0), `recall@K` (the
        share of the right ones there), `ndcg@K` (the sum of 1 / log2(rank + 1) over these, over its most) or `mrr`.

        Raises `UsageError` for other names.
        """
        if name == "mrr":
            return self.mrr()
        match = _NAME.fullmatch(name)
        if match is None:
            raise UsageError(
                f"There is no metric called {name!r}.", "Use hit@K, recall@K, ndcg@K (with a number) or mrr."
            )
        k = int(match[2])
        if match[1] == "hit":
            return (self.best() <= k).astype(np.float64)
        sizes = np.diff(self.starts)
        if match[1] == "recall":
            return self._sums(self.ranks <= k) / sizes
        ideal: Floats = np.cumsum(1 / np.log2(np.arange(2.0, k + 2)))
        gains = np.where(self.ranks <= k, 1 / np.log2(self.ranks + 1.0), 0.0)
        ndcg: Floats = self._sums(gains) / ideal[np.minimum(sizes, k) - 1]
        return ndcg

    def table(self, names: Sequence[str] = METRICS) -> Floats:
        """Return `[Q, M]`: the named metrics side by side."""
        return np.stack([self.metric(name) for name in names], axis=1)

    def take(self, queries: NDArray[np.bool_]) -> Ranks:
        """Return those of some queries, chosen by a mask `[Q]`."""
        sizes = np.diff(self.starts)
        starts = np.concatenate([[0], np.cumsum(sizes[queries])])
        return Ranks(self.ranks[np.repeat(queries, sizes)], starts.astype(np.int64))

    def _sums(self, values: NDArray[Any]) -> Floats:
        """The sum over each query's right candidates."""
        sums: Floats = np.add.reduceat(values.astype(np.float64), self.starts[:-1]) if len(self) else np.zeros(0)
        return sums


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


def means_of_draws(values: Floats, name: str, resamples: int = RESAMPLES) -> Floats:
    """Return `[resamples, M]`: means over Q queries drawn anew, of per-query values `[Q, M]`.

    The same `name` and Q draw the same queries, so that draws of two models on one task belong together.
    """
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
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return [Estimate(float(mean), float(a), float(b)) for mean, a, b in zip(means, low, high, strict=True)]


def over_tasks(values: Sequence[Floats], names: Sequence[str]) -> list[Estimate]:
    """Return estimates of the mean over tasks, which count alike, from per-query values `[Q_t, M]`."""
    draws = np.mean([means_of_draws(each, name) for each, name in zip(values, names, strict=True)], axis=0)
    return estimates(np.mean([each.mean(axis=0) for each in values], axis=0), draws)
