"""Training data: from files, folders and hub data sets to tasks whose rows stay on disk, with a validation split.

data = load(["mini-mmeb", "my-rows.jsonl"], validation=0.02, seed=0)
data.train[0][17].query
"""

from __future__ import annotations

import collections
import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from tsembed_search.data.gathering import MemoryStore, Store, StoredTask
from tsembed_search.data.layouts import Fields, Unread
from tsembed_search.data.records import Instructions, Problem
from tsembed_search.data.rows import Answers, Task
from tsembed_search.data.sameness import Copies
from tsembed_search.data.sources import HUB, TaskFile, has_rows, task_files
from tsembed_search.errors import UsageError
from tsembed_search.paths import typed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.data.gathering import Gathered

TRAIN_SPLITS: Final = ("train", "")
"""Splits that are trained on; files that name another one (`test`, `unseen_test`) are never read for training."""
VALIDATION_SPLIT: Final = "validation"

Value = TypeVar("Value")


@dataclass(frozen=True)
class DataSet:
    """What training reads. A validation task has the name of the training task that it belongs to.

    `problems`: rows that were left out, each with its file and line (of a file at most the first thousand). `left_out`:
    how many were, by file. `unread`: fields that nothing reads. `sources`: the files and folders that the rows
    came from, as absolute paths.
    """

    train: list[Task]
    validation: list[Task]
    problems: list[Problem]
    left_out: Mapping[Path, int] = field(default_factory=dict)
    unread: Sequence[Unread] = ()
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
    """Reads the sources: files of rows, folders of such files, `hub:owner/name`, or folders of a person's own files.

    `validation`: the share of the data (below 1), or about the number of rows, that is held out by identity, for tasks
    that bring no validation file of their own. `weights`, `caps` and `only` name tasks, or patterns of names
    (`clipart_*`): how often a task is drawn relative to others (1 unless told), how many training rows it has at most,
    and which tasks are read at all. `images`: folders to find images in, before the sources' own. `instructions`: where
    an instruction goes; None: as each layout has it. `progress` is told a task's name and its rows so far.

    Raises `UsageError` when a source is missing or holds nothing to train on, when a large share of a file's rows
    cannot be used, and for a pattern that no task matches.
    """
    from tsembed_search.data.gathering import read_files

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
    store = reading.store(instructions)
    parts: list[tuple[Gathered, Store]] = [(task, store) for task in reading.gathered.values()]
    problems = list(reading.problems)
    left_out = {path: bad.total() for path, bad in reading.bad.items() if bad}
    for folder in folders:
        gathered, told = own_files(folder, only, copies, progress)
        parts += gathered
        problems += told
        left_out |= dict.fromkeys((problem.path for problem in told), 1)
    names = sorted({task.name for task, _ in parts})
    for patterns in (weights or {}, caps or {}, only):
        _check_patterns(patterns, names, sources)
    train, held = _answered(*_split(parts, validation, seed))
    train = [_capped(task, caps or {}, seed) for task in train]
    train = [replace(task, weight=_matching(task.name, weights or {}, 1.0)) for task in train]
    if not any(len(task) for task in train):
        raise UsageError(f"There is nothing to train on in {', '.join(map(str, sources))}.", "Look it over: {check()}")
    return DataSet(
        [task for task in train if len(task)],
        [task for task in held if len(task)],
        problems,
        left_out,
        reading.unread,
        tuple(map(whole, sources)),
    )


def whole(source: str | Path) -> str:
    """A source by a name that means the same wherever one stands."""
    return str(source) if str(source).startswith(HUB) else str(typed(source))


def sources_found(sources: Sequence[str | Path]) -> tuple[list[TaskFile], list[Path]]:
    """The sources' files of rows, and the folders of a person's own files among them. Raises `UsageError`."""
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
) -> tuple[list[tuple[Gathered, Store]], list[Problem]]:
    """The tasks that a folder of a person's own files offers, with their rows. Raises `UsageError` when it has none."""
    from tsembed_search.data.folder import about, folder_rows
    from tsembed_search.data.gathering import Gathered

    found, problems = folder_rows(folder)
    parts: list[tuple[Gathered, Store]] = []
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


