"""An index that follows its files: real events, real runs, and in the end the index of what is there."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from helpers.following import Following, Looking, following
from helpers.indexing import Indexing
from tsembed_search.errors import IndexBusyError, StoreError, UsageError
from tsembed_search.indexer.manifest import NAME
from tsembed_search.indexer.report import IndexOptions
from tsembed_search.indexer.watching import disks, events, loop
from tsembed_search.indexer.watching.disks import Mount, mount_of, remote_kind
from tsembed_search.indexer.watching.loop import Pace, Watcher
from tsembed_search.ownership import owned, owner_of

LIMIT = 'OS file watch limit reached. about ["/x"] (Error { kind: MaxFilesWatch })'
INSTANCES = "Error creating recommended watcher: Too many open files (os error 24)"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are waited for in smaller steps."""
    monkeypatch.setattr(events, "_STEP_MS", 20)
    monkeypatch.setattr(events, "_TOGETHER_MS", 60)
    monkeypatch.setattr(loop, "_TICK", 0.03)
    monkeypatch.setattr(loop, "_PAUSES", (0.2, 0.4))
    monkeypatch.setattr(loop, "_PAUSES_WHILE_BUSY", (0.1, 0.2))


def stay(indexing: Indexing, count: int = 8) -> None:
    """Files that stay, so that what goes is never most of a folder."""
    for number in range(count):
        indexing.write(f"stays/{number}.txt", f"text {number} that stays")


def test_everyday_changes(indexing: Indexing) -> None:
    stay(indexing)
    indexing.write("a.txt", "the first words")
    with following(Following, indexing) as follower:
        assert follower.began_with == 2 and follower.reports[0].files.added == 9
        ran = follower.next_run()
        indexing.write("b.txt", "new words")
        assert ran().files.added == 1
        ran = follower.next_run()
        saved = indexing.write("a.txt~", "words of an editor that saves by renaming")
        saved.rename(indexing.files / "a.txt")
        assert ran().files.updated == 1
        ran = follower.next_run()
        (indexing.files / "b.txt").rename(indexing.files / "c.txt")
        report = ran()
        assert report.files.renamed == 1 and report.items.embedded == 0
        ran = follower.next_run()
        (indexing.files / "c.txt").unlink()
        assert ran().files.removed == 1
        assert owner_of(indexing.home) is None, "between two runs others can use the index"
        assert follower.idle(0.4) and not follower.failures
    assert indexing.points() == indexing.scratch()


def test_folders_come_move_and_go(indexing: Indexing) -> None:
    stay(indexing)
    with following(Looking, indexing) as follower:
        ran = follower.next_run()
        indexing.write("new/in/deep/a.txt", "words in a folder of a new folder")
        ran()
        ran = follower.next_run()
        indexing.write("new/in/deep/b.txt", "a new folder is listened to")
        assert ran().files.added == 1
        ran = follower.next_run()
        (indexing.files / "new").rename(indexing.files / "moved")
        moved = ran().files
        assert moved.added == moved.removed == 2
        ran = follower.next_run()
        indexing.write("moved/in/deep/c.txt", "and so is one that was moved")
        assert ran().files.added == 1
        ran = follower.next_run()
        shutil.rmtree(indexing.files / "moved/in")
        (indexing.files / "moved/in").mkdir()
        assert ran().files.removed == 3
        follower.settled()
        ran = follower.next_run()
        indexing.write("moved/in/again.txt", "and one that was made anew")
        assert ran().files.added == 1
        assert follower.equals_files()


