"""The memory of the indexer: a SQLite file beside the index, written only after the store acknowledged.

Two tables. `contents`: one row per content (sha256) with the points that the store has for it. `files`: one row per
path, with what `stat` said and the content that was in it, or the reason why it could not be read.

A content is `pending` from before the first of its points is written or deleted until all of that is acknowledged. So
after a kill at any moment the pending contents are all that may differ from the store, and `mending.py` looks only at
those. A content is `moved` while the places that its points name in the store may not be those that `files` has.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tsembed_search.documents.crawl import stored_time
from tsembed_search.indexer.database import WORDS_FIRST, Content, Database, FileRow, below, each_id
from tsembed_search.paths import offline_folders
from tsembed_search.private import copied

NAME: Final = "manifest.sqlite"
_SHA_OF: Final = "SELECT sha FROM files WHERE path = ?"
Told = tuple[bytes, bytes, bool]
"""A point as the store tells of it: its content, its id, and whether it is all of a file."""
_CONTENT: Final = "SELECT sha, recipe, pending, points FROM contents"


class Manifest:
    """An open manifest. Several threads may use it. Raises `StoreError` when the disk is full or the file is damaged.

    `path` None: in memory, for a run that changes nothing, without an index.
    """

    def __init__(self, path: Path | None) -> None:
        self.database = self._db = Database(path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get(self, key: str) -> str | None:
        """A fact about the whole index."""
        row = self._db.one("SELECT value FROM meta WHERE key = ?", (key,))
        return str(row[0]) if row else None

    def put(self, key: str, value: str) -> None:
        """Remember a fact about the whole index."""
        with self._db.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def clear(self) -> None:
        """Forget everything: the store is gone, or is another one."""
        with self._db.transaction() as db:
            for table in ("meta", "contents", "files", "places"):
                db.execute(f"DELETE FROM {table}")

    def content(self, sha: bytes) -> Content | None:
        """Return a content, None when it is not known."""
        found = self._contents("WHERE sha = ?", (sha,))
        return found[0] if found else None

    def file(self, path: str) -> FileRow | None:
        """Return a file, None when it is not known."""
        row = self._db.one("SELECT * FROM files WHERE path = ?", (os.fsencode(path),))
        return row and FileRow.read(row)

    def files(self, sha: bytes | None = None) -> Iterator[FileRow]:
        """The files with this content, or all files, by path."""
        where, values = ("WHERE sha = ?", (sha,)) if sha is not None else ("", ())
        yield from map(FileRow.read, self._db.all(f"SELECT * FROM files {where} ORDER BY path", values))

    def roots(self) -> list[str]:
        """The folders that files were found under, sorted."""
        return sorted(os.fsdecode(root) for (root,) in self._db.all("SELECT DISTINCT root FROM files"))

    def skipped(self) -> list[tuple[str, str]]:
        """(path, reason) of every file that could not be read, by path."""
        rows = self._db.all("SELECT path, reason FROM files WHERE reason IS NOT NULL ORDER BY path")
        return [(os.fsdecode(path), reason) for path, reason in rows]

    def counts(self) -> tuple[int, int]:
        """(files, points) that are known."""
        (files,) = self._db.one("SELECT count(*) FROM files WHERE sha IS NOT NULL")
        (points,) = self._db.one("SELECT coalesce(sum(length(points)), 0) / 16 FROM contents")
        return files, points

    def count_below(self, root: str) -> int:
        """Return the number of files that are known at a path and below it, without those that could not be read."""
        row = self._db.one(
            "SELECT count(*) FROM files WHERE sha IS NOT NULL AND (path = ? OR (path >= ? AND path < ?))", below(root)
        )
        return int(row[0])

    def places(self) -> list[tuple[str, str | None, int]]:
        """(path, disk, missing) of each place (see `changes.py`); `missing` files when it was found offline, else 0."""
        rows = self._db.all("SELECT path, disk, missing FROM places ORDER BY path")
        return [(os.fsdecode(path), disk, missing) for path, disk, missing in rows]

    def remember_places(self, disks: Mapping[str, str | None], lost: Mapping[str, int], others: Sequence[str]) -> None:
        """Remember places: those that are there, with their disks; those that are offline, with the number of missing
        files; and others, which are forgotten when nothing is known of any file in them.
        """
        if not (disks or lost or others):
            return
        there = [(os.fsencode(path), disk) for path, disk in disks.items()]
        away = [(os.fsencode(path), missing) for path, missing in lost.items()]
        with self._db.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO places VALUES (?, ?, 0)", there)
            db.executemany(
                "INSERT INTO places VALUES (?, NULL, ?) ON CONFLICT (path) DO UPDATE SET missing = excluded.missing",
                away,
            )
            for path in others:
                empty = not self.count_below(path)
                change = "DELETE FROM places" if empty else "UPDATE places SET missing = 0"
                db.execute(f"{change} WHERE path = ?", (os.fsencode(path),))

    def unsettled(self) -> list[Content]:
        """The contents whose points in the store are not known for sure."""
        return self._contents("WHERE pending")

    def begin(self, contents: Sequence[tuple[bytes, str]]) -> None:
        """Mark contents (sha, recipe) as pending, before their points are written or deleted."""
        with self._db.transaction() as db:
            db.executemany(
                "INSERT INTO contents (sha, recipe, pending, points) VALUES (?, ?, 1, x'') "
                "ON CONFLICT (sha) DO UPDATE SET pending = 1, recipe = excluded.recipe",
                contents,
            )

    def finish(self, contents: Sequence[tuple[Content, Sequence[FileRow], bool]]) -> None:
        """Settle contents: all their points are acknowledged, and these files have them. The flag says that the payload
        of every point names the first of the files as its only place.
        """
        with self._db.transaction() as db:
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
        """Place files whose contents are known already; they were at the paths in `left` before."""
        with self._db.transaction() as db:
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
        """Remember files that cannot be read; what was in them before is no longer theirs."""
        with self._db.transaction() as db:
            _write_files(db, files)

    def forget(self, paths: Iterable[str]) -> None:
        """Forget files that are gone. Their contents stay until they are swept."""
        with self._db.transaction() as db:
            _forget(db, paths)

    def homeless(self, limit: int, after: bytes = b"") -> list[Content]:
        """Contents that no file has any more, up to `limit` of them, in the order of their hashes, from `after` on."""
        return self._contents(
            "WHERE sha > ? AND NOT EXISTS (SELECT 1 FROM files WHERE files.sha = contents.sha) ORDER BY sha LIMIT ?",
            (after, limit),
        )

    def drop(self, shas: Iterable[bytes]) -> None:
        """Drop contents whose points are gone from the store."""
        with self._db.transaction() as db:
            db.executemany("DELETE FROM contents WHERE sha = ?", [(sha,) for sha in shas])

    def moved(self, limit: int) -> list[Content]:
        """Finished contents whose places in the store are not up to date, up to `limit` of them."""
        return self._contents("WHERE moved AND NOT pending LIMIT ?", (limit,))

    def settle_places(self, shas: Iterable[bytes]) -> None:
        """Settle contents whose places are up to date in the store."""
        with self._db.transaction() as db:
            db.executemany("UPDATE contents SET moved = 0 WHERE sha = ?", [(sha,) for sha in shas])

    def correct(self, contents: Iterable[Content], files: Iterable[FileRow] = ()) -> None:
        """Take over what the store has: the points of contents, and files that were not known."""
        with self._db.transaction() as db:
            db.executemany(
                "INSERT INTO contents (sha, recipe, pending, points) VALUES (?, ?, ?, ?) ON CONFLICT (sha) DO UPDATE "
                "SET pending = excluded.pending, points = excluded.points, recipe = excluded.recipe",
                [(one.sha, one.recipe, int(one.pending), one.points) for one in contents],
            )
            _write_files(db, files, verb="INSERT OR IGNORE")

    def rebuild(self, portions: Iterable[tuple[Sequence[Told], Iterable[FileRow]]], recipe: str) -> int:
        """Make contents what the store has; returns the number of points. `portions`: its points, and their files, of
        which those that were not known are taken over.

        A picture file is one point, so it is complete, as read by `recipe`; a document may not be.
        """
        columns = "sha BLOB, id BLOB, whole INTEGER, PRIMARY KEY (sha, id)"
        with self._db.transaction() as db:
            db.execute("DROP TABLE IF EXISTS temp.engine")
            db.execute(f"CREATE TEMP TABLE engine ({columns}) WITHOUT ROWID")
        total = 0
        for points, files in portions:
            total += len(points)
            with self._db.transaction() as db:
                db.executemany("INSERT OR IGNORE INTO engine VALUES (?, ?, ?)", points)
            self.correct((), files)
        with self._db.transaction() as db:
            known = {content.sha: content for content in map(_content, db.execute(_CONTENT))}
            corrected: list[Content] = []
            query = "SELECT sha, group_concat(hex(id), ''), max(whole) FROM engine GROUP BY sha"
            for sha, ids, whole in db.execute(query):
                points_of = bytes.fromhex(ids)
                before = known.pop(sha, Content(sha, "", True, b""))
                if before.pending or set(each_id(before.points)) != set(each_id(points_of)):
                    single = bool(whole) and len(points_of) == 16
                    corrected.append(Content(sha, recipe if single else before.recipe, not single, points_of))
            corrected += [Content(sha, before.recipe, True, b"") for sha, before in known.items()]
        self.correct(corrected)
        return total

    def need_vectors(self, shas: Iterable[bytes]) -> None:
        """Remember that points of these contents have no vector yet."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE contents SET recipe = ?1 || recipe WHERE sha = ?2 AND substr(recipe, 1, length(?1)) != ?1",
                [(WORDS_FIRST, sha) for sha in shas],
            )

    def _contents(self, where: str, values: Sequence[object] = ()) -> list[Content]:
        return [_content(row) for row in self._db.all(f"{_CONTENT} {where}", values)]


