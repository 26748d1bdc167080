"""Files and folders for their owner alone: a copy of a text in an index is no less private than the text.

The index's folder lets nobody else in, so what lies below is out of reach at any moment, however the engine makes its
files. The files are closed to others as well, for the day when somebody copies them elsewhere. On a disk that knows no
rights, none are taken away.

A copy of what cannot be written, to read it: neither the engine nor SQLite opens files on a read-only disk.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from tsembed_search.errors import StoreError
from tsembed_search.paths import home

_OTHERS: Final = 0o077
_HAS_RIGHTS: Final = os.name != "nt"
_BLOCK: Final = 1 << 20


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for the owner alone, whatever the umask.

    Folders of `TSEMBED_HOME` that were there before are closed to others too; that one itself stays as it is. Raises
    `OSError`.
    """
    for each in reversed((folder, *folder.parents)):
        try:
            each.mkdir(0o700)
            _change(each, 0o700)
        except OSError:
            # Of a folder that is there, some systems say first that it could not be made.
            if not each.is_dir():
                raise
            if home() in each.parents:
                _close(each)


def open_file(path: Path, mode: str) -> IO[Any]:
    """Open a file as text; if it is made, then for the owner alone. Raises `OSError`."""
    return open(path, mode, encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))


def make_file(path: Path) -> None:
    """Make an empty file for the owner alone, if there is none. Raises `OSError`.

    One that is there is not opened: that would end the locks that SQLite holds on it in this process.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def close_to_others(folder: Path) -> None:
    """Take the rights of other users from a folder and from all that lies in it. What cannot be changed stays."""
    if _HAS_RIGHTS:
        _close(folder)
        # Twice in every run, over all files of the engine: paths are made only of what has to be changed.
        for name in _below(os.fspath(folder)):
            _close(Path(name))


def is_open_to_others(folder: Path) -> bool:
    """Tell whether other users have any right on a folder, and so may reach what lies in it."""
    try:
        return _HAS_RIGHTS and bool(folder.stat().st_mode & _OTHERS)
    except OSError:
        return False


def _below(folder: str) -> Iterator[str]:
    """Paths in a folder that give others a right."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mode & _OTHERS and not entry.is_symlink():
                    yield entry.path
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path)


def _close(path: Path) -> None:
    with suppress(OSError):
        mode = path.lstat().st_mode
        if mode & _OTHERS and not stat.S_ISLNK(mode):
            _change(path, stat.S_IMODE(mode) & ~_OTHERS)


def _change(path: Path, mode: int) -> None:
    with suppress(OSError):
        path.chmod(mode)


@contextmanager
def copied(paths: Iterable[Path]) -> Iterator[Path]:
    """Make a temporary folder, for this user alone, with a copy of these files and folders; it is deleted at the end.

    Raises `StoreError` when there is no room for it, or a file may not be read.
    """
    with ExitStack() as stack:
        try:
            temporary = tempfile.TemporaryDirectory(prefix="tsembed-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(temporary))
            for path in paths:
                copy(path, folder / path.name)
        except OSError as error:
            raise StoreError(
                f"The index cannot be written where it is, nor be copied to be read: {error.strerror or error}.",
                "Check who owns it. Or copy it to a disk that can be written, and set TSEMBED_HOME to that folder.",
            ) from error
        yield folder


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder with all that is in it, for this user alone. Raises `OSError`."""
    if source.is_dir():
        target.mkdir(0o700)
        for path in source.iterdir():
            copy(path, target / path.name)
        return
    zeros = bytes(_BLOCK)
    with source.open("rb") as read, target.open("wb") as write:
        while block := read.read(_BLOCK):
            # Holes where there are zeros: the engine's files are hundreds of megabytes of them.
            if block == zeros[: len(block)]:
                write.seek(len(block), 1)
            else:
                write.write(block)
        write.truncate()
