"""What only the embedded engine promises: its files, its lock, its graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.store_points import DIM, address_of, make_points, make_queries, nearest
from tsembed_search.errors import IndexBusyError, StoreError
from tsembed_search.search.where import parse_where
from tsembed_search.store.base import Point, StoreSettings
from tsembed_search.store.edge import shard as edge_shard
from tsembed_search.store.edge.store import EDGE, EdgeStore
from tsembed_search.store.filters import matches
from tsembed_search.store.schema import PAYLOAD_INDEXES, SCHEMA_VERSION

ROOT = Path(__file__).parents[2]
ADD_AND_DIE = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from helpers.store_points import address_of, make_points
from tsembed_search.store.edge.store import EDGE
store = EDGE.open(address_of(Path(sys.argv[1])))
store.upsert(make_points(300))
store.delete([make_points(1)[0].id])
print("acknowledged", flush=True)
os._exit(9)
"""


@pytest.fixture
def store(tmp_path: Path) -> EdgeStore:
    return EDGE.create(address_of(tmp_path / "index"), StoreSettings(DIM))


def test_whoever_tries_to_open_it_meanwhile_does_no_harm(tmp_path: Path, points: list[Point]) -> None:
    """The engine would open its segments, and leave them short for who has them, before it asks for its own lock."""
    address = address_of(tmp_path / "index")
    store = EDGE.create(address, StoreSettings(DIM))
    store.upsert(points[:1])
    store.optimize()
    with pytest.raises(IndexBusyError, match="Another process"):
        EDGE.open(address)
    store.delete([points[0].id])
    store.upsert(points[1:])
    store.close()
    again = EDGE.open(address)
    assert again.count() == len(points) - 1
    again.close()


def test_reopened_it_holds_the_same(tmp_path: Path, points: list[Point]) -> None:
    folder = tmp_path / "index"
    store = EDGE.create(address_of(folder), StoreSettings(DIM, "scalar"))
    store.upsert(points)
    store.write_metadata({"model": {"name": "mini"}, "gap": 0.25})
    query = make_queries(1)
    before = store.search(query, 10)
    store.close()
    store.close()
    again = EDGE.open(address_of(folder))
    assert again.settings == StoreSettings(DIM, "scalar")
    assert again.metadata == {"model": {"name": "mini"}, "gap": 0.25}
    assert again.search(query, 10) == before
    assert again.info().points == len(points)
    assert {record.id: record.payload for record in again.scroll()} == {point.id: point.payload for point in points}
    again.close()


def test_acknowledged_points_survive_a_kill(tmp_path: Path) -> None:
    EDGE.create(address_of(tmp_path), StoreSettings(DIM)).close()
    child = subprocess.run(
        [sys.executable, "-c", ADD_AND_DIE, tmp_path, ROOT / "tests"], capture_output=True, text=True, cwd=ROOT
    )
    assert (child.stdout, child.returncode) == ("acknowledged\n", 9), child.stderr
    store = EDGE.open(address_of(tmp_path))
    expected = make_points(300)[1:]
    found = {record.id: record for record in store.scroll(with_vectors=True)}
    assert found.keys() == {point.id for point in expected}
    for point in expected:
        vector = found[point.id].vector
        assert vector is not None and np.allclose(vector, point.vector, atol=1e-6)
    store.close()


def test_a_second_process_is_told_that_the_index_is_busy(tmp_path: Path, store: EdgeStore) -> None:
    open_it = (
        "import sys\n"
        "from tsembed_search.errors import IndexBusyError\n"
        "from tsembed_search.paths import IndexAddress\n"
        "from tsembed_search.store.edge.store import EDGE\n"
        "try: EDGE.open(IndexAddress('index', f'edge:{sys.argv[1]}'))\n"
        "except IndexBusyError as error: print(error)\n"
    )
    command = [sys.executable, "-c", open_it, tmp_path]
    assert "Another process" in subprocess.run(command, capture_output=True, text=True).stdout
    store.close()
    assert subprocess.run(command, capture_output=True, text=True).stdout == ""


