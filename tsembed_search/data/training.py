"""Training data: from files, folders and hub data sets to tasks whose rows stay on disk, with a validation split.

data = load(["mini-mmeb", "my-rows.jsonl"], validation=0.02, seed=0)
data.train[0][17].query
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, TypeVar

from tsembed_search.data.gathering import FileStore, Gathered, MemoryStore, RowStore, StoredTask, read_files
from tsembed_search.data.layouts import Fields, UnreadFields
from tsembed_search.data.records import Instructions, Problem
from tsembed_search.data.rows import Task
from tsembed_search.data.sameness import Copies
from tsembed_search.data.sources import HUB, TaskFile, has_rows, task_files
from tsembed_search.data.splits import VALIDATION_SPLIT, first_by_hash, split
from tsembed_search.errors import UsageError
from tsembed_search.paths import typed

TRAIN_SPLITS: Final = ("train", "")
"""Splits that are trained on; files that name another one (`test`, `unseen_test`) are never read for training."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class DataSet:
    """Tasks to train on and to validate with. A validation task has the name of the training task that it belongs to.

    `problems`: rows that were left out, each with its file and line (of a file at most the first thousand). `left_out`:
    how many were, by file. `unread`: fields that nothing reads. `sources`: the files and folders that the rows
    came from, as absolute paths.
    """

    train: list[Task]
    validation: list[Task]
    problems: list[Problem]
    left_out: Mapping[Path, int] = field(default_factory=dict)
    unread: Sequence[UnreadFields] = ()
    sources: tuple[str, ...] = ()


def load(
    sources: Sequence[str | Path],
    *,
    validation: float = 0.02,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    caps: Mapping[str, int] | None = None,
    only: Sequence[str] = (),
    images: Sequence[Path] = (),
    instructions: Instructions | None = None,
    progress: Callable[[str, int], None] = lambda task, rows: None,
) -> DataSet:
    """Read the sources: files of rows, folders of such files, `hub:owner/name`, or folders of a person's own files.

    `validation`: the share of the data (below 1), or about the number of rows, that is held out by identity, for tasks
    that bring no validation file of their own. `weights`, `caps` and `only` name tasks, or patterns of names
    (`clipart_*`): how often a task is drawn relative to others (1 unless told), how many training rows it has at most,
    and which tasks are read at all. `images`: folders to find images in, before the sources' own. `instructions`: where
    an instruction goes; None: as each layout has it. `progress` is told a task's name and its rows so far.

    Raises `UsageError` when a source is missing or holds nothing to train on, when a large share of a file's rows
    cannot be used, and for a pattern that no task matches.
    """
    if validation < 0:
        raise UsageError("validation cannot be below 0.", "Give a share such as 0.02, a number of rows, or 0 for none.")
    files, folders = sources_found(sources)
    wanted = [file for file in files if file.split in (*TRAIN_SPLITS, VALIDATION_SPLIT)]
    if files and not folders and not any(file.split in TRAIN_SPLITS for file in wanted):
        splits = ", ".join(sorted({file.split for file in files}))
        raise UsageError(
            f"There is nothing to train on in {', '.join(map(str, sources))}: its files are named for {splits}.",
            "Training rows are in files or folders named train, or named for their task alone.",
        )
    wanted = [file for file in wanted if not only or _named(file.task, only)]
    copies = Copies()
    reading = read_files(wanted, images=images, instructions=instructions, copies=copies, progress=progress)
    store = FileStore(tuple(reading.files), instructions)
    parts: list[tuple[Gathered, RowStore]] = [(task, store) for task in reading.gathered.values()]
    left_out = {path: bad.total() for path, bad in reading.bad.items() if bad}
    for folder in folders:
        gathered, problems = own_files(folder, only, copies, progress)
        parts += gathered
        reading.problems += problems
        left_out |= dict.fromkeys((problem.path for problem in problems), 1)
    weights, caps = weights or {}, caps or {}
    names = sorted({task.name for task, _ in parts})
    for pattern in (*weights, *caps, *only):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise _unmatched(pattern, names, sources)
    train, held = split(parts, validation, seed)
    train = [_capped(task, _matching(task.name, caps, len(task)), seed) for task in train]
    train = [replace(task, weight=_matching(task.name, weights, 1.0)) for task in train if len(task)]
    if not train:
        raise UsageError(f"There is nothing to train on in {', '.join(map(str, sources))}.", "Look it over: {check()}")
    return DataSet(
        list(train),
        [task for task in held if len(task)],
        reading.problems,
        left_out,
        reading.unread,
        tuple(map(whole, sources)),
    )


def whole(source: str | Path) -> str:
    """Return a source by a name that means the same wherever one stands."""
    return str(source) if str(source).startswith(HUB) else str(typed(source))


def sources_found(sources: Sequence[str | Path]) -> tuple[list[TaskFile], list[Path]]:
    """Return the sources' files of rows, and the folders of a person's own files among them. Raises `UsageError`."""
    if not sources:
        raise UsageError("There is no data to train on.", "Give a file of rows, a folder, or hub:owner/name.")
    files: dict[Path, TaskFile] = {}
    folders = []
    for source in sources:
        if not str(source).startswith(HUB) and typed(source).is_dir() and not has_rows(source):
            folders.append(typed(source))
            continue
        for file in task_files(source):
            files.setdefault(file.path, file)
    return list(files.values()), folders


def own_files(
    folder: Path, only: Sequence[str], copies: Copies, progress: Callable[[str, int], None]
) -> tuple[list[tuple[Gathered, RowStore]], list[Problem]]:
    """Return the tasks of a folder of a person's own files, with their rows. Raises `UsageError` without any."""
    from tsembed_search.data.folder import about, folder_rows

    found, problems = folder_rows(folder)
    parts: list[tuple[Gathered, RowStore]] = []
    for name, rows in found.items():
        if only and not _named(name, only):
            continue
        gathered = Gathered(name, "retrieval", "")
        for number, row in enumerate(rows):
            gathered.add(Fields(row.query, row.positive, group=about(row)), copies, number, 0)
        parts.append((gathered, MemoryStore(rows)))
        progress(name, len(rows))
    if not found:
        raise UsageError(
            f"{folder} offers nothing to train on: no file of rows, no captioned picture, no named picture, no page "
            "with a heading.",
            "Put captions beside the pictures (cat.jpg and cat.txt), or give a file of rows: see docs/data.md.",
        )
    return parts, problems


def _capped(task: StoredTask, most: int, seed: int) -> StoredTask:
    return task if most >= len(task) else task.only(first_by_hash(task.identities, task.places, most, seed))


def _named(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _matching(name: str, values: Mapping[str, Value], default: Value) -> Value:
    """The value under a task's own name, else under the first pattern that matches, else the default."""
    if name in values:
        return values[name]
    return next((value for pattern, value in values.items() if fnmatchcase(name, pattern)), default)


def _unmatched(pattern: str, names: Sequence[str], sources: Sequence[object]) -> UsageError:
    near = difflib.get_close_matches(pattern, names, 1)
    known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return UsageError(
        f"No task of {', '.join(map(str, sources))} is called {pattern}.",
        f"Did you mean {near[0]}?" if near else f"There are {known or 'none'}.",
    )
