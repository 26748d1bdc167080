"""Tasks whose rows stay on disk: what is kept of a row in memory is where its line begins, and whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tsembed_search.errors import LoadError
from tsembed_search.evaluation.records import BadRow, Images, Instructions, parse_line
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
    """A task: where to read its rows, and their places `[N]` int64, lines `[N]` uint32 and identities `[N]` uint64: 20
    bytes a row.
    """

    name: str
    meta: str
    weight: float
    store: Store
    places: NDArray[np.int64]
    lines: NDArray[np.uint32]
    identities: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> Row:
        return self.store.row(int(self.places[row]), int(self.lines[row]))

    def identity(self, row: int) -> str:
        """The row's identity, without reading the row."""
        return f"{int(self.identities[row]):016x}"

    def only(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> StoredTask:
        """The task with some of its rows."""
        return replace(self, places=self.places[rows], lines=self.lines[rows], identities=self.identities[rows])


@dataclass(frozen=True)
class RowFile:
    """A JSON Lines file. `shown`: the file that people know, where this one was made from it. `roots`: where its images
    may lie.
    """

    path: Path
    shown: Path
    roots: tuple[Path, ...]


@dataclass(frozen=True)
class FileStore:
    """Rows in JSON Lines files, read one at a time; safe to share between threads and to send to processes."""

    files: Sequence[RowFile]
    instructions: Instructions | None = None
    _images: dict[int, Images] = field(default_factory=dict, repr=False, compare=False)

    def row(self, place: int, line: int) -> Row:
        """The row whose line begins there. Raises `LoadError` when the file has changed since it was looked through."""
        number, offset = place >> _FILE_BITS, place & ((1 << _FILE_BITS) - 1)
        known = self.files[number]
        images = self._images.setdefault(number, Images(known.roots, listing=False))
        origin = f"{known.shown}:{line}"
        try:
            with known.path.open("rb") as file:
                file.seek(offset)
                return row_of(parse_line(file.readline()), images, origin=origin, instructions=self.instructions)
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
