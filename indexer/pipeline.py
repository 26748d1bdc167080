"""The indexing run: crawl, load, batch, embed, store.

    report = run_index(
        IndexSettings(folder, paths=(Path("photos"),), fingerprint=ref.fingerprint, model=ref.name),
        embedder=lambda: Embedder(registry.load(ref, device)),  # called once, and only when something must be embedded
        store=opener,  # see `StoreOpener`
        progress=sink,
    )

`run_index` owns the index's lock while it runs. It raises `UsageError` (a path that does not exist, a bad pattern),
`IndexBusyError`, `IndexMismatchError`, `StoreError`, `ModelError`, and `Interrupted` (exit code 130, with the report
so far).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tsembed_search.indexer.report import IndexReport, IndexSettings, ProgressSink

if TYPE_CHECKING:
    from tsembed_search.model.backbones.protocol import ModelInfo
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.store.base import Store

StoreOpener = Callable[["ModelInfo | None"], "Store | None"]
"""Called first with None: opens the store if it exists, else returns None and makes nothing. Called again with the
model's info, only when there was none and there is something to put in: creates it. `run_index` closes it."""


def run_index(
    settings: IndexSettings,
    *,
    embedder: Callable[[], Embedder],
    store: StoreOpener,
    progress: ProgressSink | None = None,
) -> IndexReport:
    """Brings the index up to date with `settings.paths`. See the module's docstring."""
    raise NotImplementedError
