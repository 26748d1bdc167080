"""An index that cannot be written can be read, and what has to be written is refused in words."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers import store_points
from helpers.store_points import DIM, address_of, make_queries
from tsembed_search import private as private_copy
from tsembed_search.errors import IndexBusyError, StoreError
from tsembed_search.indexer.manifest import NAME, Manifest, manifest_to_read
from tsembed_search.ownership import owned
from tsembed_search.store.base import Point, StoreSettings
from tsembed_search.store.edge import shard as edge_shard
from tsembed_search.store.edge.store import EDGE

SOME_ID = "00000000-0000-0000-0000-000000000001"


@pytest.fixture
def folder(tmp_path: Path, points: list[Point]) -> Path:
    folder = tmp_path / "index"
    store = EDGE.create(address_of(folder), StoreSettings(DIM))
    store.upsert(points[:40])
    store.write_metadata({"some": "thing"})
    store.close()
    return folder


@contextmanager
def read_only_mount(folder: Path) -> Iterator[None]:
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def refuse_to_write(monkeypatch: pytest.MonkeyPatch, folder: Path, error: Exception) -> None:
    """The engine fails, as it does on such a disk, to open what is in `folder`."""
    plain = edge_shard.load

    def load(path: Path, settings: StoreSettings) -> Any:
        if folder in path.parents:
            raise error
        return plain(path, settings)

    monkeypatch.setattr(edge_shard, "load", load)


REFUSALS = [
    Exception("Service runtime error: Failed to open mmap payload storage: Read-only file system (os error 30)."),
    Exception("Service runtime error: Permission denied (os error 13)"),
    Exception("Service runtime error: Operation not permitted (os error 1)"),
    OSError(errno.EROFS, "Read-only file system"),
    PermissionError(errno.EACCES, "Permission denied"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=str)
def test_it_is_read_from_a_copy(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    check_reading(folder, monkeypatch, error)


def test_on_a_real_read_only_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with read_only_mount(folder):
        check_reading(folder, monkeypatch, None)
        with pytest.raises(StoreError, match=r"Read-only file system.*can only be read"), owned(folder, "testing"):
            pass


def check_reading(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    temporary = folder.parent / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(private_copy.tempfile, "tempdir", str(temporary))
    expected = EDGE.open(address_of(folder)) if error else None
    if expected is not None:
        answers = expected.search(make_queries(3), 5)
        expected.close()
        refuse_to_write(monkeypatch, folder, error or Exception())
    store = EDGE.open(address_of(folder))
    assert store.count() == 40 and store.metadata == {"some": "thing"}
    if expected is not None:
        assert store.search(make_queries(3), 5) == answers
    (copy,) = temporary.iterdir()
    assert copy.stat().st_mode & 0o077 == 0
    apparent = sum(path.stat().st_size for path in copy.rglob("*"))
    assert edge_shard.disk_bytes(copy) < 0.7 * apparent, "the holes of its files stay holes"
    writes: list[Callable[[], None]] = [
        lambda: store.write_metadata({}),
        lambda: store.upsert(list(store_points.make_points(1))),
        lambda: store.delete([SOME_ID]),
        lambda: store.set_payloads({SOME_ID: {}}),
        store.optimize,
    ]
    for write in writes:
        with pytest.raises(StoreError, match=r"can only be read.*writable"):
            write()
    store.close()
    store.close()
    assert list(temporary.iterdir()) == []


def test_nobody_copies_what_is_being_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_write(monkeypatch, folder, REFUSALS[0])
    with owned(folder, "indexing"), pytest.raises(IndexBusyError, match="indexing"):
        EDGE.open(address_of(folder))


def test_no_room_for_a_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_write(monkeypatch, folder, REFUSALS[0])

    def full(*values: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(private_copy, "copy", full)
    with pytest.raises(StoreError, match=r"nor be copied to be read: No space left.*TSEMBED_HOME"):
        EDGE.open(address_of(folder))


def test_the_manifest_is_read_from_a_copy(tmp_path: Path) -> None:
    """With what is still in its log, as after a kill."""
    (tmp_path / "index").mkdir()
    path = tmp_path / "index" / NAME
    open_elsewhere = Manifest(path)
    open_elsewhere.put("some", "thing")
    assert path.with_name(f"{NAME}-wal").stat().st_size
    try:
        with read_only_mount(path.parent), manifest_to_read(path) as manifest:
            assert manifest.get("some") == "thing"
    finally:
        open_elsewhere.close()
