"""The ends of a command: a message on stderr that says what happened and what to do, and the exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from tsembed_search.cli import options, surroundings
from tsembed_search.cli.render import text as render
from tsembed_search.errors import MissingIndexError, TsembedError
from tsembed_search.paths import NoCurrentFolderError, current_folder_is_gone

# Typer raises the errors of wrong usage from a library that it has begun to carry inside; their common class is public
# only as an ancestor.
_ParserError: type[Exception] = typer.BadParameter.mro()[2]


class UserInterrupt(TsembedError):
    """Ctrl-C. Raised before Typer sees the signal, which it would answer with an exit code and no word."""

    exit_code = 130


def exit_code_of(command: Callable[[], object]) -> int:
    """Run `command` and return its exit code; nothing that it wrote is left in a buffer."""
    try:
        code = _told(command)
        sys.stdout.flush()
    except OSError as error:
        surroundings.discard(sys.stdout)
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
        return _unexpected(error)
    return result if isinstance(result, int) else 0


def _hint(error: TsembedError) -> str:
    """Return what to do. In a folder that was deleted, relative paths name nothing, whatever the message says."""
    hint = error.hint
    if isinstance(error, MissingIndexError):
        same = options.same_index(error.name, None if error.store == "edge" else error.store)
        hint = hint.replace("{add()}", f"tsembed index FOLDER{same}")
    if isinstance(error, NoCurrentFolderError) or not current_folder_is_gone():
        return hint
    gone = NoCurrentFolderError()
    return "\n".join(filter(None, (hint, f"{gone.message} {gone.hint}")))


def _wrong_usage(error: Any) -> int:
    context = error.ctx
    if not error.format_message():  # no command at all: the help was the answer
        return 2
    hint = f"See: {context.command_path} --help" if context is not None else "See: tsembed --help"
    render.complain(error.format_message(), hint)
    return 2


def _unexpected(error: BaseException) -> int:
    if os.environ.get("TSEMBED_DEBUG"):
        raise error
    if told := surroundings.explained(error):
        render.complain(*told)
        return 1
    words = str(error).strip() or "no message"
    render.complain(
        f"Unexpected {type(error).__name__}: {words}",
        "This is a fault in tsembed. Set TSEMBED_DEBUG=1 to see where it comes from.",
    )
    return 1
