"""Building the search graph: searches go on meanwhile, and whatever ends it leaves one whole shard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.store_points import DIM, address_of, make_points, make_queries, nearest
from tsembed_search.errors import StoreError
from tsembed_search.store.base import Point, StoreSettings
from tsembed_search.store.edge import graph, shard
from tsembed_search.store.edge.store import EDGE, EdgeStore

ROOT = Path(__file__).parents[2]
MANY = make_points(500)
BUILD_AND_DIE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from helpers.store_points import address_of
from tsembed_search.store.edge import graph, shard
from tsembed_search.store.edge.store import EDGE

def die(*values, **more):
    os.kill(os.getpid(), signal.SIGKILL)

def dying(call):
    def then(*values, **more):
        call(*values, **more)
        die()
    return then

shard.INDEXING_THRESHOLD_KB = 1
store = EDGE.open(address_of(Path(sys.argv[1])))
match sys.argv[3]:
    case "before the copy":
        graph.build = die
    case "while it is built":
        graph._TICK = 0.01
        store.optimize(die)
    case "when it is built":
        graph.build = dying(graph.build)
    case "when it is open":
        shard.write = die
    case "after the swap":
        shard.write = dying(shard.write)
    case "while the old one is deleted":
        graph.shutil.rmtree = lambda folder, **more: die() if Path(folder).name == "points" else None
store.optimize()
"""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some hundred points are worth a graph."""
    monkeypatch.setattr(shard, "INDEXING_THRESHOLD_KB", 1)
    monkeypatch.setattr(graph, "_TICK", 0.05)


@pytest.fixture
def points() -> list[Point]:
    return MANY[:250]


@pytest.fixture
def store(tmp_path: Path, points: list[Point]) -> Iterator[EdgeStore]:
    store = EDGE.create(address_of(tmp_path / "index"), StoreSettings(DIM))
    store.upsert(points)
    yield store
    store.close()


def folders(store: EdgeStore) -> list[str]:
    return sorted(path.name for path in store._folder.glob("points*"))


def check(store: EdgeStore, points: list[Point]) -> None:
    """The store holds exactly these points, each once, and finds them."""
    found = [(record.id, record.payload) for record in store.scroll()]
    assert sorted(id for id, _ in found) == sorted(point.id for point in points)
    assert dict(found) == {point.id: point.payload for point in points}
    query = make_queries(1)
    assert [hit.id for hit in store.search(query, 5)[0]] == list(nearest(points, query[0]))[:5]


def test_it_takes_the_place_of_the_shard(store: EdgeStore, points: list[Point]) -> None:
    assert store.info().indexed == 0 and folders(store) == ["points"]
    store.optimize()
    assert store.info().indexed == len(points) and folders(store) == ["points.2"]
    check(store, points)
    store.upsert(MANY[250:])
    store.optimize()
    assert store.info().indexed == 500 and folders(store) == ["points"]
    store.write_metadata({"some": "thing"})
    store.close()
    again = EDGE.open(address_of(store._folder))
    check(again, MANY)
    assert again.metadata == {"some": "thing"}
    again.close()
    EDGE.delete(address_of(store._folder))
    assert folders(store) == []


def test_searches_go_on_and_changes_wait(
    store: EdgeStore, points: list[Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    building, written = threading.Event(), threading.Event()
    waits: list[float] = []
    plain = graph.build

    def slow(*values: object) -> None:
        building.set()
        plain(*values)  # type: ignore[arg-type]
        time.sleep(0.3)
        assert not written.is_set(), "a change would be lost with the old shard"

    monkeypatch.setattr(graph, "build", slow)
    last = MANY[250]

    def search() -> None:
        building.wait(10)
        while not written.is_set():
            began = time.monotonic()
            assert len(store.search(make_queries(1), 10)[0]) == 10
            waits.append(time.monotonic() - began)
            time.sleep(0.005)

    def write() -> None:
        building.wait(10)
        store.upsert([last])
        written.set()

    threads = [threading.Thread(target=run) for run in (search, write)]
    for thread in threads:
        thread.start()
    store.optimize()
    for thread in threads:
        thread.join(30)
    assert len(waits) > 20 and max(waits) < 1
    check(store, [*points, last])


STEPS = [
    "before the copy",
    "while it is built",
    "when it is built",
    "when it is open",
    "after the swap",
    "while the old one is deleted",
]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("step", STEPS)
def test_killed(store: EdgeStore, points: list[Point], step: str) -> None:
    store.close()
    command = [sys.executable, "-c", BUILD_AND_DIE, store._folder, ROOT / "tests", step]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    swapped = step in STEPS[-2:]
    again = EDGE.open(address_of(store._folder))
    assert folders(again) == ["points.2" if swapped else "points"], "what is left over is deleted"
    assert again.info().indexed == (len(points) if swapped else 0)
    check(again, points)
    again.upsert(MANY[250:260])
    again.optimize()
    check(again, MANY[:260])
    again.close()


def test_stopped(store: EdgeStore, points: list[Point]) -> None:
    def stop(left: float | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.optimize(stop)
    assert folders(store) == ["points"]
    check(store, points)
    store.optimize()
    assert store.info().indexed == len(points)


def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph.sys, "executable", "/bin/false")


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard.shutil, "disk_usage", lambda folder: SimpleNamespace(free=(128 << 20) + 4096))


def cannot_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*values: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard, "write", write)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (no_child, "search graph .* failed: exit status 1.*Nothing is lost"),
        (full_disk, "is full.*nothing that was indexed is lost"),
        (cannot_be_named, "No space left|disk is full"),
    ],
)
def test_the_old_shard_goes_on(
    store: EdgeStore,
    points: list[Point],
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[pytest.MonkeyPatch], None],
    words: str,
) -> None:
    with monkeypatch.context() as patch:
        trouble(patch)
        with pytest.raises(StoreError, match=words):
            store.optimize()
    assert folders(store) == ["points"]
    check(store, points)
    store.optimize()
    check(store, points)
    assert store.info().indexed == len(points)


def test_little_that_is_new_is_not_built(
    store: EdgeStore, points: list[Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.optimize()
    many = MANY[:290]
    monkeypatch.setattr(shard, "INDEXING_THRESHOLD_KB", 2)  # 32 points

    def never(*values: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(graph, "build", never)
        store.upsert(many[250:270])
        store.delete([point.id for point in many[:20]])
        store.optimize()
        store.close()
    again = EDGE.open(address_of(store._folder))
    again.upsert(many[270:])
    assert again.info().points - again.info().indexed < 32, "of what was deleted the engine does not tell"
    again.optimize()  # so what was written before the index was opened is counted, too
    check(again, many[20:])
    assert again.search(make_queries(1), 3, exact=True) == again.search(make_queries(1), 3)
    assert again._written == 0
    again.close()


def test_a_long_build_tells_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = make_points(500)
    monkeypatch.setattr(shard, "INDEXING_THRESHOLD_KB", 1)
    store = EDGE.create(address_of(tmp_path / "index"), StoreSettings(DIM))
    store.upsert(many)
    heard: list[float | None] = []
    source = (
        "from tsembed_search.store.edge import graph; import time; graph._LONG = 100; graph._TRIAL = 200; "
        "expected = graph._expected; plain = graph._sync; "
        "graph._sync = lambda folder: (time.sleep(1), plain(folder)); graph.main()"
    )
    popen = subprocess.Popen
    monkeypatch.setattr(
        graph.subprocess, "Popen", lambda command, **more: popen([command[0], "-c", source, *command[3:]], **more)
    )
    store.optimize(heard.append)
    told = [left for left in heard if left is not None]
    assert told and all(0 <= left < 600 for left in told) and told == sorted(told, reverse=True)
    assert np.isfinite(told).all()
    assert store.info().indexed == 500
    store.close()


def test_a_long_run_does_not_wait_for_its_end(
    store: EdgeStore, points: list[Point], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tsembed_search.store.edge.store.BUILD_EVERY", 300)
    store._build_at = 300
    store.upsert(MANY[250:299])
    assert store.info().indexed == 0
    with monkeypatch.context() as patch:
        no_child(patch)
        store.upsert(MANY[299:310])
    assert store.info().indexed == 0
    check(store, MANY[:310])
    store.optimize()
    store.upsert(MANY[310:])
    assert store.info().indexed == 310
    store.upsert(MANY[:200])
    assert store.info().indexed == 500 and store._written == 0
    check(store, MANY)