@pytest.mark.parametrize(("kind", "changes"), [(Looking, 400), (Following, 60)], ids=["many", "indexed"])
def test_random_changes(indexing: Indexing, kind: type[Following], changes: int) -> None:
    chance = random.Random(changes)
    stay(indexing, 30)
    folders = ["", "x", "x/y", "z", "z/y/x"]

    def change() -> None:
        path = indexing.files / chance.choice(folders) / f"{chance.randrange(6)}.txt"
        kind = chance.choice(["write", "write", "rename", "remove", "move a folder", "remove a folder"])
        if kind == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"words number {chance.random()}")
        elif kind == "rename" and path.exists():
            other = indexing.files / chance.choice(folders)
            other.mkdir(parents=True, exist_ok=True)
            path.rename(other / f"{chance.randrange(6)}.txt")
        elif kind == "remove":
            path.unlink(missing_ok=True)
        elif kind == "move a folder" and (indexing.files / "x").exists():
            shutil.rmtree(indexing.files / "z", ignore_errors=True)
            (indexing.files / "x").rename(indexing.files / "z")
        elif kind == "remove a folder":
            shutil.rmtree(indexing.files / chance.choice(folders[1:]), ignore_errors=True)

    with following(kind, indexing, pace={"longest": 0.3}) as follower:
        for number in range(changes):
            change()
            if number % 10 == 0:
                time.sleep(chance.uniform(0, 0.08))
        follower.settled()
        assert not follower.failures and len(follower.reports) >= 2
        if isinstance(follower, Looking):
            assert follower.equals_files()
            return
    assert indexing.points() == indexing.scratch()


def test_what_is_left_out_costs_nothing(indexing: Indexing) -> None:
    stay(indexing)
    indexing.write(".tsembedignore", "node_modules/\n")
    for name in ("node_modules/a/b/c", ".hidden/a", "old/a"):
        indexing.write(f"{name}/readme.txt", "left out")
    with following(Looking, indexing, exclude=("old",)) as follower:
        assert follower.began_with == 2, "the root and the folder that stays"
        for name in ("node_modules/a/b/c/new.txt", ".hidden/new.txt", "old/new.txt", "program.o", ".swap.txt"):
            indexing.write(name, "left out")
        assert follower.idle()
        indexing.write(".tsembedignore", "")
        follower.until(lambda: any("node_modules" in path for path in follower.seen))
        assert follower.equals_files() is False, "the pattern of the options holds on"


def test_a_file_alone(indexing: Indexing) -> None:
    one = indexing.write("one.txt", "the words of one file")
    indexing.write("other.txt", "not asked for")
    with following(Looking, indexing, one) as follower:
        assert follower.began_with == 1
        indexing.write("other.txt", "still not asked for")
        assert follower.idle()
        ran = follower.next_run()
        one.write_text("other words of this file")
        assert ran().files.updated == 1
    assert list(follower.seen) == [str(one)]


def test_names_that_are_not_utf8(indexing: Indexing) -> None:
    stay(indexing)
    with following(Looking, indexing) as follower:
        ran = follower.next_run()
        Path(os.fsdecode(os.fsencode(indexing.files) + b"/caf\xe9.txt")).write_text("words of a file")
        assert ran().files.added == 1 and not follower.told_deaf
        ran = follower.next_run()
        indexing.write("after.txt", "it still listens")
        assert ran().files.added == 1
        folder = Path(os.fsdecode(os.fsencode(indexing.files) + b"/bad\xff"))
        folder.mkdir()
        follower.until(lambda: follower.told_deaf)
        assert "not UTF-8" in follower.told_deaf[0].reason
    assert not follower.failures


