"""Search your own images and documents with a multimodal embedding model that you can train yourself.

`from tsembed_search import Embedder, Index, Item` is the public API; importing the package itself loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tsembed_search.version import __version__

if TYPE_CHECKING:
    from tsembed_search.index import Index
    from tsembed_search.items import Embeddings, Item
    from tsembed_search.model.embedder import Embedder

__all__ = ["Embedder", "Embeddings", "Index", "Item", "__version__"]

_HOMES = {
    "Embedder": "tsembed_search.model.embedder",
    "Embeddings": "tsembed_search.items",
    "Index": "tsembed_search.index",
    "Item": "tsembed_search.items",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
