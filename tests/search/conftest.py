"""An index of colours: real embedded engine, tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.colour_index import Maker
from helpers.colours import ColourBackbone
from helpers.store_points import address_of
from tsembed_search.index import Index
from tsembed_search.model.embedder import Embedder
from tsembed_search.paths import IndexAddress
from tsembed_search.store import opening
from tsembed_search.store.base import Store, StoreSettings
from tsembed_search.store.schema import IndexMetadata


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return Embedder(ColourBackbone())


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def store(home: Path, embedder: Embedder) -> Iterator[Store]:
    """The index called `default`. Making one takes the engine a second, so tests share it and clear it."""
    store = opening.open_or_create(address_of(home / "indexes" / "default"), StoreSettings(embedder.info.dim))
    store.write_metadata(IndexMetadata.of(embedder.info).to_json())
    yield store
    store.close()


@pytest.fixture
def maker(store: Store, home: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Fills the index, which is empty at first."""
    monkeypatch.setenv("TSEMBED_HOME", str(home))
    store.delete([record.id for record in store.scroll(fields=[])])
    return Maker(store, embedder, tmp_path / "files")


@pytest.fixture
def index(maker: Maker, embedder: Embedder) -> Index:
    """The same index, opened for searching through the same store."""
    return Index(IndexAddress(), IndexMetadata.of(embedder.info), store=maker.store, embedder=embedder)
