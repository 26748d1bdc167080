"""Opening and creating stores by folder or address, and what that imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.store_points import DIM, make_points
from tsembed_search.errors import IndexMismatchError, StoreError
from tsembed_search.store.base import StoreSettings
from tsembed_search.store.opening import open_store, store_exists

HEAVY = ("torch", "transformers", "qdrant_client", "qdrant_edge", "numpy", "httpx")


def imported(code: str, *arguments: object) -> set[str]:
    """Those of the heavy modules that are loaded when a fresh interpreter has run `code`."""
    report = f"; import sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    command = [sys.executable, "-c", code + report, *map(str, arguments)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_a_store_is_created_once_and_opened_after(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    assert not store_exists(folder, name="pics")
    with pytest.raises(StoreError, match="no index in"):
        open_store(folder, name="pics")
    store = open_store(folder, name="pics", create=StoreSettings(DIM))
    store.upsert(make_points(3))
    store.close()
    assert store_exists(folder, name="pics")
    again = open_store(folder, name="pics", create=StoreSettings(DIM, "scalar"))
    assert again.count() == 3
    again.close()


def test_vectors_of_another_size_are_refused(tmp_path: Path) -> None:
    open_store(tmp_path, name="pics", create=StoreSettings(DIM)).close()
    with pytest.raises(IndexMismatchError, match="vectors of 16 numbers; this model makes 32"):
        open_store(tmp_path, name="pics", create=StoreSettings(32))
    open_store(tmp_path, name="pics").close()


def test_in_memory(tmp_path: Path) -> None:
    assert not store_exists(tmp_path, url=":memory:", name="pics")
    store = open_store(tmp_path, url=":memory:", name="pics", create=StoreSettings(DIM))
    store.upsert(make_points(3))
    assert store.count() == 3
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_needed_is_imported(tmp_path: Path) -> None:
    opening = "import sys; from pathlib import Path; from tsembed_search.store.opening import open_store, store_exists"
    assert imported(opening) == set()
    assert imported("from tsembed_search.store.filters import parse_where; parse_where('kind=image')") == set()
    assert "qdrant_edge" not in imported(f"{opening}; store_exists(Path(sys.argv[1]), name='pics')", tmp_path)
    open_store(tmp_path, name="pics", create=StoreSettings(DIM)).close()
    opened = imported(f"{opening}; open_store(Path(sys.argv[1]), name='pics').close()", tmp_path)
    assert opened == {"qdrant_edge", "numpy"}
