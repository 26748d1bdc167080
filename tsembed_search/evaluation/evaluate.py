"""Measure a model on ranking tasks: embed every distinct item once, rank exactly, rerank if asked."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tsembed_search.data.rows import question
from tsembed_search.data.tasks import digest
from tsembed_search.errors import LoadError, TooLargeError, UsageError
from tsembed_search.evaluation.results import Evaluation, TaskScores, Unread, compared, groups
from tsembed_search.items import Item, Role
from tsembed_search.model.embedder import batches
from tsembed_search.model.shortened import shortened
from tsembed_search.ranking.metrics import METRICS
from tsembed_search.ranking.reranking import DEPTH, Kappas, Sweep, kappas, reranked, sweep
from tsembed_search.ranking.similarity import Ints, Matrix, Ranked, Rows, rank

if TYPE_CHECKING:
    from tsembed_search.data.rows import RankingTask
    from tsembed_search.model.backbone import ModelInfo, Prepared
    from tsembed_search.model.embedder import Embedder

Progress = Callable[[int, int], None]
"""Is told how many items are embedded, of how many."""

_EXAMPLES: Final = 5
_LOOKAHEAD: Final = 128  # prepared pictures of a large model take megabytes each
_IN_MEMORY: Final = 1 << 30
_TOGETHER: Final = 65_536


@dataclass(frozen=True)
class Reranking:
    """Rerank the first hits by experts. `weight`: how much routes count, by default the model's own; `sweep`: choose
    it here.
    """

    weight: float | None = None
    sweep: bool = False

    def possible(self, info: ModelInfo) -> bool:
        """Say if a model has the experts for it, and a weight."""
        return info.routes is not None and (self.sweep or self.weight is not None or info.route_weight is not None)

    def check(self, info: ModelInfo) -> None:
        """Raise `UsageError` unless it makes sense for a model."""
        if info.routes is None:
            raise UsageError(f"{info.name} has no experts to rerank by.", "Leave out {rerank}, or use a checkpoint.")
        if self.weight is not None and not 0 <= self.weight <= 1:
            raise UsageError(f"{self.weight} is not a route weight.", "Weights lie between 0 and 1.")
        if self.weight is not None and self.sweep:
            raise UsageError("A weight is either given or swept for.", "Leave out {route_weight} or {sweep}.")
        if self.weight is None and not self.sweep and info.route_weight is None:
            raise UsageError(
                f"{info.name} does not say how much experts should count.", "Give {route_weight}, 0 to 1, or {sweep}."
            )


@dataclass(frozen=True)
class RankedTask:
    """The ranking of one task. `queries` `[Q]`: which of its queries could be ranked."""

    task: RankingTask
    queries: Ints
    ranked: Ranked
    kappas: Kappas | None


def evaluate(
    embedder: Embedder,
    tasks: Sequence[RankingTask],
    *,
    metrics: Sequence[str] = METRICS,
    reranking: Reranking | None = None,
    dims: Sequence[int] = (),
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Embed every distinct item once, rank each query's candidates exactly, and measure.

    With a sweep, the weight is the one with the best mean MRR over tasks on one half of the queries, and the figures
    are those of the other half. `dims`: measure vectors that are cut to as many numbers, too. Raises `UsageError` when
    nothing is left to measure, when the model has no experts to rerank by, for an unknown metric, and for more numbers
    than vectors have; `ModelError` when embedding fails.
    """
    info = embedder.info
    if wrong := [dim for dim in dims if not 0 < dim < info.dim]:
        raise UsageError(
            f"Vectors of {info.dim} numbers cannot be cut to {wrong[0]}.",
            f"Give {{dims}} numbers from 1 to {info.dim - 1}.",
        )
    if reranking is not None:
        reranking.check(info)
    started = time.perf_counter()
    distinct = embed_tasks(embedder, tasks, progress)
    vectors = distinct.of_tasks()
    embedded = time.perf_counter()
    depth = 0 if reranking is None else DEPTH
    found = ranked_tasks(tasks, vectors, depth)
    reasons = [reason for own in vectors for part in own for reason in part.failed.values()]
    lost = sum(len(task.queries) for task in tasks) - sum(len(one.queries) for one in found)
    unread = Unread(len(reasons), lost, list(dict.fromkeys(reasons))[:_EXAMPLES])
    if not found:
        raise UsageError(
            f"None of the queries can be ranked: {unread.examples[0] if unread.examples else 'there are none'}.",
            "Look at the data: its images may be missing or damaged.",
        )
    weight, gain, swept, sides = None, None, None, None
    if reranking is not None:
        weight = info.route_weight if reranking.weight is None else reranking.weight
        if reranking.sweep:
            swept, sides = _swept(found)
            weight = swept.weight
    scores = _scores(found, metrics, weight, sides)
    if weight is not None:
        *_, overall = groups(compared(_scores(found, metrics, None, sides), scores))
        gain = overall.estimates()
    cut = {dim: _scores(ranked_tasks(tasks, distinct.cut(dim).of_tasks()), metrics, None, sides) for dim in dims}
    seconds = {"embed": embedded - started, "rank": time.perf_counter() - embedded}
    facts = {name: getattr(info, name) for name in ("name", "fingerprint", "dim", "parameters")}
    experts = None if info.routes is None else list(info.routes)
    described = {**facts, "experts": experts, "device": info.device, "dtype": info.dtype}
    items = len(distinct.queries.vectors) + len(distinct.documents.vectors)
    return Evaluation(described, tuple(metrics), scores, weight, gain, swept, unread, seconds, cut, items=items)