@pytest.mark.parametrize("error", [OSError(LIMIT), RuntimeError(INSTANCES)], ids=["watches", "watchers"])
def test_a_limit_of_the_system(indexing: Indexing, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    stay(indexing)
    indexing.write("b/c.txt", "words")

    def refused(folders: object) -> object:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(events, "_notify", refused)
        with following(Looking, indexing, pace={"every": 0.3}) as follower:
            assert follower.began_with == 0
            ran = follower.next_run()
            indexing.write("b/new.txt", "found without any event")
            assert ran().files.added == 1
            ran = follower.next_run()
            (indexing.files / "b/new.txt").unlink()
            assert ran().files.removed == 1
            assert len(follower.told_deaf) == 1 and "sudo sysctl fs.inotify.max_user" in follower.told_deaf[0].hint
            patched.undo()
            follower.until(lambda: follower.told_hearing, "it listens once it is allowed to")
            assert follower.watcher._events.folders == 3 and len(follower.told_deaf) == 1
        assert follower.equals_files()


def test_a_network_disk_is_looked_at_now_and_then(indexing: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
    stay(indexing)
    indexing.write("nas/deep/a.txt", "words on a network disk")
    table = [Mount("/", "ext4", "8:1"), Mount(str(indexing.files / "nas"), "nfs4", "0:44")]
    monkeypatch.setattr(disks, "mounts", lambda: table)
    with following(
        Looking, indexing, indexing.files / "stays", indexing.files / "nas", pace={"every": 0.5}
    ) as follower:
        assert follower.began_with == 1
        (told,) = follower.told_deaf
        assert told.root == str(indexing.files / "nas") and "nfs4" in told.reason
        ran = follower.next_run()
        indexing.write("nas/deep/b.txt", "new words there")
        assert ran().files.added == 1
        assert len(follower.told_deaf) == 1, "said once"
    # Inside a root on another disk, too.
    monkeypatch.setattr(os, "stat", _other_device(os.stat, indexing.files / "nas"))
    with following(Looking, indexing, pace={"every": 0.5}) as follower:
        assert follower.began_with == 2 and [one.root for one in follower.told_deaf] == [str(indexing.files)]


def _other_device(real: object, folder: Path) -> object:
    def stat(path: object, *args: object, **options: object) -> os.stat_result:
        facts = real(path, *args, **options)  # type: ignore[operator]
        if isinstance(path, str) and Path(path) == folder:
            return os.stat_result((*facts[:2], facts.st_dev + 1, *facts[3:10]))
        return facts  # type: ignore[no-any-return]

    return stat


def test_the_table_of_mounts(tmp_path: Path) -> None:
    table = list(
        disks._read(
            "22 27 0:21 / / rw,relatime shared:1 - ext4 /dev/sda rw\n"
            "30 22 0:40 / /mnt/my\\040nas rw - cifs //nas/share rw\n"
            "31 22 0:41 / /mnt/ssh rw shared:7 master:2 - fuse.sshfs me@there: rw\n"
            "32 22 0:42 / /mnt/safe rw - fuse.gocryptfs /x rw\n"
            "33 30 0:43 / /mnt/my\\040nas/local rw - tmpfs tmpfs rw\n"
            "34 22 0:44 / /mnt/safe rw - 9p later rw\n"
            "broken\n"
        )
    )
    assert len(table) == 6
    kinds = {
        name: remote_kind(name, table)
        for name in ("/mnt", "/mnt/my nas/a/b", "/mnt/my nas2", "/mnt/ssh", "/mnt/safe/a")
    }
    assert kinds == {
        "/mnt": "",
        "/mnt/my nas/a/b": "cifs",
        "/mnt/my nas2": "",
        "/mnt/ssh": "fuse.sshfs",
        "/mnt/safe/a": "9p",
    }
    inside = mount_of("/mnt/my nas/local/x", table)
    assert inside is not None and inside.kind == "tmpfs" and not inside.is_remote
    assert mount_of("/x", []) is None and remote_kind("/x", []) == ""
    assert not table[3].is_remote


def test_a_root_that_goes_and_comes_back(indexing: Indexing) -> None:
    stay(indexing)
    disk = indexing.files / "disk"
    for number in range(5):
        indexing.write(f"disk/{number}.txt", f"text {number} of the disk")
    with following(Following, indexing, disk, indexing.files / "stays") as follower:
        before = indexing.points()
        disk.rename(indexing.files / "away")
        follower.until(lambda: follower.reports[-1].offline)
        assert [Path(one.path).name for one in follower.reports[-1].offline] == ["disk"]
        ran = follower.next_run()
        indexing.write("stays/new.txt", "the others go on")
        assert ran().files.added == 1
        assert before.keys() <= indexing.points().keys(), "nothing is pruned"
        follower.settled(indexing.files / "stays")
        (indexing.files / "away").rename(disk)
        follower.until(lambda: not follower.reports[-1].offline)
        ran = follower.next_run()
        indexing.write("disk/new.txt", "it is listened to again")
        assert ran().files.added == 1 and not follower.failures


def test_a_real_disk_that_comes_and_goes(indexing: Indexing) -> None:
    stay(indexing)
    point = indexing.files / "point"
    point.mkdir()

    def mount() -> int:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", point]
        return subprocess.run(command, capture_output=True, check=False).returncode

    if mount():
        pytest.skip("file systems cannot be mounted here")
    try:
        for number in range(2):
            indexing.write(f"point/{number}.txt", f"text {number} of the disk")
        with following(Following, indexing) as follower:
            subprocess.run(["umount", "-l", point], check=True)
            follower.until(lambda: follower.reports[-1].offline)
            assert not any(report.files.removed for report in follower.reports)
            assert mount() == 0
            for number in range(2):
                indexing.write(f"point/{number}.txt", f"text {number} of the disk")
            follower.until(lambda: not follower.reports[-1].offline)
            ran = follower.next_run()
            indexing.write("point/new.txt", "new words on the disk")
            assert ran().files.added == 1
    finally:
        subprocess.run(["umount", "-l", point], check=True)


def test_another_owner_has_its_turn(indexing: Indexing) -> None:
    stay(indexing)
    with following(Following, indexing) as follower:
        with owned(indexing.home, "searching"):
            indexing.write("new.txt", "while somebody else has the index")
            follower.until(lambda: follower.failures)
            (error,) = follower.failures
            assert isinstance(error, IndexBusyError) and "searching" in error.message
            time.sleep(0.4)
            assert len(follower.failures) == len(follower.reports) == 1, "said once, and tried more than once"
            assert follower.begun > 2
        follower.until(lambda: follower.reports[-1].files.added == 1)


def test_others_who_change_the_index(indexing: Indexing) -> None:
    """Their runs start one that looks at everything, once, and not while they go on; one's own start none."""
    stay(indexing)
    with following(Following, indexing) as follower:
        assert follower.idle(0.4)
        with owned(indexing.home, "indexing"):
            os.utime(indexing.home / NAME)
            assert follower.idle(0.4) and not follower.failures
        follower.until(lambda: len(follower.reports) == 2)
        assert follower.idle(0.4) and not follower.told_gone


def test_errors_are_said_and_it_goes_on(indexing: Indexing) -> None:
    stay(indexing)
    tries = []

    def full() -> None:
        tries.append(1)
        if len(tries) < 4:
            raise StoreError("The disk is full.", "Free some space.")

    with following(Looking, indexing) as follower:
        follower.before_run = full
        indexing.write("new.txt", "new words")
        follower.until(lambda: follower.reports[-1].files.added == 1)
        assert [str(error) for error in follower.failures] == ["The disk is full. Free some space."]
        follower.before_run = lambda: None
        indexing.write(".tsembedignore", b"\xff\xff\xff")
        follower.until(lambda: len(follower.failures) == 2)
        assert isinstance(follower.failures[1], UsageError)
        indexing.write(".tsembedignore", "# nothing")
        ran = follower.next_run()
        indexing.write("newer.txt", "newer words")
        assert ran().files.added == 1


def test_what_can_never_work_ends_it(indexing: Indexing, tmp_path: Path) -> None:
    follower = Following(indexing)
    watcher = Watcher([tmp_path / "nowhere"], IndexOptions(), indexing.home, follower, follower.stop, Pace())
    with pytest.raises(UsageError, match="no file or folder"):
        watcher.follow()


def test_a_root_without_a_trace_does_not_stop_the_others(indexing: Indexing) -> None:
    stay(indexing)
    empty = indexing.files / "empty"
    empty.mkdir()
    with following(Looking, indexing, indexing.files / "stays", empty) as follower:
        empty.rmdir()
        follower.settled(indexing.files / "stays")
        ran = follower.next_run()
        indexing.write("stays/new.txt", "new words")
        assert ran().files.added == 1 and not follower.failures
        empty.mkdir()
        ran = follower.next_run()
        indexing.write("empty/new.txt", "new words there")
        assert ran().files.added == 1


def test_constant_events_do_not_keep_it_waiting(indexing: Indexing) -> None:
    stay(indexing)
    with following(Looking, indexing, pace={"quiet": 0.5, "longest": 1.0}) as follower:
        written = threading.Event()

        def write() -> None:
            number = 0
            while not written.wait(0.1):
                number += 1
                indexing.write("log.txt", f"line {number}")

        writer = threading.Thread(target=write)
        writer.start()
        try:
            ran = follower.next_run()
            assert ran().files.added == 1
        finally:
            written.set()
            writer.join()
        follower.settled()
        assert follower.equals_files()


def test_the_model_may_go_when_nothing_happens(indexing: Indexing) -> None:
    stay(indexing)
    with following(Looking, indexing, pace={"rest": 0.3}) as follower:
        follower.until(lambda: follower.rests)
        assert follower.idle(0.5) and follower.rests == 1
        indexing.write("new.txt", "new words")
        follower.until(lambda: follower.rests == 2)
        assert follower.equals_files()
