"""What the disk did to a run, in words: no room, no leave to write, a file that cannot be read."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from tsembed_search.errors import TsembedError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LEAVE = (errno.EACCES, errno.EPERM, errno.EROFS)
_NUMBER = re.compile(r"\(os error (\d+)\)")  # how safetensors tells which one it was


class DiskError(TsembedError):
    """A run cannot write or read one of its files."""


@contextmanager
def in_words(run: Path) -> Iterator[None]:
    """Inside, the run in the folder `run` works. Raises `DiskError` for what the disk does to it."""
    try:
        yield
    except OSError as error:
        raise _error(run, error.errno, error.filename, error.strerror or str(error)) from error
    except SafetensorError as error:
        found = _NUMBER.search(str(error))
        number = int(found[1]) if found else None
        raise _error(run, number, None, os.strerror(number) if number else str(error)) from error


def _error(run: Path, number: int | None, file: object, words: str) -> DiskError:
    what = f"There is no space left on the disk of {run}" if number in _NO_ROOM else f"{file or run}: {words}"
    todo = "Make room" if number in _NO_ROOM else "See to it"
    if number in _NO_LEAVE:
        what, todo = f"{file or run} cannot be used: {words}", "Make the folder writable"
    begun = (run / "run.json").is_file()
    again = f"go on: tsembed train --resume --out {run}" if begun else "run the same command again"
    return DiskError(f"{what}.", f"{todo}, then {again}")
