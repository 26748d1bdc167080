"""Walking the folders to index: one `scandir` per folder, one `stat` per file that may be indexed.

Which files there are, for an index and for training alike: hidden ones, patterns to include and to exclude, and what a
`.tsembedignore` leaves out. What is left out may be private, so an exclusion that is not understood is worse than a run
that stops: an ignore file that cannot be read as text, and a pattern that can match nothing, raise `UsageError`.
`patterns.py` tells how patterns are read.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tsembed_search.documents.document import extension_of, extensions
from tsembed_search.documents.patterns import Patterns
from tsembed_search.errors import LoadError, UsageError
from tsembed_search.paths import absolute, current_folder_is_gone, disk_of, typed
from tsembed_search.wording import encoding_by_mark

IGNORE_FILE: Final = ".tsembedignore"
"""In any folder: patterns as in a .gitignore, for that folder and all below."""

_MOST_BYTES: Final = 4 << 20
_LINE_END: Final = re.compile(r"\r\n|\n|\r")
_NO_TEXT: Final = re.compile("[\0-\x08\x0e-\x1f\x7f\ufffd]")
_WHY: Final = "Without it, what it excludes would be read."
_KINDS: Final = {
    stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


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
class Unreachable:
    """Something that was to be indexed and cannot be."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that a walk from `root` enters, with what tells it from another one of that name."""

    path: str
    root: str
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class _Listing:
    folder: Folder
    files: list[os.DirEntry[str]]
    rules: IgnoreRules | None


class Crawl:
    """The files below the given paths, in a stable order. Where paths lie inside one another a file comes twice.

    Hidden files and files of unknown kinds are passed over by rule and only counted (`ignored`); a file that is given
    itself is always taken. Linked files are read, linked folders are entered only with `follow_links`, each once.

    `disks` tells, after a walk, on which disk each root lies, and each folder below where another disk or a link
    begins. A path that is not there is passed over if files are `known` of it, else it raises `UsageError`.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
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

    def __iter__(self) -> Iterator[Found | Unreachable]:
        for root, selection in zip(self.roots, self._selections, strict=True):
            if os.path.isdir(root):  # noqa: PTH112 - `Path.is_dir` raises where it may not look
                yield from self._walk(root, selection)
            elif root not in self._missing:
                yield _examined(root, str(Path(root).parent))

    def folders(self, leave_out: Callable[[str], bool] = lambda folder: False) -> Iterator[Folder | Unreachable]:
        """The folders that a walk enters, each under each root; no file is looked at. Of a root that is a file, the
        folder that it is in. `leave_out` is asked of roots and of folders where another disk or a link begins.
        """
        for root, selection in zip(self.roots, self._selections, strict=True):
            if os.path.isdir(root):  # noqa: PTH112
                for one in self._entered(root, selection, leave_out):
                    yield one.folder if isinstance(one, _Listing) else one
            else:
                above = str(Path(root).parent)
                with suppress(OSError):
                    facts = os.stat(above)  # noqa: PTH116
                    if not leave_out(above):
                        yield Folder(above, root, facts.st_dev, facts.st_ino)

    def _walk(self, root: str, selection: RootSelection) -> Iterator[Found | Unreachable]:
        prefix = len(root.rstrip(os.sep)) + 1
        for one in self._entered(root, selection):
            if isinstance(one, Unreachable):
                yield one
                continue
            for entry in one.files:
                rel = entry.path[prefix:].replace(os.sep, "/")
                if selection.takes_file(entry.name, rel) and not (one.rules and one.rules.ignores(entry.path)):
                    yield _examined(entry.path, root)
                else:
                    self.ignored += 1

    def _entered(
        self, root: str, selection: RootSelection, leave_out: Callable[[str], bool] = lambda folder: False
    ) -> Iterator[_Listing | Unreachable]:
        entered: set[tuple[int, int]] = set()
        todo: list[tuple[str, IgnoreRules | None, int | None]] = [(root, None, None)]
        prefix = len(root.rstrip(os.sep)) + 1
        while todo:
            folder, above, around = todo.pop()
            try:
                facts = os.stat(folder)  # noqa: PTH116
                if folder == root:
                    entered.add((facts.st_dev, facts.st_ino))
                if facts.st_dev != around:
                    if leave_out(folder):
                        continue
                    self.disks[folder] = disk_of(folder)
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield Unreachable(folder, f"The folder cannot be listed: {error.strerror or error}.")
                continue
            rules = rules_in(folder, above) if any(entry.name == IGNORE_FILE for entry in entries) else above
            files, below = [], []
            for entry in entries:
                if not _is_folder(entry):
                    files.append(entry)
                    continue
                rel = entry.path[prefix:].replace(os.sep, "/")
                if selection.takes_folder(entry.name, rel) and self._enters(entry, rules, entered):
                    below.append((entry.path, rules, None if entry.is_symlink() else facts.st_dev))
            yield _Listing(Folder(folder, root, facts.st_dev, facts.st_ino), files, rules)
            todo.extend(reversed(below))

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


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=True)
    except OSError:
        return False


def _examined(path: str, root: str) -> Found | Unreachable:
    try:
        facts = os.stat(path)  # noqa: PTH116 - a million of them: pathlib would take most of the time
    except FileNotFoundError:
        is_link = Path(path).is_symlink()
        return Unreachable(path, "It is a link to a file that does not exist." if is_link else "It vanished.")
    except OSError as error:
        return Unreachable(path, f"It cannot be examined: {error.strerror or error}.")
    if not stat.S_ISREG(facts.st_mode):
        return Unreachable(path, f"It is {_KINDS.get(stat.S_IFMT(facts.st_mode), 'something else')}, not a file.")
    return Found(path, root, *signature(facts))


def signature(facts: os.stat_result) -> tuple[int, int, int]:
    """Return what changes when a file does: size, time of change in nanoseconds, inode.

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


