"""Taking files out of an index, as if they had vanished from the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tsembed_search.errors import StoreError
from tsembed_search.indexer import mending
from tsembed_search.indexer.manifest import NAME, Manifest
from tsembed_search.ownership import owned

if TYPE_CHECKING:
    from tsembed_search.errors import DamagedIndexError
    from tsembed_search.store.base import Store


@dataclass(frozen=True)
class Removed:
    """How many files left the index, and how many points left the store: a content with another place stays."""

    files: int
    items: int


def remove_files(folder: Path, store: Store, paths: Iterable[str], *, wait: float | None = 0.0) -> Removed:
    """Takes these files (absolute paths, as the system spells them) out of the index in `folder`; the disk is not
    touched. The next run over them adds them again.

    Raises `IndexBusyError` while another process owns the index, and `StoreError`.
    """
    with owned(folder, "removing", wait=wait), closing(Manifest(folder / NAME)) as manifest:
        mending.agree(manifest, store, _unheard)
        known = [path for path in paths if manifest.file(path) is not None]
        if not known:
            return Removed(0, 0)
        mending.begin_changes(manifest, store)
        manifest.forget(known)
        items = mending.sweep(manifest, store, _untold)
        mending.update_places(manifest, store, _untold)
        return Removed(len(known), items)


def remove_index(folder: Path, delete_store: Callable[[], None], *, wait: float | None = 0.0) -> None:
    """Deletes the store, by calling `delete_store`, and then what is remembered of it in `folder`.

    Raises `IndexBusyError` while another process owns the index, and what `delete_store` raises.
    """
    with owned(folder, "removing", wait=wait):
        delete_store()
        _forget_manifest(folder)
    shutil.rmtree(folder, ignore_errors=True)


def rescue(folder: Path, error: DamagedIndexError, note: Callable[[str], None], *, wait: float | None = 0.0) -> None:
    """Keeps what can be read of the embedded store in `folder`, which gave `error`.

    Raises `IndexBusyError` while another process owns the index, and `StoreError`.
    """
    with owned(folder, "repairing", wait=wait):
        mending.salvaged(folder, error, note)


def repair(folder: Path, store: Store, *, wait: float | None = 0.0) -> tuple[int, int]:
    """Makes the manifest of the index in `folder` again from what the store has; returns (files, points).

    A manifest that is damaged is replaced. Raises `IndexBusyError` while another process owns the index.
    """
    with owned(folder, "repairing", wait=wait):
        _forget_manifest(folder)
        with closing(Manifest(folder / NAME)) as manifest:
            points = mending.rebuild_manifest(manifest, store)
            return manifest.counts()[0], points


def _forget_manifest(folder: Path) -> None:
    for path in folder.glob(f"{NAME}*"):
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            raise StoreError(
                f"Cannot remove {path}: {error.strerror or error}.", "Check who owns the index's folder and its files."
            ) from error


def _unheard(message: str) -> None:
    """Mending tells of itself only to who watches."""


def _untold() -> None:
    """No progress is shown."""
