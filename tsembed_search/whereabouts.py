"""Folders that were indexed and are away now, such as those on a disk that is not connected."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tsembed_search.paths import file_path

OFFLINE: Final = "offline"
"""The key of an index's metadata for the folders whose files its last run could not find, as `indexed_form`s."""


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
    path, root = file_path(place["path"]), file_path(place.get("root") or "/")
    # `Path` raises where it may not look; here that is an answer.
    if os.path.exists(path):  # noqa: PTH110
        return False
    if os.path.islink(path) or any(is_within(place["path"], folder) for folder in lost):  # noqa: PTH114
        return True
    folder = path.parent
    while folder != root and folder != folder.parent and not os.path.lexists(folder):
        folder = folder.parent
    return bool(absence(folder))


def lost_folders(home: Path, metadata: Mapping[str, Any]) -> list[str] | None:
    """Return the folders that were offline when an index was last brought up to date; `metadata` is what it says.

    None for one on a server that this machine has never written to, whose files are another machine's: then its folder
    `home` is not there.
    """
    if not home.exists():
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
