"""Manifest and engine disagree, either being ahead: the run notices, mends it, and embeds only what is missing."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from helpers.indexing import TEXT, Indexing, copy_index, fill
from tsembed_search.errors import StoreError
from tsembed_search.indexer.database import packed, unpacked
from tsembed_search.indexer.manifest import NAME
from tsembed_search.indexer.mending import rebuild_manifest
from tsembed_search.store.base import Store


def opened(indexing: Indexing) -> Store:
    store = indexing.open(None)
    assert store is not None
    return store


def test_ids_are_packed_and_unpacked() -> None:
    ids = ["6f0d3f7e-5a0e-5c43-9d0b-7c1d1f6a2b90", "00000000-0000-0000-0000-000000000001"]
    assert unpacked(packed(ids)) == ids and len(packed(ids)) == 32


def test_a_lost_manifest_is_rebuilt_without_embedding(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run()
    before = indexing.points()
    for file in indexing.home.glob(f"{NAME}*"):
        file.unlink()
    report = indexing.run()
    assert "do not agree" in indexing.sink.notes[0]
    assert report.items.embedded == 0 and report.files.skipped == 0 and indexing.points() == before
    assert indexing.run().files.unchanged == 5 and indexing.sink.notes == []


def test_a_lost_store_is_filled_anew(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run()
    before = indexing.points()
    shutil.rmtree(indexing.home / "points")
    (indexing.home / "index.json").unlink()
    report = indexing.run()
    assert report.files.added == 5 and report.items.embedded == len(before) and indexing.points() == before


def test_points_that_vanished_from_the_store_come_back(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run()
    before = indexing.points()
    with closing(opened(indexing)) as store:
        store.delete(sorted(before)[::2])
    report = indexing.run()
    assert report.items.embedded == len(sorted(before)[::2]) and indexing.points() == before


def test_a_store_that_is_ahead_is_taken_over(indexing: Indexing) -> None:
    """The manifest is a day old: files were added, changed and removed since."""
    fill(indexing)
    indexing.run()
    shutil.copy(indexing.home / NAME, indexing.home / "old")
    indexing.picture("red.png", "green")
    indexing.write("new.txt", "new words")
    (indexing.files / "page.html").unlink()
    indexing.run()
    after = indexing.points()
    for file in indexing.home.glob(f"{NAME}*"):
        file.unlink()
    (indexing.home / "old").rename(indexing.home / NAME)
    report = indexing.run()
    assert report.items.embedded == 0 and indexing.points() == after == indexing.scratch()


def test_a_store_that_is_behind_is_brought_forward(indexing: Indexing) -> None:
    """The engine's files were restored from an older copy."""
    fill(indexing)
    indexing.run()
    saved = indexing.files.parent / "saved"
    copy_index(indexing.home / "points", saved / "points")
    shutil.copy(indexing.home / "index.json", saved)
    indexing.picture("red.png", "green")
    indexing.write("new.txt", "new words")
    indexing.run()
    shutil.rmtree(indexing.home / "points")
    copy_index(saved / "points", indexing.home / "points")
    shutil.copy(saved / "index.json", indexing.home)
    report = indexing.run()
    assert report.items.embedded == 2 and indexing.points() == indexing.scratch()


def test_a_repair_forgets_nothing(indexing: Indexing) -> None:
    fill(indexing)
    shutil.copy(indexing.files / "notes.txt", indexing.files / "copy.txt")
    indexing.run()
    before = indexing.points()
    (indexing.home / NAME).unlink()
    manifest = indexing.manifest()
    with closing(opened(indexing)) as store:
        assert rebuild_manifest(manifest, store) == len(before)
    assert manifest.counts() == (6, len(before))
    manifest.close()
    report = indexing.run()
    assert (report.items.embedded, report.files.skipped) == (0, 0) and indexing.points() == before
    (indexing.files / "copy.txt").unlink()
    assert indexing.run().files.removed == 1
    assert indexing.points() == indexing.scratch()


def test_a_damaged_manifest_says_what_to_do(indexing: Indexing) -> None:
    indexing.write("a.txt", TEXT)
    indexing.run()
    (indexing.home / NAME).write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"Index\.repair"):
        indexing.run()


def test_a_manifest_of_another_version_is_refused(indexing: Indexing) -> None:
    indexing.write("a.txt", TEXT)
    indexing.run()
    with closing(sqlite3.connect(indexing.home / NAME)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="layout 99"):
        indexing.run()
