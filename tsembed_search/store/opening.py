"""Opening and creating stores: the one place that knows which engines there are."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tsembed_search.errors import IndexMismatchError
from tsembed_search.store.base import Store, StoreSettings


def open_store(folder: Path, *, url: str | None = None, name: str, create: StoreSettings | None = None) -> Store:
    """The store of the index `name`: embedded in `folder`, or on the Qdrant server at `url`.

    `url` `:memory:` is an in-memory engine, for tests. With `create` a missing store is made with these settings; an
    existing one is opened as it is. Raises `StoreError` when there is none and `create` is None, and
    `IndexMismatchError` when the existing one holds vectors of another size.
    """
    store = _open(folder, url, name, create)
    if create is not None and store.dim != create.dim:
        store.close()
        raise IndexMismatchError(
            f"The index {name!r} holds vectors of {store.dim} numbers; this model makes {create.dim}.",
            "Choose the model that made the index (--model), or another index (--index).",
        )
    return store


def _open(folder: Path, url: str | None, name: str, create: StoreSettings | None) -> Store:
    if url is not None:
        from tsembed_search.store.qdrant.connection import Connection
        from tsembed_search.store.qdrant.store import ServerStore

        connection = Connection(url)
        if create is not None and not ServerStore.exists(connection, name):
            store = ServerStore.create(connection, name, create)
        else:
            store = ServerStore.open(connection, name)
        if create is not None:  # an index run has begun: from now on its questions can wait, as its changes can
            connection.reading = connection.writing
        return store
    from tsembed_search.store.edge.store import EdgeStore

    if create is not None and not EdgeStore.exists(folder):
        return EdgeStore.create(folder, create)
    return EdgeStore.open(folder)


def store_exists(folder: Path, *, url: str | None = None, name: str) -> bool:
    """Whether the index `name` has a store. Raises `StoreError` when a server cannot be asked."""
    if url is not None:
        from tsembed_search.store.qdrant.connection import Connection
        from tsembed_search.store.qdrant.store import ServerStore

        with closing(Connection(url)) as connection:
            return ServerStore.exists(connection, name)
    from tsembed_search.store.edge.store import EdgeStore

    return EdgeStore.exists(folder)


def delete_store(folder: Path, *, url: str | None = None, name: str) -> None:
    """Deletes the store of the index `name` with everything in it; nothing else that lies in `folder`.

    Raises `IndexBusyError` while another process has it open, and `StoreError`.
    """
    if url is not None:
        from tsembed_search.store.qdrant import collection
        from tsembed_search.store.qdrant.connection import Connection

        with closing(Connection(url)) as connection:
            collection.delete(connection, name)
        return
    from tsembed_search.store.edge.store import EdgeStore

    EdgeStore.delete_all(folder)


def salvage(folder: Path) -> int:
    """Rescues what can be read of a damaged embedded store; returns how many points. See `store/salvage.py`."""
    from tsembed_search.store.edge import salvage

    return salvage.salvage(folder)
