"""Opening and creating stores by folder or address, and what that imports."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from helpers.store_points import DIM, address_of, make_points
from tsembed_search.errors import IndexMismatchError, StoreError, UsageError
from tsembed_search.paths import IndexAddress
from tsembed_search.store import opening
from tsembed_search.store.base import StoreSettings
from tsembed_search.store.qdrant.store import MemoryEngine

HEAVY = ("torch", "transformers", "qdrant_client", "qdrant_edge", "numpy", "httpx")


def imported(code: str, *arguments: object) -> set[str]:
    """Those of the heavy modules that are loaded when a fresh interpreter has run `code`."""
    report = f"; import sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    command = [sys.executable, "-c", code + report, *map(str, arguments)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_a_store_is_created_once_and_opened_after(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    assert not opening.exists(address_of(folder))
    with pytest.raises(StoreError, match="no index in"):
        opening.open(address_of(folder))
    store = opening.open_or_create(address_of(folder), StoreSettings(DIM))
    store.upsert(make_points(3))
    store.close()
    assert opening.exists(address_of(folder))
    again = opening.open_or_create(address_of(folder), StoreSettings(DIM, "scalar"))
    assert again.count() == 3
    again.close()


def test_vectors_of_another_size_are_refused(tmp_path: Path) -> None:
    opening.open_or_create(address_of(tmp_path), StoreSettings(DIM)).close()
    with pytest.raises(IndexMismatchError, match="vectors of 16 numbers; this model makes 32"):
        opening.open_or_create(address_of(tmp_path), StoreSettings(32))
    opening.open(address_of(tmp_path)).close()


def test_in_memory(tmp_path: Path) -> None:
    address = IndexAddress("pics", "memory")
    assert not opening.exists(address) and opening.metadata(address) is None
    with pytest.raises(StoreError, match="no index called 'pics'"):
        opening.open(address)
    with closing(opening.create(address, StoreSettings(DIM))) as store:
        store.upsert(make_points(3))
        store.write_metadata({"some": "thing"})
    with closing(opening.open(address)) as store:
        assert store.count() == 3
    assert opening.metadata(address) == {"some": "thing"}
    assert not opening.exists(IndexAddress("others", "memory"))
    with pytest.raises(StoreError, match="cannot be rescued"):
        opening.salvage(address)
    opening.delete(address)
    assert not opening.exists(address)
    assert list(tmp_path.iterdir()) == []


def test_where_an_index_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSEMBED_HOME", str(tmp_path))
    assert IndexAddress().folder == tmp_path / "indexes/default"
    assert IndexAddress("pics").place == str(tmp_path / "indexes/pics")
    assert IndexAddress("pics", "edge:/elsewhere").folder == Path("/elsewhere/pics")
    server = IndexAddress("pics", "https://me:secret@host:6333/")
    assert (server.scheme, server.folder) == ("https", tmp_path / "servers/host_6333/pics")
    assert IndexAddress("pics", "localhost:6333").scheme == "http"
    with pytest.raises(UsageError, match="cannot name an index"):
        IndexAddress("../pics")
    with pytest.raises(UsageError, match="no store called lance"):
        opening.exists(IndexAddress("pics", "lance:/somewhere"))


def test_a_store_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package's engine is chosen by the scheme of the address."""

    class Shelf(MemoryEngine):
        pass

    monkeypatch.setattr(opening.STORES, "_entries", dict(opening.STORES._entries))
    opening.STORES.add("shelf", Shelf())
    address = IndexAddress("pics", "shelf:/somewhere")
    with closing(opening.open_or_create(address, StoreSettings(DIM))) as store:
        store.upsert(make_points(3))
    assert opening.open(address).count() == 3
    assert not opening.exists(IndexAddress("pics", "memory"))


def test_only_what_is_needed_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from tsembed_search.store import opening; from tsembed_search.paths import IndexAddress; "
        "address = IndexAddress('pics', f'edge:{sys.argv[1]}')"
    )
    assert imported(code, tmp_path) == set()
    assert imported("from tsembed_search.search.where import parse_where; parse_where('kind=image')") == set()
    assert "qdrant_edge" not in imported(f"{code}; opening.exists(address)", tmp_path)
    opening.create(IndexAddress("pics", f"edge:{tmp_path}"), StoreSettings(DIM)).close()
    opened = imported(f"{code}; opening.open(address).close()", tmp_path)
    assert opened == {"qdrant_edge", "numpy"}
