"""Mine hard negatives: of what a model ranks high for a query, take what is most likely wrong.

Most of what a good model ranks first and the data does not name is right all the same, and trains the wrong way. So a
candidate is dropped when its score is too near to the right answer's (NV-Retriever, arXiv 2407.15831), when its own
query asks nearly the same (SaHa, arXiv 2508.00955), and when it is nearly the right answer itself.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tsembed_search.data.rows import Row, Task, content, ranking_task
from tsembed_search.errors import UsageError
from tsembed_search.evaluation.clusters import clusters
from tsembed_search.evaluation.evaluate import Distinct, Embedded, Progress, embed_items
from tsembed_search.evaluation.target_pool import TargetPool
from tsembed_search.items import Item
from tsembed_search.ranking.similarity import Ranked, rank, similarity

if TYPE_CHECKING:
    from tsembed_search.data.rows import RankingTask
    from tsembed_search.model.embedder import Embedder

Reason = Literal["score", "query", "duplicate"]
"""Why a candidate is no negative: its score, its own query, or what it is, is too near to what is right."""

_MOST_OWNERS: Final = 8


@dataclass(frozen=True)
class Mining:
    """Settings that choose negatives.

    `keep`: how many of each row; `depth`: among so many of the best wrong candidates; `skip`: pass over the first ones
    (B3 passes over 30). `margin`: a candidate needs a score below this share of the right answer's. `query_margin`:
    the query that a candidate is right for has a lower cosine than this to the row's own. `duplicate_margin`: the same
    of the candidate and the right answer. `choose`: at random among what is left, or from the top.
    `batch`: also make batches of so many identities that are among what is left of one another; 0 for none.
    `wrong_kind`: also take so many targets of a kind that the query's instruction does not ask for.
    """

    keep: int = 4
    depth: int = 100
    skip: int = 0
    margin: float = 0.95
    query_margin: float = 0.95
    duplicate_margin: float = 0.95
    choose: Literal["random", "top"] = "random"
    seed: int = 0
    batch: int = 0
    wrong_kind: int = 0

    def check(self) -> None:
        """Raise `UsageError` for settings that choose nothing."""
        if not (self.keep or self.batch or self.wrong_kind):
            raise UsageError(
                "Nothing is mined with neither negatives nor batches.", "Give {keep}, {batch} or {wrong_kind}."
            )
        if not 0 <= self.keep <= self.depth - self.skip:
            raise UsageError(
                f"{self.keep} negatives cannot be chosen of ranks {self.skip + 1} to {self.depth}.",
                "Give a smaller {keep} or {skip}, or a larger {depth}.",
            )
        for name in ("margin", "query_margin", "duplicate_margin"):
            if not 0 < getattr(self, name) <= 1:
                setting = f"{{{name}}}"
                raise UsageError(f"{getattr(self, name)} is no margin.", f"Give {setting} a share from 0 to 1.")


@dataclass(frozen=True)
class Mined:
    """A row with its negatives, its own first. `ranks` and `scores`: those of the mined ones, and of the right answer,
    whose `right_rank` is None beyond the depth: then nothing is mined. `batch`: the batch that it is in, or "".
    `wrong_kind`: how many negatives of the wrong kind come last.
    """

    row: Row
    task: str
    right_rank: int | None
    right_score: float
    ranks: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    batch: str = ""
    wrong_kind: int = 0


@dataclass
class TaskTally:
    """Counts of a task: rows, mined negatives, rows that got none, rows whose right answer is beyond the depth,
    negatives of the wrong kind, and candidates that were dropped, by reason.
    """

    task: str
    rows: int = 0
    negatives: int = 0
    without: int = 0
    lost: int = 0
    wrong_kind: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)

    def add(self, mined: Mined) -> None:
        """Count a row."""
        self.rows += 1
        self.negatives += len(mined.ranks)
        self.without += not mined.ranks
        self.lost += mined.right_rank is None
        self.wrong_kind += mined.wrong_kind

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return asdict(self) | {"dropped": dict(self.dropped)}


def mine(
    embedder: Embedder,
    task: Task,
    settings: Mining,
    tally: TaskTally,
    progress: Progress = lambda done, total: None,
    pool: TargetPool | None = None,
    more: TargetPool | None = None,
) -> Iterator[Mined]:
    """Give each row of a task with mined negatives, in order. Rows that cannot be embedded are left out.

    Negatives are targets of other rows of the task, and what is in `more`; none is right for the query by identity or
    by content. Those of the wrong kind come from `pool`. `tally` is filled on the way.

    Raises `ModelError` when embedding fails.
    """
    known = embedded(embedder, task, progress)
    yield from choose(known if more is None else known.among(more), settings, tally, pool)


@dataclass(frozen=True)
class EmbeddedTask:
    """The rows of a task, its queries over their targets, and both embedded."""

    name: str
    rows: Sequence[Row]
    ranking: RankingTask
    queries: Embedded
    targets: Embedded

    def among(self, more: TargetPool) -> EmbeddedTask:
        """Return the task with more candidates than its rows have targets. What holds the same as a right answer is
        right, too, and what holds the same as the query is left out.
        """
        old = len(self.ranking.candidates)
        places: dict[int, list[int]] = defaultdict(list)
        for place, item in enumerate(more.items, old):
            places[content(item)].append(place)
        contents = [content(item) for item in self.ranking.candidates]
        left_out = self.ranking.left_out or [frozenset()] * len(self.rows)
        correct = [right.union(*(places.get(contents[place], ()) for place in right)) for right in self.ranking.correct]
        gone = [own.union(places.get(content(row.query), ())) for own, row in zip(left_out, self.rows, strict=True)]
        ranking = replace(
            self.ranking,
            candidates=[*self.ranking.candidates, *more.items],
            correct=correct,
            left_out=[own - right for own, right in zip(gone, correct, strict=True)],
        )
        vectors = np.concatenate([self.targets.vectors[np.arange(old)], more.vectors])
        return replace(self, ranking=ranking, targets=replace(self.targets, vectors=vectors))


def embedded(embedder: Embedder, task: Task, progress: Progress = lambda done, total: None) -> EmbeddedTask:
    """Embed the queries and the targets of a task, which is most of the work, once. Raises `ModelError`."""
    ranking = ranking_task(task, range(len(task)))
    queries, documents = Distinct("query"), Distinct("document")
    rows, places = queries.rows_of(ranking.queries), documents.rows_of(ranking.candidates)
    total = len(queries.items) + len(documents.items)
    asked = embed_items(embedder, queries, lambda done: progress(done, total))
    found = embed_items(embedder, documents, lambda done: progress(len(queries.items) + done, total))
    every = [task[number] for number in range(len(task))]
    return EmbeddedTask(task.name, every, ranking, asked.of(rows), found.of(places))


def choose(task: EmbeddedTask, settings: Mining, tally: TaskTally, pool: TargetPool | None = None) -> Iterator[Mined]:
    """Choose the negatives of a task that is embedded: see `mine`."""
    rows, ranking, asked, found = task.rows, task.ranking, task.queries, task.targets
    kept = [row for row in range(len(rows)) if row not in asked.failed and ranking.correct[row] - found.failed.keys()]
    if not kept:
        return
    ranked = _ranked(ranking, asked, found, kept, settings.depth)
    near = _Near(ranking, asked.vectors[np.arange(len(rows))], found.vectors[np.arange(len(ranking.candidates))])
    dice = random.Random(f"{settings.seed} {task.name}")
    first, best = ranked.ranks.starts[:-1], ranked.ranks.best()
    others: Sequence[tuple[Item, ...]] = [()] * len(kept)
    if pool is not None:
        own_rows = [rows[number] for number in kept]
        others = pool.of_wrong_kind(own_rows, asked.vectors[np.asarray(kept)], settings.wrong_kind)
    every, likely = [], []
    for place, number in enumerate(kept):
        rank_of, score = int(best[place]), float(ranked.right_scores[first[place]])
        mined = Mined(rows[number], task.name, rank_of if rank_of <= settings.depth else None, score)
        left: list[int] = []
        if mined.right_rank is not None:
            left = _left(near, ranked, place, number, mined, settings, tally)
            mined = _with(mined, ranked, place, _chosen(left, settings, dice), ranking.candidates)
        negatives = (*mined.row.negatives, *others[place])
        mined = replace(mined, row=replace(mined.row, negatives=negatives), wrong_kind=len(others[place]))
        tally.add(mined)
        if not settings.batch:
            yield mined
            continue
        every.append(mined)
        likely.append([rows[owner].identity for at in left for owner in near.owners(int(ranked.wrong[place, at]))[:1]])
    if every:
        for mined, batch in zip(every, _batches(every, likely, settings), strict=True):
            yield replace(mined, batch=f"{task.name} {batch}")


def _batches(every: Sequence[Mined], likely: Sequence[Sequence[str]], settings: Mining) -> list[int]:
    """The batch of each row, by the identities that are `likely` taken for its own. All rows of an identity are in one,
    and the first of them that is taken for anything speaks for it.
    """
    numbers: dict[str, int] = {}
    own = [numbers.setdefault(mined.row.identity, len(numbers)) for mined in every]
    near: list[list[int]] = [[] for _ in numbers]
    for number, identities in zip(own, likely, strict=True):
        near[number] = near[number] or [numbers[one] for one in identities if one in numbers]
    found = clusters(near, settings.batch, settings.seed)
    return [found[number] for number in own]


def _ranked(ranking: RankingTask, asked: Embedded, found: Embedded, kept: Sequence[int], depth: int) -> Ranked:
    """The ranking of the kept queries. Candidates that could not be embedded are no choice."""
    gone = frozenset(found.failed)
    left_out = [(ranking.left_out[row] if ranking.left_out else frozenset()) | gone for row in kept]
    correct = [ranking.correct[row] - gone for row in kept]
    return rank(asked.vectors[np.asarray(kept)], found.vectors, correct, left_out=left_out, depth=depth)


class _Near:
    """Likeness to what is right, and to the queries `[Q, D]` that candidates `[C, D]` are right for."""

    def __init__(self, ranking: RankingTask, queries: NDArray[np.float32], items: NDArray[np.float32]) -> None:
        self._queries = queries
        self._items = items
        self._correct = ranking.correct
        self._owners: dict[int, list[int]] = defaultdict(list)
        for row, correct in enumerate(ranking.correct):
            for place in correct:
                if len(self._owners[place]) < _MOST_OWNERS:
                    self._owners[place].append(row)

    def owners(self, place: int) -> list[int]:
        """Some rows that a candidate is right for."""
        return self._owners.get(place, [])

    def to_query(self, row: int, place: int) -> float:
        """The highest cosine of a row's query to one that a candidate is right for."""
        owners = self._queries[np.array(self.owners(place), np.int64)]
        return float(similarity(self._queries[row][None], owners).max(initial=-1.0))

    def to_right(self, row: int, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """The highest cosine of each candidate to a right answer of a row, `[N]`."""
        right = self._items[sorted(self._correct[row])]
        highest: NDArray[np.float32] = similarity(self._items[places], right).max(axis=1)
        return highest


def _left(
    near: _Near, ranked: Ranked, place: int, number: int, mined: Mined, settings: Mining, tally: TaskTally
) -> list[int]:
    """The ranks, from 0 among the wrong ones, of the candidates that no margin drops."""
    wrong, scores = ranked.wrong[place], ranked.wrong_scores[place]
    wrong = wrong[wrong >= 0]
    # Below 0, a share of the score would be above it.
    highest = mined.right_score - (1 - settings.margin) * abs(mined.right_score)
    likeness = near.to_right(number, wrong) if len(wrong) else np.zeros(0, np.float32)
    left = []
    for at in range(settings.skip, len(wrong)):
        reason: Reason | None = None
        if scores[at] >= highest:
            reason = "score"
        elif likeness[at] >= settings.duplicate_margin:
            reason = "duplicate"
        elif near.to_query(number, int(wrong[at])) >= settings.query_margin:
            reason = "query"
        if reason is None:
            left.append(at)
        else:
            tally.dropped[reason] += 1
        if settings.choose == "top" and not settings.batch and len(left) == settings.keep:
            break
    return left


def _chosen(left: list[int], settings: Mining, dice: random.Random) -> list[int]:
    """The ranks, of those that are left, of a row's negatives."""
    if settings.choose == "top" or len(left) <= settings.keep:
        return left[: settings.keep]
    return sorted(dice.sample(left, settings.keep))


def _with(mined: Mined, ranked: Ranked, place: int, chosen: Sequence[int], candidates: Sequence[Item]) -> Mined:
    """A row with the negatives of these ranks."""
    items = tuple(candidates[int(ranked.wrong[place, at])] for at in chosen)
    own = mined.row.negatives
    return replace(
        mined,
        row=replace(mined.row, negatives=(*own, *items)),
        ranks=tuple(at + 1 for at in chosen),
        scores=tuple(float(ranked.wrong_scores[place, at]) for at in chosen),
    )


def written(mined: Mined, model: str, folder: Path) -> str:
    """Return a row as a line of JSON in the plain layout. Pictures in `folder` are named from there.

    Under `mined` it says how its negatives were found: the model, and ranks and scores.
    """
    row = mined.row
    said: dict[str, Any] = {
        "query": _item(row.query, folder),
        "positive": _item(row.positive, folder),
        "negatives": [_item(item, folder) for item in row.negatives],
        "task": mined.task,
        "identity": row.identity,
    }
    said |= {name: value for name, value in (("group", row.group), ("batch", mined.batch)) if value}
    right = {"rank": mined.right_rank, "score": round(mined.right_score, 6)}
    wrong = [{"rank": rank, "score": round(score, 6)} for rank, score in zip(mined.ranks, mined.scores, strict=True)]
    note = {"model": model, "positive": right, "negatives": wrong, "wrong_kind": mined.wrong_kind}
    return json.dumps(said | {"mined": note}, ensure_ascii=False)


def _item(item: Item, folder: Path) -> dict[str, str]:
    said = {name: value for name in ("text", "instruction") if (value := getattr(item, name))}
    if item.image is not None:
        path = Path(os.path.abspath(item.image))  # noqa: PTH100 - links stay as they are
        said["image"] = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    return said
