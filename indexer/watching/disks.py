"""The disks that watched folders lie on: which of them the system tells of, and when one comes or goes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TABLE: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_NETWORK: Final = frozenset(
    "9p acfs afs afpfs ceph cifs coda cvmfs davfs drvfs fuse gfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 "
    "orangefs prl_fs smb3 smbfs v9fs vboxsf virtiofs vmhgfs".split()
)
_LOCAL_FUSE: Final = frozenset(
    "fuse.bindfs fuse.cryfs fuse.encfs fuse.exfat fuse.fuse-overlayfs fuse.gocryptfs fuse.mergerfs fuse.ntfs-3g "
    "fuse.veracrypt".split()
)


@dataclass(frozen=True)
class Mount:
    """A mounted file system: where, of which kind, and the number that the system gave it."""

    folder: str
    kind: str
    device: str

    @property
    def is_remote(self) -> bool:
        """Tell whether others can change its files without this system's knowing: a network disk, or a shared one."""
        return self.kind in _NETWORK or (self.kind.startswith("fuse.") and self.kind not in _LOCAL_FUSE)


def mounts() -> list[Mount]:
    """Return what is mounted, the latest last. Empty where the system has no such table (only Linux has)."""
    with suppress(OSError):
        return list(_read(_TABLE.read_bytes().decode("utf-8", "surrogateescape")))
    return []


def _read(table: str) -> Iterator[Mount]:
    """Read `/proc/self/mountinfo`, as `proc(5)` describes it."""
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) > 4 and rest:
            yield Mount(_OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4]), rest[0], fields[2])


def mount_of(folder: str, table: Sequence[Mount]) -> Mount | None:
    """Return the file system that a folder is on, links followed; None when that cannot be told."""
    real = os.path.realpath(folder)
    around = [mount for mount in table if _within(real, mount.folder)]
    # Of several in one place, the latest hides the others.
    return max(reversed(around), key=lambda mount: len(mount.folder), default=None)


def remote_kind(folder: str, table: Sequence[Mount]) -> str:
    """Return the kind of the disk that a folder is on if the system does not hear of all its changes, else nothing."""
    mount = mount_of(folder, table)
    return mount.kind if mount is not None and mount.is_remote else ""


def state_of(roots: Sequence[str]) -> tuple[object, ...]:
    """Return what changes when a disk of these folders comes or goes, and when one of them is replaced."""
    inside = {
        mount
        for mount in mounts()
        if any(_within(mount.folder, root) or _within(mount.folder, os.path.realpath(root)) for root in roots)
    }
    return frozenset(inside), *map(_identity, roots)


def _identity(folder: str) -> tuple[int, int] | None:
    with suppress(OSError):
        facts = os.stat(folder)  # noqa: PTH116
        return facts.st_dev, facts.st_ino
    return None


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