@dataclass(frozen=True)
class Remembered:
    """A manifest's view of files: their number, the folders that were given, which of these are offline now, and
    (path, reason) of what was skipped.
    """

    files: int = 0
    folders: list[str] = field(default_factory=list)
    offline: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def remembered(folder: Path) -> Remembered:
    """Return what the index in `folder` remembers of its files: nothing, if this machine never indexed into it."""
    if not os.path.exists(folder / NAME):  # noqa: PTH110 - `Path.exists` raises where it may not look
        return Remembered()
    with manifest_to_read(folder / NAME) as manifest:
        roots = manifest.roots()
        lost = [path for path, _, missing in manifest.places() if missing]
        return Remembered(manifest.counts()[0], roots, offline_folders(roots, lost), manifest.skipped())


def stamp_of(folder: Path) -> tuple[int, ...]:
    """Return what is another whenever a process of this machine has changed the index in `folder`; empty for none."""
    found = []
    for name in ("index.json", NAME):
        with suppress(OSError):
            found.append((folder / name).stat().st_mtime_ns)
    return tuple(found)


@contextmanager
def manifest_to_read(path: Path) -> Iterator[Manifest]:
    """The manifest at a path; where it cannot be written, a copy, for SQLite writes even to read."""
    with ExitStack() as stack:
        if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            files = [file for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
            path = stack.enter_context(copied(files)) / path.name
        yield stack.enter_context(closing(Manifest(path)))


def _content(row: Sequence[Any]) -> Content:
    sha, recipe, pending, points = row
    return Content(sha, recipe, bool(pending), points)


def _write_files(db: sqlite3.Connection, files: Iterable[FileRow], *, verb: str = "INSERT OR REPLACE") -> None:
    """Write rows; a content that loses a place to another one is to be told so in the store."""
    rows = [file.written() for file in files]
    db.executemany(
        f"UPDATE contents SET moved = 1 WHERE sha = ({_SHA_OF}) AND sha IS NOT ?", [(row[0], row[5]) for row in rows]
    )
    db.executemany(f"{verb} INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _forget(db: sqlite3.Connection, paths: Iterable[str]) -> None:
    names = [(os.fsencode(path),) for path in paths]
    db.executemany(f"UPDATE contents SET moved = 1 WHERE sha = ({_SHA_OF})", names)
    db.executemany("DELETE FROM files WHERE path = ?", names)
