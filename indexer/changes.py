"""The changes since the last run: every file found is compared with the manifest by one `stat`, and nothing else.

After rclip's algorithm: what is not found again under the given roots has vanished. The lists live in temporary tables
of the manifest's file, so that memory does not grow with the corpus.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tsembed_search.documents.crawl import Found, is_ignored, stored_time
from tsembed_search.indexer.database import UNSURE, Database, FileRow, below

_PAGE: Final = 500
_TABLES: Final = """
DROP TABLE IF EXISTS temp.found; DROP TABLE IF EXISTS temp.seen; DROP TABLE IF EXISTS temp.vanished;
DROP TABLE IF EXISTS temp.todo;
CREATE TEMP TABLE found (path BLOB, root BLOB, size INTEGER, mtime_ns INTEGER, inode INTEGER);
CREATE TEMP TABLE seen (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE vanished (path BLOB PRIMARY KEY, sha BLOB, size INTEGER, place BLOB) WITHOUT ROWID;
CREATE INDEX temp.vanished_sha ON vanished (sha);
CREATE TEMP TABLE todo (place INTEGER PRIMARY KEY, path BLOB, root BLOB, size INTEGER, mtime_ns INTEGER, inode INTEGER);
"""
_UNCHANGED: Final = """
SELECT found.path, files.reason FROM found JOIN files USING (path) LEFT JOIN contents ON contents.sha = files.sha
WHERE files.size = found.size AND files.mtime_ns = found.mtime_ns AND files.inode = found.inode
  AND files.recipe IN (SELECT value FROM json_each(?)) AND (files.reason IS NULL OR ?)
  AND (files.sha IS NULL OR contents.pending = 0)
"""


@dataclass(frozen=True)
class Compared:
    """The unchanged files of one portion: their number, and (path, reason) of those that cannot be read."""

    unchanged: int
    skipped: list[tuple[str, str]]


class Changes:
    """The comparison of one run; `Manifest.changes` begins it. Several threads may use it."""

    def __init__(self, database: Database, recipes: Sequence[str], *, retry_skipped: bool = False) -> None:
        self._db = database
        self._values = (json.dumps(list(recipes)), not retry_skipped)
        self._kept: set[str] = set()
        with database.transaction() as db:
            for statement in _TABLES.split(";"):
                db.execute(statement)

    def compare(self, found: Sequence[Found]) -> Compared:
        """Put what is new or changed on the list to do. A path that came before is not looked at again."""
        rows = [(os.fsencode(f.path), os.fsencode(f.root), f.size, stored_time(f.mtime_ns), f.inode) for f in found]
        with self._db.transaction() as db:
            db.execute("DELETE FROM found")
            db.executemany("INSERT INTO found SELECT ?1, ?2, ?3, ?4, ?5 WHERE ?1 NOT IN (SELECT path FROM seen)", rows)
            db.execute("DELETE FROM found WHERE rowid NOT IN (SELECT min(rowid) FROM found GROUP BY path)")
            db.execute("INSERT INTO seen SELECT path FROM found")
            same = db.execute(_UNCHANGED, self._values).fetchall()
            db.executemany("DELETE FROM found WHERE path = ?", [(path,) for path, _ in same])
            db.execute("INSERT INTO todo (path, root, size, mtime_ns, inode) SELECT * FROM found")
        skipped = [(os.fsdecode(path), reason) for path, reason in same if reason is not None]
        return Compared(len(same) - len(skipped), skipped)

    def keep(self, path: str) -> None:
        """Keep what is known of a path, and of what lies in it: it is there, though it cannot be examined now."""
        self._kept.add(path)
        with self._db.transaction() as db:
            db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (os.fsencode(path),))

    def find_vanished(self, roots: Sequence[str], place_of: Callable[[str], str]) -> None:
        """List the known files under `roots` that are gone, each with its place (see `offline.py`), and those that an
        ignore file now excludes.

        A file that is still there, but that the options of this run pass over, has not vanished.
        """
        for root in roots:
            for row in self._unseen(root):
                if self._is_kept(row.path):
                    continue
                gone = _is_gone(row.path)
                if gone or _excluded(row.path, root):
                    place = os.fsencode(place_of(row.path)) if gone else None
                    with self._db.transaction() as db:
                        db.execute(
                            "INSERT OR IGNORE INTO vanished VALUES (?, ?, ?, ?)",
                            (os.fsencode(row.path), row.sha, row.size, place),
                        )

    def _is_kept(self, path: str) -> bool:
        return bool(self._kept) and not self._kept.isdisjoint(map(str, Path(path).parents))

    def vanished_by_place(self) -> dict[str, int]:
        """Return the number of files that have vanished from each place, without those that could not be read."""
        rows = self._db.all(
            "SELECT place, count(*) FROM vanished WHERE sha IS NOT NULL AND place IS NOT NULL GROUP BY place"
        )
        return {os.fsdecode(place): count for place, count in rows}

    def may_have_moved(self, place: str) -> bool:
        """Tell whether enough files are to be read, of the right sizes, to hold most of what vanished from a place."""
        gone, alike, new = self._db.one(
            "SELECT count(*), count(*) FILTER (WHERE size = ?2 OR size IN (SELECT size FROM todo)), "
            "(SELECT count(*) FROM todo) FROM vanished WHERE place = ?1",
            (os.fsencode(place), UNSURE),
        )
        return bool(2 * min(alike, new) > gone)

    def seen_below(self, place: str) -> bool:
        """Tell whether this run found anything at a path or below it."""
        query = "SELECT 1 FROM seen WHERE path = ? OR (path >= ? AND path < ?) LIMIT 1"
        return self._db.one(query, below(place)) is not None

    def set_aside(self, place: str) -> None:
        """Take what is missing from a place off the list of what vanished."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM vanished WHERE place = ?", (os.fsencode(place),))

    def _unseen(self, root: str) -> Iterator[FileRow]:
        query = (
            "SELECT * FROM files WHERE (path = ? OR (path >= ? AND path < ?)) AND path > ? "
            "AND path NOT IN (SELECT path FROM seen) ORDER BY path LIMIT ?"
        )
        last = b""
        while True:
            page = self._db.all(query, (*below(root), last, _PAGE))
            yield from map(FileRow.read, page)
            if len(page) < _PAGE:
                return
            last = page[-1][0]

    def take_renamed(self, sha: bytes) -> str | None:
        """Take a vanished path that had this content off the list: the content has only moved."""
        with self._db.transaction() as db:
            row = db.execute("SELECT path FROM vanished WHERE sha = ? ORDER BY path LIMIT 1", (sha,)).fetchone()
            if row is None:
                return None
            db.execute("DELETE FROM vanished WHERE path = ?", row)
        return os.fsdecode(row[0])

    def vanished(self) -> Iterator[list[str]]:
        """The vanished paths, in portions; each is off the list when the next is asked for."""
        while True:
            page = self._db.all("SELECT path FROM vanished ORDER BY path LIMIT ?", (_PAGE,))
            if not page:
                return
            yield [os.fsdecode(path) for (path,) in page]
            with self._db.transaction() as db:
                db.executemany("DELETE FROM vanished WHERE path = ?", page)

    def todo(self) -> Iterator[Found]:
        """The new and changed files, in the order in which they were found."""
        last = 0
        while True:
            page = self._db.all("SELECT * FROM todo WHERE place > ? ORDER BY place LIMIT ?", (last, _PAGE))
            if not page:
                return
            for _, path, root, size, mtime_ns, inode in page:
                yield Found(os.fsdecode(path), os.fsdecode(root), size, int(mtime_ns), inode)
            last = page[-1][0]

    def todo_count(self) -> int:
        """Return the number of new and changed files."""
        return int(self._db.one("SELECT count(*) FROM todo")[0])


def _is_gone(path: str) -> bool:
    """Tell whether there is nothing at that path. A folder that cannot be entered may well hold it still."""
    try:
        Path(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _excluded(path: str, root: str) -> bool:
    return path != root and os.path.isdir(root) and is_ignored(path, root)  # noqa: PTH112
