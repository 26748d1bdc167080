"""One writer per index: a lock that names its owner, and is free as soon as the owner is gone, however it ended.

The operating system holds the lock on an open file; what the file says only names the owner, so a stale file means
nothing. `filelock` does not do: it opens the file for writing, so on a disk that can only be read it cannot tell
whether another machine owns the index.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

from tsembed_search import private
from tsembed_search.errors import IndexBusyError, StoreError

_FILE: Final = "owner.lock"
_BETWEEN_TRIES: Final = 0.2
_LOOK: Final = 0.2


@dataclass(frozen=True)
class Owner:
    """The process that owns an index. `since` in seconds since the epoch."""

    pid: int
    doing: str
    since: float

    def __str__(self) -> str:
        seconds = max(0, round(time.time() - self.since))
        ago = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
        clock = time.strftime("%H:%M", time.localtime(self.since))
        return f"process {self.pid} ({self.doing}), since {clock}, {ago} ago"


class owned(AbstractContextManager["owned"]):
    """Own the index in `folder` (made when missing), from here until `release` or the end of a `with` block.

    Whoever holds one can hand it on, to another thread too. `wait`: seconds to wait for another owner; None: as long as
    it takes. `on_wait` is told once whom for. Raises `IndexBusyError` that names the owner, and `StoreError` when the
    folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        doing: str,
        *,
        wait: float | None = 0.0,
        on_wait: Callable[[Owner | None], None] = lambda owner: None,
    ) -> None:
        self._folder = folder
        with ExitStack() as stack:
            self._file = stack.enter_context(_opened(folder))
            _acquire(self._file, folder, wait, on_wait)
            self.sign(doing)
            stack.pop_all()
        private.close_to_others(folder)

    def sign(self, doing: str) -> None:
        """Say what the owner does from now on. Raises `StoreError` on a full disk."""
        try:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps(asdict(Owner(os.getpid(), doing, time.time()))))
            self._file.flush()
        except OSError as error:
            raise StoreError(
                f"Cannot write to the index's folder: {error.strerror or error}.", "Free some space."
            ) from error

    def release(self) -> None:
        """Let others own the index. Doing it twice does no harm."""
        if self._file.closed:
            return
        with self._file:
            private.close_to_others(self._folder)
            self._file.seek(0)
            self._file.truncate()
            _unlock(self._file)

    def __exit__(self, *ended: object) -> None:
        self.release()


def lock(path: Path) -> IO[str] | None:
    """Lock a file (made when missing) until it is closed; None where it cannot be written or its disk knows no locks.

    Raises `IndexBusyError` while another has it.
    """
    with suppress(OSError), ExitStack() as stack:
        file = stack.enter_context(private.open_file(path, "a+"))
        if _try_lock(file):
            stack.pop_all()
            return file
        raise IndexBusyError(
            f"Another process is using the index in {path.parent}.",
            "Wait until it has finished ({wait} does), or choose another index: {index}.",
        )
    return None


def owner_of(folder: Path) -> Owner | None:
    """Return who owns the index in `folder` at this moment, or None."""
    # There may be no such file, and a disk may know no locks.
    with suppress(OSError), (folder / _FILE).open(encoding="utf-8") as file:
        if not _try_lock(file):
            return _read(file)
        _unlock(file)
    return None


def _opened(folder: Path) -> IO[str]:
    try:
        private.make_folder(folder)
        return private.open_file(folder / _FILE, "a+")
    except OSError as error:
        if error.errno == errno.EROFS:
            advice = "Its disk can only be read: make it writable, or set TSEMBED_HOME to another folder."
        elif error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            advice = "Something else is where it or its lock should be: move that away, or set TSEMBED_HOME."
        else:
            advice = "Check its permissions, or set TSEMBED_HOME to another folder."
        raise StoreError(f"Cannot write to the index's folder {folder}: {error.strerror or error}.", advice) from error


def _acquire(file: IO[str], folder: Path, wait: float | None, on_wait: Callable[[Owner | None], None]) -> None:
    # Who only looks at who owns the index has the lock for a moment, too.
    deadline = math.inf if wait is None else time.monotonic() + max(wait, _LOOK)
    told = wait == 0
    while True:
        try:
            if _try_lock(file):
                return
        except OSError as error:
            raise StoreError(
                f"The index's folder {folder} cannot be locked: {error.strerror or error}.",
                "Some network disks know no locks: set TSEMBED_HOME to a folder on a disk of this machine.",
            ) from error
        owner = _read(file)
        if time.monotonic() >= deadline:
            raise IndexBusyError(
                f"The index in {folder} is in use by {owner or 'another process'}.",
                "Wait until it has finished ({wait} does), or choose another index: {index}.",
            )
        if not told:
            on_wait(owner)
            told = True
        time.sleep(_LOOK / 10 if wait == 0 else _BETWEEN_TRIES)


def _read(file: IO[str]) -> Owner | None:
    try:
        file.seek(0)
        data = json.loads(file.read())
        return Owner(int(data["pid"]), str(data["doing"]), float(data["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        # The owner is about to sign, or has just left.
        return None


if sys.platform == "win32":
    import msvcrt

    # Beyond the text, for a locked region cannot be read by others.
    _LOCKED_BYTE: Final = 1 << 20

    def _try_lock(file: IO[str]) -> bool:
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[str]) -> None:
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
