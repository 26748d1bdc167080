"""Embeds what tasks hold: every distinct item once, as a stream, into arrays that may be larger than memory."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.errors import LoadError
from tsembed_search.evaluation.ranking import Rows
from tsembed_search.items import Item, Role
from tsembed_search.model.backbones.protocol import Prepared
from tsembed_search.model.batching import batches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.evaluation.tasks import RankingTask
    from tsembed_search.model.embedder import Embedder

    Ints = NDArray[np.int64]
    Matrix = NDArray[np.float32]

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
