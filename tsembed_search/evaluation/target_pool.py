"""Candidates beyond a task's own targets: those of other tasks, or what an index holds.

Negatives of the wrong kind come from other tasks: pictures where a query's instruction asks for a text, and the other
way round. A model that goes by content alone finds the picture of an apple as well as its name, whichever it is told to
find. That such candidates, taken for negatives, teach it to heed the instruction is known from MM-Embed
(arXiv 2411.02571); that they are targets of other tasks is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tsembed_search.data.rows import Row, Task, content
from tsembed_search.evaluation.evaluate import Distinct, Progress, embed_items
from tsembed_search.items import Item
from tsembed_search.ranking.similarity import Matrix, Rows, similarity

if TYPE_CHECKING:
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.store.base import Store

_AT_ONCE: Final = 256


@dataclass(frozen=True)
class TargetPool:
    """Distinct items, targets of some tasks or what an index holds, and their unit vectors `[N, D]`."""

    items: Sequence[Item]
    vectors: Matrix

    def of_wrong_kind(self, rows: Sequence[Row], queries: Matrix | Rows, count: int) -> list[tuple[Item, ...]]:
        """Return, for each of Q rows with query vectors `[Q, D]`, the `count` items most like its query that are of
        another kind (text, picture, both) than its target. None for a query without an instruction, which names no
        kind, and none that hold the same as what is right.
        """
        kinds = np.array([item.modality for item in self.items])
        contents = np.array([content(item) for item in self.items], np.int64)
        found: list[tuple[Item, ...]] = []
        for start in range(0, len(rows), _AT_ONCE):
            scores = similarity(queries[start : start + _AT_ONCE], self.vectors)
            for row, own in zip(rows[start : start + _AT_ONCE], scores, strict=True):
                right = [*row.answers, content(row.positive)]
                left_out = (kinds == row.positive.modality) | np.isin(contents, right)
                own = np.where(left_out, -np.inf, own)
                best = np.argsort(-own, kind="stable")[: count if row.query.instruction else 0]
                found.append(tuple(self.items[place] for place in best if np.isfinite(own[place])))
        return found


def pooled(embedder: Embedder, tasks: Sequence[Task], progress: Progress = lambda done, total: None) -> TargetPool:
    """Embed the distinct targets of some tasks, each once. What cannot be read is left out.

    Raises `ModelError` when embedding fails.
    """
    distinct = Distinct("document")
    for task in tasks:
        distinct.rows_of([task[row].positive for row in range(len(task))])
    found = embed_items(embedder, distinct, lambda done: progress(done, len(distinct.items)))
    kept = np.array([place for place in range(len(distinct.items)) if place not in found.failed], np.int64)
    return TargetPool([distinct.items[place] for place in kept], np.asarray(found.vectors)[kept])


def indexed(store: Store) -> TargetPool:
    """Return the texts and the picture files of an index, with the vectors that it has of them.

    Left out are rendered pages and pictures inside documents, which are no files that training could open.
    """
    items: dict[int, Item] = {}
    vectors = []
    for record in store.scroll(fields=("kind", "text", "path", "page"), with_vectors=True):
        payload, vector = record.payload, record.vector
        picture = payload["kind"] == "image" and payload.get("page") is None
        if vector is None or not np.any(vector) or not (picture or payload["kind"] == "text"):
            continue
        item = Item(image=Path(payload["path"])) if picture else Item(payload["text"])
        if items.setdefault(content(item), item) is item:
            vectors.append(np.asarray(vector, np.float32))
    return TargetPool(list(items.values()), np.stack(vectors) if vectors else np.zeros((0, 0), np.float32))
