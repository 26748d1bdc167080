"""Tasks whose rows stay on disk: what is kept of a row in memory is where its line begins, and whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol

from tsembed_search.errors import LoadError
from tsembed_search.evaluation.layouts import RowFile, RowReader
from tsembed_search.evaluation.records import BadRow, Images, Instructions, parse_line
from tsembed_search.trainer.answers import Answers
from tsembed_search.trainer.data_rows import row_of
from tsembed_search.trainer.rows import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
