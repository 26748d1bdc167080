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
    "tsembed_search.index": ["Index"],
    "tsembed_search.items": ["Embeddings", "Item"],
    "tsembed_search.model.embedder": ["Embedder"],
    "tsembed_search.search.results": ["SearchOptions"],
    "tsembed_search.indexer.report": ["IndexOptions", "Interrupted"],
    "tsembed_search.errors": [
        "DamagedIndexError", "IndexBusyError", "IndexMismatchError", "LoadError", "MissingIndexError", "ModelError",
        "StoreError", "TooLargeError", "TsembedError", "UnsupportedModelError", "UsageError",
    ],
}  # fmt: skip

__all__ = [
    "DamagedIndexError", "Embedder", "Embeddings", "Index", "IndexBusyError", "IndexMismatchError", "IndexOptions",
    "Interrupted", "Item", "LoadError", "MissingIndexError", "ModelError", "SearchOptions", "StoreError",
    "TooLargeError", "TsembedError", "UnsupportedModelError", "UsageError", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
