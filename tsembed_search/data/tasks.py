"""Evaluation data: files in MMEB's layouts or the plain one, as ranking tasks.

MMEB: Jiang et al., *VLM2Vec: Training Vision-Language Models for Massive Multimodal Embedding Tasks*, arXiv 2410.05160:
36 data sets in four meta-tasks, 20 of them in-distribution (their training parts are in MMEB-train), 16 out of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tsembed_search.data.gathering import FileRows
from tsembed_search.data.layouts import UnreadFields
from tsembed_search.data.records import Images, Instructions, Problem
from tsembed_search.data.rows import Distribution, Fields, RankingTask, content, question
from tsembed_search.data.sources import META_TASKS, TaskFile, meta_task, task_files
from tsembed_search.errors import UsageError
from tsembed_search.items import Item

SPLITS: Final = (("test", "unseen_test"), ("validation", "unseen_validation"), ("",), ("train", "diverse_instruction"))
"""Of a source that has several splits, the first of these it has are evaluated, unless others are asked for."""

_EXAMPLES: Final = 5
_IN: Final = frozenset(
    name.lower()
    for name in "ImageNet-1K ImageNet_1K N24News HatefulMemes VOC2007 SUN397 OK-VQA A-OKVQA DocVQA InfographicsVQA "
    "InfographicVQA ChartQA Visual7W VisDial CIRR VisualNews_t2i VisualNews_i2t MSCOCO_t2i MSCOCO_i2t NIGHTS WebQA "
    "MSCOCO".split()
)


@dataclass(frozen=True)
class EvaluationData:
    """`tasks` in MMEB's order of meta-tasks, then by name; `problems`: rows that were left out; `splits`: read. `rows`:
    how many were taken; `unread`: fields that nothing reads.
    """

    tasks: list[RankingTask]
    problems: list[Problem]
    splits: tuple[str, ...]
    rows: int = 0
    unread: Sequence[UnreadFields] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what was read and what was left out, with some examples. The tasks are not part of it."""
        examples = [str(one) for one in self.problems[:_EXAMPLES]]
        return {
            "splits": list(self.splits),
            "rows": self.rows,
            "left_out": {"rows": len(self.problems), "examples": examples},
            "unread_fields": [one.to_json() for one in self.unread],
        }


def load(
    sources: Sequence[str | Path],
    *,
    splits: Sequence[str] = (),
    only: Sequence[str] = (),
    images: Sequence[Path] = (),
    instructions: Instructions | None = None,
    limit: int | None = None,
    most_candidates: int | None = None,
    progress: Callable[[str, int], None] = lambda task, rows: None,
) -> EvaluationData:
    """Read files of rows, folders of them, or `hub:owner/name`.

    `splits`: which to read (by default see `SPLITS`); `only`: names of tasks, `images`: folders to look for images in
    first. `limit`: so many queries of each task at most, always the same ones. `most_candidates`: so many candidates
    for tasks where all are ranked for all queries; right ones are never left out, so that the task becomes easier.
    `progress` is told a task's name and the rows read of it.

    Raises `UsageError` when a source is not there or nothing in it can be used, and `LoadError` for unreadable files.
    """
    files = _wanted([file for source in sources for file in task_files(source)], splits, only)
    gathered: dict[tuple[Path, str, str], Gathering] = {}
    problems: list[Problem] = []
    finders: dict[tuple[Path, ...], Images] = {}
    taken: list[FileRows] = []
    for file in files:
        rows = FileRows(file, images, instructions, finders)
        taken.append(rows)
        for found in rows:
            if isinstance(found, Problem):
                problems.append(found)
                continue
            name = found[1].task or file.task
            key = file.source, name, file.split
            if key not in gathered:
                gathered[key] = Gathering(name, file.meta or meta_task(name), distribution(name, file.split))
            gathered[key].add(found[1])
            if rows.good % 500 == 0:
                progress(name, rows.good)
        progress(file.task, rows.good)
    if not gathered:
        raise _nothing(sources, problems)
    tasks = [_fewer(task, limit, most_candidates) for task in _renamed(gathered)]
    return EvaluationData(
        sorted(tasks, key=lambda task: (*_meta_order(task.meta), task.name)),
        problems,
        tuple(dict.fromkeys(file.split for file in files if file.split)),
        sum(rows.good for rows in taken),
        [unread for rows in taken for unread in rows.unread],
    )


