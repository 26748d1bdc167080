"""An index of colours: real embedded engine, tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from colour_index import Maker
from colours import ColourBackbone

from tsembed_search.index import Index
from tsembed_search.metadata import IndexMetadata
from tsembed_search.model.embedder import Embedder
from tsembed_search.store.base import StoreSettings
from tsembed_search.store.opening import open_store


@pytest.fixture
def embedder() -> Embedder:
    return Embedder(ColourBackbone())


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedder: Embedder) -> Iterator[Maker]:
    """An empty index called `default` in a fresh home; closed by the test when another opens it."""
    monkeypatch.setenv("TSEMBED_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "indexes" / "default"
    store = open_store(folder, name="default", create=StoreSettings(embedder.info.dim))
    store.write_metadata(IndexMetadata.of(embedder.info).to_json())
    yield Maker(store, embedder, tmp_path / "files")
    store.close()


@pytest.fixture
def index(maker: Maker, embedder: Embedder) -> Iterator[Index]:
    """The same index, opened for searching through the same store."""
    with Index("default", IndexMetadata.of(embedder.info), store=maker.store, embedder=embedder) as opened:
        yield opened
