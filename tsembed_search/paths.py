"""Paths: as people type them, as an index keeps them, where indexes are, and which indexed folders are away now.

An index keeps paths absolute, with forward slashes, and as valid Unicode whatever their bytes are.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tsembed_search.errors import UsageError

DEFAULT_INDEX: Final = "default"
DEFAULT_MODEL: Final = "mini"
OFFLINE: Final = "offline"
"""The key of an index's metadata for the folders whose files its last run could not find, as `indexed_form`s."""

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
    with ExitStack() as stack:
        if current_folder_is_gone():
            gone = os.open(".", os.O_RDONLY)
            stack.callback(os.close, gone)
            stack.callback(os.fchdir, gone)
            os.chdir("/")
        yield


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
    for part in path.parts[len(found.parts) :]:
        if not os.path.lexists(found / part):
            wanted, names = name_form(part), [part]
            with suppress(OSError):
                names = [entry.name for entry in found.iterdir() if name_form(entry.name) == wanted] or names
            part = min(names)
        found /= part
    return found


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
    if (value := os.environ.get("TSEMBED_HOME", "")).strip():
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
        return found[1] if (found := _SCHEME.match(self.store)) else "http"

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


def absence(folder: str | Path) -> str:
    """Say why a folder that had files cannot have them now; empty when there is something in it."""
    try:
        with os.scandir(folder) as entries:
            return "" if any(True for _ in entries) else "It is empty."
    except FileNotFoundError:
        return "It is a link that leads nowhere." if os.path.islink(folder) else "It is not there."  # noqa: PTH114
    except NotADirectoryError:
        return "It is a file now."
    except OSError as error:
        return f"It cannot be listed: {error.strerror or error}."


def is_offline(place: Mapping[str, Any], lost: Sequence[str] = ()) -> bool:
    """Tell whether the file at a place (its `path` and `root`) is out of reach because its disk is, not deleted.

    That is so when it is not there, and the folder that held it is not either, or is empty (as a mount point without
    its disk is), or is one of `lost` or below it.
    """
    # `Path` raises where it may not look; here that is an answer. It also takes five times as long.
    if os.path.exists(place["path"]):  # noqa: PTH110
        return False
    path, root = file_path(place["path"]), file_path(place.get("root") or "/")
    if os.path.exists(path):  # noqa: PTH110
        return False
    if os.path.islink(path) or any(is_within(place["path"], folder) for folder in lost):  # noqa: PTH114
        return True
    folder = path.parent
    while folder != root and folder != folder.parent and not os.path.lexists(folder):
        folder = folder.parent
    return bool(absence(folder))


def lost_folders(own: Path, metadata: Mapping[str, Any]) -> list[str] | None:
    """Return the folders that were offline when an index was last brought up to date; `metadata` is what it says.

    None for one on a server that this machine has never written to, whose files are another machine's: then its folder
    `own` is not there.
    """
    if not own.exists():
        return None
    told = metadata.get(OFFLINE)
    return [str(path) for path in told] if isinstance(told, list) else []


def offline_folders(roots: Sequence[str], lost: Sequence[str] = ()) -> list[str]:
    """Return the folders that are away now, and those that were when the last run looked for their files."""
    return sorted({root for root in roots if absence(root)} | set(lost))


def is_within(path: str, folder: str) -> bool:
    """Tell whether a path is `folder` or lies inside it, both as an index spells them."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def disk_of(folder: str | Path) -> str | None:
    """Return what tells the disk of a folder from other disks; None when that cannot be told.

    The file system's own number, which stays when the machine starts anew or the disk gets another slot; for kinds
    that have none (most network disks), the number that the system gave it this time.
    """
    try:
        if hasattr(os, "statvfs") and (number := os.statvfs(folder).f_fsid):
            return f"disk {number}"
        return f"device {os.stat(folder).st_dev}"  # noqa: PTH116
    except OSError:
        return None