def distribution(name: str, split: str = "") -> Distribution:
    """Return "in" for a task of MMEB's training distribution, "out" by its split's name or for another task of MMEB,
    and "" where nothing tells.
    """
    if split.startswith("unseen"):
        return "out"
    if not meta_task(name):
        return ""
    return "in" if name.lower() in _IN else "out"


def _wanted(files: list[TaskFile], splits: Sequence[str], only: Sequence[str]) -> list[TaskFile]:
    chosen: list[TaskFile] = []
    for source in dict.fromkeys(file.source for file in files):
        own = [file for file in files if file.source == source]
        groups = [splits] if splits else [*SPLITS, {file.split for file in own}]
        chosen += next((found for group in groups if (found := [file for file in own if file.split in group])), [])
    if not chosen:
        there = ", ".join(sorted({file.split or "(none)" for file in files}))
        raise UsageError(f"There is no split called {', '.join(splits)}.", f"There are: {there}.")
    if only:
        names = sorted({file.task for file in chosen})
        if missing := sorted(set(only) - set(names)):
            raise UsageError(f"There is no task called {missing[0]}.", f"There are: {', '.join(names)}.")
        chosen = [file for file in chosen if file.task in only]
    first: dict[Path, TaskFile] = {}
    for file in chosen:  # a file of two sources is one file
        first.setdefault(file.path, file)
    return list(first.values())


def _renamed(gathered: Mapping[tuple[Path, str, str], Gathering]) -> Iterator[RankingTask]:
    """The tasks; those of one name (from several sources or splits) get before it what tells them apart."""
    names = Counter(name for _, name, _ in gathered)
    for (source, name, split), rows in gathered.items():
        task = rows.task()
        yield task if names[name] == 1 else replace(task, name="/".join(filter(None, (source.stem, split, name))))


def _fewer(task: RankingTask, limit: int | None, most_candidates: int | None) -> RankingTask:
    """At most so many queries and candidates, always the same ones, chosen by what they are."""
    if limit is not None and len(task.queries) > limit:
        kept = sorted(_order(task.queries)[:limit])
        per_query = {name: getattr(task, name) for name in ("queries", "correct", "choices", "left_out")}
        few: dict[str, Any] = {name: each and [each[row] for row in kept] for name, each in per_query.items()}
        task = replace(task, **few)
    places = set(range(len(task.candidates)))
    if task.choices is not None:
        places = {place for each in task.choices for place in each}
    elif most_candidates is not None and len(places) > most_candidates:
        right = {place for each in task.correct for place in each}
        others = [place for place in _order(task.candidates) if place not in right]
        places = right.union(others[: max(0, most_candidates - len(right))])
    if len(places) == len(task.candidates):
        return task
    new = {old: place for place, old in enumerate(sorted(places))}
    return replace(
        task,
        candidates=[task.candidates[old] for old in new],
        correct=[frozenset(new[place] for place in right) for right in task.correct],
        choices=task.choices and [[new[place] for place in each] for each in task.choices],
        left_out=task.left_out and [frozenset(new[one] for one in each if one in new) for each in task.left_out],
    )


def _order(items: Sequence[Item]) -> list[int]:
    """A shuffled order that belongs to the items: a longer list of them keeps the order of those it had."""
    keys = [digest(item) for item in items]
    return sorted(range(len(items)), key=lambda row: (keys[row], row))


def _meta_order(meta: str) -> tuple[int, str]:
    return (META_TASKS.index(meta) if meta in META_TASKS else len(META_TASKS) + (not meta)), meta


