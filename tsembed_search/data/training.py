"""Training data: from files, folders and hub data sets to tasks whose rows stay on disk, with a validation split.

data = load(["mini-mmeb", "my-rows.jsonl"], validation=0.02, seed=0)
data.train[0][17].query

Rows that share a target, an image, a query or a group are tied by keys, and fall on one side of the split, all of them.
Tied rows make a group, across tasks; a hash of the group decides its side. So the split is the same for the same data,
and rows that are added later move no others unless they tie two groups together.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from tsembed_search.data.gathering import Column, FileStore, Gathered, MemoryStore, RowStore, StoredTask, read_files
from tsembed_search.data.layouts import UnreadFields
from tsembed_search.data.records import Instructions, Problem
from tsembed_search.data.rows import Answers, Fields, Task
from tsembed_search.data.sources import HUB, TaskFile, has_rows, task_files
from tsembed_search.errors import UsageError
from tsembed_search.paths import typed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.uint64]
    Flags = NDArray[np.bool_]

TRAIN_SPLITS: Final = ("train", "")
"""Splits that are trained on; files that name another one (`test`, `unseen_test`) are never read for training."""
VALIDATION_SPLIT: Final = "validation"
_LARGEST_SHARE: Final = 0.2
"""A group with more of the rows never makes up the validation by itself."""

Value = TypeVar("Value")
Parts = list[tuple[Gathered, RowStore]]


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
    named = ", ".join(map(str, sources))
    if files and not folders and not any(file.split in TRAIN_SPLITS for file in wanted):
        splits = ", ".join(sorted({file.split for file in files}))
        raise UsageError(
            f"There is nothing to train on in {named}: its files are named for {splits}.",
            "Training rows are in files or folders named train, or named for their task alone.",
        )
    wanted = [file for file in wanted if _named(file.task, only)]
    pictures: dict[str, str] = {}
    reading = read_files(wanted, images=images, instructions=instructions, pictures=pictures, progress=progress)
    store = FileStore(tuple(reading.files), instructions)
    parts: Parts = [(task, store) for task in reading.gathered.values()]
    left_out = {path: bad.total() for path, bad in reading.bad.items() if bad}
    for folder in folders:
        gathered, problems = own_files(folder, only, pictures, progress)
        parts += gathered
        reading.problems += problems
        left_out |= dict.fromkeys((problem.path for problem in problems), 1)
    weights, caps = weights or {}, caps or {}
    _check_patterns((*weights, *caps, *only), {task.name for task, _ in parts}, named)
    train, held = _split(parts, validation, seed)
    train = [_capped(task, _matching(task.name, caps, len(task)), seed) for task in train]
    train = [replace(task, weight=_matching(task.name, weights, 1.0)) for task in train if len(task)]
    if not train:
        raise UsageError(f"There is nothing to train on in {named}.", "Look it over: {check()}")
    held = [task for task in held if len(task)]
    origins = tuple(str(source) if str(source).startswith(HUB) else str(typed(source)) for source in sources)
    return DataSet(list(train), list(held), reading.problems, left_out, reading.unread, origins)


def sources_found(sources: Sequence[str | Path]) -> tuple[list[TaskFile], list[Path]]:
    """Return the sources' files of rows, and the folders of a person's own files among them. Raises `UsageError`."""
    if not sources:
        raise UsageError("There is no data to train on.", "Give a file of rows, a folder, or hub:owner/name.")
    files: dict[Path, TaskFile] = {}
    folders = []
    for source in sources:
        if not str(source).startswith(HUB) and typed(source).is_dir() and not has_rows(source):
            folders.append(typed(source))
        else:
            files |= {file.path: file for file in task_files(source) if file.path not in files}
    return list(files.values()), folders


def own_files(
    folder: Path, only: Sequence[str], pictures: dict[str, str], progress: Callable[[str, int], None]
) -> tuple[Parts, list[Problem]]:
    """Return the tasks of a folder of a person's own files, with their rows. `pictures`: see `rows.kept`.

    Raises `UsageError` without any.
    """
    from tsembed_search.data.folder import about, folder_rows

    found, problems = folder_rows(folder)
    if not found:
        raise UsageError(
            f"{folder} offers nothing to train on: no file of rows, no captioned picture, no named picture, no page "
            "with a heading.",
            "Put captions beside the pictures (cat.jpg and cat.txt), or give a file of rows: see docs/data.md.",
        )
    parts: Parts = []
    for name, rows in found.items():
        if _named(name, only):
            gathered = Gathered(name, "retrieval", "")
            for number, row in enumerate(rows):
                gathered.add(Fields(row.query, row.positive, group=about(row)), pictures, number, 0)
            parts.append((gathered, MemoryStore(rows)))
            progress(name, len(rows))
    return parts, problems


def _named(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _matching(name: str, values: Mapping[str, Value], default: Value) -> Value:
    """The value under a task's own name, else under the first pattern that matches, else the default."""
    if name in values:
        return values[name]
    return next((value for pattern, value in values.items() if fnmatchcase(name, pattern)), default)


def _check_patterns(patterns: Sequence[str], tasks: set[str], sources: str) -> None:
    """Raises `UsageError` for a pattern that no task matches."""
    names = sorted(tasks)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, 1)
            known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise UsageError(
                f"No task of {sources} is called {pattern}.",
                f"Did you mean {near[0]}?" if near else f"There are {known or 'none'}.",
            )


