"""Looking files of rows through once: what is kept of each good row, what is told of each bad one.

Tasks whose rows stay on disk: what is kept of a row in memory is where its line begins, and whose it is.

The validation split: rows that share a target, an image, a query or a group fall on one side, all of them.

Rows are tied by keys; tied rows make a group, across tasks. A hash of the group decides its side. So the split is the
same for the same data, and rows that are added later move no others unless they tie two groups together.

A text that many rows share is no identity but a label: were all cats tied together, a class would be either learned or
tested. Such a key ties nothing.
"""

from __future__ import annotations

import collections
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tsembed_search.data.layouts import Fields, FileRows, RowFile, RowReader, Unread
from tsembed_search.data.records import BadRow, Fault, Images, Instructions, Problem, parse_line
from tsembed_search.data.rows import KEYS, MARKS, Answers, Row, kept, row_of
from tsembed_search.data.sameness import Copies
from tsembed_search.data.sources import TaskFile
from tsembed_search.errors import LoadError, UsageError

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
    hint = "Look it over with {check()}, and mend it."
    if rows.bad["image"] * 2 > bad:
        hint = "Name the folder of its images: {images}, or data.images in a recipe."
    raise UsageError(f"{bad:,} of {rows.good + bad:,} rows of {path} cannot be used: {first}.", hint)


_FILE_BITS: Final = 40

"""A place is a file's number above so many bits of offset: files may be of a terabyte, and there may be millions."""


class Store(Protocol):
    """Rows by their places."""

    def row(self, place: int, line: int) -> Row:
        """The row at a place. `line`: its line, for messages."""
        ...


@dataclass(frozen=True)
class StoredTask:
    """A task: where to read its rows, and their places `[N]` int64, lines `[N]` uint32, identities `[N]` uint64 and
    `marks` `[N, MARKS]` uint64 (see `data_rows.kept`): 44 bytes a row. `answers`: what is right for each query.
    """

    name: str
    meta: str
    weight: float
    store: Store
    places: NDArray[np.int64]
    lines: NDArray[np.uint32]
    identities: NDArray[np.uint64]
    marks: NDArray[np.uint64]
    answers: Answers | None = None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> Row:
        found = self.store.row(int(self.places[row]), int(self.lines[row]))
        answers = frozenset() if self.answers is None else self.answers.of(int(self.marks[row, 0]))
        return replace(found, answers=answers) if answers else found

    def identity(self, row: int) -> str:
        """The row's identity, without reading the row."""
        return f"{int(self.identities[row]):016x}"

    def only(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> StoredTask:
        """The task with some of its rows."""
        parts = {name: getattr(self, name)[rows] for name in ("places", "lines", "identities", "marks")}
        return replace(self, **parts)

    def fingerprint(self) -> str:
        """A hash of what the rows hold, in their order, wherever their files lie."""
        return blake2b(self.marks[:, 2].tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class FileStore:
    """Rows in JSON Lines files, read one at a time; safe to share between threads and to send to processes."""

    files: Sequence[RowFile]
    instructions: Instructions | None = None
    _readers: dict[int, RowReader] = field(default_factory=dict, repr=False, compare=False)

    def row(self, place: int, line: int) -> Row:
        """The row whose line begins there. Raises `LoadError` when the file has changed since it was looked through."""
        number, offset = place >> _FILE_BITS, place & ((1 << _FILE_BITS) - 1)
        known = self.files[number]
        reader = self._readers.get(number)
        if reader is None:
            reader = self._readers[number] = RowReader(Images(known.roots, listing=False), self.instructions)
        origin = f"{known.shown}:{line}"
        try:
            with known.path.open("rb") as file:
                file.seek(offset)
                return row_of(reader.read(parse_line(file.readline())), origin=origin)
        except BadRow as error:
            raise LoadError(
                f"The row at {origin} can no longer be read: {error.message}.", "Has the data changed during the run?"
            ) from error
        except OSError as error:
            raise LoadError(f"Cannot read {known.path}: {error.strerror or error}.") from error


def place_of(file: int, offset: int) -> int:
    """The place of a line in `FileStore`, by its file's number and its offset in bytes."""
    return file << _FILE_BITS | offset


@dataclass(frozen=True)
class MemoryStore:
    """Rows in memory, by number."""

    rows: Sequence[Row]

    def row(self, place: int, line: int) -> Row:
        """The row of that number."""
        return self.rows[place]


MOST_USES: Final = 20

"""A text that more rows of a task share is a label."""

_LARGEST_SHARE: Final = 0.2

"""A group with more of the rows never makes up the validation by itself."""


def without_labels(keys: NDArray[np.uint64], textual: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Keys `[N]` of one kind in one task, with 0 where a text is a label. `textual` `[N]`: which keys are of texts."""
    import numpy as np

    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.where(textual & (counts[inverse] > MOST_USES), np.uint64(0), keys)


def groups(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """For rows with keys `[N, K]` (0 for none) the group `[N]` of each: the smallest key that its ties lead to.

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


def held_out(
    group: NDArray[np.uint64], seed: int, validation: float, fixed: NDArray[np.uint64] | None = None
) -> NDArray[np.bool_]:
    """Which rows `[N]` are for validation, by their groups `[N]`.

    `validation`: a share of the groups (below 1), or about so many rows. `fixed`: groups that are held out anyway.
    A share that would leave a small set without any validation gives it one group.
    """
    import numpy as np

    names, inverse, sizes = np.unique(group, return_inverse=True, return_counts=True)
    draws = _mixed(names, seed)
    out = np.isin(names, fixed) if fixed is not None else np.zeros(len(names), np.bool_)
    if validation > 0 and len(names) > 1:
        most = max(1.0, _LARGEST_SHARE * len(group))
        small = sizes <= most
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


def measurable(
    out: NDArray[np.bool_],
    group: NDArray[np.uint64],
    task: NDArray[np.uint64],
    identity: NDArray[np.uint64],
    fixed: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """`out` `[N]`, the rows that are held out, less what nothing can be measured with: all that a task has of them has
    one target. A group stays when it is `fixed`, or when it serves another task.

    None is held out when the rest would have nothing to tell apart, and all of them have. All arrays are `[N]`: of
    `group`, `task` and `identity`, but for `fixed`.
    """
    import numpy as np

    tasks, _ = np.unique(np.stack([task[out], identity[out]]), axis=1)
    names, counts = np.unique(tasks, return_counts=True)
    serving = out & np.isin(task, names[counts > 1])
    held = out & np.isin(group, np.concatenate([group[serving], fixed]))
    if len(np.unique(identity[~held])) < 2 <= len(np.unique(identity)):
        held &= np.isin(group, fixed)
    return held


def _mixed(names: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Numbers `[N]` uint64 that look random, by name and seed (the finaliser of SplitMix64, Steele et al. 2014)."""
    import numpy as np

    mixed = names ^ np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & (2**64 - 1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def first_by_hash(identities: NDArray[np.uint64], places: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Which rows a cap keeps: `most` of them, in their order, chosen by hash."""
    import numpy as np

    draws = _mixed(identities ^ _mixed(places.astype(np.uint64), 1), seed)
    return np.sort(np.argsort(draws, kind="stable")[:most])
