"""A folder that is gone is not a folder that was emptied."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from helpers.colours import text_vector, unit
from helpers.indexing import Indexing
from tsembed_search.documents import crawl
from tsembed_search.errors import UsageError
from tsembed_search.indexer import changes
from tsembed_search.indexer.report import IndexReport
from tsembed_search.ranking.reranking import Query
from tsembed_search.search.results import SearchOptions
from tsembed_search.search.searcher import Searcher

NAMES = [f"{number}.txt" for number in range(6)]


def fill(indexing: Indexing, folder: str = "disk", count: int = 6) -> Path:
    """`count` texts in a folder beside one that stays."""
    for number in range(count):
        indexing.write(f"{folder}/{number}.txt", f"text number {number} is about the colour blue")
    indexing.write("stays/here.txt", "a red text that stays")
    return indexing.files / folder


def told(report: IndexReport) -> list[tuple[str, int]]:
    return [(Path(one.path).name, one.files) for one in report.offline]


def empty(disk: Path, away: Path) -> None:
    away.mkdir()
    for path in list(disk.iterdir()):
        path.rename(away / path.name)


def rename(disk: Path, away: Path) -> None:
    disk.rename(away)


def replace_by_a_file(disk: Path, away: Path) -> None:
    disk.rename(away)
    disk.write_text("a file in its place")


def replace_by_a_link(disk: Path, away: Path) -> None:
    disk.rename(away)
    other = disk.with_name("other")
    other.mkdir()
    (other / "other.txt").write_text("something else")
    disk.symlink_to(other)


def replace_by_a_dangling_link(disk: Path, away: Path) -> None:
    disk.rename(away)
    disk.symlink_to(disk.with_name("nowhere"))


def leave_a_note(disk: Path, away: Path) -> None:
    """As some do in a mount point, to see that the disk is not there."""
    empty(disk, away)
    (disk / "NOT-MOUNTED.txt").write_text("the disk is not mounted")


def take_most(disk: Path, away: Path) -> None:
    away.mkdir()
    for name in NAMES[:4]:
        (disk / name).rename(away / name)


def give_back(disk: Path, away: Path) -> None:
    if disk.is_symlink() or disk.is_file():
        disk.unlink()
    disk.mkdir(exist_ok=True)
    for path in list(away.iterdir()):
        path.rename(disk / path.name)
    away.rmdir()


WAYS_TO_LOSE = [
    empty, rename, replace_by_a_file, replace_by_a_link, replace_by_a_dangling_link, leave_a_note, take_most,
]  # fmt: skip


@pytest.mark.parametrize(
    ("lose", "how"),
    [(lose, "itself") for lose in WAYS_TO_LOSE]
    + [(lose, how) for lose in (empty, rename, take_most) for how in ("beside another", "inside another")],
)
def test_a_lost_root_loses_nothing(
    indexing: Indexing, tmp_path: Path, lose: Callable[[Path, Path], None], how: str
) -> None:
    disk = fill(indexing)
    roots = {"itself": [disk], "beside another": [disk, indexing.files / "stays"], "inside another": [indexing.files]}[
        how
    ]
    indexing.run(*roots)
    before = indexing.points()
    away = indexing.files.parent / "away"
    lose(disk, away)
    for _ in range(3):
        for dry in (True, False):
            report = indexing.run(*roots, dry_run=dry)
            assert report.files.removed == 0 and report.items.removed == 0
            assert sum(files for _, files in told(report)) == (4 if lose is take_most else 6)
            assert set(before) <= set(indexing.points())
    give_back(disk, away)
    report = indexing.run(*roots)
    assert report.offline == [] and report.items.embedded == 0
    assert set(before) <= set(indexing.points())


@pytest.mark.parametrize("lose", [empty, rename, replace_by_a_file, replace_by_a_link, leave_a_note, take_most])
def test_prune_empty_removes_it_for_good(indexing: Indexing, lose: Callable[[Path, Path], None]) -> None:
    disk = fill(indexing)
    roots = [disk, indexing.files / "stays"]
    indexing.run(*roots)
    lose(disk, indexing.files.parent / "away")
    assert indexing.run(*roots).files.removed == 0
    lost = 4 if lose is take_most else 6
    assert indexing.run(*roots, prune_empty=True, dry_run=True).files.removed == lost
    report = indexing.run(*roots, prune_empty=True)
    assert (report.files.removed, report.offline) == (lost, [])
    shutil.rmtree(indexing.files.parent / "away")
    if disk.exists():
        assert indexing.run(*roots).offline == []
        assert indexing.manifest().unsettled() == indexing.manifest().homeless(1) == []
    else:
        with pytest.raises(UsageError, match="no file or folder"):
            indexing.run(*roots)


@pytest.mark.parametrize(
    ("there", "deleted"), [(2, 1), (3, 2), (4, 3), (6, 3), (10, 5), (100, 50)], ids=lambda count: str(count)
)
def test_everyday_deletions_are_no_loss(indexing: Indexing, there: int, deleted: int) -> None:
    disk = fill(indexing, count=there)
    indexing.run(disk)
    for number in range(deleted):
        (disk / f"{number}.txt").unlink()
    report = indexing.run(disk)
    assert (report.files.removed, report.offline) == (deleted, [])


def test_what_is_lost_stays_lost_whatever_is_added(indexing: Indexing) -> None:
    """Many new files do not make the loss of most of the old ones an everyday deletion."""
    disk = fill(indexing)
    indexing.run(disk)
    away = indexing.files.parent / "away"
    take_most(disk, away)
    for number in range(20):
        indexing.write(f"disk/new{number}.txt", f"new text {number}")
    for _ in range(3):
        report = indexing.run(disk)
        assert report.files.removed == 0 and told(report) == [("disk", 4)]
    give_back(disk, away)
    (disk / "0.txt").unlink()
    report = indexing.run(disk)
    assert (report.files.removed, report.offline, report.items.embedded) == (1, [], 0), "found again, it is as before"


MOVES: dict[str, Callable[[Path], list[Path]]] = {
    "the files are renamed": lambda disk: [path.rename(disk / f"new-{path.name}") and disk for path in disk.iterdir()],
    "a folder inside is renamed": lambda disk: [(disk / "in").rename(disk / "other") and disk],
    "the folder is renamed": lambda disk: [disk, disk.rename(disk.with_name("renamed"))],
    "its content moves to another root": lambda disk: [
        disk, *{path.rename(_made(disk.with_name("target")) / path.name).parent for path in disk.iterdir()}
    ],
    "it is copied, then deleted": lambda disk: [
        disk, Path(shutil.copytree(disk, disk.with_name("copy"), copy_function=shutil.copyfile)), *_deleted(disk)
    ],
    "it is copied inside, then deleted": lambda disk: [
        disk, Path(shutil.copytree(disk / "in", disk / "copy", copy_function=shutil.copyfile)), *_deleted(disk / "in")
    ],
}  # fmt: skip


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _deleted(folder: Path) -> list[Path]:
    shutil.rmtree(folder)
    return []


@pytest.mark.parametrize("move", list(MOVES))
def test_what_moves_has_not_vanished(indexing: Indexing, move: str) -> None:
    disk = fill(indexing, "disk/in" if "inside" in move else "disk")
    disk = indexing.files / "disk"
    indexing.run(disk)
    roots = list(dict.fromkeys(MOVES[move](disk)))
    report = indexing.run(*roots)
    assert (report.files.renamed, report.files.removed, report.items.embedded) == (6, 0, 0)
    assert report.offline == []
    assert len(indexing.paths()) == 6


def test_a_copy_elsewhere_does_not_take_the_place_of_what_is_offline(indexing: Indexing) -> None:
    disk = fill(indexing)
    indexing.run(disk, indexing.files / "stays")
    away = indexing.files.parent / "away"
    empty(disk, away)
    shutil.copy2(away / "0.txt", indexing.files / "stays" / "copy.txt")
    report = indexing.run(disk, indexing.files / "stays")
    assert (report.files.added, report.files.renamed, report.items.embedded) == (1, 0, 0)
    assert {"disk/0.txt", "stays/copy.txt"} <= set(indexing.paths())


def test_a_file_that_was_named_is_guarded_too(indexing: Indexing) -> None:
    fill(indexing)
    named = indexing.files / "disk" / "0.txt"
    indexing.run(named)
    named.unlink()
    assert told(indexing.run(named)) == [("0.txt", 1)]
    assert indexing.paths() == ["disk/0.txt"]
    assert indexing.run(named, prune_empty=True).files.removed == 1


def test_a_subfolder_of_what_is_away(indexing: Indexing) -> None:
    disk = fill(indexing, "disk/in")
    indexing.run(indexing.files / "disk")
    (indexing.files / "disk").rename(indexing.files.parent / "away")
    assert told(indexing.run(disk)) == [("in", 6)]
    with pytest.raises(UsageError, match="no file or folder"):
        indexing.run(indexing.files / "disk" / "never-there")


def test_no_prune_says_what_is_offline_and_removes_nothing(indexing: Indexing) -> None:
    disk = fill(indexing)
    indexing.run(disk)
    (disk / "0.txt").unlink()
    assert indexing.run(disk, prune=False).offline == []
    disk.rename(indexing.files.parent / "away")
    report = indexing.run(disk, prune=False)
    assert told(report) == [("disk", 6)] and report.files.removed == 0


def test_an_ignore_file_still_removes_everything(indexing: Indexing) -> None:
    disk = fill(indexing)
    indexing.run(disk)
    indexing.write("disk/.tsembedignore", "*\n")
    report = indexing.run(disk)
    assert (report.files.removed, report.offline) == (6, [])


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error"),
        OSError(19, "No such device"),
        OSError(107, "Transport endpoint is not connected"),
        OSError(116, "Stale file handle"),
    ],
)
@pytest.mark.parametrize("where", ["disk", "disk/in"])
def test_a_folder_that_cannot_be_listed_keeps_what_is_below(
    indexing: Indexing, monkeypatch: pytest.MonkeyPatch, error: OSError, where: str
) -> None:
    """Also where each file in it looks as if it were not there, as with some automounters."""
    disk = fill(indexing, "disk/in/deep").parent.parent
    indexing.run(disk)
    listing, lstat = os.scandir, Path.lstat

    def failing(path: str) -> object:
        if Path(path) == indexing.files / where:
            raise type(error)(*error.args)
        return listing(path)

    def gone(path: Path) -> os.stat_result:
        if indexing.files / where in path.parents:
            raise FileNotFoundError(2, "No such file or directory")
        return lstat(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", failing)
        patched.setattr(Path, "lstat", gone)
        report = indexing.run(disk)
    assert report.files.removed == 0 and len(indexing.paths()) == 6
    assert str(error.strerror) in report.skipped[0].reason
    assert told(report) == ([("disk", 6)] if where == "disk" else [])
    assert indexing.run(disk).items.embedded == 0


@pytest.mark.parametrize("missing", [0, 1, 6])
def test_another_disk_in_its_place(indexing: Indexing, monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    """With all of its files the disk has only another number; without some it is another disk."""
    disk = fill(indexing)
    indexing.run(disk)
    before = set(indexing.points())
    for name in NAMES[:missing]:
        (disk / name).unlink()
    (disk / "new.txt").write_text("what only the new disk has")
    for module in (crawl, changes):
        monkeypatch.setattr(module, "disk_of", lambda folder: "another")
    for _ in range(2):
        report = indexing.run(disk)
        assert report.files.removed == 0 and before <= set(indexing.points())
        assert told(report) == ([("disk", missing)] if missing else [])
    (disk / "new.txt").unlink()
    if not missing:
        assert indexing.run(disk).files.removed == 1, "the new number is remembered"


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("inside", [False, True], ids=["a root", "below a root"])
def test_a_real_disk_that_comes_and_goes(indexing: Indexing, inside: bool) -> None:
    point = indexing.files / "point"
    point.mkdir()
    for number in range(10):
        indexing.write(f"beside/{number}.txt", f"text {number} on the disk of the root")
    root = indexing.files if inside else point
    with mounted(point):
        for number in range(2):
            indexing.write(f"point/{number}.txt", f"text {number} on the disk that goes")
        indexing.run(root)
    before = set(indexing.points())
    for _ in range(2):
        report = indexing.run(root)
        assert report.files.removed == 0 and told(report) == [("point", 2)]
    with mounted(point):
        indexing.write("point/other.txt", "another disk")
        report = indexing.run(root)
        assert told(report) == [("point", 2)] and before <= set(indexing.points())
    with mounted(point):
        for number in range(2):
            indexing.write(f"point/{number}.txt", f"text {number} on the disk that goes")
        indexing.write("point/other.txt", "another disk")
        report = indexing.run(root)
        assert report.offline == [] and report.items.embedded == 0, "the same files on a new disk are the same"


def test_a_linked_folder_whose_target_goes(indexing: Indexing) -> None:
    elsewhere = indexing.files.parent / "elsewhere"
    elsewhere.mkdir()
    for number in range(3):
        (elsewhere / f"{number}.txt").write_text(f"text {number} behind the link")
    for number in range(9):
        indexing.write(f"{number}.txt", f"text {number} beside the link")
    (indexing.files / "link").symlink_to(elsewhere)
    indexing.run(follow_links=True)
    elsewhere.rename(indexing.files.parent / "gone")
    report = indexing.run(follow_links=True)
    assert report.files.removed == 0 and told(report) == [("link", 3)]


def test_searches_mark_what_is_offline(indexing: Indexing) -> None:
    disk = fill(indexing)
    indexing.run(disk, indexing.files / "stays")

    def marked() -> dict[str, bool]:
        store = indexing.open(None)
        assert store is not None
        lost = store.metadata.get("offline", [])
        query = Query(unit(text_vector("blue")), np.zeros(0, np.float32), "text", "blue")
        hits = Searcher(store, lost=lost).search([query], SearchOptions(k=20))[0]
        store.close()
        return {str(Path(hit.path).relative_to(indexing.files)): hit.offline for hit in hits}

    assert not any(marked().values())
    (disk / "5.txt").unlink()
    assert not any(marked().values()), "one that was deleted is not offline"
    take_most(disk, indexing.files.parent / "away")
    indexing.run(disk)
    assert {path for path, offline in marked().items() if offline} >= {f"disk/{name}" for name in NAMES[:4]}
    assert not marked()["disk/4.txt"] and not marked()["stays/here.txt"]
    shutil.rmtree(disk)
    assert marked()["disk/4.txt"], "before any run has noticed"
