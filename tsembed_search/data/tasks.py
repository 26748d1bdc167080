"""Evaluation data: files in MMEB's layouts or the plain one, as ranking tasks.

MMEB: Jiang et al., *VLM2Vec: Training Vision-Language Models for Massive Multimodal Embedding Tasks*, arXiv 2410.05160:
36 data sets in four meta-tasks, 20 of them in-distribution (their training parts are in MMEB-train), 16 out of it.

Rows of one task, in any layout, gathered into a ranking task.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tsembed_search.data.layouts import Fields, FileRows, Unread
from tsembed_search.data.records import Images, Instructions, Problem
from tsembed_search.data.rows import Distribution, RankingTask
from tsembed_search.data.sameness import content, question
from tsembed_search.data.sources import META_TASKS, TaskFile, meta_task, task_files
from tsembed_search.errors import UsageError
from tsembed_search.items import Item

SPLITS: Final = (("test", "unseen_test"), ("validation", "unseen_validation"), ("",), ("train", "diverse_instruction"))

"""What is evaluated of a source that has several splits, unless others are asked for: the first of these it has."""


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
    unread: Sequence[Unread] = ()

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
    """Reads files of rows, folders of them, or `hub:owner/name`.

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
    rows, unread = 0, []
    seen: dict[Path, TaskFile] = {}
    for file in files:  # a file of two sources is one file
        seen.setdefault(file.path, file)
    for file in seen.values():
        found_rows = FileRows(file, images, instructions, finders)
        _read(found_rows, gathered, problems, progress)
        rows += found_rows.good
        unread += [found_rows.unread] if found_rows.unread else []
    found = {key: task for key, each in gathered.items() if (task := each.task()) is not None}
    if not found:
        raise _nothing(sources, problems)
    tasks = [_fewer(task, limit, most_candidates) for task in _renamed(found)]
    return EvaluationData(
        sorted(tasks, key=lambda task: (*_meta_order(task.meta), task.name)),
        problems,
        tuple(dict.fromkeys(file.split for file in files if file.split)),
        rows,
        unread,
    )


def distribution(name: str, split: str = "") -> Distribution:
    """Whether a task is in MMEB's training distribution, or out of it by its split's name; "" where nothing tells."""
    if split.startswith("unseen"):
        return "out"
    if not meta_task(name):
        return ""
    return "in" if name.lower() in _IN else "out"


def _wanted(files: list[TaskFile], splits: Sequence[str], only: Sequence[str]) -> list[TaskFile]:
    chosen: list[TaskFile] = []
    for source in dict.fromkeys(file.source for file in files):
        own = [file for file in files if file.source == source]
        if splits:
            chosen += [file for file in own if file.split in splits]
        else:
            chosen += next(found for group in (*SPLITS, None) if (found := _of_splits(own, group)))
    if not chosen:
        there = ", ".join(sorted({file.split or "(none)" for file in files}))
        raise UsageError(f"There is no split called {', '.join(splits)}.", f"There are: {there}.")
    if only:
        names = sorted({file.task for file in chosen})
        if missing := sorted(set(only) - set(names)):
            raise UsageError(f"There is no task called {missing[0]}.", f"There are: {', '.join(names)}.")
        chosen = [file for file in chosen if file.task in only]
    return chosen


def _of_splits(files: list[TaskFile], splits: tuple[str, ...] | None) -> list[TaskFile]:
    return [file for file in files if splits is None or file.split in splits]


def _read(
    rows: FileRows,
    gathered: dict[tuple[Path, str, str], Gathering],
    problems: list[Problem],
    progress: Callable[[str, int], None],
) -> None:
    file = rows.task_file
    for found in rows:
        if isinstance(found, Problem):
            problems.append(found)
            continue
        _, fields = found
        name = fields.task or file.task
        key = file.source, name, file.split
        if key not in gathered:
            gathered[key] = Gathering(name, file.meta or meta_task(name), distribution(name, file.split))
        gathered[key].add(fields)
        if rows.good % 500 == 0:
            progress(name, rows.good)
    progress(file.task, rows.good)


def _renamed(tasks: Mapping[tuple[Path, str, str], RankingTask]) -> list[RankingTask]:
    """Tasks of one name (from several sources or splits) get what tells them apart before it."""
    names = [name for _, name, _ in tasks]
    return [
        task
        if names.count(name) == 1
        else replace(task, name="/".join(part for part in (source.stem, split, name) if part))
        for (source, name, split), task in tasks.items()
    ]


