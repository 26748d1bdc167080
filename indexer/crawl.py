"""Walking the folders to index: one `scandir` per folder, one `stat` per file that may be indexed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsembed_search.errors import UsageError
from tsembed_search.ignore_files import IGNORE_FILE, IgnoreRules, rules_in
from tsembed_search.indexer.ignore import RootSelection, Selection
from tsembed_search.paths import absolute, typed
from tsembed_search.whereabouts import disk_of


@dataclass(frozen=True, slots=True)
class Found:
    """A file to index. `path` and `root` absolute, as the system spells them (bytes that are not UTF-8 are lone
    surrogates); `size` in bytes, `mtime_ns` in nanoseconds since the epoch; these and `inode` as `signature` has them.
    """

    path: str
    root: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was to be indexed and cannot be."""

    path: str
    reason: str


class Crawl:
    """The files below the given paths, in a stable order. Where paths lie inside one another a file comes twice.

    Hidden files and files of unknown kinds are passed over by rule and only counted (`ignored`); a file that is given
    itself is always taken. Linked files are read, linked folders are entered only with `follow_links`, each once.

    `disks` tells, after a walk, on which disk each root lies, and each folder below where another disk or a link
    begins. A path that is not there is passed over if files are `known` of it, else it raises `UsageError`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        selection: Selection,
        *,
        follow_links: bool = False,
        skip: Path | None = None,
        known: Callable[[str], bool] = lambda path: False,
    ) -> None:
        self.roots = list(dict.fromkeys(str(typed(path)) for path in paths))
        self._follow_links = follow_links
        self._skip = str(absolute(skip)) if skip is not None else None
        self.ignored = 0
        self.disks: dict[str, str | None] = {}
        self._missing = {root for root in self.roots if not os.path.exists(root) and known(root)}  # noqa: PTH110
        for root in self.roots:
            if root not in self._missing and not os.path.lexists(root):
                raise UsageError(f"There is no file or folder {root}.", "Check the path.")
        self._selections = selection.below(self.roots)

    def __iter__(self) -> Iterator[Found | Problem]:
        for root, selection in zip(self.roots, self._selections, strict=True):
            if os.path.isdir(root):  # noqa: PTH112 - `Path.is_dir` raises where it may not look
                yield from self._walk(root, selection)
            elif root not in self._missing:
                yield _examined(root, str(Path(root).parent))

    def _walk(self, root: str, selection: RootSelection) -> Iterator[Found | Problem]:
        facts = os.stat(root)  # noqa: PTH116
        entered = {(facts.st_dev, facts.st_ino)}
        todo: list[tuple[str, IgnoreRules | None, int | None]] = [(root, None, None)]
        prefix = len(root.rstrip(os.sep)) + 1
        while todo:
            folder, above, around = todo.pop()
            try:
                device = os.stat(folder).st_dev  # noqa: PTH116
                if device != around:
                    self.disks[folder] = disk_of(folder)
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield Problem(folder, f"The folder cannot be listed: {error.strerror or error}.")
                continue
            rules = rules_in(folder, above) if any(entry.name == IGNORE_FILE for entry in entries) else above
            below: list[tuple[str, IgnoreRules | None, int | None]] = []
            for entry in entries:
                rel = entry.path[prefix:].replace(os.sep, "/")
                if self._is_folder(entry):
                    if selection.takes_folder(entry.name, rel) and self._enters(entry, rules, entered):
                        below.append((entry.path, rules, None if entry.is_symlink() else device))
                elif selection.takes_file(entry.name, rel) and not (rules and rules.ignores(entry.path)):
                    yield _examined(entry.path, root)
                else:
                    self.ignored += 1
            todo.extend(reversed(below))

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir(follow_symlinks=True)
        except OSError:
            return False

    def _enters(self, entry: os.DirEntry[str], rules: IgnoreRules | None, entered: set[tuple[int, int]]) -> bool:
        if entry.path == self._skip or (rules is not None and rules.ignores(entry.path, is_folder=True)):
            return False
        if not self._follow_links:
            return not entry.is_symlink()
        try:
            facts = entry.stat(follow_symlinks=True)
        except OSError:
            return False
        # Links may lead back up, or to the same folder twice.
        identity = facts.st_dev, facts.st_ino
        if identity in entered:
            return False
        entered.add(identity)
        return True


def is_below(path: str, folder: str) -> bool:
    """Whether `path` lies inside `folder`."""
    return path.startswith(folder if folder.endswith(os.sep) else folder + os.sep)


def _examined(path: str, root: str) -> Found | Problem:
    try:
        facts = Path(path).stat()
    except FileNotFoundError:
        return Problem(path, "It is a link to a file that does not exist." if os.path.islink(path) else "It vanished.")  # noqa: PTH114
    except OSError as error:
        return Problem(path, f"It cannot be examined: {error.strerror or error}.")
    if not stat.S_ISREG(facts.st_mode):
        return Problem(path, f"It is {_kind(facts.st_mode)}, not a file.")
    return Found(path, root, *signature(facts))


def signature(facts: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file does: size, time of change in nanoseconds, inode.

    All of them can be remembered: a time beyond 63 bits (before 1678, after 2262) is rounded to what a float tells
    apart, some microseconds, and an inode that uses the 64th bit is negative.
    """
    time = facts.st_mtime_ns
    inode = facts.st_ino
    return facts.st_size, time if _fits(time) else int(float(time)), inode if _fits(inode) else inode - (1 << 64)


def _fits(number: int) -> bool:
    return -(1 << 63) <= number < 1 << 63


def stored_time(mtime_ns: int) -> float:
    """The time of a `signature` for SQLite, whose integers have 64 bits; `int` makes it what it was."""
    return mtime_ns if _fits(mtime_ns) else float(mtime_ns)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "something else")
