"""How good a model is on ranking tasks: embed, rank exactly, rerank if asked, and measure.

Embeds what tasks hold: every distinct item once, as a stream, into arrays that may be larger than memory.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.data.rows import RankingTask
from tsembed_search.data.sameness import question
from tsembed_search.data.tasks import digest
from tsembed_search.errors import LoadError, UsageError
from tsembed_search.evaluation.results import Evaluation, Sweep, TaskScores, Unread, compared, groups
from tsembed_search.items import Item, Role
from tsembed_search.model.backbone import Prepared
from tsembed_search.model.embedder import batches
from tsembed_search.ranking.metrics import METRICS, Ranks
from tsembed_search.ranking.reranking import WEIGHTS, Kappas, kappas, reranked
from tsembed_search.ranking.similarity import DEPTH, Ranked, Rows, rank

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.data.rows import RankingTask
    from tsembed_search.model.backbone import ModelInfo
    from tsembed_search.model.embedder import Embedder

    Ints = NDArray[np.int64]
    Matrix = NDArray[np.float32]


_CHOSEN_BY = "mrr"

_EXAMPLES = 5


@dataclass(frozen=True)
class Reranking:
    """Rerank the first hits by experts. `weight`: lambda, by default the model's own; `sweep`: choose it here."""

    weight: float | None = None
    sweep: bool = False

    def possible(self, info: ModelInfo) -> bool:
        """Whether a model has the experts for it, and a weight."""
        return info.routes is not None and (self.sweep or self.weight is not None or info.route_weight is not None)


@dataclass(frozen=True)
class _Found:
    """What came out of ranking one task. `queries` `[Q]`: which of its queries could be ranked."""

    task: RankingTask
    queries: NDArray[np.int64]
    ranked: Ranked
    kappas: Kappas | None

    def ranks(self, weight: float | None) -> Ranks:
        if weight is None or self.kappas is None:
            return self.ranked.ranks
        return reranked(self.ranked, self.kappas, weight)