def test_payload_indexes_exist(store: EdgeStore) -> None:
    assert store._shard.info().payload_schema.keys() == PAYLOAD_INDEXES.keys()


def test_a_small_index_is_searched_exactly(store: EdgeStore, points: list[Point]) -> None:
    store.upsert(points)
    store.optimize()
    assert store.info().indexed == 0


@pytest.mark.parametrize("quantize", ["none", "scalar", "binary"])
def test_graph_and_quantisation_find_the_nearest(
    tmp_path: Path, quantize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_points(1550, dim=64)
    many, queries = made[:1500], np.stack([point.vector for point in made[1500:]])
    monkeypatch.setattr(edge_shard, "INDEXING_THRESHOLD_KB", 100)
    store = EDGE.create(address_of(tmp_path), StoreSettings(64, quantize))  # type: ignore[arg-type]
    for start in range(0, len(many), 500):
        store.upsert(many[start : start + 500])
    store.optimize()
    assert store.info().indexed == len(many)
    found, exact = store.search(queries, 10), store.search(queries, 10, exact=True)
    hits = 0
    for query, near, best in zip(queries, found, exact, strict=True):
        truth = nearest(many, query)
        assert [hit.id for hit in best] == list(truth)[:10]
        assert all(abs(hit.score - truth[hit.id]) < 1e-5 for hit in [*near, *best])
        hits += len({hit.id for hit in near} & set(list(truth)[:10]))
    assert hits / 500 >= 0.99
    store.close()


def test_the_graph_serves_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_points(1550, dim=64)
    many, queries = made[:1500], np.stack([point.vector for point in made[1500:]])
    monkeypatch.setattr(edge_shard, "INDEXING_THRESHOLD_KB", 20)
    monkeypatch.setattr(edge_shard, "SCAN_KB", 20)  # else all would be compared
    store = EDGE.create(address_of(tmp_path), StoreSettings(64))
    store.upsert(many)
    store.optimize()
    assert store.info().indexed == len(many)
    for text in ("kind=image", "ext!=pdf", "page<=3 and modified>=@1700000300", "path~'*holiday*'", "path~holiday/*"):
        where = parse_where(text)
        chosen = [point for point in many if matches(where, point.payload)]
        hits = 0
        for query, found in zip(queries, store.search(queries, 10, where), strict=True):
            hits += len({hit.id for hit in found} & set(list(nearest(chosen, query))[:10]))
        assert hits / 500 >= 0.99, text
    store.close()


@pytest.mark.parametrize("compared", [4, 45_000], ids=["a detour", "a scan"])
@pytest.mark.parametrize("quantize", ["none", "scalar"])
def test_a_folder_of_few_points_is_searched_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compared: int, quantize: str
) -> None:
    """Most of their neighbours in the graph are in another folder."""
    made = make_points(1550, dim=32)
    many, queries = made[:1500], np.stack([point.vector for point in made[1500:]])
    for number, point in enumerate(many):
        folder = "few" if number % 8 == 0 else "many"
        path = f"/pictures/{folder}/{number}.jpg"
        place = {"path": path, "root": "/pictures", "rel": path[10:], "ext": "jpg", "mtime": 1.0}
        point.payload.update({**place, "places": [place]})
    monkeypatch.setattr(edge_shard, "INDEXING_THRESHOLD_KB", 4)
    monkeypatch.setattr(edge_shard, "SCAN_KB", compared)
    store = EDGE.create(address_of(tmp_path), StoreSettings(32, quantize))  # type: ignore[arg-type]
    store.upsert(many)
    store.optimize()
    assert store.info().indexed == len(many)
    where = parse_where("path~/pictures/few")
    chosen = [point for point in many if matches(where, point.payload)]
    hits = 0
    for query, found in zip(queries, store.search(queries, 10, where), strict=True):
        hits += len({hit.id for hit in found} & set(list(nearest(chosen, query))[:10]))
    assert hits / 500 >= 0.99
    store.close()


