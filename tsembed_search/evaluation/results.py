"""Results of an evaluation: estimates per task and group, comparisons, JSON, CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tsembed_search.data.rows import Distribution
from tsembed_search.data.sources import META_TASKS
from tsembed_search.ranking.metrics import Estimate, over_tasks
from tsembed_search.ranking.reranking import Sweep

OVERALL: Final = "overall"
_DISTRIBUTIONS: Final[Mapping[Distribution, str]] = {"in": "in-distribution", "out": "out-of-distribution"}


@dataclass(frozen=True)
class TaskScores:
    """One task's metrics, query by query: `values` `[Q, M]`; `queries` `[Q]`: which of the task's queries these are."""

    name: str
    meta: str
    distribution: Distribution
    candidates: int
    queries: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Tasks that are summed up together, each counting alike."""

    name: str
    tasks: Sequence[TaskScores]

    @property
    def queries(self) -> int:
        """Queries of all its tasks."""
        return sum(len(task.queries) for task in self.tasks)

    def estimates(self) -> list[Estimate]:
        """Return one estimate per metric: the mean over tasks."""
        return over_tasks([task.values for task in self.tasks], [task.name for task in self.tasks])


@dataclass(frozen=True)
class Unread:
    """Items that could not be embedded. `queries`: left out with them; `examples`: some reasons."""

    items: int = 0
    queries: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """A model's figures. `weight`: that of reranking by experts, None without; `gain`: what reranking changed in the
    mean over all tasks, per metric; `sweep`: how the weight was chosen on the other half of the queries; `cut`: the
    figures, without reranking, of vectors that are cut to as many numbers; `depths`: those of the model after as many
    blocks; `items`: how many distinct ones were embedded.
    """

    model: Mapping[str, Any]
    metrics: tuple[str, ...]
    tasks: list[TaskScores]
    weight: float | None = None
    gain: list[Estimate] | None = None
    sweep: Sweep | None = None
    unread: Unread = field(default_factory=Unread)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cut: Mapping[int, list[TaskScores]] = field(default_factory=dict)
    depths: Mapping[int, Evaluation] = field(default_factory=dict)
    items: int = 0

    def shorter(self) -> Iterator[tuple[int | None, int | None, list[TaskScores]]]:
        """Give depth, numbers and figures of all that is cut; None for all blocks, or all numbers."""
        yield from ((None, dim, tasks) for dim, tasks in self.cut.items())
        for depth, one in self.depths.items():
            yield depth, None, one.tasks
            yield from ((depth, dim, tasks) for dim, tasks in one.cut.items())

    def milliseconds(self) -> float:
        """Return how long one item took to embed, among all."""
        return 1000 * self.seconds["embed"] / max(1, self.items)

    def to_json(self) -> dict[str, Any]:
        """Return model, tasks, groups, reranking and times, ready for JSON."""
        said = {"model": dict(self.model), **groups_json(self.tasks, self.metrics), "rerank": None}
        if self.weight is not None and self.gain is not None:
            gain = figures_json(self.gain, self.metrics)
            said["rerank"] = {"by": "expert", "weight": self.weight, "gain": gain, "sweep": None}
            if self.sweep is not None:
                curve = [list(point) for point in self.sweep.curve]
                reported = sum(len(task.queries) for task in self.tasks)
                sweep = {"curve": curve, "chosen_on": self.sweep.queries, "reported_on": reported}
                said["rerank"]["sweep"] = sweep
        if self.cut:
            said["dims"] = {str(dim): self._cut_json(tasks) for dim, tasks in self.cut.items()}
        if self.depths:
            said["depths"] = {
                str(depth): self._cut_json(one.tasks)
                | {"dims": {str(dim): self._cut_json(tasks) for dim, tasks in one.cut.items()}}
                | {"parameters": one.model["parameters"], "seconds": dict(one.seconds)}
                for depth, one in self.depths.items()
            }
        return said | {"unread": asdict(self.unread), "items": self.items, "seconds": dict(self.seconds)}

    def _cut_json(self, tasks: Sequence[TaskScores]) -> dict[str, Any]:
        difference = groups_json(compared(self.tasks, tasks), self.metrics)
        return groups_json(tasks, self.metrics) | {"difference": difference}


def groups(tasks: Sequence[TaskScores]) -> Iterator[Group]:
    """Give meta-tasks in MMEB's order, in- and out-of-distribution tasks where known, then all tasks: `overall`."""
    metas = dict.fromkeys([*META_TASKS, *(task.meta for task in tasks)])
    for meta in metas:
        if meta and (found := [task for task in tasks if task.meta == meta]):
            yield Group(meta, found)
    for kind, name in _DISTRIBUTIONS.items():
        if found := [task for task in tasks if task.distribution == kind]:
            yield Group(name, found)
    yield Group(OVERALL, tasks)


def compared(first: Sequence[TaskScores], second: Sequence[TaskScores]) -> list[TaskScores]:
    """Return the second's figures less the first's, on the queries of tasks that both have. The groups and intervals of
    these are those of a paired bootstrap.
    """
    others = {task.name: task for task in second}
    result = []
    for task in first:
        if other := others.get(task.name):
            both, mine, theirs = np.intersect1d(task.queries, other.queries, assume_unique=True, return_indices=True)
            result.append(replace(task, queries=both, values=other.values[theirs] - task.values[mine]))
    return [task for task in result if len(task.queries)]


def groups_json(tasks: Sequence[TaskScores], metrics: Sequence[str]) -> dict[str, Any]:
    """Return `tasks`, `groups` and `overall`, each with metrics, `n` queries and `interval` (low, high)."""
    summed = {
        group.name: figures_json(group.estimates(), metrics) | {"n": group.queries, "tasks": len(group.tasks)}
        for group in groups(tasks)
    }
    overall = summed.pop(OVERALL)
    each = {
        task.name: figures_json(Group(task.name, [task]).estimates(), metrics)
        | {"n": len(task.queries), "candidates": task.candidates, "meta": task.meta, "distribution": task.distribution}
        for task in tasks
    }
    return {"tasks": each, "groups": summed, "overall": overall}


def figures_json(estimates: Sequence[Estimate], metrics: Sequence[str]) -> dict[str, Any]:
    """Return each metric's mean, and its interval under `interval`."""
    named = dict(zip(metrics, estimates, strict=True))
    return {name: one.mean for name, one in named.items()} | {
        "interval": {name: [one.low, one.high] for name, one in named.items()}
    }


def csv_rows(tasks: Sequence[TaskScores], metrics: Sequence[str]) -> Iterator[list[str]]:
    """Give a table for spreadsheets: a heading, tasks in MMEB's grouping, then the groups. Figures are shares."""
    yield ["group", "task", "distribution", "n", "candidates", *metrics] + [
        f"{name} {side}" for name in metrics for side in ("low", "high")
    ]
    for task in tasks:
        head = [task.meta, task.name, task.distribution, str(len(task.queries)), str(task.candidates)]
        yield head + _csv_figures(Group(task.name, [task]).estimates())
    for group in groups(tasks):
        yield [group.name, "", "", str(group.queries), "", *_csv_figures(group.estimates())]


def _csv_figures(estimates: Sequence[Estimate]) -> list[str]:
    bounds = [f"{value:.6f}" for one in estimates for value in (one.low, one.high)]
    return [f"{one.mean:.6f}" for one in estimates] + bounds
