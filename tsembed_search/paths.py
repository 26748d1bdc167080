"""Paths: as people type them, as an index keeps them, and where indexes are.

An index keeps paths absolute, with forward slashes, and as valid Unicode whatever their bytes are.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tsembed_search.errors import UsageError

DEFAULT_INDEX: Final = "default"
DEFAULT_MODEL: Final = "mini"

_SPELLED_BYTE: Final = re.compile(r"\\udc([89a-f][0-9a-f])")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)(?::/|$)")


def absolute(path: str | Path) -> Path:
    """Return the path from the root, without `..`, with `~` expanded; symbolic links are not followed.

    Raises `UsageError` for an empty path, and for a relative one when the current folder no longer exists.
    """
    if path == "":
        raise UsageError("A path is empty.", "Write . for the current folder.")
    try:
        return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - resolve() would follow links
    except FileNotFoundError as error:
        raise NoCurrentFolderError() from error
    except RuntimeError as error:
        raise UsageError(f"{path} cannot be expanded: {error}", "Write the whole path.") from error


class NoCurrentFolderError(UsageError):
    """A relative path was given, and the current folder was deleted."""

    def __init__(self) -> None:
        super().__init__(
            "The current folder no longer exists.", "Change to one that does, such as with `cd ~`, or give whole paths."
        )


def current_folder_is_gone() -> bool:
    """Tell whether the folder that the process works in was deleted."""
    try:
        return not Path.cwd().is_dir()
    except OSError:
        return True


@contextmanager
def in_existing_folder() -> Iterator[None]:
    """Work in `/` while the block runs, if the current folder was deleted: libraries fail in one that is gone."""
    if not current_folder_is_gone():
        yield
        return
    gone = os.open(".", os.O_RDONLY)
    try:
        os.chdir("/")
        yield
    finally:
        os.fchdir(gone)
        os.close(gone)


def name_form(name: str) -> str:
    """Return a name in the form in which names are compared: composed (NFC).

    The same name can be spelled in several ways, `é` as one character or as `e` and an accent. Keyboards type the one
    and Macs write the other. Files are opened by the name that the disk has; only comparisons use this form.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def existing(path: Path) -> Path:
    """Return the path as the disk spells it: where there is nothing of that name, the same name in another form.

    What is on the disk in neither form stays as it is.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[len(Path(path.anchor).parts) :]:
        found /= part if os.path.lexists(found / part) else _other_form(found, part)
    return found


def _other_form(folder: Path, name: str) -> str:
    """The name of an entry of `folder` that differs from `name` in form only, else `name`."""
    wanted = name_form(name)
    with suppress(OSError):
        return min((entry.name for entry in folder.iterdir() if name_form(entry.name) == wanted), default=name)
    return name


def typed(path: str | Path) -> Path:
    """Return the path that a person typed, from the root, as the disk spells it. Raises like `absolute`."""
    return existing(absolute(path))


def indexed_form(path: Path) -> str:
    """Return a path as text for an index: a byte that is not UTF-8 (in Python a lone surrogate) is `\\udcXX`."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def file_path(indexed: str) -> Path:
    """Return the path of a file on this machine, from its `indexed_form`."""
    path = Path(indexed)
    if "\\udc" not in indexed or path.exists():
        return path
    return Path(_SPELLED_BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), indexed))


def home() -> Path:
    """Return `$TSEMBED_HOME`, or the user data folder when that is not set or empty. It need not exist yet."""
    value = os.environ.get("TSEMBED_HOME", "")
    if value.strip():
        return absolute(value)
    import platformdirs

    return Path(platformdirs.user_data_dir("tsembed", appauthor=False))


@dataclass(frozen=True)
class IndexAddress:
    """Say where an index is: its name, and the store that keeps its points.

    `store` is a URI, whose scheme names an entry of `store.opening.STORES`: `edge` is the embedded engine in the user's
    data folder, `edge:/some/folder` the same below that folder; `http://host:6333` is a Qdrant server or cluster, and
    `memory` an engine that forgets everything when the process ends. Other packages add schemes.

    Raises `UsageError` when the name could not be a folder's.
    """

    name: str = DEFAULT_INDEX
    store: str = "edge"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} cannot name an index.", "Use up to 64 letters, digits, dots, dashes and underscores."
            )

    @property
    def scheme(self) -> str:
        """The scheme of `store`. A host and port without one are those of an HTTP server."""
        found = _SCHEME.match(self.store)
        return found[1] if found else "http"

    @property
    def folder(self) -> Path:
        """The index's folder: its points, and what this machine remembers of it. It need not exist."""
        if self.scheme == "edge":
            parent = self.store.partition(":")[2]
            return (absolute(parent) if parent else home() / "indexes") / self.name
        server = re.sub(r"[^A-Za-z0-9.-]+", "_", self.store.rstrip("/").rpartition("@")[2])
        return home() / "servers" / server / self.name

    @property
    def place(self) -> str:
        """Words for people that say where the points are: a folder or a server's address."""
        return str(self.folder) if self.scheme == "edge" else self.store
