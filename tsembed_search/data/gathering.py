"""Reading files of rows, for training, evaluation and `data check` alike.

For training, files are looked through once, and their rows stay on disk: in memory, a row is a place and some hashes.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tsembed_search.data.layouts import RowReader, UnreadFields
from tsembed_search.data.records import BadRow, Fault, Images, Instructions, Problem, RowFile, RowRecord, image_roots
from tsembed_search.data.rows import KEYS, Answers, Fields, Row, kept
from tsembed_search.data.sources import TaskFile
from tsembed_search.errors import LoadError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_PROBLEMS: Final = 1_000
"""So many bad rows of a file are told one by one; the rest are counted."""
MOST_USES: Final = 20
"""A text that more rows of a task share is a label."""
_BAD_SHARE: Final = 0.25
_FEW: Final = 3
_TARGET, _QUERY, _GROUP = (KEYS.index(name) for name in ("target", "query", "group"))
Column = IntEnum("Column", "PLACE LINE QUESTION CONTENT WHOLE BATCH IDENTITY", start=0)
"""The columns of a `StoredTask`. A row's identity is the first of its `KEYS`."""
_COLUMNS: Final = len(Column) + len(KEYS)
_FILE_BITS: Final = 40
"""A place is a file's number above so many bits of offset: files may be of a terabyte, and there may be millions."""


class RowStore(Protocol):
    """Rows by their places."""

    def row(self, place: int, line: int) -> Row:
        """Return the row at a place. `line`: its line, for messages."""
        ...


@dataclass(frozen=True)
class MemoryStore(RowStore):
    """Rows in memory, by number."""

    rows: Sequence[Row]

    def row(self, place: int, line: int) -> Row:
        return self.rows[place]


@dataclass(frozen=True)
class FileStore(RowStore):
    """Rows in files, read one at a time; safe to share between threads and to send to processes."""

    files: Sequence[RowFile]
    instructions: Instructions | None = None
    _readers: dict[int, RowReader] = field(default_factory=dict, repr=False, compare=False)

    def row(self, place: int, line: int) -> Row:
        """Return the row at a place. Raises `LoadError` when the file has changed since it was looked through."""
        number, offset = place >> _FILE_BITS, place & ((1 << _FILE_BITS) - 1)
        file = self.files[number]
        reader = self._readers.get(number)
        if reader is None:
            reader = self._readers[number] = RowReader(Images(file.roots, listing=False), self.instructions)
        origin = f"{file.path}:{line}"
        try:
            return reader.read(file.fields(offset)).row(origin)
        except BadRow as error:
            raise LoadError(
                f"The row at {origin} can no longer be read: {error.message}.", "Has the data changed during the run?"
            ) from error
        except OSError as error:
            raise LoadError(f"Cannot read {file.copy or file.path}: {error.strerror or error}.") from error


