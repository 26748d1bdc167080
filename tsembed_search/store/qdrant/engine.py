"""Qdrant servers, and the in-memory engine, as `STORES` has them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.errors import StoreError
from tsembed_search.store.qdrant import collection
from tsembed_search.store.qdrant.connection import MEMORY as IN_MEMORY
from tsembed_search.store.qdrant.connection import Connection

if TYPE_CHECKING:
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store.base import StoreSettings
    from tsembed_search.store.qdrant.store import ServerStore


class QdrantEngine:
    """The `Engine` (see `store/base.py`) of an address whose store is a Qdrant server's URL."""

    def _connection(self, address: IndexAddress) -> Connection:
        return Connection(address.store)

    def exists(self, address: IndexAddress) -> bool:
        """Tell whether the server has a collection of the index's name."""
        with closing(self._connection(address)) as connection:
            return collection.exists(connection, address.name)

    def metadata(self, address: IndexAddress) -> dict[str, Any] | None:
        """Return the index's facts about itself; None when there is no collection."""
        with closing(self._connection(address)) as connection:
            if not collection.exists(connection, address.name):
                return None
            return collection.read(connection, address.name)[1]

    def open(self, address: IndexAddress, *, writing: bool = False) -> ServerStore:
        """Open the index's collection. When `writing`, questions are as patient as changes."""
        from tsembed_search.store.qdrant.store import ServerStore

        connection = self._connection(address)
        store = ServerStore(connection, address.name)
        if writing:  # a run has begun: from now on its questions can wait, as its changes can
            connection.reading = connection.writing
        return store

    def create(self, address: IndexAddress, settings: StoreSettings) -> ServerStore:
        """Make the index's collection and open it for writing."""
        collection.create(self._connection(address), address.name, settings)
        return self.open(address, writing=True)

    def delete(self, address: IndexAddress) -> None:
        """Delete the index's collection."""
        with closing(self._connection(address)) as connection:
            collection.delete(connection, address.name)

    def salvage(self, address: IndexAddress) -> int:
        """Raise `StoreError`: there is nothing to rescue from here."""
        raise StoreError(f"What the server at {address.store} holds cannot be rescued from here.", "Look at its log.")


class MemoryEngine(QdrantEngine):
    """The engine of an address whose store is `memory`: its indexes last as long as the process."""

    def __init__(self) -> None:
        self._open: Connection | None = None

    def _connection(self, address: IndexAddress) -> Connection:
        if self._open is None:
            self._open = Connection(IN_MEMORY)
        return self._open


QDRANT: Final = QdrantEngine()
MEMORY: Final = MemoryEngine()
