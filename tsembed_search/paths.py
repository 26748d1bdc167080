"""File paths as an index keeps them: absolute, with forward slashes, and valid Unicode whatever the bytes are."""

from __future__ import annotations

import os
import re
from pathlib import Path

_SPELLED_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")


def absolute(path: str | Path) -> Path:
    """The path from the root, without `..`, with `~` expanded; symbolic links are not followed."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - resolve() would follow links


def indexed_form(path: Path) -> str:
    """A path as text for an index: a byte that is not UTF-8 (a lone surrogate in Python) is spelled `\\udcXX`."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def file_path(indexed: str) -> Path:
    """The path of a file on this machine, from its `indexed_form`."""
    path = Path(indexed)
    if "\\udc" not in indexed or path.exists():
        return path
    return Path(_SPELLED_BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), indexed))
