"""The report on parallel paths: how different they are, and what that is worth, judged by retrieval.

Paths that all find the same things are one path, whatever a measure of information says of them. So the report has the
hit rate of each path, of all together in three ways, and of one that always takes the right path (the oracle). Several
rankings find more than one by chance alone, so compare the oracle with that of another set of rankings, such as models
of other seeds. Three numbers describe the vectors: cosine, centred kernel alignment, and effective rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tsembed_search.errors import UsageError
from tsembed_search.evaluation.evaluate import EmbeddedTasks, Progress, RankedTask, embed_tasks, ranked_tasks
from tsembed_search.evaluation.results import OVERALL, Group, TaskScores, groups
from tsembed_search.model.loading import side_by_side
from tsembed_search.ranking.metrics import Estimate
from tsembed_search.ranking.similarity import Matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsembed_search.data.rows import RankingTask
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.model.path_settings import PathSettings

_DESCRIBED: Final = 2000  # items that the three numbers are taken over
TOGETHER: Final = ("mean", "concat", "maxsim")


@dataclass(frozen=True)
class Likeness:
    """The likeness of P paths. `cosines` `[P, P]`: mean cosine of two paths of one item; `cosine`: its mean off the
    diagonal. `alignment`: mean over pairs of the centred kernel alignment of their vectors, 1 if they are the same up
    to a rotation (linear CKA; Kornblith et al., arXiv 1905.00414). `rank`: the mean effective rank of an item's paths,
    from 1, all the same, to P, all at right angles (Roy and Vetterli, EUSIPCO 2007).
    """

    cosines: NDArray[np.float64]
    cosine: float
    alignment: float
    rank: float


@dataclass(frozen=True)
class PathReport:
    """The paths of a model, on some tasks. `names`: the columns of the tasks' scores, which are hit@1 of each path, of
    all together, of the oracle, and of `concat` with one path swapped for noise, a mean over which one. `best`: the
    path with the highest mean over tasks.
    """

    model: str
    paths: PathSettings
    likeness: Likeness
    names: tuple[str, ...]
    tasks: list[TaskScores]
    best: int

    def scores(self) -> dict[str, Estimate]:
        """Return the mean over tasks of each column."""
        return dict(zip(self.names, Group(OVERALL, self.tasks).estimates(), strict=True))

    def gains(self) -> dict[str, Estimate]:
        """Return the columns that are not paths less the best path, on the same queries; noise less `concat`."""
        own = [replace(task, values=self._less(task.values)) for task in self.tasks]
        return dict(zip(self.names[self.paths.count :], Group(OVERALL, own).estimates(), strict=True))

    def _less(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        others = values[:, self.paths.count :].copy()
        noise, concat = self.names.index("noise") - self.paths.count, self.names.index("concat")
        others[:, noise] -= values[:, concat]
        others[:, :noise] -= values[:, self.best : self.best + 1]
        return others

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""

        def figures(found: dict[str, Estimate]) -> dict[str, Any]:
            return {name: {"hit@1": one.mean, "interval": [one.low, one.high]} for name, one in found.items()}

        tasks = {}
        for group in [*(Group(task.name, [task]) for task in self.tasks), *groups(self.tasks)]:
            tasks[group.name] = {
                name: one.mean for name, one in zip(self.names, group.estimates(), strict=True)
            } | {"n": group.queries}  # fmt: skip
        return {
            "model": self.model,
            "paths": self.paths.to_json(),
            "best": self.names[self.best],
            "likeness": {
                "cosine": self.likeness.cosine,
                "cka": self.likeness.alignment,
                "effective_rank": self.likeness.rank,
                "cosines": self.likeness.cosines.tolist(),
            },
            "hit@1": figures(self.scores()),
            "less_best": figures(self.gains()),
            "tasks": tasks,
        }


def path_report(
    embedder: Embedder, tasks: Sequence[RankingTask], progress: Progress = lambda done, total: None
) -> PathReport:
    """Embed every distinct item by all paths of a model once, and measure them. The model gives all paths from then on.

    Raises `UsageError` for a model without paths, and when nothing is left to measure.
    """
    name = embedder.info.name
    settings = side_by_side(embedder.backbone)
    if settings.count < 2:
        raise UsageError(f"{name} has one path, and nothing to compare it with.", "Leave out {paths}.")
    every = embed_tasks(embedder, tasks, progress)
    return report_of(name, settings, every, tasks)


def report_of(name: str, settings: PathSettings, every: EmbeddedTasks, tasks: Sequence[RankingTask]) -> PathReport:
    """Measure paths that are embedded side by side, unit as a whole. Raises `UsageError`: see `path_report`."""
    count = settings.count
    variants: dict[str, list[RankedTask]] = {}

    def rank(label: str, change: Callable[[Matrix], Matrix] | None = None, paths: int = 1) -> None:
        changed = every if change is None else every.changed(change)
        variants[label] = ranked_tasks(tasks, changed.of_tasks(), paths=paths)

    for path in range(count):
        rank(f"path {path}", lambda whole, path=path: unit(parted(whole, count)[:, path]))  # type: ignore[misc]
    rank("mean", lambda whole: unit(parted(whole, count).mean(1)))
    rank("concat")
    rank("maxsim", paths=count)
    for path in range(count):
        chance = np.random.default_rng(path)  # one for queries and documents: equal noise would be found again
        noisy = partial(with_noise, count=count, path=path, chance=chance)
        rank(f"noise {path}", noisy)
    if not variants["concat"]:
        raise UsageError(
            "None of the queries can be ranked.", "Look at the data: its images may be missing or damaged."
        )
    hits = {label: [one.ranked.ranks.metric("hit@1") for one in found] for label, found in variants.items()}
    names = (*(f"path {path}" for path in range(count)), *TOGETHER, "oracle", "noise")
    scores = []
    for number, one in enumerate(variants["concat"]):
        own = {label: found[number] for label, found in hits.items()}
        own["oracle"] = np.max([own[f"path {path}"] for path in range(count)], axis=0)
        own["noise"] = np.mean([own[f"noise {path}"] for path in range(count)], axis=0)
        values = np.stack([own[label] for label in names], axis=1)
        task = one.task
        scores.append(TaskScores(task.name, task.meta, task.distribution, len(task.candidates), one.queries, values))
    best = int(np.argmax(np.mean([task.values.mean(0) for task in scores], axis=0)[:count]))
    some = [part.vectors[: _DESCRIBED // 2] for part in (every.queries, every.documents)]
    return PathReport(name, settings, likeness(parted(np.concatenate(some), count)), names, scores, best)


def likeness(paths: NDArray[np.float32]) -> Likeness:
    """Describe paths `[N, P, D]` of N items. What could not be embedded, and is all zeros, is left out."""
    known = paths[np.linalg.norm(paths, axis=-1).min(1) > 0].astype(np.float64)
    known /= np.linalg.norm(known, axis=-1, keepdims=True)
    count = known.shape[1]
    grams = np.einsum("npd,nqd->npq", known, known)
    pairs = [(one, other) for one in range(count) for other in range(one)]
    shares = np.clip(np.linalg.eigvalsh(grams) / count, 1e-12, None)
    ranks = np.exp(-(shares * np.log(shares)).sum(-1))
    cosines = grams.mean(0)
    mean = float(np.mean([cosines[pair] for pair in pairs]))
    aligned = float(np.mean([_alignment(known[:, one], known[:, other]) for one, other in pairs]))
    return Likeness(cosines, mean, aligned, float(ranks.mean()))


def _alignment(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Linear CKA of `[N, D]` and `[N, D]`; 0 where one of them does not vary."""
    one, other = one - one.mean(0), other - other.mean(0)
    own = np.linalg.norm(one.T @ one) * np.linalg.norm(other.T @ other)
    return float(np.linalg.norm(one.T @ other) ** 2 / own) if own > 1e-12 else 0.0


def parted(whole: Matrix, count: int) -> Matrix:
    """Return vectors `[N, P·D]` as paths `[N, P, D]`."""
    return whole.reshape(len(whole), count, -1)


def unit(vectors: Matrix) -> Matrix:
    """Return vectors `[N, D]` at unit length; zero stays zero."""
    found: Matrix = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))
    return found


def with_noise(whole: Matrix, count: int, path: int, chance: np.random.Generator) -> Matrix:
    """Return vectors `[N, P·D]` with one path swapped for random ones of the same length."""
    found = parted(np.array(whole), count)
    drawn = chance.standard_normal(found[:, path].shape, dtype=np.float32)
    found[:, path] = unit(drawn) * np.linalg.norm(found[:, path], axis=-1, keepdims=True)
    return found.reshape(whole.shape)