def _nothing(sources: Sequence[str | Path], problems: Sequence[Problem]) -> UsageError:
    named = ", ".join(map(str, sources))
    if not problems:
        return UsageError(f"There are no rows in {named}.", "Give a file or folder with rows to evaluate on.")
    first = problems[0]
    if all(each.fault == "image" for each in problems):
        return UsageError(
            f"None of the images of {named} are there. {first}.",
            "Unpack the images beside the rows, or name their folder: {images}",
        )
    return UsageError(f"None of the {len(problems):,} rows of {named} can be used. {first}.", "Look at that line.")


class Gathering:
    """The rows of one task so far.

    A row that brings its own candidates is a query with these. Other rows are pairs: every distinct positive or
    negative of the task is a candidate for all of them, but for the query itself among what other rows bring. A query
    that occurs in several rows is one query with several right candidates.

    Right for a query is whatever any row that asks the same names as right, whatever has the `identity` of one of
    these, and whatever has the same content as one of these.
    """

    def __init__(self, name: str, meta: str, distribution: Distribution = "") -> None:
        self.name, self.meta, self.distribution = name, meta, distribution
        self._candidates: dict[Item, int] = {}
        self._queries: list[_Query] = []
        self._shared: dict[Item, _Query] = {}
        self._asked: list[tuple[int, str, int]] = []

    def add(self, row: Fields) -> None:
        """Take in a row."""
        found = [self._candidates.setdefault(item, len(self._candidates)) for item in (row.positive, *row.negatives)]
        query = None if row.own else self._shared.get(row.query)
        if query is None:
            query = _Query(row.query, question(row.query), list(dict.fromkeys(found)) if row.own else None)
            self._queries.append(query)
            if not row.own:
                self._shared[row.query] = query
        query.brought.update(found[1:])
        self._asked.append((query.asks, row.identity, found[0]))

    def task(self) -> RankingTask:
        """Return the rows as a task."""
        candidates = list(self._candidates)
        contents = [content(item) for item in candidates]
        places: dict[int, set[int]] = defaultdict(set)
        for place, one in enumerate(contents):
            places[one].add(place)
        correct = self._correct(contents, places)
        # Of candidates that other rows bring, the query itself is none, unless it is right.
        nothing: frozenset[int] = frozenset()
        left_out = [
            nothing.union(places.get(content(query.item), ())) - right - query.brought if query.own is None else nothing
            for query, right in zip(self._queries, correct, strict=True)
        ]
        everything = range(len(candidates))
        choices = [everything if query.own is None else query.own for query in self._queries]
        return RankingTask(
            self.name, self.meta, [query.item for query in self._queries], candidates, correct,
            choices if any(len(each) < len(everything) for each in choices) else None,
            self.distribution, left_out if any(left_out) else None,
        )  # fmt: skip

    def _correct(self, contents: Sequence[int], places: Mapping[int, set[int]]) -> list[frozenset[int]]:
        """The right places for each query. `places`: those of each content."""
        identities: dict[int, set[str]] = defaultdict(set)
        targets: dict[str, set[int]] = defaultdict(set)
        for asked, identity, place in self._asked:
            name = f"told {identity}" if identity else f"content {contents[place]}"
            identities[asked].add(name)
            targets[name].add(contents[place])
        correct = []
        for query in self._queries:
            right = {target for identity in identities[query.asks] for target in targets[identity]}
            found = frozenset(place for target in right for place in places[target])
            correct.append(found if query.own is None else found.intersection(query.own))
        return correct


@dataclass(eq=False)
class _Query:
    """A query, the number of what it `asks`, its `own` candidates if it has some, and the negatives of its rows."""

    item: Item
    asks: int
    own: list[int] | None
    brought: set[int] = field(default_factory=set)


def digest(item: Item) -> bytes:
    """Return a hash of an item that is the same on every machine: of its image only the file's name counts."""
    image = item.image.name if isinstance(item.image, Path) else None
    parts = (item.text, item.instruction, image)
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).digest()
