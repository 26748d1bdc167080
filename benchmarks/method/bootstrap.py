"""How sure a difference between two ways of training is: a bootstrap over queries and over seeds at once.

Both models of a seed answer the same queries, and every seed answers them again. So queries of a task are drawn anew
once for all seeds, and seeds once for all tasks: the mean of what was drawn varies with both. A bootstrap of S seeds
shows only (S - 1) / S of their variance, which matters for three: draws of seeds are stretched by what is lacking.
With one seed the interval says nothing of seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from runs import METRICS, Floats, Json

from tsembed_search.evaluation.results import TaskScores
from tsembed_search.ranking.metrics import RESAMPLES, means_of_draws

_SEED: Final = 20_26


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95% interval, and the mean of each seed."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def excludes_zero(self) -> bool:
        """Whether it is clear of chance."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> Json:
        """For the report."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "seeds": list(self.seeds)}


@dataclass(frozen=True)
class Paired:
    """Differences of one task, query by query: `values` `[Q, S, M]`, for S seeds and the M metrics of `METRICS`."""

    name: str
    meta: str
    seen: bool
    values: Floats

    @cached_property
    def draws(self) -> Floats:
        """`[resamples, S, M]`: means over queries drawn anew."""
        count, seeds, metrics = self.values.shape
        return means_of_draws(self.values.reshape(count, -1), self.name).reshape(-1, seeds, metrics)


def paired(first: Mapping[int, Sequence[TaskScores]], second: Mapping[int, Sequence[TaskScores]]) -> list[Paired]:
    """The second's figures less the first's, on seeds, tasks and queries that both have."""
    seeds = sorted(first.keys() & second.keys())
    sides = [{task.name: task for task in side[seed]} for seed in seeds for side in (first, second)]
    if not sides:
        return []
    found = []
    for name, task in sides[0].items():
        if not all(name in side for side in sides):
            continue
        queries = task.queries
        for side in sides:
            queries = np.intersect1d(queries, side[name].queries, assume_unique=True)
        if len(queries):
            each = [_of(side[name], queries) for side in sides]
            values = np.stack([b - a for a, b in zip(each[::2], each[1::2], strict=True)], axis=1)
            found.append(Paired(name, task.meta, task.distribution != "out", values))
    return found


def difference(groups: Sequence[Sequence[Paired]], metric: str = METRICS[0]) -> Difference:
    """The mean over groups of the mean over their tasks, each task of a group and each group counting alike."""
    column = METRICS.index(metric)
    draws = np.mean([np.mean([task.draws[..., column] for task in group], axis=0) for group in groups], axis=0)
    seeds = np.mean(
        [np.mean([task.values[..., column].mean(axis=0) for task in group], axis=0) for group in groups], axis=0
    )
    low, high = np.percentile((draws * _seeds_drawn(len(seeds))).sum(axis=1), [2.5, 97.5])
    return Difference(float(seeds.mean()), float(low), float(high), tuple(map(float, seeds)))


def _of(task: TaskScores, queries: NDArray[np.int64]) -> Floats:
    """The rows of `queries`, in their order."""
    order = np.argsort(task.queries)
    return task.values[order[np.searchsorted(task.queries, queries, sorter=order)]]


@cache
def _seeds_drawn(seeds: int) -> Floats:
    """`[resamples, S]`: the weights of seeds drawn anew, which sum to 1."""
    if seeds == 1:
        return np.ones((RESAMPLES, 1))
    drawn = np.random.default_rng(_SEED).multinomial(seeds, [1 / seeds] * seeds, size=RESAMPLES) / seeds
    stretched: Floats = 1 / seeds + (drawn - 1 / seeds) * (seeds / (seeds - 1)) ** 0.5
    return stretched
