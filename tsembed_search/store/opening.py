"""The kinds of stores, and opening the one that an index's address names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tsembed_search.errors import IndexMismatchError
from tsembed_search.registry import Registry

if TYPE_CHECKING:
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store.base import Engine, Store, StoreSettings

STORES: Final[Registry[Engine]] = Registry(
    "store",
    "tsembed.stores",
    {
        "edge": "tsembed_search.store.edge.store:EDGE",
        "http": "tsembed_search.store.qdrant.store:QDRANT",
        "https": "tsembed_search.store.qdrant.store:QDRANT",
        "memory": "tsembed_search.store.qdrant.store:MEMORY",
    },
)
"""Engines by the scheme of `IndexAddress.store`."""


def exists(address: IndexAddress) -> bool:
    """Tell whether the index has a store. Raises `StoreError` when that cannot be found out."""
    return STORES.get(address.scheme).exists(address)


def metadata(address: IndexAddress) -> dict[str, Any] | None:
    """Return what the index says about itself, None when there is none. An embedded index is not opened for this.

    Raises `StoreError` when it cannot be read.
    """
    return STORES.get(address.scheme).metadata(address)


def open(address: IndexAddress, *, writing: bool = False) -> Store:
    """Open the store of an index; `writing`: a long run of changes begins.

    Raises `StoreError` when there is none, and `IndexBusyError` while another process has it open.
    """
    return STORES.get(address.scheme).open(address, writing=writing)


def create(address: IndexAddress, settings: StoreSettings) -> Store:
    """Make a new store and open it for writing. Raises `StoreError` when there is one already."""
    return STORES.get(address.scheme).create(address, settings)


def open_or_create(address: IndexAddress, settings: StoreSettings) -> Store:
    """Open the store for writing; make it with these settings when it is missing.

    Raises `IndexMismatchError` when there is one that holds vectors of another size.
    """
    if not exists(address):
        return create(address, settings)
    store = open(address, writing=True)
    if store.dim != settings.dim:
        store.close()
        raise IndexMismatchError(
            f"The index {address.name!r} holds vectors of {store.dim} numbers; this model makes {settings.dim}.",
            "Choose the model that made the index: {model}, or another index: {index}.",
        )
    return store


def delete(address: IndexAddress) -> None:
    """Delete the store of an index with everything in it; nothing else that lies in its folder.

    Raises `IndexBusyError` while another process has it open, and `StoreError` when there is none.
    """
    STORES.get(address.scheme).delete(address)


def salvage(address: IndexAddress) -> int:
    """Rescue what can be read of a damaged store; returns how many points that are.

    The caller owns the index (`ownership.owned`). Raises `StoreError` when the store has nothing to rescue from.
    """
    return STORES.get(address.scheme).salvage(address)
