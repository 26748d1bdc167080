"""The embedded engine as `STORES` has it: indexes in folders of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tsembed_search.store.edge import shard
from tsembed_search.store.edge.store import EdgeStore

if TYPE_CHECKING:
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store.base import StoreSettings


class EdgeEngine:
    """The `Engine` (see `store/base.py`) of an address whose store is `edge`."""

    def exists(self, address: IndexAddress) -> bool:
        return EdgeStore.exists(address.folder)

    def metadata(self, address: IndexAddress) -> dict[str, Any] | None:
        return shard.read(address.folder)[1] if self.exists(address) else None

    def open(self, address: IndexAddress, *, writing: bool = False) -> EdgeStore:
        return EdgeStore.open(address.folder)

    def create(self, address: IndexAddress, settings: StoreSettings) -> EdgeStore:
        return EdgeStore.create(address.folder, settings)

    def delete(self, address: IndexAddress) -> None:
        EdgeStore.delete_all(address.folder)

    def salvage(self, address: IndexAddress) -> int:
        from tsembed_search.store.edge.salvage import salvage

        return salvage(address.folder)


ENGINE: Final = EdgeEngine()
