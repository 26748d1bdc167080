"""What has changed since the last run: every file found is compared with the manifest by one `stat`, and nothing else.

After rclip's algorithm: what is not found again under the given roots has vanished. The lists live in temporary tables,
so that memory does not grow with the corpus.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tsembed_search.documents.crawl import Found, is_ignored, stored_time
from tsembed_search.documents.document import formats
from tsembed_search.indexer.manifest import UNSURE, FileRow, Manifest, range_of
from tsembed_search.indexer.report import PageMode

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
    """Of one portion of files: how many are unchanged, and (path, reason) of unchanged ones that cannot be read."""

    unchanged: int
    skipped: list[tuple[str, str]]


class Changes:
    """The comparison of one run. `recipes`: the ways of reading that are still valid (see `valid_recipes`)."""

    def __init__(self, manifest: Manifest, recipes: Sequence[str], *, retry_skipped: bool = False) -> None:
        import json

        self._manifest = manifest
        self._values = (json.dumps(list(recipes)), not retry_skipped)
        self._kept: set[str] = set()
        with manifest.transaction() as db:
            for statement in _TABLES.split(";"):
                db.execute(statement)

    def compare(self, found: Sequence[Found]) -> Compared:
        """Puts what is new or changed on the list to do. A path that came before is not looked at again."""
        rows = [(os.fsencode(f.path), os.fsencode(f.root), f.size, stored_time(f.mtime_ns), f.inode) for f in found]
        with self._manifest.transaction() as db:
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
        """This path is there, though it cannot be examined now: what is known of it stays, and of what lies in it."""
        self._kept.add(path)
        with self._manifest.transaction() as db:
            db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (os.fsencode(path),))

    def find_vanished(self, roots: Sequence[str], place_of: Callable[[str], str]) -> None:
        """Lists the known files under `roots` that are gone, each with its place (see `offline.py`), and those that an
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
                    with self._manifest.transaction() as db:
                        db.execute(
                            "INSERT OR IGNORE INTO vanished VALUES (?, ?, ?, ?)",
                            (os.fsencode(row.path), row.sha, row.size, place),
                        )

    def _is_kept(self, path: str) -> bool:
        return bool(self._kept) and not self._kept.isdisjoint(map(str, Path(path).parents))

    def vanished_by_place(self) -> dict[str, int]:
        """How many files have vanished from each place, without those that could not be read."""
        with self._manifest.transaction() as db:
            rows = db.execute(
                "SELECT place, count(*) FROM vanished WHERE sha IS NOT NULL AND place IS NOT NULL GROUP BY place"
            ).fetchall()
        return {os.fsdecode(place): count for place, count in rows}

    def may_have_moved(self, place: str) -> bool:
        """Whether there are enough files to read, of the right sizes, to hold most of what vanished from a place."""
        name = os.fsencode(place)
        with self._manifest.transaction() as db:
            gone, alike, new = db.execute(
                "SELECT count(*), count(*) FILTER (WHERE size = ?2 OR size IN (SELECT size FROM todo)), "
                "(SELECT count(*) FROM todo) FROM vanished WHERE place = ?1",
                (name, UNSURE),
            ).fetchone()
        return bool(2 * min(alike, new) > gone)

    def seen_below(self, place: str) -> bool:
        """Whether this run found anything at a path or below it."""
        with self._manifest.transaction() as db:
            query = "SELECT 1 FROM seen WHERE path = ? OR (path >= ? AND path < ?) LIMIT 1"
            return db.execute(query, range_of(place)).fetchone() is not None

    def set_aside(self, place: str) -> None:
        """What is missing from a place has not vanished."""
        with self._manifest.transaction() as db:
            db.execute("DELETE FROM vanished WHERE place = ?", (os.fsencode(place),))

    def _unseen(self, root: str) -> Iterator[FileRow]:
        query = (
            "SELECT path FROM files WHERE (path = ? OR (path >= ? AND path < ?)) AND path > ? "
            "AND path NOT IN (SELECT path FROM seen) ORDER BY path LIMIT ?"
        )
        last = b""
        while True:
            with self._manifest.transaction() as db:
                page = db.execute(query, (*range_of(root), last, _PAGE)).fetchall()
            for (path,) in page:
                row = self._manifest.file(os.fsdecode(path))
                if row is not None:
                    yield row
            if len(page) < _PAGE:
                return
            last = page[-1][0]

    def take_renamed(self, sha: bytes) -> str | None:
        """A vanished path that had this content, taken off the list: the content has only moved."""
        with self._manifest.transaction() as db:
            row = db.execute("SELECT path FROM vanished WHERE sha = ? ORDER BY path LIMIT 1", (sha,)).fetchone()
            if row is None:
                return None
            db.execute("DELETE FROM vanished WHERE path = ?", row)
        return os.fsdecode(row[0])

    def vanished(self) -> Iterator[list[str]]:
        """The vanished paths, in portions; each is off the list when the next is asked for."""
        while True:
            with self._manifest.transaction() as db:
                page = db.execute("SELECT path FROM vanished ORDER BY path LIMIT ?", (_PAGE,)).fetchall()
            if not page:
                return
            yield [os.fsdecode(path) for (path,) in page]
            with self._manifest.transaction() as db:
                db.executemany("DELETE FROM vanished WHERE path = ?", page)

    def todo(self) -> Iterator[Found]:
        """The new and changed files, in the order in which they were found."""
        last = 0
        while True:
            with self._manifest.transaction() as db:
                page = db.execute("SELECT * FROM todo WHERE place > ? ORDER BY place LIMIT ?", (last, _PAGE)).fetchall()
            if not page:
                return
            for _, path, root, size, mtime_ns, inode in page:
                yield Found(os.fsdecode(path), os.fsdecode(root), size, int(mtime_ns), inode)
            last = page[-1][0]

    def todo_count(self) -> int:
        """How many files are new or changed."""
        with self._manifest.transaction() as db:
            return int(db.execute("SELECT count(*) FROM todo").fetchone()[0])


def wants_pages(pages: PageMode, reads_pages: bool | None) -> bool:
    """Whether document pages are rendered. `reads_pages`: the model reads them by eye (None: not known yet)."""
    return pages == "always" or (pages == "auto" and bool(reads_pages))


def valid_recipes(pages: PageMode, reads_pages: bool | None) -> list[str]:
    """The recipes whose result need not be made again. `auto` keeps pages that were asked for once."""
    wanted = wants_pages(pages, reads_pages)
    recipes = [""]
    for format in formats():
        if not format.pages or not wanted:
            recipes.append(format.recipe(pages=False))
        if format.pages and (wanted or pages == "auto"):
            recipes.append(format.recipe(pages=True))
    return recipes


def _is_gone(path: str) -> bool:
    """Whether there is nothing at that path. A folder that cannot be entered may well hold it still."""
    try:
        Path(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _excluded(path: str, root: str) -> bool:
    return path != root and os.path.isdir(root) and is_ignored(path, root)  # noqa: PTH112
