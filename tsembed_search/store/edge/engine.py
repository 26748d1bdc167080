"""The embedded engine as `opening.STORES` has it: indexes in folders of this machine."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsembed_search import private
from tsembed_search.errors import IndexBusyError, StoreError
from tsembed_search.ownership import lock, owner_of
from tsembed_search.store.edge import shard
from tsembed_search.store.edge.store import EdgeStore

if TYPE_CHECKING:
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store.base import StoreSettings

_LOCK: Final = "open.lock"


class EdgeEngine:
    """The `Engine` (see `store/base.py`) of an address whose store is `edge`."""

    def exists(self, address: IndexAddress) -> bool:
        """Tell whether a store was made in the index's folder. Raises `StoreError` when one may not look."""
        with shard.explained("look for an index in", address.folder):
            try:
                (address.folder / shard.NAME).stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def metadata(self, address: IndexAddress) -> dict[str, Any] | None:
        """Read the index's facts about itself without opening the shard; None when there is no store."""
        return shard.read(address.folder)[1] if self.exists(address) else None

    def open(self, address: IndexAddress, *, writing: bool = False) -> EdgeStore:
        """Open the store; where it cannot be written, one that can only be read, on a copy.

        Raises `StoreError` when there is none or it is damaged, `IndexBusyError` when another process has it open.
        """
        folder = address.folder
        settings, metadata = shard.read(folder)
        with shard.explained("open the index in", folder), _lock(folder) as locked:
            try:
                opened = shard.load(folder / "points", settings)
            except BaseException as error:
                if not shard.is_unwritable(error):
                    raise
            else:
                return EdgeStore(folder, settings, metadata, opened, locked.pop_all())
            return _open_copy(folder, settings, metadata)

    def create(self, address: IndexAddress, settings: StoreSettings) -> EdgeStore:
        """Make a new store. Raises `StoreError` when the folder has one, or cannot be written."""
        folder = address.folder
        if self.exists(address):
            raise StoreError(f"{folder} already holds an index.", "Open it, or choose another name: {index}.")
        with shard.explained("create an index in", folder):
            private.make_folder(folder)
            with _lock(folder) as locked:
                made = shard.create(folder / "points", settings)
                # Last, so that a creation that was cut short is not mistaken for an index.
                shard.write(folder, settings, {})
                return EdgeStore(folder, settings, {}, made, locked.pop_all())

    def delete(self, address: IndexAddress) -> None:
        """Delete the store. Raises `IndexBusyError` when another process has it open."""
        self.open(address).close()
        with shard.explained("delete the index in", address.folder):
            # First what makes it an index, so that a deletion that is cut short leaves none.
            (address.folder / shard.NAME).unlink()
            shutil.rmtree(address.folder / "points")

    def salvage(self, address: IndexAddress) -> int:
        """Replace a damaged store by one of all that can be read; returns how many points that are."""
        from tsembed_search.store.edge.salvage import salvage

        with _lock(address.folder):
            return salvage(address.folder)


def _lock(folder: Path) -> ExitStack:
    """Keep others from a shard until the stack is closed. Raises `IndexBusyError`.

    The engine has a lock of its own, but opens the segments before it asks for that, which damages them for whoever has
    them open.
    """
    stack = ExitStack()
    if file := lock(folder / _LOCK):
        stack.enter_context(file)
    return stack


def _open_copy(folder: Path, settings: StoreSettings, metadata: dict[str, Any]) -> EdgeStore:
    if owner := owner_of(folder):
        raise IndexBusyError(f"The index in {folder} is in use by {owner}.", "Wait until it has finished.")
    with ExitStack() as stack:
        copy = stack.enter_context(private.copied([folder / "points"]))
        opened = shard.load(copy / "points", settings)
        return EdgeStore(folder, settings, metadata, opened, stack.pop_all(), copied=True)


EDGE: Final = EdgeEngine()