def test_an_unfinished_creation_is_made_anew(tmp_path: Path) -> None:
    EDGE.create(address_of(tmp_path), StoreSettings(DIM)).close()
    (tmp_path / "index.json").unlink()
    store = EDGE.create(address_of(tmp_path), StoreSettings(8))
    assert store.dim == 8
    store.close()


def test_points_without_their_index_file_are_not_thrown_away(tmp_path: Path, points: list[Point]) -> None:
    store = EDGE.create(address_of(tmp_path), StoreSettings(DIM))
    store.upsert(points)
    store.close()
    (tmp_path / "index.json").unlink()
    with pytest.raises(StoreError, match=r"250 items, but the index.json beside it is missing"):
        EDGE.create(address_of(tmp_path), StoreSettings(DIM))


def test_creating_twice_is_refused(tmp_path: Path, store: EdgeStore) -> None:
    with pytest.raises(StoreError, match="already holds an index"):
        EDGE.create(address_of(tmp_path / "index"), StoreSettings(DIM))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "index.json").unlink(), "There is no index"),
        (lambda folder: (folder / "index.json").write_text("{"), "index.json is damaged"),
        (lambda folder: (folder / "index.json").write_text(f'{{"schema": {SCHEMA_VERSION}}}'), "index.json is damaged"),
        (lambda folder: (folder / "index.json").write_text('{"schema": 1}'), "another version of tsembed .layout 1,"),
        (lambda folder: (folder / "index.json").write_text('{"schema": 99}'), "another version of tsembed .layout 99,"),
        (lambda folder: (folder / "points").rename(folder / "elsewhere"), "items of this index are missing"),
        (lambda folder: next(folder.rglob("segment.json")).write_text("{"), "Cannot open the index"),
        (lambda folder: os.truncate(next(folder.rglob("vectors/status.dat")), 4), "Cannot open the index"),
        (lambda folder: (folder / "points/edge_config.json").write_text("x"), "Cannot open the index"),
    ],
)  # fmt: skip
def test_damage_is_explained(tmp_path: Path, store: EdgeStore, damage: object, words: str) -> None:
    store.close()
    damage(tmp_path / "index")  # type: ignore[operator]
    with pytest.raises(StoreError, match=words) as caught:
        EDGE.open(address_of(tmp_path / "index"))
    assert caught.value.hint


def test_a_full_disk_is_explained_before_the_engine_meets_it(
    tmp_path: Path, store: EdgeStore, points: list[Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert(points[:10])
    monkeypatch.setattr(edge_shard.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 20))  # type: ignore[attr-defined]
    for write in (lambda: store.upsert(points), lambda: store.set_payloads({points[0].id: {"page": 1}})):
        with pytest.raises(StoreError, match=r"disk of .* is full: 1 MiB are free, \d+ MiB are needed"):
            write()
    assert store.count() == 10
    store.close()
    with pytest.raises(StoreError, match="is full"):
        EDGE.open(address_of(tmp_path / "index"))
    with pytest.raises(StoreError, match="is full"):
        EDGE.create(address_of(tmp_path / "other"), StoreSettings(DIM))


def test_metadata_is_replaced_as_a_whole(tmp_path: Path, store: EdgeStore) -> None:
    store.write_metadata({"a": 1})
    with pytest.raises(StoreError, match="metadata"):
        store.write_metadata({"a": float("nan")})
    with pytest.raises(StoreError, match="metadata"):
        store.write_metadata({"a": object()})
    assert store.metadata == json.loads((tmp_path / "index/index.json").read_text())["metadata"] == {"a": 1}
    assert {path.name for path in (tmp_path / "index").iterdir()} == {"index.json", "points", "open.lock"}


def test_closed_is_closed(store: EdgeStore) -> None:
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.count()


def test_an_unwritable_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot create an index"):
        EDGE.create(address_of(tmp_path / "file" / "index"), StoreSettings(DIM))