def _fewer(task: RankingTask, limit: int | None, most_candidates: int | None) -> RankingTask:
    """At most so many queries and candidates, always the same ones, chosen by what they are."""
    if limit is not None and len(task.queries) > limit:
        kept = sorted(_order(task.queries)[:limit])
        task = replace(
            task,
            queries=[task.queries[row] for row in kept],
            correct=[task.correct[row] for row in kept],
            choices=None if task.choices is None else [task.choices[row] for row in kept],
            left_out=None if task.left_out is None else [task.left_out[row] for row in kept],
        )
    if task.choices is not None:
        return _only(task, {place for places in task.choices for place in places})
    if most_candidates is not None and len(task.candidates) > most_candidates:
        right = {place for places in task.correct for place in places}
        others = [place for place in _order(task.candidates) if place not in right]
        return _only(task, right.union(others[: max(0, most_candidates - len(right))]))
    return task


def _only(task: RankingTask, places: set[int]) -> RankingTask:
    """The task with some of its candidates."""
    if len(places) == len(task.candidates):
        return task
    new = {old: place for place, old in enumerate(sorted(places))}
    return replace(
        task,
        candidates=[task.candidates[old] for old in new],
        correct=[frozenset(new[place] for place in right) for right in task.correct],
        choices=None if task.choices is None else [[new[place] for place in each] for each in task.choices],
        left_out=None
        if task.left_out is None
        else [frozenset(new[place] for place in each if place in new) for each in task.left_out],
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

    Right for a query is what any row that asks the same names as right, what has the `identity` of one of these, and
    whatever has the same content as one of these.
    """

    def __init__(self, name: str, meta: str, distribution: Distribution = "") -> None:
        self.name, self.meta, self.distribution = name, meta, distribution
        self._candidates: list[Item] = []
        self._places: dict[Hashable, int] = {}
        self._queries: list[Item] = []
        self._choices: list[list[int] | None] = []
        self._brought: list[set[int]] = []
        self._of_query: dict[Hashable, int] = {}
        self._asked: list[tuple[int, str, int]] = []

    def add(self, row: Fields) -> None:
        """Takes in a row."""
        right = self._place(row.positive)
        others = [self._place(one) for one in row.negatives]
        if row.own:
            number = self._query(row.query, list(dict.fromkeys([right, *others])))
        else:
            key = key_of(row.query)
            if key not in self._of_query:
                self._of_query[key] = self._query(row.query, None)
            number = self._of_query[key]
            self._brought[number].update(others)
        self._asked.append((number, row.identity, right))

    def task(self) -> RankingTask | None:
        """The rows as a task; None when there are none."""
        if not self._queries:
            return None
        everything = range(len(self._candidates))
        choices = [everything if places is None else places for places in self._choices]
        own = any(len(places) < len(everything) for places in choices)
        contents = [content(item) for item in self._candidates]
        correct = self._correct(contents)
        return RankingTask(
            self.name,
            self.meta,
            self._queries,
            self._candidates,
            correct,
            choices if own else None,
            self.distribution,
            self._left_out(contents, correct),
        )

    def _correct(self, contents: Sequence[int]) -> list[frozenset[int]]:
        """What is right for each query."""
        questions = [question(query) for query in self._queries]
        identities: dict[int, set[str]] = defaultdict(set)
        targets: dict[str, set[int]] = defaultdict(set)
        for number, identity, place in self._asked:
            name = f"told {identity}" if identity else f"content {contents[place]}"
            identities[questions[number]].add(name)
            targets[name].add(contents[place])
        places: dict[int, list[int]] = defaultdict(list)
        for place, one in enumerate(contents):
            places[one].append(place)
        correct = []
        for asked, choices in zip(questions, self._choices, strict=True):
            right = {target for identity in identities[asked] for target in targets[identity]}
            found = frozenset(place for target in right for place in places[target])
            correct.append(found if choices is None else found.intersection(choices))
        return correct

    def _left_out(self, contents: Sequence[int], correct: Sequence[frozenset[int]]) -> list[frozenset[int]] | None:
        """The query itself among candidates of other rows, where it is not right."""
        places: dict[int, set[int]] = defaultdict(set)
        for place, one in enumerate(contents):
            places[one].add(place)
        found = [
            frozenset(places.get(content(query), ())) - right - brought if choices is None else frozenset()
            for query, right, brought, choices in zip(self._queries, correct, self._brought, self._choices, strict=True)
        ]
        return found if any(found) else None

    def _query(self, query: Item, choices: list[int] | None) -> int:
        self._queries.append(query)
        self._choices.append(choices)
        self._brought.append(set())
        return len(self._queries) - 1

    def _place(self, item: Item) -> int:
        key = key_of(item)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self._candidates)
            self._candidates.append(item)
        return place


def key_of(item: Item) -> Hashable:
    """What makes two items of files the same one."""
    return item.text, item.instruction, None if item.image is None else str(item.image)


def digest(item: Item) -> bytes:
    """A hash of an item that is the same on every machine: of its image only the file's name counts."""
    image = item.image.name if isinstance(item.image, Path) else None
    parts = (item.text, item.instruction, image)
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).digest()
