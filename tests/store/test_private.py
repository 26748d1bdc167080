"""Nobody but its owner can reach a file of an index."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.store_points import DIM, address_of
from tsembed_search import private
from tsembed_search.indexer.manifest import NAME, Manifest
from tsembed_search.ownership import owned
from tsembed_search.store import opening
from tsembed_search.store.base import Point, StoreSettings
from tsembed_search.store.edge import shard as index_file
from tsembed_search.store.edge.store import EDGE

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """What lies in a folder and gives other users any right."""
    found = [path for path in (folder, *folder.rglob("*")) if stat.S_IMODE(path.lstat().st_mode) & 0o077]
    return sorted(str(path.relative_to(folder)) for path in found)


def make(folder: Path, points: list[Point]) -> None:
    with owned(folder, "testing"):
        store = EDGE.create(address_of(folder), StoreSettings(DIM))
        manifest = Manifest(folder / NAME)
        manifest.put("some", "thing")
        store.upsert(points[:40])
        store.write_metadata({"generation": "1"})
        assert open_to_others(folder / NAME) == []
        assert not any(open_to_others(path) for path in folder.glob(f"{NAME}*")), "also while it is written"
        manifest.close()
        store.close()


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o027, 0o077])
def test_an_index_is_its_owners_whatever_the_umask(tmp_path: Path, points: list[Point], mask: int) -> None:
    with umask(mask):
        make(tmp_path / "home" / "indexes" / "default", points)
    assert open_to_others(tmp_path / "home") == []


def test_a_home_that_others_may_enter(tmp_path: Path, points: list[Point], monkeypatch: pytest.MonkeyPatch) -> None:
    """The home may hold other things, so it stays as it is; what tsembed keeps in it does not."""
    home = tmp_path / "home"
    (home / "indexes" / "default").mkdir(parents=True)
    for folder in (home, home / "indexes", home / "indexes" / "default"):
        folder.chmod(0o755)
    monkeypatch.setenv("TSEMBED_HOME", str(home))
    with umask(0o022):
        make(home / "indexes" / "default", points)
    assert open_to_others(home) == ["."]


def _search(folder: Path, points: list[Point]) -> None:
    store = EDGE.open(address_of(folder))
    assert store.count() == 40
    store.close()


def _write(folder: Path, points: list[Point]) -> None:
    with owned(folder, "testing"):
        store = EDGE.open(address_of(folder))
        store.upsert(points[40:80])
        store.optimize()
        store.close()


def _salvage(folder: Path, points: list[Point]) -> None:
    (next((folder / "points" / "segments").iterdir()) / "segment.json").write_text("{")
    with owned(folder, "testing"):
        opening.salvage(address_of(folder))


def _metadata(folder: Path, points: list[Point]) -> None:
    settings, metadata = index_file.read(folder)
    index_file.write(folder, settings, {**metadata, "more": 1}, folder / "points")


def _own(folder: Path, points: list[Point]) -> None:
    with owned(folder, "testing"):
        pass


@pytest.mark.parametrize("act", [_search, _write, _salvage, _metadata])
def test_it_stays_so(tmp_path: Path, points: list[Point], act: Callable[[Path, list[Point]], None]) -> None:
    """The engine makes files anew, even when it only reads."""
    with umask(0o022):
        make(tmp_path / "index", points)
        act(tmp_path / "index", points)
    assert open_to_others(tmp_path / "index") == []


@pytest.mark.parametrize("act", [_own, _write, _search])
def test_an_older_index_is_closed_to_others(
    tmp_path: Path, points: list[Point], act: Callable[[Path, list[Point]], None]
) -> None:
    folder = tmp_path / "index"
    make(folder, points)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert private.is_open_to_others(folder)
    act(folder, points)
    assert open_to_others(folder) == [] and not private.is_open_to_others(folder)


def test_the_owner_keeps_the_rights_that_there_were(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0o444)
    (tmp_path / "b").mkdir(0o555)
    private.close_to_others(tmp_path)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o400, 0o500]


def test_links_lead_to_nothing_that_is_changed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(0o755)
    (outside / "file").touch(0o644)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "file").symlink_to(outside / "file")
    before = open_to_others(outside)
    private.close_to_others(inside)
    assert open_to_others(outside) == before == [".", "file"]


def test_a_disk_without_rights(tmp_path: Path, points: list[Point], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*values: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with umask(0o022):
        make(tmp_path / "home" / "index", points)
        _search(tmp_path / "home" / "index", points)


def test_pictures_that_training_has_seen_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tsembed_search.trainer.batches import features

    monkeypatch.setenv("TSEMBED_HOME", str(tmp_path / "home"))
    with umask(0o022):
        seen = features._Seen(tmp_path / "home" / "cache" / "pictures.sqlite")
        seen.put({})
    assert open_to_others(tmp_path / "home") == []
    seen.close()


def test_rows_that_training_reads_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    from tsembed_search.data.records import Images, ItemMaker, RowFile

    monkeypatch.setenv("TSEMBED_HOME", str(tmp_path / "home"))
    picture = {"bytes": b"\x89PNG\r\n\x1a\n and so on", "path": None}
    rows = {"qry": ["private words"], "pos_text": ["more of them"], "qry_image": [picture]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "rows.parquet")
    with umask(0o022):
        (row,) = RowFile.opened(tmp_path / "rows.parquet")
        assert ItemMaker(Images([])).joined("", row.fields["qry_image"]).image.is_file()
    assert open_to_others(tmp_path / "home") == []
