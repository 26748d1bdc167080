"""A copy of what cannot be written, to read it: neither the engine nor SQLite opens files on a read-only disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from tsembed_search.errors import StoreError

_BLOCK: Final = 1 << 20
_ZEROS: Final = bytes(_BLOCK)


@contextmanager
def copied(paths: Iterable[Path]) -> Iterator[Path]:
    """A temporary folder, for this user alone, with a copy of these files and folders; it is deleted at the end.

    Raises `StoreError` when there is no room for it, or a file may not be read.
    """
    with ExitStack() as stack:
        try:
            temporary = tempfile.TemporaryDirectory(prefix="tsembed-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(temporary))
            for path in paths:
                _copy(path, folder / path.name)
        except OSError as error:
            raise StoreError(
                f"The index cannot be written where it is, nor be copied to be read: {error.strerror or error}.",
                "Check who owns it. Or copy it to a disk that can be written, and set TSEMBED_HOME to that folder.",
            ) from error
        yield folder


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(0o700)
        for path in source.iterdir():
            _copy(path, target / path.name)
        return
    with source.open("rb") as read, target.open("wb") as write:
        _copy_sparse(read, write)


def _copy_sparse(read: BinaryIO, write: BinaryIO) -> None:
    """Leaves holes where there are zeros: the engine's files are hundreds of megabytes of them."""
    while block := read.read(_BLOCK):
        if block == _ZEROS[: len(block)]:
            write.seek(len(block), 1)
        else:
            write.write(block)
    write.truncate()