@dataclass(frozen=True)
class StoredTask:
    """A task: where to read its rows, and seven numbers of each, `table` `[N, 7]` uint64: its place, its line, and what
    `rows.kept` tells of it: what is asked, what is right, all that it holds, its batch, and its identity.

    `answers`: the right ones for each query.
    """

    name: str
    meta: str
    weight: float
    store: RowStore
    table: NDArray[np.uint64]
    answers: Answers | None = None

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Row:
        place, line, question = (int(number) for number in self.table[row, :3])
        found = self.store.row(place, line)
        answers = frozenset() if self.answers is None else self.answers.of(question)
        return replace(found, answers=answers) if answers else found

    def identity(self, row: int) -> str:
        """Return the row's identity, without reading the row."""
        return f"{int(self.table[row, Column.IDENTITY]):016x}"

    def batch(self, row: int) -> int:
        """Return the number of the batch that the row wants to be in, 0 for none, without reading the row."""
        return int(self.table[row, Column.BATCH])

    def only(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> StoredTask:
        """Return the task with some of its rows."""
        return replace(self, table=self.table[rows])

    def fingerprint(self) -> str:
        """Return a hash of all that the rows hold, in their order, wherever their files lie."""
        return blake2b(self.table[:, Column.WHOLE].tobytes(), digest_size=16).hexdigest()


@dataclass
class Gathered:
    """A task's rows while they are read. `numbers`: of each row those of a `StoredTask`, then its other keys, and
    whether its target is text alone.
    """

    name: str
    meta: str
    split: str
    numbers: array[int] = field(default_factory=lambda: array("Q"))

    def __len__(self) -> int:
        return len(self.numbers) // _COLUMNS

    def add(self, fields: Fields, pictures: dict[str, str], place: int, line: int) -> None:
        """Keep all that is needed of a row. `pictures`: see `rows.kept`."""
        keys, marks = kept(fields, pictures)
        self.numbers.extend((place, line, *marks, *keys, fields.positive.image is None))

    def table(self) -> NDArray[np.uint64]:
        """Return the numbers `[N, K]`."""
        import numpy as np

        return np.array(self.numbers, np.uint64).reshape(-1, _COLUMNS)

    def task(self, store: RowStore) -> StoredTask:
        """Return the task, with weight 1."""
        return StoredTask(self.name, self.meta, 1.0, store, self.table()[:, : len(Column)].copy())

    def tied(self) -> NDArray[np.uint64]:
        """Return the rows' keys `[N, K]` without those of labels, and without a target's where the row names its group.

        A text that many rows share is no identity but a label: were all cats tied together, a class would be either
        learned or tested. Such a key ties nothing.
        """
        import numpy as np

        numbers = self.table()
        table, textual = numbers[:, Column.IDENTITY : -1], numbers[:, -1] != 0
        for kind, of_text in ((_TARGET, textual), (_QUERY, np.ones(len(table), np.bool_))):
            _, inverse, counts = np.unique(table[:, kind], return_inverse=True, return_counts=True)
            table[of_text & (counts[inverse] > MOST_USES), kind] = 0
        table[table[:, _GROUP] != 0, _TARGET] = 0
        return table


class FileRows:
    """The rows of one file, each read as a whole or named as a problem. `good` and `bad` count them, and add up to all.

    `images`: folders to look for pictures in first. `finders`: find pictures, for files that share their folders.
    """

    def __init__(
        self,
        file: TaskFile,
        images: Sequence[Path],
        instructions: Instructions | None,
        finders: dict[tuple[Path, ...], Images],
    ) -> None:
        self.good = 0
        self.bad: Counter[Fault] = Counter()
        roots = tuple(image_roots(file.path, file.source, images))
        self._found: RowFile | list[Problem]
        try:
            self._found = self.file = RowFile.opened(file.path, roots)
        except LoadError as error:
            self.file = RowFile(file.path, roots)
            self._found = [Problem(file.path, 0, str(error), "file")]
        self._reader = RowReader(finders.setdefault(roots, Images(roots)), instructions)

    @property
    def unread(self) -> list[UnreadFields]:
        """The fields that nothing reads, of the rows so far, if there are any."""
        return [UnreadFields(self.file.path, dict(self._reader.unread))] if self._reader.unread else []

    def __iter__(self) -> Iterator[tuple[RowRecord, Fields] | Problem]:
        for found in self._found:
            said: tuple[RowRecord, Fields] | Problem
            try:
                said = found if isinstance(found, Problem) else (found, self._reader.read(found.fields))
                self.good += isinstance(said, tuple)
            except BadRow as error:
                said = Problem(self.file.path, found.line, error.message, error.fault)
            if isinstance(said, Problem):
                self.bad[said.fault] += 1
            yield said


@dataclass
class Reading:
    """A reading of files: the tasks by (name, split), the problems, how many rows of each file are bad, by the trouble
    with them, and the fields that nothing reads.
    """

    files: list[RowFile] = field(default_factory=list)
    gathered: dict[tuple[str, str], Gathered] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    bad: dict[Path, Counter[Fault]] = field(default_factory=dict)
    unread: list[UnreadFields] = field(default_factory=list)


def read_files(
    files: Sequence[TaskFile],
    *,
    images: Sequence[Path] = (),
    instructions: Instructions | None = None,
    strict: bool = True,
    pictures: dict[str, str],
    progress: Callable[[str, int], None] = lambda task, rows: None,
    each: Callable[[TaskFile, str, Row], None] = lambda file, task, row: None,
) -> Reading:
    """Look every row of the files through. `images`: folders to look for images in, before the files' own. `strict`:
    raises `UsageError` when a large share of a file's rows cannot be used. `pictures`: those of other sources, as in
    `rows.kept`. `each` is called with each good row's file, task and row.
    """
    reading = Reading()
    finders: dict[tuple[Path, ...], Images] = {}
    for number, file in enumerate(files):
        rows = FileRows(file, images, instructions, finders)
        reading.files.append(rows.file)
        for found in rows:
            if isinstance(found, Problem):
                if rows.bad.total() <= MOST_PROBLEMS:
                    reading.problems.append(found)
                continue
            record, fields = found
            name = fields.task or file.task
            key = name, file.split
            if (task := reading.gathered.get(key)) is None:
                task = reading.gathered[key] = Gathered(name, file.meta, file.split)
            task.add(fields, pictures, number << _FILE_BITS | record.offset, record.line)
            each(file, name, fields.row(f"{file.path}:{record.line}"))
            if rows.good % 5_000 == 0:
                progress(name, len(task))
        reading.bad[file.path] = rows.bad
        reading.unread += rows.unread
        if strict:
            _refuse(rows, reading.problems)
    return reading


def _refuse(rows: FileRows, problems: Sequence[Problem]) -> None:
    """Raises `UsageError` when too many of a file's rows are bad."""
    path, bad = rows.file.path, rows.bad.total()
    if (bad < _FEW and rows.good) or bad <= _BAD_SHARE * (rows.good + bad):
        return
    own = [one for one in problems if one.path == path]
    if rows.bad["file"]:
        raise UsageError(f"{path} cannot be used: {own[0].reason}.", "Mend the file, or leave it out.")
    first = "; ".join(f"line {one.line}: {one.reason}" for one in own[:_FEW])
    hint = "Look it over with {check()}, and mend it."
    if rows.bad["image"] * 2 > bad:
        hint = "Name the folder of its images: {images}, or data.images in a recipe."
    raise UsageError(f"{bad:,} of {rows.good + bad:,} rows of {path} cannot be used: {first}.", hint)
