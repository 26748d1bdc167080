"""What the indexer remembers: a SQLite file beside the index, written only after the store acknowledged.

Two tables. `contents`: one row per content (sha256) with the points that the store has for it. `files`: one row per
path, with what `stat` said and the content that was in it, or the reason why it could not be read.

A content is `pending` from before the first of its points is written or deleted until all of that is acknowledged. So
after a kill at any moment the pending contents are all that may differ from the store, and `mending.py` looks only at
those. A content is `moved` while the places that its points name in the store may not be those that `files` has.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tsembed_search import private
from tsembed_search.documents.crawl import Found, stored_time
from tsembed_search.errors import StoreError
from tsembed_search.private import copied

NAME: Final = "manifest.sqlite"
UNSURE: Final = -1
"""Instead of a size: the file must be looked into again."""

_VERSION: Final = 1
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
"""
_ADDED: Final = "CREATE TABLE IF NOT EXISTS places (path BLOB PRIMARY KEY, disk TEXT, missing INTEGER NOT NULL)"


@dataclass(frozen=True)
class Content:
    """What is known of a content: how it was read, and the ids of its points in the store, 16 bytes each (a book has
    thousands).
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
    """What is known of a path. `sha` is None when it could not be read; `reason` says why."""

    path: str
    root: str
    size: int
    mtime_ns: int
    inode: int
    sha: bytes | None
    recipe: str
    reason: str | None


class Manifest:
    """An open manifest. Several threads may use it. Raises `StoreError` when the disk is full or the file is damaged.

    `path` None: in memory, for a dry run without an index.
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
                f"The manifest {self._path} has layout {version}; this program knows {_VERSION}.", "Update tsembed."
            )
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        self._db.execute(_ADDED)

    def close(self) -> None:
        """Closes the file."""
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

    def get(self, key: str) -> str | None:
        """A fact about the whole index."""
        row = self._one("SELECT value FROM meta WHERE key = ?", (key,))
        return str(row[0]) if row else None

    def put(self, key: str, value: str) -> None:
        """Remembers a fact about the whole index."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def clear(self) -> None:
        """Forgets everything: the store is gone, or is another one."""
        with self.transaction() as db:
            for table in ("meta", "contents", "files", "places"):
                db.execute(f"DELETE FROM {table}")

    def content(self, sha: bytes) -> Content | None:
        """What is known of a content."""
        row = self._one("SELECT sha, recipe, pending, points FROM contents WHERE sha = ?", (sha,))
        return row and Content(row[0], row[1], bool(row[2]), row[3])

    def file(self, path: str) -> FileRow | None:
        """What is known of a path."""
        row = self._one("SELECT * FROM files WHERE path = ?", (os.fsencode(path),))
        return row and _file_row(row)

    def files(self, sha: bytes | None = None) -> Iterator[FileRow]:
        """The files with this content, or all files, by path."""
        where, values = ("WHERE sha = ?", (sha,)) if sha is not None else ("", ())
        yield from map(_file_row, self._all(f"SELECT * FROM files {where} ORDER BY path", values))

    def skipped(self) -> list[tuple[str, str]]:
        """(path, reason) of every file that could not be read, by path."""
        rows = self._all("SELECT path, reason FROM files WHERE reason IS NOT NULL ORDER BY path")
        return [(os.fsdecode(path), reason) for path, reason in rows]

    def counts(self) -> tuple[int, int]:
        """(files, points) that are known."""
        files = self._one("SELECT count(*) FROM files WHERE sha IS NOT NULL")
        points = self._one("SELECT coalesce(sum(length(points)), 0) / 16 FROM contents")
        return (files[0] if files else 0), (points[0] if points else 0)

    def count_below(self, root: str) -> int:
        """How many files are known at a path and below it, without those that could not be read."""
        row = self._one(
            "SELECT count(*) FROM files WHERE sha IS NOT NULL AND (path = ? OR (path >= ? AND path < ?))",
            range_of(root),
        )
        return int(row[0])

    def places(self) -> list[tuple[str, str | None, int]]:
        """(path, disk, how many files were missing when it was found offline, else 0) of each place (`offline.py`)."""
        rows = self._all("SELECT path, disk, missing FROM places ORDER BY path")
        return [(os.fsdecode(path), disk, missing) for path, disk, missing in rows]

    def remember_places(
        self, disks: Mapping[str, str | None], lost: Mapping[str, int], others: Iterable[str] = ()
    ) -> None:
        """Places that are there, with their disks; those that are offline, with how many files are missing; and others,
        which are forgotten when nothing is known of any file in them.
        """
        others = list(others)
        if not (disks or lost or others):
            return
        with self.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO places VALUES (?, ?, 0)",
                [(os.fsencode(path), disk) for path, disk in disks.items()],
            )
            db.executemany(
                "INSERT INTO places VALUES (?, NULL, ?) ON CONFLICT (path) DO UPDATE SET missing = excluded.missing",
                [(os.fsencode(path), missing) for path, missing in lost.items()],
            )
            for path in others:
                db.execute("UPDATE places SET missing = 0 WHERE path = ?", (os.fsencode(path),))
                if not self.count_below(path):
                    db.execute("DELETE FROM places WHERE path = ?", (os.fsencode(path),))

    def unsettled(self) -> list[Content]:
        """The contents whose points in the store are not known for sure."""
        rows = self._all("SELECT sha, recipe, pending, points FROM contents WHERE pending")
        return [Content(row[0], row[1], True, row[3]) for row in rows]

    def begin(self, contents: Sequence[tuple[bytes, str]]) -> None:
        """Marks contents (sha, recipe) as pending, before their points are written or deleted."""
        with self.transaction() as db:
            db.executemany(
                "INSERT INTO contents (sha, recipe, pending, points) VALUES (?, ?, 1, x'') "
                "ON CONFLICT (sha) DO UPDATE SET pending = 1, recipe = excluded.recipe",
                contents,
            )

    def begin_removal(self, shas: Sequence[bytes]) -> None:
        """Marks contents as pending before their points are deleted."""
        with self.transaction() as db:
            db.executemany("UPDATE contents SET pending = 1 WHERE sha = ?", [(sha,) for sha in shas])

    def finish(self, contents: Sequence[tuple[Content, Sequence[FileRow], bool]]) -> None:
        """All points of these contents are acknowledged, and these files have them. The flag says that the payload of
        every point names the first of the files as its only place.
        """
        with self.transaction() as db:
            for content, files, placed in contents:
                db.execute(
                    "INSERT OR REPLACE INTO contents (sha, recipe, pending, moved, points) VALUES (?, ?, 0, ?, ?)",
                    (content.sha, content.recipe, not placed, content.points),
                )
                _write_files(db, files)
                homes = db.execute("SELECT count(*) FROM files WHERE sha = ?", (content.sha,)).fetchone()[0]
                if homes > 1:
                    db.execute("UPDATE contents SET moved = 1 WHERE sha = ?", (content.sha,))

    def place(self, files: Sequence[FileRow], left: Iterable[str] = ()) -> None:
        """These files have contents that are known already, and were at the paths in `left` before."""
        with self.transaction() as db:
            for file in files:
                # When nothing but size and inode differ, the store's places are right as they are.
                db.execute(
                    "UPDATE contents SET moved = 1 WHERE sha = ?1 AND NOT EXISTS "
                    "(SELECT 1 FROM files WHERE path = ?2 AND sha = ?1 AND mtime_ns = ?3 AND root = ?4)",
                    (file.sha, os.fsencode(file.path), stored_time(file.mtime_ns), os.fsencode(file.root)),
                )
            _write_files(db, files)
            _forget(db, left)

    def skip(self, files: Sequence[FileRow]) -> None:
        """These files cannot be read; what was in them before is no longer theirs."""
        with self.transaction() as db:
            _write_files(db, files)

    def forget(self, paths: Iterable[str]) -> None:
        """These files are gone. Their contents stay until they are swept."""
        with self.transaction() as db:
            _forget(db, paths)

    def homeless(self, limit: int) -> list[Content]:
        """Contents that no file has any more, up to `limit` of them."""
        rows = self._all(
            "SELECT sha, recipe, pending, points FROM contents "
            "WHERE NOT EXISTS (SELECT 1 FROM files WHERE files.sha = contents.sha) LIMIT ?",
            (limit,),
        )
        return [Content(row[0], row[1], bool(row[2]), row[3]) for row in rows]

    def drop(self, shas: Iterable[bytes]) -> None:
        """The points of these contents are gone from the store."""
        with self.transaction() as db:
            db.executemany("DELETE FROM contents WHERE sha = ?", [(sha,) for sha in shas])

    def moved(self, limit: int) -> list[Content]:
        """Finished contents whose places in the store are not up to date, up to `limit` of them."""
        rows = self._all("SELECT sha, recipe, 0, points FROM contents WHERE moved AND NOT pending LIMIT ?", (limit,))
        return [Content(row[0], row[1], False, row[3]) for row in rows]

    def settle_places(self, shas: Iterable[bytes]) -> None:
        """The places of these contents are up to date in the store."""
        with self.transaction() as db:
            db.executemany("UPDATE contents SET moved = 0 WHERE sha = ?", [(sha,) for sha in shas])

    def correct(self, contents: Iterable[Content], files: Iterable[FileRow] = ()) -> None:
        """Takes over what the store has: the points of contents, and files that were not known."""
        with self.transaction() as db:
            db.executemany(
                "INSERT INTO contents (sha, recipe, pending, points) VALUES (?, ?, ?, ?) ON CONFLICT (sha) DO UPDATE "
                "SET pending = excluded.pending, points = excluded.points, recipe = excluded.recipe",
                [(one.sha, one.recipe, int(one.pending), one.points) for one in contents],
            )
            _write_files(db, files, verb="INSERT OR IGNORE")

    def _one(self, query: str, values: Sequence[Any] = ()) -> Any:
        with self._lock, self._explained():
            return self._db.execute(query, values).fetchone()

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._explained():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError) as error:
            raise _in_words(error, self._path) from error


@contextmanager
def manifest_to_read(path: Path) -> Iterator[Manifest]:
    """The manifest at a path; where it cannot be written, a copy, for SQLite writes even to read."""
    with ExitStack() as stack:
        if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            files = [file for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
            path = stack.enter_context(copied(files)) / path.name
        yield stack.enter_context(closing(Manifest(path)))


_SHA_OF: Final = "SELECT sha FROM files WHERE path = ?"


def _write_files(db: sqlite3.Connection, files: Iterable[FileRow], *, verb: str = "INSERT OR REPLACE") -> None:
    """Writes rows; a content that loses a place to another one is to be told so in the store."""
    rows = [
        (os.fsencode(f.path), os.fsencode(f.root), f.size, stored_time(f.mtime_ns), f.inode, f.sha, f.recipe, f.reason)
        for f in files
    ]
    db.executemany(
        f"UPDATE contents SET moved = 1 WHERE sha = ({_SHA_OF}) AND sha IS NOT ?", [(row[0], row[5]) for row in rows]
    )
    db.executemany(f"{verb} INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _forget(db: sqlite3.Connection, paths: Iterable[str]) -> None:
    names = [(os.fsencode(path),) for path in paths]
    db.executemany(f"UPDATE contents SET moved = 1 WHERE sha = ({_SHA_OF})", names)
    db.executemany("DELETE FROM files WHERE path = ?", names)


def range_of(root: str) -> tuple[bytes, bytes, bytes]:
    """A path, and the range of paths inside it: all that begin with it and a separator."""
    first = os.fsencode(root.rstrip(os.sep) + os.sep)
    return os.fsencode(root), first, first[:-1] + bytes([first[-1] + 1])


def _file_row(row: Sequence[Any]) -> FileRow:
    path, root, size, mtime_ns, inode, sha, recipe, reason = row
    return FileRow(os.fsdecode(path), os.fsdecode(root), size, int(mtime_ns), inode, sha, recipe, reason)


def _in_words(error: sqlite3.DatabaseError | OSError, path: Path | None) -> StoreError:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if "full" in text:
        return StoreError(f"Cannot write {path}: the disk is full.", "Free some space and run the command again.")
    if "readonly" in text or "unable to open" in text:
        return StoreError(
            f"Cannot write {path}: {text}.",
            "Check who owns the index's folder and its files. If that is right: tsembed doctor --repair",
        )
    if "locked" in text:
        return StoreError(f"Another program has {path} open.", "End it, or wait, and run the command again.")
    if "I/O error" in text or "i/o" in text:
        return StoreError(f"Cannot use {path}: {text}.", "Check the disk that it is on.")
    if "malformed" in text or "not a database" in text:
        return StoreError(f"{path} is damaged.", "Rebuild it with `tsembed doctor --repair`.")
    return StoreError(f"Cannot use {path}: {text}.")


def packed(points: Iterable[str]) -> bytes:
    """Ids as 16 bytes each."""
    return b"".join(uuid.UUID(point).bytes for point in points)


def unpacked(points: bytes) -> list[str]:
    """The inverse of `packed`."""
    return [str(uuid.UUID(bytes=bytes(points[at : at + 16]))) for at in range(0, len(points), 16)]


def row_of(found: Found, sha: bytes | None, recipe: str, reason: str | None = None, *, sure: bool = True) -> FileRow:
    """The row of a file that was found; not `sure`: it may have changed since within the clock's grain."""
    return FileRow(
        found.path, found.root, found.size if sure else UNSURE, found.mtime_ns, found.inode, sha, recipe, reason
    )