def evaluate(
    embedder: Embedder,
    tasks: Sequence[RankingTask],
    *,
    metrics: Sequence[str] = METRICS,
    reranking: Reranking | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Embeds every distinct item once, ranks each query's candidates exactly, and measures.

    With a sweep, the weight is the one with the best mean MRR over tasks on one half of the queries, and the figures
    are those of the other half. Raises `UsageError` when nothing is left to measure, when the model has no experts to
    rerank by, and for an unknown metric; `ModelError` when embedding fails.
    """
    _check(embedder.info, reranking)
    started = time.perf_counter()
    vectors = embed_tasks(embedder, tasks, progress)
    embedded = time.perf_counter()
    depth = 0 if reranking is None else DEPTH
    found = [one for task, own in zip(tasks, vectors, strict=True) if (one := _rank(task, own, depth)) is not None]
    unread = _unread(tasks, vectors, found)
    if not found:
        raise UsageError(
            f"None of the queries can be ranked: {unread.examples[0] if unread.examples else 'there are none'}.",
            "Look at the data: its images may be missing or damaged.",
        )
    weight, sweep, sides = None, None, None
    if reranking is not None and reranking.sweep:
        weight, sweep, sides = _swept(found)
    elif reranking is not None:
        weight = embedder.info.route_weight if reranking.weight is None else reranking.weight
    scores = _scores(found, metrics, weight, sides)
    gain = None
    if weight is not None:
        *_, overall = groups(compared(_scores(found, metrics, None, sides), scores))
        gain = overall.estimates()
    seconds = {"embed": embedded - started, "rank": time.perf_counter() - embedded}
    return Evaluation(_described(embedder.info), tuple(metrics), scores, weight, gain, sweep, unread, seconds)


def _check(info: ModelInfo, reranking: Reranking | None) -> None:
    if reranking is None:
        return
    if info.routes is None:
        raise UsageError(f"{info.name} has no experts to rerank by.", "Leave out --rerank expert, or use a checkpoint.")
    if reranking.weight is not None and not 0 <= reranking.weight <= 1:
        raise UsageError(f"{reranking.weight} is not a route weight.", "Weights lie between 0 and 1.")
    if reranking.weight is not None and reranking.sweep:
        raise UsageError("A weight is either given or swept for.", "Leave out --route-weight or --sweep.")
    if reranking.weight is None and not reranking.sweep and info.route_weight is None:
        raise UsageError(
            f"{info.name} does not say how much experts should count.", "Give --route-weight W (0 to 1), or --sweep."
        )


def _rank(task: RankingTask, vectors: TaskVectors, depth: int) -> _Found | None:
    """None when no query is left."""
    import numpy as np

    queries, correct, choices = _usable(task, vectors)
    left_out = None if task.left_out is None else [task.left_out[row] for row in queries]
    if not len(queries):
        return None
    asked, routes = vectors.queries[queries], vectors.query_routes[queries]
    if choices is None and vectors.failed_candidates:
        # A candidate without a vector cannot be found; that of a right one is left out of what is right.
        choices = [[place for place in range(len(task.candidates)) if place not in vectors.failed_candidates]] * len(
            correct
        )
    ranked = rank(asked, vectors.candidates, correct, choices, left_out=left_out, depth=depth)
    kappa = kappas(ranked, np.asarray(routes), vectors.candidate_routes) if depth else None
    return _Found(task, queries, ranked, kappa)


def _usable(
    task: RankingTask, vectors: TaskVectors
) -> tuple[NDArray[np.int64], list[frozenset[int]], list[Sequence[int]] | None]:
    """The queries that have a vector and a right candidate with one; what is right, and what is ranked, for them."""
    import numpy as np

    lost = vectors.failed_candidates
    correct = [right - lost.keys() if lost else right for right in task.correct]
    kept = [row for row in range(len(task.queries)) if row not in vectors.failed_queries and correct[row]]
    choices = None
    if task.choices is not None:
        choices = [
            [place for place in task.choices[row] if place not in lost] if lost else task.choices[row] for row in kept
        ]
    return np.asarray(kept, dtype=np.int64), [correct[row] for row in kept], choices


def _scores(
    found: Sequence[_Found], metrics: Sequence[str], weight: float | None, sides: Sequence[NDArray[np.bool_]] | None
) -> list[TaskScores]:
    """Per-query metrics of each task; with `sides`, of the queries where it is true, and of tasks that have any."""
    result = []
    for number, one in enumerate(found):
        values, queries = one.ranks(weight).table(metrics), one.queries
        if sides is not None:
            values, queries = values[sides[number]], queries[sides[number]]
        if len(queries):
            task = one.task
            result.append(TaskScores(task.name, task.meta, task.distribution, len(task.candidates), queries, values))
    return result


def _swept(found: Sequence[_Found]) -> tuple[float, Sweep, list[NDArray[np.bool_]]]:
    """The best weight on half of the queries, and which queries the other half are."""
    import numpy as np

    # Which half a query is in belongs to what it asks, so that the same one, asked twice, is never in both.
    sides: dict[int, bool] = {}
    halves = [
        np.asarray(
            [
                sides.setdefault(question(query), digest(query)[0] % 2 == 0)
                for query in (one.task.queries[row] for row in one.queries)
            ]
        )
        for one in found
    ]
    choosing = [(one, half) for one, half in zip(found, halves, strict=True) if half.any()]
    others = [~half for half in halves]
    if not choosing or not any(other.any() for other in others):
        raise UsageError("There are too few queries to choose a weight on one half of them.", "Give --route-weight.")
    curve = [
        (weight, float(np.mean([one.ranks(weight).metric(_CHOSEN_BY)[half].mean() for one, half in choosing])))
        for weight in WEIGHTS
    ]
    best = max(curve, key=lambda point: (round(point[1], 9), -point[0]))[0]
    counts = [int(sum(half.sum() for half in side)) for side in (halves, others)]
    return best, Sweep(best, curve, *counts), others


def _unread(tasks: Sequence[RankingTask], vectors: Sequence[TaskVectors], found: Sequence[_Found]) -> Unread:
    reasons = [
        reason for own in vectors for part in (own.failed_queries, own.failed_candidates) for reason in part.values()
    ]
    lost = sum(len(task.queries) for task in tasks) - sum(len(one.queries) for one in found)
    return Unread(len(reasons), lost, list(dict.fromkeys(reasons))[:_EXAMPLES])


def _described(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "fingerprint": info.fingerprint,
        "dim": info.dim,
        "parameters": info.parameters,
        "experts": None if info.routes is None else list(info.routes),
        "device": info.device,
        "dtype": info.dtype,
    }


Progress = Callable[[int, int], None]

"""Is told how many items are embedded, of how many."""


# Prepared pictures of a large model take megabytes each.
_LOOKAHEAD: Final = 128

_IN_MEMORY: Final = 1 << 30


class Distinct:
    """The distinct items of one role, in order of their first use."""

    def __init__(self, role: Role) -> None:
        self.role: Role = role
        self.items: list[Item] = []
        self._rows: dict[Hashable, int] = {}

    def rows_of(self, items: Sequence[Item]) -> Ints:
        """`[N]`: the row of each item."""
        import numpy as np

        return np.fromiter((self._row(item) for item in items), dtype=np.int64, count=len(items))

    def _row(self, item: Item) -> int:
        image = item.image
        key = (
            item.text,
            item.instruction,
            str(image) if isinstance(image, Path) else image if image is None else id(image),
        )
        row = self._rows.setdefault(key, len(self.items))
        if row == len(self.items):
            self.items.append(item)
        return row


@dataclass(frozen=True)
class Embedded:
    """`vectors` `[N, D]`, `routes` `[N, L·E]` of N distinct items; `failed`: why some could not be embedded, by row."""

    vectors: Matrix
    routes: Matrix
    failed: dict[int, str]


@dataclass(frozen=True)
class TaskVectors:
    """A task's items as rows of what was embedded."""

    queries: Rows
    candidates: Rows
    query_routes: Rows
    candidate_routes: Rows
    failed_queries: dict[int, str]
    failed_candidates: dict[int, str]


def embed_tasks(
    embedder: Embedder, tasks: Sequence[RankingTask], progress: Progress = lambda done, total: None
) -> list[TaskVectors]:
    """Embeds the queries and candidates of all tasks. What cannot be read is left out, and said."""
    queries, documents = Distinct("query"), Distinct("document")
    rows = [(queries.rows_of(task.queries), documents.rows_of(task.candidates)) for task in tasks]
    total = len(queries.items) + len(documents.items)
    asked = embed_items(embedder, queries, lambda done: progress(done, total))
    found = embed_items(embedder, documents, lambda done: progress(len(queries.items) + done, total))
    return [
        TaskVectors(
            Rows(asked.vectors, query_rows),
            Rows(found.vectors, candidate_rows),
            Rows(asked.routes, query_rows),
            Rows(found.routes, candidate_rows),
            _failed(asked, query_rows),
            _failed(found, candidate_rows),
        )
        for query_rows, candidate_rows in rows
    ]


def embed_items(
    embedder: Embedder, distinct: Distinct, progress: Callable[[int], None] = lambda done: None
) -> Embedded:
    """Embeds distinct items, whose pictures are read as they are needed."""
    info, count = embedder.info, len(distinct.items)
    vectors = _matrix(count, info.dim)
    routes = _matrix(count, 0 if info.routes is None else info.routes[0] * info.routes[1])
    failed: dict[int, str] = {}
    workers = 1 if info.device == "cpu" else min(8, os.cpu_count() or 1)
    done = 0
    for batch in batches(_prepared(embedder, distinct, workers, failed), embedder.batch_tokens, _LOOKAHEAD):
        encoded, too_large = embedder.encode_fitting([prepared for _, prepared in batch])
        failed |= {batch[place][0]: str(error) for place, error in too_large.items()}
        rows = [row for place, (row, _) in enumerate(batch) if place not in too_large]
        vectors[rows], routes[rows] = encoded.vectors, encoded.routes
        done += len(rows)
        progress(done + len(failed))
    return Embedded(vectors, routes, failed)


def _prepared(
    embedder: Embedder, distinct: Distinct, workers: int, failed: dict[int, str]
) -> Iterator[tuple[int, Prepared]]:
    """Items ready for the model. With several workers, pictures are decoded beside the model's work."""

    def prepare(row: int) -> tuple[int, Prepared | LoadError]:
        try:
            return row, embedder.prepare(distinct.items[row], distinct.role)
        except LoadError as error:
            return row, error

    for row, found in _mapped(prepare, range(len(distinct.items)), workers):
        if isinstance(found, LoadError):
            failed[row] = str(found)
        else:
            yield row, found


def _mapped(function: Callable[[int], Any], values: Iterable[int], workers: int) -> Iterator[Any]:
    """Like `map`, but some values ahead in threads."""
    if workers == 1:
        yield from map(function, values)
        return
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _matrix(rows: int, width: int) -> Matrix:
    """`[rows, width]` float32; a large one lies in a temporary file that vanishes with it."""
    import numpy as np

    if rows * width * 4 <= _IN_MEMORY:
        return np.zeros((rows, width), np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=(rows, width))


def _failed(embedded: Embedded, rows: Ints) -> dict[int, str]:
    if not embedded.failed:
        return {}
    return {place: embedded.failed[row] for place, row in enumerate(rows.tolist()) if row in embedded.failed}
