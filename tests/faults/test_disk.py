"""A disk that is full, a folder that cannot be written: clear words, nothing lost, and the next run goes on."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from helpers.indexing import Indexing
from tsembed_search.errors import StoreError
from tsembed_search.indexer import manifest as manifest_module
from tsembed_search.store.edge import shard as edge_shard


def fill(indexing: Indexing) -> None:
    for number in range(12):
        indexing.write(f"{number}.txt", f"text number {number} about the colour blue. " * 12)
    indexing.picture("a.png", "red")


@pytest.mark.parametrize("allowed", [0, 1, 4, 7, 10])
def test_no_room_for_points(indexing: Indexing, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    """The engine refuses to write when the disk is nearly full: by then it has kept what it acknowledged."""
    fill(indexing)
    room = iter(range(allowed))
    plain = edge_shard.need_space

    def checked(folder: Path, needed: int) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        plain(folder, needed)

    with monkeypatch.context() as patched:
        patched.setattr(edge_shard, "need_space", checked)
        with pytest.raises(StoreError, match="disk is full"):
            indexing.run(points_per_write=2)
    indexing.run()
    assert indexing.points() == indexing.scratch()


class FullDisk(sqlite3.Connection):
    """A connection whose writes fail from the `left`-th commit on."""

    left = 0

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        if query == "COMMIT":
            if FullDisk.left == 0:
                raise sqlite3.OperationalError("database or disk is full")
            FullDisk.left -= 1
        return super().execute(query, *values)


@pytest.mark.parametrize("allowed", [0, 3, 7, 12, 15])
def test_no_room_for_the_manifest(indexing: Indexing, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    fill(indexing)
    plain: Callable[..., sqlite3.Connection] = sqlite3.connect
    FullDisk.left = allowed
    with monkeypatch.context() as patched:
        patched.setattr(manifest_module.sqlite3, "connect", lambda *a, **o: plain(*a, **o, factory=FullDisk))
        with pytest.raises(StoreError, match=r"manifest.sqlite: the disk is full"):
            indexing.run(points_per_write=2)
    indexing.run()
    assert indexing.points() == indexing.scratch()


def test_a_real_disk_that_fills_up_during_the_run(tmp_path: Path) -> None:
    """On a file system of its own, where the system lets us make one."""
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        indexing = Indexing(mount.parent, "small")
        indexing.home = mount / "index"
        fill(indexing)
        batches = iter(range(100))

        def take_the_rest(batch: object) -> None:
            if next(batches) == 2:
                with (mount / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
                    while ballast.write(bytes(1 << 20)):
                        pass

        indexing.backbone.on_forward = take_the_rest
        with pytest.raises(StoreError, match="disk is full"):
            indexing.run(points_per_write=2)
        with pytest.raises(StoreError, match="is full"):
            indexing.run()
        (mount / "ballast").unlink()
        indexing.run()
        assert indexing.points() == indexing.scratch()
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_a_folder_that_cannot_be_made(indexing: Indexing) -> None:
    fill(indexing)
    indexing.home.parent.joinpath("file").write_text("in the way")
    indexing.home = indexing.home.parent / "file" / "index"
    with pytest.raises(StoreError, match=r"Cannot write to the index's folder.*TSEMBED_HOME"):
        indexing.run()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(indexing: Indexing) -> None:
    fill(indexing)
    indexing.home.mkdir()
    indexing.home.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="Cannot write to the index's folder"):
            indexing.run()
    finally:
        indexing.home.chmod(0o700)
    assert indexing.run().files.added == 13


def test_files_that_may_not_be_read_keep_what_is_known(indexing: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network drive that fails for a moment must not empty the index."""
    fill(indexing)
    indexing.run()
    before = indexing.points()
    for path in indexing.files.iterdir():
        os.utime(path, (1e9, 1e9))
    plain = os.open

    def failing(path: Any, flags: int, *mode: int, **options: Any) -> int:
        if str(path).endswith(".txt"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return plain(path, flags, *mode, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing)
        report = indexing.run()
    assert report.files.skipped == 12 and "Input/output error" in report.skipped[0].reason
    assert set(indexing.points()) == set(before)
    assert indexing.run().items.embedded == 0
