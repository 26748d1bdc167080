"""Parquet files, read by row: a copy of the table in the cache is mapped into memory, so that any row is at hand.

Pyarrow alone does that. The `datasets` library would do the same with it, but takes two seconds to load, and refuses
tables with a column that it has no type for, even where nothing reads that column.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from tsembed_search import private
from tsembed_search.errors import LoadError, UsageError
from tsembed_search.paths import home

_FORM: Final = 2
"""Changes whenever the copy is made in another way."""
_BATCH: Final = 512
_PICTURES: Final = "images"
_SUFFIXES: Final = {
    b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif",
    b"MM\0*": ".tif",
}  # fmt: skip


@dataclass(frozen=True)
class TablePicture:
    """A picture that is inside a table. It becomes a file, `path`, only when its row is used."""

    path: Path
    data: bytes = field(repr=False)

    def file(self) -> Path:
        """Return the picture's file, written if need be; the same picture is one file. Raises `LoadError`."""
        if not self.path.exists():
            partial = f"{self.path}.{os.getpid()}.{threading.get_ident()}.partial"
            try:
                with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                    file.write(self.data)
                os.replace(partial, self.path)  # noqa: PTH105 - as above: pathlib takes long for a million of them
            except OSError as error:
                raise _unwritten("a picture", self.path.parent, error) from error
        return self.path


def table_copy(path: Path) -> Path:
    """Return the copy of a Parquet file's table, made once for each state of the file.

    Raises `LoadError` when the file cannot be read, and `UsageError` without pyarrow.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise LoadError(f"Cannot read {path}: {error.strerror or error}.") from error
    name = hashlib.sha256(f"{_FORM}\0{path}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()[:24]
    copy = home() / "cache" / "rows" / name / "rows.arrow"
    if not copy.exists():
        _write(path, copy)
    return copy


def table_length(copy: Path) -> int:
    """Return how many rows a copied table has. Raises `OSError` when the copy is gone."""
    return _table(copy)[1][-1]


def table_row(copy: Path, number: int) -> dict[str, Any]:
    """Return the fields of one row of a copied table, by its number from 0.

    Raises `OSError` when the copy is gone, and `LoadError` for values that are none, such as text that is not UTF-8.
    """
    batches, starts = _table(copy)
    at = bisect_right(starts, number) - 1
    try:
        (fields,) = batches[at].slice(number - starts[at], 1).to_pylist()
    except (ValueError, OverflowError) as error:
        raise LoadError(f"the row cannot be read: {_words(error)}") from error
    return {name: _plain(value, copy.parent) for name, value in fields.items()}


@functools.lru_cache(1024)
def _table(copy: Path) -> tuple[list[Any], list[int]]:
    """The parts of a table, and where each begins. They are mapped: none is in memory before it is asked for."""
    import pyarrow

    batches = pyarrow.ipc.open_stream(pyarrow.memory_map(str(copy))).read_all().to_batches()
    return batches, [0, *accumulate(map(len, batches))]


def _write(path: Path, copy: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            f"{path} is a Parquet file, and reading those needs pyarrow, which is not installed.",
            "Install it with `pip install 'tsembed-search[data]'`, or save the rows as JSON Lines.",
        ) from None

    partial = copy.with_name(f"rows.{os.getpid()}.partial")
    try:
        private.make_folder(copy.with_name(_PICTURES))
        private.make_file(partial)
        with partial.open("wb") as file:
            try:
                with parquet.ParquetFile(path) as source, pyarrow.ipc.new_stream(file, source.schema_arrow) as table:
                    for batch in source.iter_batches(batch_size=_BATCH):
                        table.write_batch(batch)
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                if getattr(error, "errno", None) == errno.ENOSPC:
                    raise
                raise LoadError(f"Cannot read {path}: {_words(error)}.") from error
        partial.replace(copy)
    except OSError as error:
        raise _unwritten(f"the rows of {path}", copy.parent, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def _unwritten(what: str, folder: Path, error: OSError) -> LoadError:
    return LoadError(f"Cannot write {what} into {folder}: {error.strerror or error}.", "Is the disk full?")


def _plain(value: Any, folder: Path) -> Any:
    """A value as JSON would have it, but for pictures (bytes, or `{"bytes", "path"}` as hub data sets have them), and
    for bytes that are neither picture nor text.
    """
    if isinstance(value, Mapping):
        if value.keys() <= {"bytes", "path"} and isinstance(data := value.get("bytes"), bytes):
            return _embedded(data, folder) if data else None
        return {key: _plain(one, folder) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, folder) for one in value]
    if isinstance(value, bytes):
        if value.startswith(tuple(_SUFFIXES)):
            return _embedded(value, folder)
        try:
            return value.decode("utf-8")  # as some programs write texts
        except UnicodeDecodeError:
            return value
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _embedded(data: bytes, folder: Path) -> TablePicture:
    suffix = next((suffix for start, suffix in _SUFFIXES.items() if data.startswith(start)), ".image")
    return TablePicture(folder / _PICTURES / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}", data)
