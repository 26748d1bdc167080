"""Search your own images and documents with a multimodal embedding model that you can train yourself.

`from tsembed_search import Embedder, Index, Item` is the public API; importing the package itself loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tsembed_search.version import __version__

if TYPE_CHECKING:
    from tsembed_search.errors import (
        DamagedIndexError,
        IndexBusyError,
        IndexMismatchError,
        LoadError,
        MissingIndexError,
        ModelError,
        StoreError,
        TooLargeError,
        TsembedError,
        UnsupportedModelError,
        UsageError,
    )
    from tsembed_search.index import Index
    from tsembed_search.indexer.report import IndexOptions, Interrupted
    from tsembed_search.items import Embeddings, Item
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.search.results import SearchOptions

_HOMES = {
    **dict.fromkeys(("Embeddings", "Item"), "items"),
    **dict.fromkeys(("IndexOptions", "Interrupted"), "indexer.report"),
    "Embedder": "model.embedder",
    "Index": "index",
    "SearchOptions": "search.results",
}

__all__ = [
    "DamagedIndexError", "Embedder", "Embeddings", "Index", "IndexBusyError", "IndexMismatchError", "IndexOptions",
    "Interrupted", "Item", "LoadError", "MissingIndexError", "ModelError", "SearchOptions", "StoreError",
    "TooLargeError", "TsembedError", "UnsupportedModelError", "UsageError", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