def ranked_tasks(
    tasks: Sequence[RankingTask], vectors: Sequence[tuple[Embedded, Embedded]], depth: int = 0, paths: int = 1
) -> list[RankedTask]:
    """Rank each task's candidates, by its queries and candidates as embedded. Tasks without any query are left out."""
    rankings = [_rank(task, *own, depth, paths) for task, own in zip(tasks, vectors, strict=True)]
    return [one for one in rankings if one is not None]


def _rank(task: RankingTask, asked: Embedded, candidates: Embedded, depth: int, paths: int) -> RankedTask | None:
    """The ranking of the queries that have a vector and a right candidate with one; None when no query is left."""
    lost = candidates.failed.keys()
    correct = [right - lost if lost else right for right in task.correct]
    kept = [row for row in range(len(task.queries)) if row not in asked.failed and correct[row]]
    if not kept:
        return None
    # A candidate without a vector cannot be found; that of a right one is left out of what is right.
    choices: list[Sequence[int]] | None = None
    if task.choices is not None:
        choices = [[place for place in task.choices[row] if place not in lost] for row in kept]
    elif lost:
        choices = [[place for place in range(len(task.candidates)) if place not in lost]] * len(kept)
    left_out = None if task.left_out is None else [task.left_out[row] for row in kept]
    queries = np.asarray(kept, dtype=np.int64)
    right = [correct[row] for row in kept]
    ranked = rank(
        asked.vectors[queries], candidates.vectors, right, choices, left_out=left_out, depth=depth, paths=paths
    )
    return RankedTask(
        task, queries, ranked, kappas(ranked, asked.routes[queries], candidates.routes) if depth else None
    )


def _scores(
    found: Sequence[RankedTask], metrics: Sequence[str], weight: float | None, sides: Sequence[NDArray[np.bool_]] | None
) -> list[TaskScores]:
    """Per-query metrics of each task; with `sides`, of the queries where it is true, and of tasks that have any."""
    result = []
    for number, one in enumerate(found):
        task, ranks = one.task, one.ranked.ranks
        if weight is not None and one.kappas is not None:
            ranks = reranked(one.ranked, one.kappas, weight)
        chosen = np.full(len(one.queries), True) if sides is None else sides[number]
        if chosen.any():
            values, queries = ranks.table(metrics)[chosen], one.queries[chosen]
            result.append(TaskScores(task.name, task.meta, task.distribution, len(task.candidates), queries, values))
    return result


def _swept(found: Sequence[RankedTask]) -> tuple[Sweep, list[NDArray[np.bool_]]]:
    """Weights tried on half of the queries, and which queries the other half are."""
    # Which half a query is in belongs to what it asks, so that the same one, asked twice, is never in both.
    sides: dict[int, bool] = {}
    halves = []
    for one in found:
        asked = [one.task.queries[row] for row in one.queries]
        halves.append(np.array([sides.setdefault(question(each), digest(each)[0] % 2 == 0) for each in asked]))
    others = [~half for half in halves]
    if not all(any(half.any() for half in side) for side in (halves, others)):
        raise UsageError("There are too few queries to choose a weight on one half of them.", "Give {route_weight}.")
    return sweep([(one.ranked, one.kappas) for one in found if one.kappas is not None], chosen=halves), others