def _split(parts: Parts, validation: float, seed: int) -> tuple[list[StoredTask], list[StoredTask]]:
    """(training tasks, validation tasks), each knowing all right answers of its queries, of whatever task and side they
    are. Rows with ties to a validation file's are not trained on. `validation`: as in `held_out`.
    """
    import numpy as np

    if not parts:
        return [], []
    tasks = [gathered.task(store) for gathered, store in parts]
    names = [(task.name, id(task.store)) for task in tasks]
    sizes = [len(task) for task in tasks]
    group = groups(np.concatenate([gathered.tied() for gathered, _ in parts]))
    group = np.where(group == 0, np.arange(1, len(group) + 1, dtype=np.uint64), group)  # a row without ties
    given = [gathered.split == VALIDATION_SPLIT for gathered, _ in parts]
    own = {gathered.name for gathered, _ in parts if gathered.split == VALIDATION_SPLIT}
    free = np.repeat([gathered.name not in own for gathered, _ in parts], sizes)
    known = np.unique(group[np.repeat(given, sizes)])
    number = np.repeat(np.array([names.index(name) for name in names], np.uint64), sizes)
    table = np.concatenate([task.table for task in tasks])
    identity = table[:, Column.IDENTITY]
    out = np.zeros(len(group), np.bool_)
    out[free] = held_out(group[free], seed, validation, known)
    out[free] = _measurable(out[free], group[free], number[free], identity[free], known)
    answers = Answers(table[:, Column.QUESTION], identity, table[:, Column.CONTENT])
    train: dict[tuple[str, int], list[StoredTask]] = defaultdict(list)
    held: dict[tuple[str, int], list[StoredTask]] = defaultdict(list)
    for name, task, whole, side in zip(names, tasks, given, np.split(out, np.cumsum(sizes)[:-1]), strict=True):
        task = replace(task, answers=answers)
        if not whole:
            train[name].append(task.only(~side))
        held[name].append(task if whole else task.only(side))
    return [_joined(found) for found in train.values()], [_joined(found) for found in held.values()]


def _joined(tasks: Sequence[StoredTask]) -> StoredTask:
    """Parts of one task as one."""
    import numpy as np

    meta = next((task.meta for task in tasks if task.meta), "")
    return replace(tasks[0], meta=meta, table=np.concatenate([task.table for task in tasks]))


def groups(keys: Numbers) -> Numbers:
    """Return, for rows with keys `[N, K]` (0 for none) the group `[N]` of each: the smallest key that its ties lead to.

    A row without any key gets 0: it belongs to no group.
    """
    import numpy as np

    rows, _ = np.nonzero(keys)
    names, numbers = np.unique(keys[keys != 0], return_inverse=True)
    lowest = np.arange(len(names))
    changed = True
    while changed:
        # Each row takes its lowest key, each key the lowest of its rows, and what that one has become.
        of_row = np.full(len(keys), len(names))
        np.minimum.at(of_row, rows, lowest[numbers])
        new = lowest.copy()
        np.minimum.at(new, numbers, of_row[rows])
        new = np.minimum(new, new[new])
        changed = not np.array_equal(new, lowest)
        lowest = new
    found = np.zeros(len(keys), np.uint64)
    found[rows] = names[lowest[numbers]]
    return found


def held_out(group: Numbers, seed: int, validation: float, fixed: Numbers | None = None) -> Flags:
    """Tell which rows `[N]` are for validation, by their groups `[N]`.

    `validation`: a share of the groups (below 1), or about so many rows. `fixed`: groups that are held out anyway.
    A share that would leave a small set without any validation gives it one group.
    """
    import numpy as np

    names, inverse, sizes = np.unique(group, return_inverse=True, return_counts=True)
    draws = _mixed(names, seed)
    out = np.isin(names, () if fixed is None else fixed)
    if validation > 0 and len(names) > 1:
        small = sizes <= max(1.0, _LARGEST_SHARE * len(group))
        if validation < 1:
            out |= small & (draws < validation * 2.0**64)
            wanted = 0 if out.any() else 1
        else:
            wanted = min(int(validation), len(group) // 2) - int(sizes[out].sum())
        for place in np.argsort(draws):
            if wanted <= 0:
                break
            if small[place] and not out[place] and sizes[place] <= max(wanted, 1) * 2:
                out[place] = True
                wanted -= int(sizes[place])
    return np.asarray(out[inverse], np.bool_)


def _measurable(out: Flags, group: Numbers, task: Numbers, identity: Numbers, fixed: Numbers) -> Flags:
    """`out`, the rows that are held out, less those that nothing can be measured with: all that a task has of them has
    one target. A group stays when it is `fixed`, or when it serves another task. All arrays but `fixed` are `[N]`.

    None is held out when the rest would have nothing to tell apart, and all of them have.
    """
    import numpy as np

    tasks, _ = np.unique(np.stack([task[out], identity[out]]), axis=1)
    names, counts = np.unique(tasks, return_counts=True)
    serving = out & np.isin(task, names[counts > 1])
    held = out & np.isin(group, np.concatenate([group[serving], fixed]))
    if len(np.unique(identity[~held])) < 2 <= len(np.unique(identity)):
        held &= np.isin(group, fixed)
    return held


def _mixed(names: Numbers, seed: int) -> Numbers:
    """Numbers `[N]` uint64 that look random, by name and seed (the finaliser of SplitMix64, Steele et al. 2014)."""
    import numpy as np

    mixed = names ^ np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & (2**64 - 1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def _capped(task: StoredTask, most: int, seed: int) -> StoredTask:
    """At most so many rows of a task, in their order, chosen by hash."""
    import numpy as np

    if most >= len(task):
        return task
    draws = _mixed(task.table[:, Column.IDENTITY] ^ _mixed(task.table[:, Column.PLACE], 1), seed)
    return task.only(np.sort(np.argsort(draws, kind="stable")[:most]))