def _split(
    parts: Sequence[tuple[Gathered, Store]], validation: float, seed: int
) -> tuple[list[StoredTask], list[StoredTask]]:
    """(training tasks, validation tasks). Rows with ties to a validation file's are not trained on."""
    import numpy as np

    from tsembed_search.data.gathering import groups, held_out, measurable

    keys = [gathered.tied() for gathered, _ in parts]
    total = np.concatenate(keys) if keys else np.zeros((0, 1), np.uint64)
    group = _alone(groups(total), total.shape[0])
    bounds = np.cumsum([0, *map(len, keys)])
    own = {gathered.name for gathered, _ in parts if gathered.split == VALIDATION_SPLIT}
    fixed = np.zeros(len(total), np.bool_)
    free = np.zeros(len(total), np.bool_)
    for (gathered, _), start, end in zip(parts, bounds, bounds[1:], strict=False):
        fixed[start:end] = gathered.split == VALIDATION_SPLIT
        free[start:end] = gathered.split != VALIDATION_SPLIT and gathered.name not in own
    tasks = [gathered.task(store) for gathered, store in parts]
    places = list(dict.fromkeys((task.name, id(task.store)) for task in tasks))
    numbers = np.repeat([places.index((task.name, id(task.store))) for task in tasks], [len(task) for task in tasks])
    known = np.unique(group[fixed])
    identity = np.concatenate([task.identities for task in tasks]) if tasks else total[:, 0]
    out = np.zeros(len(total), np.bool_)
    out[free] = held_out(group[free], seed, validation, known)
    out[free] = measurable(out[free], group[free], numbers[free].astype(np.uint64), identity[free], known)
    train: dict[tuple[str, int], list[StoredTask]] = collections.defaultdict(list)
    held: dict[tuple[str, int], list[StoredTask]] = collections.defaultdict(list)
    for (gathered, store), task, start, end in zip(parts, tasks, bounds, bounds[1:], strict=False):
        side = out[start:end]
        if gathered.split == VALIDATION_SPLIT:
            held[gathered.name, id(store)].append(task)
            continue
        train[gathered.name, id(store)].append(task.only(~side))
        held[gathered.name, id(store)].append(task.only(side))
    return [_joined(tasks) for tasks in train.values()], [_joined(tasks) for tasks in held.values()]


def _answered(*sides: list[StoredTask]) -> list[list[StoredTask]]:
    """The tasks, each knowing all right answers of its queries, of whatever task and side they are."""
    import numpy as np

    tasks = [task for side in sides for task in side]
    if not tasks:
        return list(sides)
    marks = np.concatenate([task.marks for task in tasks])
    answers = Answers(marks[:, 0], np.concatenate([task.identities for task in tasks]), marks[:, 1])
    return [[replace(task, answers=answers) for task in side] for side in sides]


def _alone(group: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """Groups in which each row that has none is its own."""
    import numpy as np

    return np.where(group == 0, np.arange(1, count + 1, dtype=np.uint64), group)


def _joined(tasks: Sequence[StoredTask]) -> StoredTask:
    """Parts of one task as one."""
    import numpy as np

    return replace(
        tasks[0],
        meta=next((task.meta for task in tasks if task.meta), ""),
        places=np.concatenate([task.places for task in tasks]),
        lines=np.concatenate([task.lines for task in tasks]),
        identities=np.concatenate([task.identities for task in tasks]),
        marks=np.concatenate([task.marks for task in tasks]),
    )


def _capped(task: StoredTask, caps: Mapping[str, int], seed: int) -> StoredTask:
    from tsembed_search.data.gathering import first_by_hash

    most = _matching(task.name, caps, len(task))
    return task if most >= len(task) else task.only(first_by_hash(task.identities, task.places, most, seed))


def _named(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _matching(name: str, values: Mapping[str, Value], default: Value) -> Value:
    """The value under a task's own name, else under the first pattern that matches, else the default."""
    if name in values:
        return values[name]
    return next((value for pattern, value in values.items() if fnmatch.fnmatchcase(name, pattern)), default)


def _check_patterns(
    patterns: Sequence[str] | Mapping[str, object], names: Sequence[str], sources: Sequence[object]
) -> None:
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, 1)
            known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise UsageError(
                f"No task of {', '.join(map(str, sources))} is called {pattern}.",
                f"Did you mean {near[0]}?" if near else f"There are {known or 'none'}.",
            )