class Distinct:
    """The distinct items of one role, in order of their first use."""

    def __init__(self, role: Role) -> None:
        self.role: Role = role
        self.items: list[Item] = []
        self._rows: dict[Hashable, int] = {}

    def rows_of(self, items: Sequence[Item]) -> Ints:
        """Return the row of each item, `[N]`."""
        rows = np.empty(len(items), np.int64)
        for place, item in enumerate(items):
            image = item.image
            picture = str(image) if isinstance(image, Path) else image if image is None else id(image)
            rows[place] = row = self._rows.setdefault((item.text, item.instruction, picture), len(self.items))
            if row == len(self.items):
                self.items.append(item)
        return rows


@dataclass(frozen=True)
class Embedded:
    """`vectors` `[N, D]`, `routes` `[N, L·E]` of N items; `failed`: why some could not be embedded, by row."""

    vectors: Matrix | Rows
    routes: Matrix | Rows
    failed: dict[int, str]

    def of(self, rows: Ints) -> Embedded:
        """Return some of the items, without a copy."""
        assert not isinstance(self.vectors, Rows) and not isinstance(self.routes, Rows)
        failed = {place: self.failed[row] for place, row in enumerate(rows.tolist()) if row in self.failed}
        return Embedded(Rows(self.vectors, rows), Rows(self.routes, rows), failed)

    def cut(self, dim: int) -> Embedded:
        """Return the items with their vectors cut to `dim` numbers."""
        assert not isinstance(self.vectors, Rows)
        vectors = _matrix(len(self.vectors), dim)
        for start in range(0, len(vectors), _TOGETHER):
            vectors[start : start + _TOGETHER] = shortened(self.vectors[start : start + _TOGETHER], dim)
        return Embedded(vectors, self.routes, self.failed)


@dataclass(frozen=True)
class EmbeddedTasks:
    """All queries and documents of some tasks, each once, and which of them each task has, `[Q]` and `[C]`."""

    queries: Embedded
    documents: Embedded
    rows: list[tuple[Ints, Ints]]

    def of_tasks(self) -> list[tuple[Embedded, Embedded]]:
        """Return the queries and the candidates of each task."""
        return [(self.queries.of(own), self.documents.of(others)) for own, others in self.rows]

    def changed(self, change: Callable[[Matrix], Matrix]) -> EmbeddedTasks:
        """Return them with other vectors: what `change` makes of those of all queries, and of all documents."""

        def other(part: Embedded) -> Embedded:
            assert not isinstance(part.vectors, Rows)
            return replace(part, vectors=change(part.vectors))

        return EmbeddedTasks(other(self.queries), other(self.documents), self.rows)

    def cut(self, dim: int) -> EmbeddedTasks:
        """Return them with vectors of `dim` numbers."""
        return EmbeddedTasks(self.queries.cut(dim), self.documents.cut(dim), self.rows)


def embed_tasks(embedder: Embedder, tasks: Sequence[RankingTask], progress: Progress) -> EmbeddedTasks:
    """Embed what the tasks have. What cannot be read is left out, and said."""
    queries, documents = Distinct("query"), Distinct("document")
    rows = [(queries.rows_of(task.queries), documents.rows_of(task.candidates)) for task in tasks]
    total = len(queries.items) + len(documents.items)
    asked = embed_items(embedder, queries, lambda done: progress(done, total))
    found = embed_items(embedder, documents, lambda done: progress(len(queries.items) + done, total))
    return EmbeddedTasks(asked, found, rows)


def embed_items(
    embedder: Embedder, distinct: Distinct, progress: Callable[[int], None] = lambda done: None
) -> Embedded:
    """Embed distinct items, whose pictures are read as they are needed, into arrays that may be larger than memory."""
    info, count = embedder.info, len(distinct.items)
    vectors = _matrix(count, info.dim)
    routes = _matrix(count, 0 if info.routes is None else info.routes[0] * info.routes[1])
    failed: dict[int, str] = {}

    def readable() -> Iterator[tuple[int, Prepared]]:
        for row, one in enumerate(embedder.prepare_stream(distinct.items, distinct.role)):
            if isinstance(one, LoadError):
                failed[row] = str(one)
            else:
                yield row, one

    done = 0
    for rows, found in embedder.embed_stream(batches(readable(), embedder.batch_tokens, _LOOKAHEAD)):
        if isinstance(found, TooLargeError):
            failed[rows[0]] = str(found)
        else:
            vectors[rows], routes[rows] = found.vectors, found.routes
            done += len(rows)
        progress(done + len(failed))
    return Embedded(vectors, routes, failed)


def _matrix(rows: int, width: int) -> Matrix:
    """`[rows, width]` float32; a large one lies in a temporary file that vanishes with it."""
    if rows * width * 4 <= _IN_MEMORY:
        return np.zeros((rows, width), np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=(rows, width))
