"""Where data lives, and the names of things on disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tsembed_search.errors import UsageError
from tsembed_search.paths import absolute

DEFAULT_INDEX = "default"
DEFAULT_MODEL = "mini"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def home() -> Path:
    """`$TSEMBED_HOME`, or the platform's user data folder when that is not set or empty. It need not exist yet."""
    value = os.environ.get("TSEMBED_HOME", "")
    if value.strip():
        return absolute(value)
    import platformdirs

    return Path(platformdirs.user_data_dir("tsembed", appauthor=False))


def index_folder(name: str = DEFAULT_INDEX, url: str | None = None) -> Path:
    """The folder of the index called `name`; of one on a server, where what this machine remembers of it is kept.

    Raises `UsageError` when the name could not be a folder's.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name an index.", "Use up to 64 letters, digits, dots, dashes and underscores."
        )
    if url is None:
        return home() / "indexes" / name
    server = re.sub(r"[^A-Za-z0-9.-]+", "_", url.rstrip("/").rpartition("@")[2])
    return home() / "servers" / server / name