def open_regular(path: str) -> BinaryIO:
    """Opens a file that must be a regular one by now: opening a pipe would block, and a device could do anything."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    number = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise LoadError("It is not a regular file.")
    return os.fdopen(number, "rb")


def unreadable(error: OSError) -> str:
    """Why a file cannot be read, in words for a user."""
    if isinstance(error, PermissionError):
        return "Permission to read it is denied. Change its permissions."
    if isinstance(error, FileNotFoundError):
        return "It vanished before it could be read."
    return f"Reading it failed: {error.strerror or error}."


class Selection:
    """The files that the options of one run let through. Patterns are gitignore's, relative to each root.

    They are also read as paths from the current folder, as shells complete them. Raises `UsageError` for an empty one.
    """

    def __init__(self, include: tuple[str, ...] = (), exclude: tuple[str, ...] = (), *, hidden: bool = False) -> None:
        self._include = include
        self._exclude = exclude
        self._hidden = hidden
        if "" in (pattern.strip() for pattern in (*include, *exclude)):
            raise UsageError("A pattern is empty.", "Write * for everything.")

    def below(self, roots: Sequence[str]) -> list[RootSelection]:
        """Return the selection for what lies below each root.

        Raises `UsageError` for a pattern that makes no sense, or that can match nothing below any of the roots.
        """
        kinds = extensions()
        includes = _for_roots(self._include, roots, "include")
        excludes = _for_roots(self._exclude, roots, "exclude")
        return [RootSelection(*both, kinds, self._hidden) for both in zip(includes, excludes, strict=True)]


@dataclass(frozen=True)
class RootSelection:
    """A `Selection` for what lies below one root. `kinds`: the extensions of the files that are indexed unasked."""

    include: Patterns | None
    exclude: Patterns | None
    kinds: frozenset[str]
    hidden: bool

    def takes_folder(self, name: str, rel: str) -> bool:
        """Return whether to look into a folder. `rel`: relative to the root."""
        return self._lets_in(name, rel, is_folder=True)

    def takes_file(self, name: str, rel: str) -> bool:
        """Return whether to look at a file: one of a kind that is indexed, or one that was asked for."""
        if not self._lets_in(name, rel):
            return False
        return extension_of(name) in self.kinds if self.include is None else self.include.cover(rel)

    def _lets_in(self, name: str, rel: str, *, is_folder: bool = False) -> bool:
        if name.startswith(".") and not self.hidden:
            return False
        return self.exclude is None or not self.exclude.say(rel, is_folder=is_folder)


def _for_roots(patterns: Sequence[str], roots: Sequence[str], setting: str) -> list[Patterns] | list[None]:
    if not patterns:
        return [None] * len(roots)
    base = "" if current_folder_is_gone() else str(Path.cwd())
    found = [Patterns(root if Path(root).is_dir() else str(Path(root).parent)) for root in roots]
    for pattern in patterns:
        # On a command line there are no comments.
        written = "\\" + pattern if pattern.startswith("#") else pattern
        if not sum(each.add(written, base=base) for each in found):
            raise UsageError(
                f"The pattern {pattern} can match nothing below {', '.join(roots)}.", f"Check {{{setting}}}."
            )
    if patterns[0].startswith("!"):
        raise UsageError(
            f"The pattern {patterns[0]} takes back what no pattern before it has named.",
            f"Check the order in {{{setting}}}.",
        )
    for each in found:
        each.check(f"the patterns to {setting}")
    return found


@dataclass(frozen=True)
class IgnoreRules:
    """The ignore file of a folder, and of those above it. The nearest one that says something decides."""

    folder: str
    patterns: Patterns
    above: IgnoreRules | None

    def ignores(self, path: str, *, is_folder: bool = False) -> bool:
        """Return whether a path below `folder` is left out."""
        said = self.patterns.say(path[len(self.folder.rstrip(os.sep)) + 1 :], is_folder=is_folder)
        if said is None and self.above is not None:
            return self.above.ignores(path, is_folder=is_folder)
        return bool(said)


def rules_in(folder: str, above: IgnoreRules | None) -> IgnoreRules | None:
    """The rules that hold in a folder: its own ignore file's, if it has one, over those from above."""
    path = Path(folder, IGNORE_FILE)
    if (text := _read(path)) is None:
        return above
    patterns = Patterns(folder)
    for number, line in enumerate(_LINE_END.split(text), 1):
        if line.strip() and not line.startswith("#") and not patterns.add(line, base=folder):
            raise UsageError(f"{path}, line {number}: {line.strip()!r} can match nothing in {folder}.", _WHY)
    patterns.check(f"the patterns in {path}")
    return IgnoreRules(folder, patterns, above)


