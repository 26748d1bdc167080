"""The SQLite file of a manifest: its tables, its rows, and what goes wrong with it in words."""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tsembed_search import private
from tsembed_search.documents.crawl import Found, stored_time
from tsembed_search.errors import StoreError

WORDS_FIRST: Final = "words:"
"""The prefix of the recipe of a content whose words are in the store, but not yet its vectors."""
UNSURE: Final = -1
"""Instead of a size: the file must be looked into again."""

_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE contents (
    sha BLOB PRIMARY KEY, recipe TEXT NOT NULL, pending INTEGER NOT NULL, moved INTEGER NOT NULL DEFAULT 0,
    points BLOB NOT NULL
);
CREATE INDEX contents_unsettled ON contents (pending, moved) WHERE pending OR moved;
CREATE TABLE files (
    path BLOB PRIMARY KEY, root BLOB NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL, sha BLOB, recipe TEXT NOT NULL, reason TEXT
) WITHOUT ROWID;
CREATE INDEX files_sha ON files (sha);
CREATE TABLE places (path BLOB PRIMARY KEY, disk TEXT, missing INTEGER NOT NULL);
"""
_NO_SPACE: Final = "Free some space and run it again."
_TROUBLES: Final = (
    (("full",), "Cannot write {path}: the disk is full.", _NO_SPACE),
    (
        ("readonly", "unable to open"),
        "Cannot write {path}: {text}.",
        "Check who owns the index's folder and its files. If that is right: {repair()}",
    ),
    (("locked",), "Another program has {path} open.", "End it, or wait, and try again."),
    (("I/O error", "i/o"), "Cannot use {path}: {text}.", "Check the disk that it is on."),
    (("malformed", "not a database"), "{path} is damaged.", "Make it again from the index: {repair()}"),
    (("",), "Cannot use {path}: {text}.", ""),
)
"""Words of SQLite, the trouble that they mean, and what to do; the first that fits counts."""


@dataclass(frozen=True)
class Content:
    """A content as it is known: how it was read, and the ids of its points in the store, 16 bytes each.

    They are packed, for a book has thousands.
    """

    sha: bytes
    recipe: str
    pending: bool
    points: bytes

    @property
    def ids(self) -> list[str]:
        """The ids of the points."""
        return unpacked(self.points)


@dataclass(frozen=True)
class FileRow:
    """A file as it is known. `sha` is None when it could not be read; `reason` says why."""

    path: str
    root: str
    size: int
    mtime_ns: int
    inode: int
    sha: bytes | None
    recipe: str
    reason: str | None

    @classmethod
    def of(
        cls, found: Found, sha: bytes | None, recipe: str, reason: str | None = None, *, sure: bool = True
    ) -> FileRow:
        """Return the row of a file that was found; not `sure`: it may have changed since within the clock's grain."""
        size = found.size if sure else UNSURE
        return cls(found.path, found.root, size, found.mtime_ns, found.inode, sha, recipe, reason)

    @classmethod
    def read(cls, row: Sequence[Any]) -> FileRow:
        """Return the row that the table `files` has."""
        path, root, size, mtime_ns, inode, sha, recipe, reason = row
        return cls(os.fsdecode(path), os.fsdecode(root), size, int(mtime_ns), inode, sha, recipe, reason)

    def written(self) -> tuple[Any, ...]:
        """Return the values for the table `files`."""
        path, root = os.fsencode(self.path), os.fsencode(self.root)
        return path, root, self.size, stored_time(self.mtime_ns), self.inode, self.sha, self.recipe, self.reason


class Database:
    """A manifest's open file, for several threads. Raises `StoreError` when the disk is full or the file is damaged.

    `path` None: in memory, for a run that changes nothing, without an index.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.RLock()
        with self._explained():
            if path is not None:
                private.make_file(path)
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
            self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = FILE;")
            self._prepare()

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise StoreError(
                f"The manifest {self._path} has layout {version}; this program knows {_VERSION}.",
                "Update tsembed; or, if it is the manifest that is old, make it again from the index: {repair()}",
            )
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, also when the process is killed; on disk when the block has ended."""
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def one(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Return the first row of an answer, or None."""
        with self._lock, self._explained():
            return self._db.execute(query, values).fetchone()

    def all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of an answer."""
        with self._lock, self._explained():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise self._in_words(error) from error

    def _in_words(self, error: sqlite3.DatabaseError | OSError) -> StoreError:
        text = (error.strerror if isinstance(error, OSError) else None) or str(error)
        message, hint = next(told for signs, *told in _TROUBLES if any(sign in text for sign in signs))
        return StoreError(message.format(path=self._path, text=text), hint)


def below(root: str) -> tuple[bytes, bytes, bytes]:
    """Return a path, and the range of paths inside it: all that begin with it and a separator."""
    first = os.fsencode(root.rstrip(os.sep) + os.sep)
    return os.fsencode(root), first, first[:-1] + bytes([first[-1] + 1])


def packed(points: Iterable[str]) -> bytes:
    """Return ids as 16 bytes each."""
    return b"".join(uuid.UUID(point).bytes for point in points)


def unpacked(points: bytes) -> list[str]:
    """Return the ids in what `packed` made."""
    return [str(uuid.UUID(bytes=bytes(id))) for id in each_id(points)]


def each_id(points: bytes | bytearray) -> list[bytes]:
    """Return packed ids one by one, 16 bytes each."""
    return [bytes(points[at : at + 16]) for at in range(0, len(points), 16)]
