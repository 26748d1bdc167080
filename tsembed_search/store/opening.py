"""Opening and creating stores: the one place that knows which engines there are."""

from __future__ import annotations

from pathlib import Path

from tsembed_search.store.base import Store, StoreSettings


def open_store(folder: Path, *, url: str | None = None, name: str, create: StoreSettings | None = None) -> Store:
    """The store of the index `name`: embedded in `folder`, or on the Qdrant server at `url`.

    `url` `:memory:` is an in-memory engine, for tests. With `create` a missing store is made with these settings; an
    existing one is opened as it is. Raises `StoreError` when there is none and `create` is None, or when the existing
    one holds vectors of another size.
    """
    if url is not None:
        from tsembed_search.store.server import ServerStore

        return ServerStore.open(url, name, create)
    from tsembed_search.store.edge import EdgeStore

    if create is not None and not EdgeStore.exists(folder):
        return EdgeStore.create(folder, create)
    return EdgeStore.open(folder)


def store_exists(folder: Path, *, url: str | None = None, name: str) -> bool:
    """Whether the index `name` has a store. Raises `StoreError` when a server cannot be asked."""
    if url is not None:
        from tsembed_search.store.server import ServerStore

        return ServerStore.exists(url, name)
    from tsembed_search.store.edge import EdgeStore

    return EdgeStore.exists(folder)
