"""Parquet files as JSON Lines in the cache: a row can then be read by itself, and by the one reader of rows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tsembed_search import private
from tsembed_search.errors import LoadError, UsageError
from tsembed_search.paths import home

_FORM: Final = 2
"""Changes whenever rows are written in another way."""
_SUFFIXES: Final = {
    b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif",
    b"MM\0*": ".tif",
}  # fmt: skip


def as_json_lines(path: Path) -> Path:
    """The JSON Lines file with a Parquet file's rows, one line each, made once for each state of the file.

    Pictures that are inside the Parquet file are written beside it. Raises `LoadError` or, without pyarrow,
    `UsageError`.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise LoadError(f"Cannot read {path}: {error.strerror or error}.") from error
    name = hashlib.sha256(f"{_FORM}\0{path}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()[:24]
    target = home() / "cache" / "rows" / name / "rows.jsonl"
    if target.exists():
        return target
    partial = target.with_name(f"rows.{os.getpid()}.partial")
    try:
        private.make_folder(target.parent)
        with partial.open("w", encoding="utf-8") as file:
            for fields in _rows(path):
                file.write(json.dumps(_plain(fields, target.parent), ensure_ascii=True, default=str) + "\n")
        private.close_to_others(target.parent)
        partial.replace(target)
    except OSError as error:
        raise LoadError(
            f"Cannot write the rows of {path} into {target.parent}: {error.strerror or error}.", "Is the disk full?"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UsageError(
            f"{path} is a Parquet file, and reading those needs pyarrow, which is not installed.",
            "Install it with `pip install 'tsembed-search[parquet]'`, or save the rows as JSON Lines.",
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=512):
                yield from batch.to_pylist()
    except (OSError, ValueError, ArrowException) as error:
        raise LoadError(f"Cannot read {path}: {' '.join(str(error).split())[:200].rstrip('.')}.") from error


def _plain(value: Any, folder: Path) -> Any:
    """A value as JSON has it. A picture inside the file (bytes, or `{"bytes", "path"}` as hub data sets have it)
    becomes an object with the path of a file.
    """
    if isinstance(value, Mapping):
        if value.keys() <= {"bytes", "path"} and isinstance(value.get("bytes"), bytes):
            return _picture(value["bytes"], folder)
        return {key: _plain(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, folder) for one in value]
    if isinstance(value, bytes):
        return _unnamed(value, folder)
    return value


def _unnamed(data: bytes, folder: Path) -> Any:
    """Bytes without a word of what they are: a picture, or a text as some programs write it."""
    if _suffix(data):
        return _picture(data, folder)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return {"binary": len(data)}  # no reader takes that for a text or a path


def _suffix(data: bytes) -> str:
    return next((suffix for start, suffix in _SUFFIXES.items() if data.startswith(start)), "")


def _picture(data: bytes, folder: Path) -> dict[str, str] | None:
    """Writes a picture and gives its path; the same picture is one file. None for no bytes at all."""
    if not data:
        return None
    name = f"images/{hashlib.sha256(data).hexdigest()[:32]}{_suffix(data) or '.image'}"
    file = folder / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.replace(file)
    return {"path": name}