def _read(path: Path) -> str | None:
    """The text of an ignore file, None when there is none. Raises `UsageError` for what cannot be read as text."""
    try:
        with open_regular(os.fspath(path)) as file:
            data = file.read(_MOST_BYTES + 1)
    except LoadError:
        raise UsageError(f"{path} is not a file.", f"Put patterns into a file of that name. {_WHY}") from None
    except (FileNotFoundError, NotADirectoryError) as error:
        if os.path.lexists(path):
            raise UsageError(f"{path} is a link to a file that does not exist.", _WHY) from error
        return None
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.", _WHY) from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} has more than {_MOST_BYTES >> 20} MB.", f"Patterns need less. {_WHY}")
    try:
        text = data.decode(encoding_by_mark(data)).removesuffix("\x1a")
        odd = _NO_TEXT.search(text)
        line = text[: odd.start()].count("\n") + 1 if odd else 0
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
    if line:
        raise UsageError(f"{path} is not text in UTF-8: see line {line}.", f"Save it as UTF-8. {_WHY}")
    return text


def is_ignored(path: str, root: str) -> bool:
    """Return whether ignore files between `root` and `path` leave out the path, or a folder that it is in."""
    rules = rules_in(root, None)
    at = root.rstrip(os.sep)
    for folder in Path(path).parent.relative_to(root).parts:
        at += os.sep + folder
        if rules is not None and rules.ignores(at, is_folder=True):
            return True
        rules = rules_in(at, rules)
    return rules is not None and rules.ignores(path)
