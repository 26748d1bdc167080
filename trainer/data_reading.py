"""Looking files of rows through once: what is kept of each good row, what is told of each bad one."""

from __future__ import annotations

import collections
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import UsageError
from tsembed_search.evaluation.records import BadRow, Fault, Images, Instructions, Problem, image_roots, stream
from tsembed_search.evaluation.sources import TaskFile
from tsembed_search.trainer.data_rows import KEYS, row_of, task_name, ties
from tsembed_search.trainer.data_tasks import FileStore, RowFile, Store, StoredTask, place_of
from tsembed_search.trainer.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_PROBLEMS: Final = 1_000
"""So many bad rows of a file are told one by one; the rest are counted."""
_BAD_SHARE: Final = 0.25
_FEW: Final = 3
_TEXT_KEYS: Final = (0, 3)


@dataclass
class Gathered:
    """A task's rows while they are read. `textual`: for each row whether its target is text alone."""

    name: str
    meta: str
    split: str
    places: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("L"))
    keys: array[int] = field(default_factory=lambda: array("Q"))
    textual: array[int] = field(default_factory=lambda: array("b"))

    def add(self, row: Row, keys: Sequence[int], place: int, line: int) -> None:
        """Keeps what is needed of a row."""
        self.places.append(place)
        self.lines.append(line)
        self.keys.extend(keys)
        self.textual.append(row.positive.image is None)

    def __len__(self) -> int:
        return len(self.places)

    def task(self, store: Store) -> StoredTask:
        """The task, with weight 1."""
        import numpy as np

        places = np.frombuffer(self.places, np.int64) if len(self) else np.zeros(0, np.int64)
        lines = np.array(self.lines, np.uint32)
        return StoredTask(self.name, self.meta, 1.0, store, places, lines, np.ascontiguousarray(self.table()[:, 0]))

    def table(self) -> NDArray[np.uint64]:
        """The rows' keys `[N, KEYS]`."""
        import numpy as np

        return np.array(self.keys, np.uint64).reshape(-1, KEYS)

    def tied(self) -> NDArray[np.uint64]:
        """The rows' keys `[N, KEYS]` without those of labels, and without a target's where the row names its group."""
        import numpy as np

        from tsembed_search.trainer.data_split import without_labels

        table = self.table()
        textual = np.array(self.textual, np.bool_)
        for kind in _TEXT_KEYS:
            of_text = textual if kind == 0 else np.ones(len(table), np.bool_)
            table[:, kind] = without_labels(table[:, kind], of_text)
        table[table[:, 4] != 0, 0] = 0
        return table


@dataclass
class Counts:
    """Of a file: rows that can be used, and those that cannot, by what is wrong with them."""

    good: int = 0
    bad: collections.Counter[Fault] = field(default_factory=collections.Counter)


@dataclass
class Reading:
    """What a reading of files gave: the tasks by (name, split), the problems, and the counts of each file."""

    files: list[RowFile] = field(default_factory=list)
    gathered: dict[tuple[str, str], Gathered] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    counts: dict[Path, Counts] = field(default_factory=dict)

    def store(self, instructions: Instructions | None) -> FileStore:
        """Where the rows are read from."""
        return FileStore(tuple(self.files), instructions)


def read_files(
    files: Sequence[TaskFile],
    *,
    images: Sequence[Path] = (),
    instructions: Instructions | None = None,
    strict: bool = True,
    progress: Callable[[str, int], None] = lambda task, rows: None,
    each: Callable[[TaskFile, str, Row], None] = lambda file, task, row: None,
) -> Reading:
    """Looks every row of the files through. `images`: folders to look for images in, before the files' own.
    `strict`: raises `UsageError` when a large share of a file's rows cannot be used. `each` is
    called with each good row's file, task and row.
    """
    reading = Reading()
    finders: dict[tuple[Path, ...], Images] = {}
    for file in files:
        roots = tuple(image_roots(file.path, file.source, images))
        readable = _readable(file.path, roots)
        number = len(reading.files)
        reading.files.append(readable)
        counts = reading.counts.setdefault(file.path, Counts())
        finder = finders.setdefault(readable.roots, Images(readable.roots))
        for record in stream(readable.path):
            try:
                if isinstance(record, Problem):
                    raise BadRow(record.reason, record.fault)
                row = row_of(record.fields, finder, origin=f"{file.path}:{record.line}", instructions=instructions)
                name = task_name(record.fields) or file.task
                keys = ties(row, record.fields).keys
            except BadRow as error:
                counts.bad[error.fault] += 1
                if sum(counts.bad.values()) <= MOST_PROBLEMS:
                    reading.problems.append(Problem(file.path, record.line, error.message, error.fault))
                continue
            counts.good += 1
            task = reading.gathered.setdefault((name, file.split), Gathered(name, file.meta, file.split))
            task.add(row, keys, place_of(number, record.offset), record.line)
            each(file, name, row)
            if counts.good % 5_000 == 0:
                progress(name, len(task))
        if strict:
            _refuse(file.path, counts, reading.problems)
    return reading


def _readable(path: Path, roots: tuple[Path, ...]) -> RowFile:
    if path.suffix.lower() != ".parquet":
        return RowFile(path, path, roots)
    from tsembed_search.trainer.data_parquet import as_json_lines

    lines = as_json_lines(path)
    return RowFile(lines, path, (*roots, lines.parent))


def _refuse(path: Path, counts: Counts, problems: Sequence[Problem]) -> None:
    """Raises `UsageError` when too many of a file's rows are bad."""
    bad = counts.bad.total()
    if (bad < _FEW and counts.good) or bad <= _BAD_SHARE * (counts.good + bad):
        return
    own = [one for one in problems if one.path == path]
    first = "; ".join(f"line {one.line}: {one.reason}" for one in own[:_FEW])
    hint = "Look it over with `tsembed data check`, and mend it."
    if counts.bad["image"] * 2 > bad:
        hint = "Say where its images are: --images DIR; for training, --set 'data.images=[\"DIR\"]'."
    elif not path.exists():
        hint = ""
    raise UsageError(f"{bad:,} of {counts.good + bad:,} rows of {path} cannot be used: {first}.", hint)
