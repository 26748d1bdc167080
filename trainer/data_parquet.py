"""Parquet files as JSON Lines in the cache: a row can then be read by itself, wherever it is."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tsembed_search import private
from tsembed_search.config import home
from tsembed_search.errors import LoadError
from tsembed_search.evaluation.records import Record, stream

_SUFFIXES: Final = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif"}


def as_json_lines(path: Path) -> Path:
    """The JSON Lines file with a Parquet file's rows, one line each, made once for each state of the file.

    Images that are inside the Parquet file are written beside it. Raises `LoadError` or, without pyarrow, `UsageError`.
    """
    state = path.stat()
    name = hashlib.sha256(f"{path}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()[:24]
    target = home() / "cache" / "rows" / name / "rows.jsonl"
    if target.exists():
        return target
    partial = target.with_name(f"rows.{os.getpid()}.partial")
    try:
        private.make_folder(target.parent)
        with partial.open("w", encoding="utf-8") as file:
            for record in stream(path):
                assert isinstance(record, Record)
                fields = {key: _plain(value, target.parent) for key, value in record.fields.items()}
                file.write(json.dumps(fields, ensure_ascii=True, default=str) + "\n")
        private.close_to_others(target.parent)
        partial.replace(target)
    except OSError as error:
        raise LoadError(f"Cannot write {target}: {error.strerror or error}.", "Is the disk full?") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _plain(value: Any, folder: Path) -> Any:
    """A value as JSON has it. An image (`{"bytes", "path"}`, as hub data sets have it) becomes a file's path."""
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes):
            return _image(value["bytes"], folder)
        if set(value) == {"bytes", "path"}:
            return value["path"]
        return {key: _plain(one, folder) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, folder) for one in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def _image(data: bytes, folder: Path) -> str:
    """Writes an image and gives its path; the same image is one file."""
    suffix = next((suffix for start, suffix in _SUFFIXES.items() if data.startswith(start)), ".image")
    name = f"images/{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
    file = folder / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(file)
    return name
