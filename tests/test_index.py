"""An index as programs use it: made, filled, searched, listed, mended and deleted, by several threads."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from helpers.colours import COLOURS
from helpers.fixtures import one_thread as one_thread
from helpers.indexing import CountingBackbone, Indexing, Sink, fast_folder, fill
from tsembed_search import Index, Item, SearchOptions
from tsembed_search.errors import (
    DamagedIndexError,
    IndexBusyError,
    IndexMismatchError,
    MissingIndexError,
    ModelError,
    StoreError,
    UsageError,
)
from tsembed_search.indexer.report import Amount, IndexOptions, Interrupted
from tsembed_search.items import KINDS
from tsembed_search.model.embedder import Embedder
from tsembed_search.store.base import StoreSettings

NEW = StoreSettings(0)


@pytest.fixture
def place() -> Iterator[Indexing]:
    """A folder of files, beside which indexes are made."""
    with fast_folder() as folder:
        yield Indexing(folder)


class Door:
    """Opens the index of a place with the model of colours."""

    def __init__(self, place: Indexing) -> None:
        self.store = f"edge:{place.home.parent}"
        self.files = place.files
        self.backbone = CountingBackbone()
        self.embedder = Embedder(self.backbone)

    def __call__(self, name: str = "index", **settings: Any) -> Index:
        settings = {"create": NEW, "embedder": self.embedder} | settings
        return Index.open(name, store=self.store, **settings)


@pytest.fixture
def door(place: Indexing) -> Door:
    return Door(place)


def colours(place: Indexing) -> None:
    for name, rgb in COLOURS.items():
        place.write(f"{name}.txt", name)
        place.picture(f"{name}.png", rgb)


def found(index: Index, query: str, **how: Any) -> str:
    return Path(index.search(query, k=1, **how).hits[0].path).name


def text(index: Index, query: str) -> str:
    return found(index, query, where="kind=text")


class TestLife:
    def test_from_nothing_to_nothing(self, place: Indexing, door: Door) -> None:
        colours(place)
        with Index.create("index", store=door.store, embedder=door.embedder) as index:
            assert index.status().store is not None and index.status().files == 0
            assert index.search("red").hits == []
            report = index.add(place.files)
            assert (report.files.added, report.items.embedded) == (12, 12)
            assert text(index, "red") == "red.txt" and found(index, "red", where="kind=image") == "red.png"
            many = index.search_many(["blue", Item("green")], k=1, where="kind=text")
            assert [Path(hits[0].path).name for hits in many] == ["blue.txt", "green.txt"]
            assert [Path(file.path).name for file in index.files(where="ext=png")] == sorted(
                f"{name}.png" for name in COLOURS
            )
            assert index.files([place.files / "red.txt"])[0].to_json()["items"] == {"text": 1}
            assert index.remove([place.files / "red.txt"], dry_run=True) == Amount(1, 1)
            assert index.remove(where="ext=txt and path~'*/red.*'") == Amount(1, 1)
            assert found(index, "red") == "red.png" and len(index.files()) == 11
            assert index.add([str(place.files)]).files.added == 1
            assert index.repair() == Amount(12, 12)
            assert index.add(place.files, dry_run=True).items.embedded == 0
            index.delete()
        with pytest.raises(MissingIndexError, match="no index called 'index'"):
            Index.open("index", store=door.store)
        assert not place.home.exists()

    def test_the_status_is_what_the_command_prints(self, place: Indexing, door: Door) -> None:
        fill(place)
        place.write("bad.png", b"no picture")
        with door() as index:
            index.add(place.files)
            status = index.status().to_json()
        assert status == json.loads(json.dumps(status))
        assert status["files"] == 5 and status["folders"] == [str(place.files)] and status["offline"] == []
        assert [Path(one["path"]).name for one in status["skipped"]] == ["bad.png"]
        assert status["total"] == sum(status["items"].values()) and set(status["items"]) <= set(KINDS)
        assert status["place"] == str(place.home) and status["busy"] is None

    def test_a_missing_index_is_made_by_what_is_found(self, place: Indexing, door: Door) -> None:
        with door() as index:
            assert index.add(place.files).files.seen == 0
            for ask in (index.status, index.files, lambda: index.search("red"), lambda: index.metadata):
                with pytest.raises(StoreError):
                    ask()  # type: ignore[operator]
            place.picture("red.png")
            assert index.add(place.files).files.added == 1 and found(index, "red") == "red.png"
            assert index.metadata.model == "colours"

    def test_what_cannot_be_is_refused(self, place: Indexing, door: Door) -> None:
        place.picture("red.png")
        with door() as index:
            index.add(place.files)
            with pytest.raises(StoreError, match="already"):
                Index.create("index", store=door.store, embedder=door.embedder)
            with pytest.raises(UsageError, match="nothing to search for"):
                index.search()
            with pytest.raises(UsageError, match="takes no other query"):
                index.search("red", like="x")
            with pytest.raises(UsageError, match="what to remove"):
                index.remove()
            with pytest.raises(UsageError, match="no file or folder"):
                index.add(place.files / "nothing")
            with pytest.raises(TypeError):
                index.search("red", limit=3)
            with pytest.raises(IndexMismatchError, match="colours-2"):
                door(embedder=Embedder(CountingBackbone(fingerprint="colours-2")))

    def test_options_are_one_value(self, place: Indexing, door: Door) -> None:
        colours(place)
        with door() as index:
            only = IndexOptions(include=("*.txt",))
            assert index.add(place.files, only, dry_run=True).files.added == 6
            assert index.add(place.files, only).files.added == 6
            few = SearchOptions(k=2, where="path~'*/red.*'")
            assert [len(index.search("red", few).hits), len(index.search("red", few, where=None).hits)] == [1, 2]

    def test_a_damaged_store_is_repaired(self, place: Indexing, door: Door) -> None:
        colours(place)
        with door() as index:
            index.add(place.files)
        log = place.home / "points/wal/open-1"
        log.write_bytes(bytes(log.stat().st_size))
        notes: list[str] = []
        with door() as index:
            with pytest.raises(DamagedIndexError):
                index.search("red")
            assert index.repair(notes.append) == Amount(12, 12)
            assert "12 items were kept" in notes[1] and text(index, "red") == "red.txt"


class TestOwners:
    def test_a_change_lets_go_at_its_end_and_a_search_at_close(self, place: Indexing, door: Door) -> None:
        place.picture("red.png")
        with door() as index:
            index.add(place.files)
            other = door()
            assert found(other, "red") == "red.png"
            with pytest.raises(IndexBusyError, match="in use"):
                index.search("red")
            assert index.status().busy and index.status().files == 1
            other.close()
            assert found(index, "red") == "red.png"

    def test_one_that_is_held_keeps_others_out(self, place: Indexing, door: Door) -> None:
        place.picture("red.png")
        with door(hold=True) as held:
            with pytest.raises(IndexBusyError, match=f"process {os.getpid()}"):
                door(hold=True)
            held.add(place.files)
            for ask in (lambda other: other.search("red"), lambda other: other.add(place.files)):
                with door() as other, pytest.raises(IndexBusyError, match=f"process {os.getpid()}"):
                    ask(other)
            assert found(held, "red") == "red.png"
            assert held.remove(where="kind=image") == Amount(1, 1) and held.repair() == Amount(0, 0)
        with door() as other:
            assert other.add(place.files).files.added == 1

    def test_one_waits_for_another(self, place: Indexing, door: Door) -> None:
        place.picture("red.png")
        sink = Sink()
        with door(hold=True) as held, door(wait=True) as other, ThreadPoolExecutor() as pool:
            held.add(place.files)
            waiting = pool.submit(other.add, place.files, progress=sink)
            time.sleep(0.5)
            assert not waiting.done()
            held.close()
            assert waiting.result(timeout=20).files.unchanged == 1
            assert f"Waiting for process {os.getpid()}" in sink.notes[0]


class TestThreads:
    """With real threads on the real engine."""

    @pytest.fixture
    def full(self, place: Indexing, door: Door) -> Iterator[Index]:
        colours(place)
        with door(hold=True) as index:
            index.add(place.files)
            yield index

    def test_many_search_at_once(self, full: Index) -> None:
        names = list(COLOURS) * 10
        started = time.perf_counter()
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda name: full.search(name, k=1, where="kind=text"), names))
        wall = time.perf_counter() - started
        assert [Path(result.hits[0].path).name for result in results] == [f"{name}.txt" for name in names]
        for result in results:
            assert all(0 <= seconds < wall for seconds in result.seconds.values())
            assert 0 < sum(result.seconds.values()) < wall

    def test_the_first_searches_load_one_model(self, place: Indexing, door: Door) -> None:
        colours(place)
        with door() as index:
            index.add(place.files)
        with Index.open("index", store=door.store, embedder=door.embedder) as index:
            together = threading.Barrier(4)

            def ask(name: str) -> str:
                together.wait()
                return text(index, name)

            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(ask, list(COLOURS)[:4])) == [f"{name}.txt" for name in list(COLOURS)[:4]]

    def test_each_call_has_its_own_seconds(self, full: Index, place: Indexing, door: Door) -> None:
        """One embeds slowly while others, which need no model, search for what is like an item."""
        inside, go_on = threading.Event(), threading.Event()

        def slow(batch: object) -> None:
            inside.set()
            go_on.wait(10)

        door.backbone.on_forward = slow
        with ThreadPoolExecutor() as pool:
            embedding = pool.submit(full.search, "red")
            assert inside.wait(10)
            started = time.perf_counter()
            quick = [full.search(like=str(place.files / "blue.txt")).seconds for _ in range(5)]
            took = time.perf_counter() - started
            time.sleep(0.2)
            go_on.set()
            seconds = embedding.result().seconds
        assert seconds["embed"] >= took + 0.2 and seconds["search"] < seconds["embed"]
        assert all(one["embed"] == 0 for one in quick) and sum(sum(one.values()) for one in quick) <= took

    def test_one_adds_while_others_search(self, full: Index, place: Indexing, door: Door) -> None:
        for number in range(150):
            place.write(f"more/{number:03}.txt", f"number{number:03} and some words")
        door.backbone.on_forward = lambda batch: time.sleep(0.01)
        names = list(COLOURS)
        searches = 0
        with ThreadPoolExecutor() as pool:
            adding = pool.submit(full.add, place.files)

            def ask(start: int) -> int:
                count = 0
                while not adding.done():
                    name = names[(start + count) % len(names)]
                    assert text(full, name) == f"{name}.txt"
                    assert len(full.files(where=f"path~'*/{name}.png'")) == 1
                    count += 1
                return count

            searches = sum(pool.map(ask, range(3)))
            report = adding.result()
        assert (report.files.added, report.files.unchanged) == (150, 12) and searches > 3
        assert text(full, "number077") == "077.txt" and full.status().to_json()["total"] == report.items.total

    @pytest.mark.parametrize("wait", [False, True])
    def test_two_change_one_after_the_other(self, place: Indexing, door: Door, wait: bool) -> None:
        colours(place)
        inside, go_on = threading.Event(), threading.Event()

        def slow(batch: object) -> None:
            inside.set()
            go_on.wait(10)

        door.backbone.on_forward = slow
        with door(wait=wait) as index, ThreadPoolExecutor() as pool:
            first = pool.submit(index.add, place.files)
            assert inside.wait(10)
            second = pool.submit(index.add, place.files)
            if not wait:
                with pytest.raises(IndexBusyError, match="another thread"):
                    second.result(timeout=10)
                with pytest.raises(IndexBusyError, match="another thread"):
                    index.remove(where="kind=image")
            go_on.set()
            assert first.result(timeout=20).items.embedded == 12
            if wait:
                assert second.result(timeout=20).files.unchanged == 12

    def test_a_stop_from_another_thread(self, place: Indexing, door: Door) -> None:
        for number in range(60):
            place.write(f"{number:02}.txt", f"text number {number}")
        stop = threading.Event()
        calls = iter(range(1000))
        door.backbone.on_forward = lambda batch: stop.set() if next(calls) == 2 else None
        with door() as index:
            with pytest.raises(Interrupted) as raised:
                index.add(place.files, stop=stop)
            kept = raised.value.report.items
            assert 0 < kept.embedded < 60 and kept.total == kept.embedded == index.status().to_json()["total"]
            stop.clear()
            assert index.add(place.files, stop=stop).items.embedded == 60 - kept.embedded

    def test_closing_waits_for_searches(self, full: Index, place: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
        inside = threading.Event()
        plain = type(full.store).find

        def slow(*values: Any, **how: Any) -> Any:
            inside.set()
            time.sleep(0.1)
            return plain(*values, **how)

        monkeypatch.setattr(type(full.store), "find", slow)
        with ThreadPoolExecutor() as pool:
            searching = pool.submit(text, full, "red")
            assert inside.wait(10)
            full.close()
            assert searching.result() == "red.txt"


class TestSeveralDevices:
    def run(self, place: Indexing, backbones: list[CountingBackbone]) -> Any:
        place.load = lambda: [Embedder(backbone) for backbone in backbones]  # type: ignore[assignment,return-value]
        return place.run()

    def test_each_takes_a_part(self, place: Indexing, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(200):
            place.write(f"{number:03}.txt", f"number{number} and some words")
        with door("one") as index:
            index.add(place.files)
            alone = {hit.id: hit.similarity for hit in index.search("words", k=200).hits}
        backbones = [CountingBackbone() for _ in range(3)]
        for backbone in backbones:
            backbone.on_forward = lambda batch: time.sleep(0.01)
        extra = iter(backbones[1:])
        monkeypatch.setattr("tsembed_search.model.loading.load_to_embed", lambda ref, device: next(extra))
        monkeypatch.setattr("tsembed_search.model.registry.resolve", lambda *name, **how: door.embedder.info)
        with door("many", device="cpu,cpu,cpu", embedder=Embedder(backbones[0])) as index:
            report = index.add(place.files)
            assert {hit.id: hit.similarity for hit in index.search("words", k=200).hits} == alone
        assert report.items.embedded == 200 and sum(backbone.embedded for backbone in backbones) >= 200
        assert all(backbone.embedded > 20 for backbone in backbones)

    def test_one_that_fails_ends_the_run_and_nothing_written_is_lost(
        self, place: Indexing, door: Door, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(100):
            place.write(f"{number:03}.txt", f"number{number} and some words")
        good, bad = CountingBackbone(), CountingBackbone()

        def refuse(batch: object) -> None:
            raise ModelError("The device is gone.")

        bad.on_forward = refuse
        monkeypatch.setattr("tsembed_search.model.loading.load_to_embed", lambda ref, device: bad)
        monkeypatch.setattr("tsembed_search.model.registry.resolve", lambda *name, **how: door.embedder.info)
        with (
            door(device="cpu,cpu", embedder=Embedder(good)) as index,
            pytest.raises(ModelError, match="device is gone"),
        ):
            index.add(place.files)
        with door() as index:
            report = index.add(place.files)
            assert report.items.total == 100 and report.items.embedded + good.embedded >= 100


def test_importing_names_what_programs_use() -> None:
    import tsembed_search

    for name in tsembed_search.__all__:
        assert getattr(tsembed_search, name) is not None
    wanted: Callable[[str], bool] = tsembed_search.__all__.__contains__
    assert all(map(wanted, ["Index", "Item", "Embedder", "Embeddings", "SearchOptions", "UsageError", "StoreError"]))
