"""The surroundings of a command (Ctrl-C, closed or full streams, limits of the system, a folder that is gone), and its
end: a message on stderr that says what happened and what to do, and the exit code.
"""

from __future__ import annotations

import errno
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self, TextIO

import typer

from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import MissingIndexError, TsembedError
from tsembed_search.paths import NoCurrentFolderError, current_folder_is_gone, in_existing_folder

_SPACE: Final = "Free some space and run the command again."
_PERMISSIONS: Final = "Check its permissions, and those of the folders that it lies in."
_IN_THE_WAY: Final = "A file stands where a folder is needed: check the path, and TSEMBED_HOME."
_ADVICE: Final = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EROFS: "Make the disk writable, or put TSEMBED_HOME on another one.",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.EMFILE: "Allow this shell more open files: ulimit -n 1024",
    errno.ENFILE: "End other programs, or restart the machine.",
    errno.ENOMEM: "End other programs, or use a smaller model.",
    errno.EAGAIN: "Allow more processes (ulimit -u), or end other programs.",
    errno.ENAMETOOLONG: "Give a shorter path.",
    errno.ELOOP: "Links lead in a circle: check the path.",
}
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_NO_MEMORY: Final = re.compile("out of memory|not enough memory|allocate memory|failed to map segment", re.IGNORECASE)
_GONE: Final = (NoCurrentFolderError().message, NoCurrentFolderError().hint)
# Typer raises the errors of wrong usage from a library that it has begun to carry inside; their common class is public
# only as an ancestor.
_ParserError: type[Exception] = typer.BadParameter.mro()[2]


def prepare() -> None:
    """Make the process fit for whatever it was started in.

    A closed stream becomes one that is thrown away, so that no file of ours takes its number and then its output.
    What the encoding of the output does not have is written as an escape. In a folder that was deleted, torch must be
    imported from another one, or the numeric library inside it ends the process.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = _never_fails_to_encode(sys.stdout, 1)
    sys.stderr = _never_fails_to_encode(sys.stderr, 2)
    if current_folder_is_gone():
        with in_existing_folder():
            import torch  # noqa: F401


def _never_fails_to_encode(stream: TextIO | None, number: int) -> TextIO:
    stream = stream or open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return stream


class UserInterrupt(TsembedError):
    """Ctrl-C. Raised before Typer sees the signal, which it would answer with an exit code and no word."""

    exit_code = 130


def exit_code_of(command: Callable[[], object]) -> int:
    """Run `command` and return its exit code; nothing that it wrote is left in a buffer."""
    try:
        code = _told(command)
        sys.stdout.flush()
    except OSError as error:
        render.discard(sys.stdout)
        if error.errno != errno.EPIPE:  # else whoever read our output has left, and need not be told
            render.complain(f"The output cannot be written: {error.strerror or error}.", "Send it to another place.")
        return 1
    except KeyboardInterrupt:
        return UserInterrupt.exit_code
    return code


def _told(command: Callable[[], object]) -> int:
    """Run `command`, and tell what ended it. Raises `OSError` when that was its own output."""
    try:
        result = command()
    except TsembedError as error:
        render.complain(error.message, _hint(error), label="" if error.exit_code == 130 else "error: ")
        return error.exit_code
    except _ParserError as error:
        return _wrong_usage(error)
    except typer.Abort:
        render.complain("Nothing was done.")
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise
        sys.stdout.flush()
        if os.environ.get("TSEMBED_DEBUG"):
            raise
        render.complain(*(explained(error) or _fault(error)))
        return 1
    return result if isinstance(result, int) else 0


def _hint(error: TsembedError) -> str:
    """Return what to do. In a folder that was deleted, relative paths name nothing, whatever the message says."""
    hint = error.hint
    if isinstance(error, MissingIndexError):
        same = options.same_index(error.name, None if error.store == "edge" else error.store)
        hint = hint.replace("{add()}", f"tsembed index FOLDER{same}")
    if isinstance(error, NoCurrentFolderError) or not current_folder_is_gone():
        return hint
    return "\n".join(filter(None, (hint, " ".join(_GONE))))


def _wrong_usage(error: Any) -> int:
    if words := error.format_message():  # else there was no command at all, and the help was the answer
        path = error.ctx.command_path if error.ctx is not None else "tsembed"
        render.complain(words, f"See: {path} --help")
    return 2


def _fault(error: Exception) -> tuple[str, str]:
    words = str(error).strip() or "no message"
    hint = "This is a fault in tsembed. Set TSEMBED_DEBUG=1 to see where it comes from."
    return f"Unexpected {type(error).__name__}: {words}", hint


def explained(error: BaseException) -> tuple[str, str] | None:
    """Say what the machine refused, and what to do about it; None when the error is not the machine's.

    Libraries wrap what the system tells them, so the causes of an error are looked at, too.
    """
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if told := _of_the_machine(at):
            return told
        at = at.__cause__ or at.__context__
    return None


def _of_the_machine(error: BaseException) -> tuple[str, str] | None:
    words = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ImportError) and _NO_MEMORY.search(words)):
        return "There is not enough memory.", _ADVICE[errno.ENOMEM]
    if isinstance(error, RuntimeError) and "start new thread" in words:
        return "The system allows no more threads.", _ADVICE[errno.EAGAIN]
    if isinstance(error, ImportError):
        return f"A library cannot be loaded: {words}.", "Check the installation with `tsembed doctor`."
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.ENOENT and current_folder_is_gone():
        return _GONE
    file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    hint = _ADVICE.get(error.errno or 0, "Check the path, the disk and its permissions, and run the command again.")
    return f"{file}{error.strerror or words or type(error).__name__}.", hint


class Interrupts:
    """Ctrl-C and SIGTERM while the block runs: the first asks whoever looks (`is_set`) to stop, the next stops at once.

    The first stops at once, too, when nobody has looked for `attentive` seconds: nobody would notice. In other threads
    than the main one signals cannot be handled.
    """

    def __init__(self, attentive: float = math.inf) -> None:
        self._attentive = attentive
        self._looked = -math.inf if attentive < math.inf else 0.0
        self._set = False
        self._before: dict[signal.Signals, Any] = {}

    def is_set(self) -> bool:
        """Tell whether to stop."""
        self._looked = time.monotonic()
        return self._set

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._handle) for each in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for each, handler in self._before.items():
            # None: a handler that was not set from Python and cannot be set again from here.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._set or time.monotonic() - self._looked > self._attentive:
            raise KeyboardInterrupt
        self._set = True
