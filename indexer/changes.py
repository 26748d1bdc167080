"""The changes since the last run: every file found is compared with the manifest by one `stat`, and nothing else.

After rclip's algorithm: what is not found again under the given roots has vanished. The lists live in temporary tables
of the manifest's file, so that memory does not grow with the corpus.

A folder that is gone is not a folder that was emptied: its disk may be away for a while. A *place* is a folder that
comes and goes as a whole: one that was given to be indexed, or, below it, a mount point or a folder behind a link. What
is missing from a place that is offline stays in the index. A place is offline when

- it is not there, is no folder any more, or cannot be listed;
- none of its files is there any more;
- it is on another disk than before, and files are missing;
- more than half of its files are missing at once, and they are more than three.

The last one is judged when the run has read what is new, for content that was found elsewhere has only moved. A place
that was found offline stays so until most of what was missing is back, however many runs come between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tsembed_search.documents.crawl import Found, is_ignored, stored_time
from tsembed_search.indexer.database import UNSURE, FileRow, below
from tsembed_search.indexer.manifest import Manifest
from tsembed_search.indexer.report import Offline
from tsembed_search.paths import absence, disk_of

_PAGE: Final = 500
_FEW: Final = 3
_TABLES: Final = """
DROP TABLE IF EXISTS temp.seen; DROP TABLE IF EXISTS temp.vanished; DROP TABLE IF EXISTS temp.todo;
CREATE TEMP TABLE seen (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE vanished (path BLOB PRIMARY KEY, sha BLOB, size INTEGER, place BLOB) WITHOUT ROWID;
CREATE INDEX temp.vanished_sha ON vanished (sha);
CREATE TEMP TABLE todo (place INTEGER PRIMARY KEY, path BLOB, root BLOB, size INTEGER, mtime_ns INTEGER, inode INTEGER);
"""
_KNOWN: Final = """
SELECT path, size, mtime_ns, inode, files.recipe, reason FROM files LEFT JOIN contents USING (sha)
WHERE path IN ({paths}) AND (sha IS NULL OR contents.pending = 0)
"""
# After (time, place): with the latest time first, and as they were found.
_NEWEST: Final = "SELECT * FROM todo WHERE (mtime_ns, place) < (?, ?) ORDER BY mtime_ns DESC, place DESC LIMIT ?"
_NEXT: Final = "SELECT * FROM todo WHERE ?1 IS NOT NULL AND place > ?2 ORDER BY place LIMIT ?3"


class Changes:
    """The comparison of one run. Several threads may use it.

    `recipes`: the ways of reading whose results need not be made again; `by_words`: the same where words are enough.
    `retry_skipped`: files that could not be read are to be read again. `wordless` is the number of new and changed
    files that have not been stored by their words.
    """

    def __init__(
        self, manifest: Manifest, recipes: Sequence[str], by_words: Sequence[str], *, retry_skipped: bool = False
    ) -> None:
        self._db = manifest.database
        self._recipes = frozenset(recipes)
        self._by_words = frozenset(by_words)
        self.wordless = 0
        self._retry_skipped = retry_skipped
        self._kept: set[str] = set()
        with self._db.transaction() as db:
            for statement in _TABLES.split(";"):
                db.execute(statement)

    def compare(self, found: Sequence[Found]) -> tuple[int, list[tuple[str, str]]]:
        """Put what is new or changed on the list to do. A path that came before is not looked at again.

        Returns the number of unchanged files, and (path, reason) of unchanged ones that cannot be read.
        """
        new: dict[bytes, Found] = {}
        for one in found:
            new.setdefault(os.fsencode(one.path), one)
        unchanged = has_words = 0
        skipped: list[tuple[str, str]] = []
        with self._db.transaction() as db:
            marks = ", ".join("?" * len(new))
            for (path,) in db.execute(f"SELECT path FROM seen WHERE path IN ({marks})", list(new)).fetchall():
                del new[path]
            db.executemany("INSERT INTO seen VALUES (?)", [(path,) for path in new])
            known = db.execute(_KNOWN.format(paths=", ".join("?" * len(new))), list(new)).fetchall()
            for path, size, mtime_ns, inode, recipe, reason in known:
                one = new[path]
                unchanged_since = (one.size, one.mtime_ns, one.inode) == (size, int(mtime_ns), inode)
                same = unchanged_since and recipe in self._recipes
                if same and reason is None:
                    unchanged += 1
                    del new[path]
                elif same and not self._retry_skipped:
                    skipped.append((one.path, reason))
                    del new[path]
                elif unchanged_since and recipe in self._by_words:
                    has_words += 1
            self.wordless += len(new) - has_words
            db.executemany(
                "INSERT INTO todo (path, root, size, mtime_ns, inode) VALUES (?, ?, ?, ?, ?)",
                [(path, os.fsencode(f.root), f.size, stored_time(f.mtime_ns), f.inode) for path, f in new.items()],
            )
        return unchanged, skipped

    def keep(self, path: str) -> None:
        """Keep what is known of a path, and of what lies in it: it is there, though it cannot be examined now."""
        self._kept.add(path)
        with self._db.transaction() as db:
            db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (os.fsencode(path),))

    def find_vanished(self, roots: Sequence[str], place_of: Callable[[str], str]) -> None:
        """List the known files under `roots` that are gone, each with its place, and those that an ignore file now
        excludes.

        A file that is still there, but that the options of this run pass over, has not vanished.
        """
        for root in roots:
            for page in self._unseen(root):
                vanished = []
                for row in page:
                    if self._kept and not self._kept.isdisjoint(map(str, Path(row.path).parents)):
                        continue
                    gone = _is_gone(row.path)
                    if gone or (row.path != root and os.path.isdir(root) and is_ignored(row.path, root)):  # noqa: PTH112
                        place = os.fsencode(place_of(row.path)) if gone else None
                        vanished.append((os.fsencode(row.path), row.sha, row.size, place))
                with self._db.transaction() as db:
                    db.executemany("INSERT OR IGNORE INTO vanished VALUES (?, ?, ?, ?)", vanished)

    def _unseen(self, root: str) -> Iterator[list[FileRow]]:
        query = (
            "SELECT * FROM files WHERE (path = ? OR (path >= ? AND path < ?)) AND path > ? "
            "AND path NOT IN (SELECT path FROM seen) ORDER BY path LIMIT ?"
        )
        last = b""
        while page := self._db.all(query, (*below(root), last, _PAGE)):
            yield list(map(FileRow.read, page))
            last = page[-1][0]

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
        while page := self._db.all("SELECT path FROM vanished ORDER BY path LIMIT ?", (_PAGE,)):
            yield [os.fsdecode(path) for (path,) in page]
            with self._db.transaction() as db:
                db.executemany("DELETE FROM vanished WHERE path = ?", page)

    def todo(self, *, newest_first: bool = False) -> Iterator[Found]:
        """The new and changed files, in the order in which they were found, or the last changed first."""
        if newest_first:
            with self._db.transaction() as db:
                db.execute("CREATE INDEX IF NOT EXISTS temp.todo_by_time ON todo (mtime_ns, place)")
        query, last = (_NEWEST, (float("inf"), 0.0)) if newest_first else (_NEXT, (0.0, 0.0))
        while page := self._db.all(query, (*last, _PAGE)):
            for _, path, root, size, mtime_ns, inode in page:
                yield Found(os.fsdecode(path), os.fsdecode(root), size, int(mtime_ns), inode)
            place, *_, mtime_ns, _ = page[-1]
            last = (mtime_ns, place)

    def todo_count(self) -> int:
        """Return the number of new and changed files."""
        return int(self._db.one("SELECT count(*) FROM todo")[0])


def _is_gone(path: str) -> bool:
    try:
        Path(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass  # a folder that cannot be entered may well hold it still
    return False


class Guard:
    """The judgement of one run over the places under its `roots`. `disks`: those that the crawl met, by place."""

    def __init__(self, manifest: Manifest, changes: Changes, roots: list[str], disks: Mapping[str, str | None]) -> None:
        self._manifest = manifest
        self._changes = changes
        self._disks = disks
        # Of each place its disk, and how many files were missing when it was found offline.
        self._known = {path: (disk, missing) for path, disk, missing in manifest.places()}
        under = [path for path in self._known if any(_within(path, root) for root in roots)]
        self._places = sorted({*roots, *under, *disks})
        self._sizes: dict[str, int] = {}
        self._suspects: dict[str, int] = {}
        self._offline: dict[str, Offline] = {}

    @property
    def offline(self) -> list[Offline]:
        """The places that were found offline, by path; one inside another counts for that one."""
        told: list[Offline] = []
        for path, one in sorted(self._offline.items()):
            if told and _within(path, told[-1].path) and absence(told[-1].path):
                told[-1] = Offline(told[-1].path, told[-1].reason, told[-1].files + one.files)
            else:
                told.append(one)
        return told

    def place_of(self, path: str) -> str:
        """The innermost place that a path lies in."""
        return max((place for place in self._places if _within(path, place)), key=len)

    def look(self, *, most: bool = True) -> None:
        """Judge what the crawl missed, before the new files are read. What is surely offline is off the list of what
        vanished, so that a copy in another place is not taken for it; unless enough is new to hold all of it.

        `most`: also suspect places that most files are missing from.
        """
        missing = self._changes.vanished_by_place()
        for place in self._places:
            gone = missing.get(place, 0)
            reason = self._surely(place, gone)
            if reason and not self._changes.may_have_moved(place):
                self._set_aside(place, reason, gone)
            elif reason or (most and self._mostly(place, gone)):
                self._suspects[place] = gone

    def look_again(self) -> None:
        """Judge the suspects, now that what only moved is known."""
        missing = self._changes.vanished_by_place()
        for place in self._suspects:
            gone = missing.get(place, 0)
            reason = self._surely(place, gone) or self._mostly(place, gone)
            if gone and reason:
                self._set_aside(place, reason, gone)

    def remember(self, *, finished: bool) -> None:
        """Write down which places are offline, and the disks of the others. Before the run has `finished`, suspects
        count as offline: a kill must not make the next run forget what was missing.
        """
        lost = {place: one.files for place, one in self._offline.items()}
        if not finished:
            lost |= self._suspects
        now = {path: (disk, missing) for path, disk, missing in self._manifest.places()}
        # To be on disk takes its time, and most runs find everything as it was.
        self._manifest.remember_places(
            {at: disk for at, disk in self._disks.items() if at not in lost and now.get(at) != (disk, 0)},
            {at: missing for at, missing in lost.items() if now.get(at, ("", 0))[1] != missing},
            [place for place in self._places if place in now and place not in lost and place not in self._disks],
        )

    def _set_aside(self, place: str, reason: str, gone: int) -> None:
        self._offline[place] = Offline(place, reason, gone or self._size(place))
        self._changes.set_aside(place)

    def _surely(self, place: str, gone: int) -> str:
        """Why a place is offline whatever else there is; empty when that cannot be said."""
        reason = absence(place)
        if not (gone or (reason and not os.path.isfile(place))) or not (size := self._size(place)):  # noqa: PTH113
            return ""
        if reason:
            return reason
        if gone >= size and not self._changes.seen_below(place):
            return "None of its files is there."
        # A place that was none before was on the disk of the place around it.
        around = max((known for known in self._known if _within(place, known)), key=len, default=None)
        before, now = None if around is None else self._known[around][0], disk_of(place)
        if before is not None and now is not None and before != now:
            return f"Another disk is in its place, and {gone:,} of {size:,} files are missing."
        return ""

    def _mostly(self, place: str, gone: int) -> str:
        """Why a place is offline if what is missing has not moved."""
        size, before = self._size(place) if gone else 0, self._known.get(place, (None, 0))[1]
        if gone > _FEW and 2 * gone > size:
            return f"{gone:,} of {size:,} files are missing at once."
        if gone and before and 2 * gone >= before:
            return f"{gone:,} of {size:,} files are still missing."
        return ""

    def _size(self, place: str) -> int:
        """The number of files that a place had before this run, without those of places inside it."""
        if place not in self._sizes:
            inside = [other for other in self._places if other != place and _within(other, place)]
            direct = [one for one in inside if not any(one != other and _within(one, other) for other in inside)]
            count = self._manifest.count_below
            self._sizes[place] = count(place) - sum(map(count, direct))
        return self._sizes[place]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
