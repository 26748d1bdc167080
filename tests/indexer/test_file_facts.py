"""One file's size, time, inode or endless content costs at most that file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.indexing import Indexing
from tsembed_search.documents import crawl
from tsembed_search.documents.crawl import signature, stored_time
from tsembed_search.indexer.database import FileRow
from tsembed_search.indexer.manifest import Manifest
from tsembed_search.search.where import parse_where
from tsembed_search.store.filters import matches

TEXT = "all about red"
# Seconds since 1970: the limits of 32 and 63 bits, of nanoseconds in 63 bits, of the calendar, of years 1 and 9999.
TIMES = [
    -(2**62), -62_135_596_801, -9_223_372_037, -(2**31) - 1, -1, 0, 2**31, 2**32, 9_223_372_036, 9_223_372_037,
    15_032_304_000, 253_402_300_800, 2**40, 2**62,
]  # fmt: skip


def set_time(path: Path, seconds: int) -> int | None:
    """What the disk makes of that time; None where it has none such."""
    try:
        os.utime(path, (seconds, seconds))
    except (OverflowError, OSError):
        return None
    return path.stat().st_mtime_ns


def test_files_of_any_time_are_indexed_and_then_unchanged(indexing: Indexing) -> None:
    indexing.write("good.txt", "all about blue")
    odd = [indexing.write(f"odd {number}.txt", f"{TEXT} {number}") for number in range(len(TIMES))]
    kept = {str(path): set_time(path, seconds) for path, seconds in zip(odd, TIMES, strict=True)}
    times = {path: time for path, time in kept.items() if time is not None}
    assert len(times) > len(TIMES) / 2, "a disk has most times"
    assert indexing.run().files.added == len(TIMES) + 1
    again = indexing.run()
    assert (again.files.unchanged, again.files.skipped, again.items.embedded) == (len(TIMES) + 1, 0, 0)
    found = {record.payload["path"]: record.payload["mtime"] for record in indexing.records()}
    assert {path: found[path] for path in times} == pytest.approx({path: time / 1e9 for path, time in times.items()})
    for path in odd:
        set_time(path, 1_700_000_000)
    assert indexing.run().items.embedded == 0, "another time is another look, and the same content"


@pytest.mark.parametrize(
    "facts",
    [
        (0, 2**80 + 12345, 1), (5, -(2**90) - 1, 2**64 - 1), (2**63 - 1, 2**63, 2**63), (1, -(2**63) - 1, 2**63 - 1),
        (1, 2**63 - 1, 0),
    ],
)  # fmt: skip
def test_whatever_a_disk_says_can_be_remembered(tmp_path: Path, facts: tuple[int, int, int]) -> None:
    class Stat:
        st_size, st_mtime_ns, st_ino = facts

    from tsembed_search.documents.crawl import Found

    stat: Any = Stat
    found = Found("/a/b.txt", "/a", *signature(stat))
    manifest = Manifest(tmp_path / "manifest.sqlite")
    manifest.skip([FileRow.of(found, None, "text/1", "a reason")])
    row = manifest.file("/a/b.txt")
    manifest.close()
    assert row is not None and (row.size, row.mtime_ns, row.inode) == signature(stat)
    assert int(stored_time(row.mtime_ns)) == row.mtime_ns


@pytest.mark.parametrize("seconds", TIMES)
def test_filters_compare_times_of_any_size(seconds: int) -> None:
    payload = {"places": [{"path": "/a", "ext": "", "mtime": float(seconds)}]}
    assert matches(parse_where("modified>=2024"), payload) == (seconds > 1_700_000_000)
    assert matches(parse_where("modified>=0001-01-02"), payload) == (seconds > -62_135_500_000)
    assert matches(parse_where("modified<9998"), payload) == (seconds < 253_000_000_000)


def test_a_sparse_file_is_given_up_and_not_tried_again(indexing: Indexing) -> None:
    indexing.write("note.txt", TEXT)
    indexing.write("last.log", "")
    os.truncate(indexing.files / "last.log", 400 << 30)
    started = time.monotonic()
    report = indexing.run(time_limit=1)
    assert report.files.added == 1 and [Path(one.path).name for one in report.skipped] == ["last.log"]
    assert "more than 1 second." in report.skipped[0].reason and time.monotonic() - started < 60
    started = time.monotonic()
    again = indexing.run(time_limit=1)
    assert (again.files.unchanged, again.files.skipped) == (1, 1) and time.monotonic() - started < 1


def test_a_dry_run_has_the_same_limit(indexing: Indexing) -> None:
    indexing.write("last.log", "")
    os.truncate(indexing.files / "last.log", 400 << 30)
    assert indexing.run(time_limit=1, dry_run=True).files.skipped == 1


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="Linux makes files up")
def test_files_that_the_system_makes_up_are_no_files(indexing: Indexing) -> None:
    indexing.write("good.txt", TEXT)
    for name in ("version", "meminfo"):
        (indexing.files / f"{name}.txt").symlink_to(f"/proc/{name}")
    report = indexing.run()
    assert report.files.added == 1 and {one.reason for one in report.skipped} == {
        "It is longer than it says: the system makes it up."
    }


def test_a_file_that_grows_while_it_is_read_is_left_to_the_next_run(
    indexing: Indexing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tsembed_search.indexer import intake

    path = indexing.write("growing.txt", TEXT)
    indexing.write("good.txt", "all about blue")
    opened = crawl.open_regular

    def growing(name: str) -> Any:
        if name == str(path):
            with path.open("a") as file:
                file.write(" and more" * 10)
        return opened(name)

    monkeypatch.setattr(intake, "open_regular", growing)
    report = indexing.run()
    assert report.files.added == 1 and "changed while it was read" in report.skipped[0].reason
    monkeypatch.undo()
    assert indexing.run().files.added == 1
