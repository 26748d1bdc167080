"""Looking files of rows through once: what is kept of each good row, what is told of each bad one."""

from __future__ import annotations

import collections
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import UsageError
from tsembed_search.evaluation.layouts import Fields, FileRows, RowFile, Unread
from tsembed_search.evaluation.records import Fault, Images, Instructions, Problem
from tsembed_search.evaluation.sameness import Copies
from tsembed_search.evaluation.sources import TaskFile
from tsembed_search.trainer.data_rows import KEYS, MARKS, kept, row_of
from tsembed_search.trainer.data_tasks import FileStore, Store, StoredTask, place_of
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
    marks: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, fields: Fields, copies: Copies, place: int, line: int) -> None:
        """Keeps what is needed of a row."""
        self.places.append(place)
        self.lines.append(line)
        ties, marks = kept(fields, copies)
        self.keys.extend(ties.keys)
        self.textual.append(fields.positive.image is None)
        self.marks.extend(marks)

    def __len__(self) -> int:
        return len(self.places)

    def task(self, store: Store) -> StoredTask:
        """The task, with weight 1."""
        import numpy as np

        places = np.frombuffer(self.places, np.int64) if len(self) else np.zeros(0, np.int64)
        lines = np.array(self.lines, np.uint32)
        found = np.array(self.marks, np.uint64).reshape(-1, MARKS)
        return StoredTask(
            self.name, self.meta, 1.0, store, places, lines, np.ascontiguousarray(self.table()[:, 0]), found
        )

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
class Reading:
    """What a reading of files gave: the tasks by (name, split), the problems, how many rows of each file are bad, by
    what is wrong with them, and the fields that nothing reads.
    """

    files: list[RowFile] = field(default_factory=list)
    gathered: dict[tuple[str, str], Gathered] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    bad: dict[Path, collections.Counter[Fault]] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)

    def store(self, instructions: Instructions | None) -> FileStore:
        """Where the rows are read from."""
        return FileStore(tuple(self.files), instructions)


def read_files(
    files: Sequence[TaskFile],
    *,
    images: Sequence[Path] = (),
    instructions: Instructions | None = None,
    strict: bool = True,
    copies: Copies | None = None,
    progress: Callable[[str, int], None] = lambda task, rows: None,
    each: Callable[[TaskFile, str, Row], None] = lambda file, task, row: None,
) -> Reading:
    """Looks every row of the files through. `images`: folders to look for images in, before the files' own. `strict`:
    raises `UsageError` when a large share of a file's rows cannot be used. `copies` knows the pictures of other
    sources. `each` is called with each good row's file, task and row.
    """
    reading = Reading()
    finders: dict[tuple[Path, ...], Images] = {}
    copies = copies or Copies()
    for file in files:
        rows = FileRows(file, images, instructions, finders)
        number = len(reading.files)
        reading.files.append(rows.file)
        for found in rows:
            if isinstance(found, Problem):
                if rows.bad.total() <= MOST_PROBLEMS:
                    reading.problems.append(found)
                continue
            record, fields = found
            name = fields.task or file.task
            task = reading.gathered.setdefault((name, file.split), Gathered(name, file.meta, file.split))
            task.add(fields, copies, place_of(number, record.offset), record.line)
            each(file, name, row_of(fields, origin=f"{file.path}:{record.line}"))
            if rows.good % 5_000 == 0:
                progress(name, len(task))
        reading.bad[file.path] = rows.bad
        if rows.unread is not None:
            reading.unread.append(rows.unread)
        if strict:
            _refuse(rows, reading.problems)
    return reading


def _refuse(rows: FileRows, problems: Sequence[Problem]) -> None:
    """Raises `UsageError` when too many of a file's rows are bad."""
    path, bad = rows.task_file.path, rows.bad.total()
    if (bad < _FEW and rows.good) or bad <= _BAD_SHARE * (rows.good + bad):
        return
    own = [one for one in problems if one.path == path]
    if rows.bad["file"]:
        raise UsageError(f"{path} cannot be used: {own[0].reason}.", "Mend the file, or leave it out.")
    first = "; ".join(f"line {one.line}: {one.reason}" for one in own[:_FEW])
    hint = "Look it over with `tsembed data check`, and mend it."
    if rows.bad["image"] * 2 > bad:
        hint = "Say where its images are: --images DIR; for training, --set 'data.images=[\"DIR\"]'."
    raise UsageError(f"{bad:,} of {rows.good + bad:,} rows of {path} cannot be used: {first}.", hint)
