"""An index whose files are damaged: what can be read is kept, the rest is embedded again, and nothing else changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.indexing import Indexing, fill
from helpers.store_points import address_of
from tsembed_search.errors import DamagedIndexError, IndexBusyError, StoreError
from tsembed_search.indexer import mending
from tsembed_search.store import opening
from tsembed_search.store.base import Store
from tsembed_search.store.edge import salvage
from tsembed_search.store.edge import shard as index_file


def emptied(pattern: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(sorted(folder.glob(pattern))[0], 0)


def zeroed(pattern: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[0]
        path.write_bytes(bytes(path.stat().st_size))

    return damage


# What is damaged, and how many of the seven points have to be embedded again: none where they can still be read.
DAMAGES = {
    "segment.json": (emptied("points/segments/*/segment.json"), 7),
    "ids": (zeroed("points/segments/*/mutable_id_tracker.mappings"), 7),
    "vectors' status": (emptied("points/segments/*/vector_storage-dense/vectors/status.dat"), 7),
    "payload's map": (emptied("points/segments/*/payload_storage/tracker.dat"), 7),
    "version": (emptied("points/segments/*/version.info"), 7),
    "log": (zeroed("points/wal/open-1"), 0),
    "log's beginning": (emptied("points/wal/first-index"), 0),
    "settings": (emptied("points/edge_config.json"), 0),
    "everything": (lambda folder: (folder / "points").rename(folder / "elsewhere"), 7),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_the_next_run_mends_it(indexing: Indexing, what: str) -> None:
    fill(indexing)
    indexing.run()
    before = indexing.points()
    assert len(before) == 7
    damage, lost = DAMAGES[what]
    damage(indexing.home)
    with pytest.raises(DamagedIndexError, match=r"Repair the index"):
        opening.open(address_of(indexing.home))
    with pytest.raises(DamagedIndexError):
        indexing.run(dry_run=True)
    report = indexing.run()
    assert report.items.embedded == lost and indexing.points() == before
    assert "What can be read is being kept" in indexing.sink.notes[0]
    assert f"{7 - lost} items were kept" in indexing.sink.notes[1]
    assert indexing.run().files.unchanged == 5 and indexing.sink.notes == []
    assert len(list(indexing.home.glob("points*"))) == 1


def test_what_cannot_be_read_alone_is_lost_alone(indexing: Indexing) -> None:
    """A payload that cannot be decoded is found only when it is read."""
    fill(indexing)
    indexing.run()
    before = indexing.points()
    page = next(indexing.home.glob("points/segments/*/payload_storage/page_0.dat"))
    content = bytearray(page.read_bytes())
    end = len(content.rstrip(b"\0"))
    content[end - 200 : end] = bytes(200)
    page.write_bytes(content)
    with pytest.raises(DamagedIndexError) as caught, open_and_close(indexing) as store:
        list(store.scroll())
    mending.salvage(address_of(indexing.home), caught.value, lambda message: None)
    with open_and_close(indexing) as store:
        kept = mending.repair(indexing.home, store).items
    assert 0 < kept < 7
    assert indexing.run().items.embedded == 7 - kept and indexing.points() == before


@pytest.mark.parametrize("step", ["create", "read", "write", "delete"])
def test_a_salvage_that_is_cut_short_is_begun_again(
    indexing: Indexing, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    fill(indexing)
    indexing.run()
    before = indexing.points()
    DAMAGES["log"][0](indexing.home)

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    rmtree = shutil.rmtree

    def cut_in_deletion(path: Path, **how: Any) -> None:
        if path.name == "points":
            raise KeyboardInterrupt
        rmtree(path, **how)

    with monkeypatch.context() as patch:
        match step:
            case "create":
                patch.setattr(salvage.shard, "create", cut)  # type: ignore[attr-defined]
            case "read":
                patch.setattr(salvage, "_pages", cut)
            case "write":
                patch.setattr(index_file, "write", cut)
            case "delete":
                patch.setattr(salvage.shutil, "rmtree", cut_in_deletion)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            salvage.salvage(indexing.home)
    assert indexing.run().items.embedded == 0 and indexing.points() == before
    assert len(list(indexing.home.glob("points*"))) == 1


@pytest.mark.parametrize("trouble", ["Too many open files (os error 24)", "Cannot allocate memory (os error 12)"])
def test_trouble_that_passes_is_no_damage(indexing: Indexing, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    import qdrant_edge

    fill(indexing)
    indexing.run()
    before = indexing.points()

    class Troubled:
        @staticmethod
        def load(*_: object) -> None:
            raise Exception(f"Service runtime error: IO Error: {trouble}")

    with monkeypatch.context() as patch:
        patch.setattr(qdrant_edge, "EdgeShard", Troubled)
        with pytest.raises(StoreError, match=r"os error") as caught:
            indexing.run()
    assert not isinstance(caught.value, DamagedIndexError)
    assert indexing.points() == before and indexing.run().items.embedded == 0


def test_a_rescue_that_does_not_help_ends_the_run(indexing: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(indexing)
    indexing.run()
    DAMAGES["settings"][0](indexing.home)
    monkeypatch.setattr("tsembed_search.store.opening.salvage", lambda folder: 0)
    with pytest.raises(DamagedIndexError):
        indexing.run()


def test_nothing_is_touched_while_another_has_it_open(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run()
    with open_and_close(indexing) as store:
        with pytest.raises(IndexBusyError):
            salvage.salvage(indexing.home)
        assert store.count() == 7


def test_places_that_only_the_lost_log_told_are_found_again(indexing: Indexing) -> None:
    """The rescued points still tell of the old place, the manifest of the new one."""
    fill(indexing)
    indexing.run()
    place = ("path", "root", "rel", "ext", "mtime", "places")
    old = {record.id: {key: record.payload[key] for key in place} for record in indexing.records()}
    first = sorted(indexing.files.rglob("*.png"))[0]
    first.rename(first.with_name("renamed.png"))
    indexing.run()
    after = indexing.points()
    with open_and_close(indexing) as store:
        for id, payload in old.items():
            store.set_payloads({id: payload})
    DAMAGES["settings"][0](indexing.home)
    assert indexing.run().items.embedded == 0 and indexing.points() == after


@contextmanager
def open_and_close(indexing: Indexing) -> Iterator[Store]:
    with closing(opening.open(address_of(indexing.home))) as store:
        yield store
