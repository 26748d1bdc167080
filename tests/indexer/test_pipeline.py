"""The whole way of the data: files in, points out; and what a second run makes of changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.indexing import TEXT, Indexing, fill
from tsembed_search.errors import IndexBusyError, IndexMismatchError, ModelError, StoreError, UsageError
from tsembed_search.indexer.report import Interrupted
from tsembed_search.indexer.writing import Writer
from tsembed_search.items import Item, Role
from tsembed_search.model.backbone import Prepared
from tsembed_search.ownership import owned, owner_of


def test_a_first_run_indexes_everything(indexing: Indexing) -> None:
    indexing.optimizes = True
    fill(indexing)
    indexing.write("program.exe", b"MZ")
    report = indexing.run()
    assert vars(report.files) == {
        "seen": 5, "added": 5, "updated": 0, "unchanged": 0, "renamed": 0, "removed": 0, "skipped": 0,
    }  # fmt: skip
    assert report.items.embedded == report.items.total == len(indexing.records()) == indexing.backbone.embedded
    assert report.skipped == [] and report.seconds > 0 and report.items_per_second > 0
    json.dumps(report.to_json())
    assert indexing.paths() == ["notes.txt", "page.html", "red.png", "sub/blue.jpg", "sub/guide.md"]


def test_payloads_follow_the_schema(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run()
    by_path: dict[str, list[dict]] = {}
    for record in indexing.records():
        by_path.setdefault(Path(record.payload["path"]).name, []).append(record.payload)
    picture = by_path["red.png"][0]
    path = indexing.files / "red.png"
    assert picture["kind"] == "image" and picture["page"] is picture["chunk"] is picture["text"] is None
    assert (picture["width"], picture["height"], picture["bytes"]) == (20, 20, path.stat().st_size)
    assert (picture["root"], picture["rel"], picture["ext"]) == (str(indexing.files), "red.png", "png")
    assert picture["mtime"] == pytest.approx(path.stat().st_mtime_ns / 1e9, abs=1e-6)
    assert picture["places"] == [{key: picture[key] for key in ("path", "root", "rel", "ext", "mtime")}]
    chunks = sorted(by_path["notes.txt"], key=lambda payload: payload["chunk"])
    assert [payload["chunk"] for payload in chunks] == list(range(len(chunks))) and len(chunks) > 1
    assert all(TEXT[payload["start"] : payload["end"]] == payload["text"] for payload in chunks)
    assert [payload["text"] for payload in by_path["page.html"]] == ["Yellow sun."]


def test_experts_are_in_the_payload(indexing: Indexing) -> None:
    indexing.backbone.experts = True
    indexing.backbone.info = type(indexing.backbone)(experts=True).info
    indexing.picture("red.png")
    indexing.run()
    payload = indexing.records()[0].payload
    assert len(payload["route"]) == 6
    best = max(range(6), key=lambda place: payload["route"][place])
    assert payload["top_experts"][0] == f"b{best // 3}e{best % 3}"
    assert len(payload["top_experts"]) == sum(value > 0 for value in payload["route"])


def test_an_unchanged_corpus_embeds_nothing_and_loads_no_model(indexing: Indexing) -> None:
    fill(indexing)
    first = indexing.run()
    before = indexing.points()
    report = indexing.run()
    assert (report.files.unchanged, report.items.embedded, report.items.total) == (5, 0, first.items.total)
    assert indexing.loads == 1 and indexing.points() == before


def test_changed_added_renamed_copied_removed(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run()
    indexing.picture("red.png", "green")
    indexing.picture("new.png", "yellow")
    (indexing.files / "sub/blue.jpg").rename(indexing.files / "sub/water.jpg")
    shutil.copy(indexing.files / "notes.txt", indexing.files / "copy.txt")
    (indexing.files / "page.html").unlink()
    report = indexing.run()
    files = report.files
    assert (files.added, files.updated, files.renamed, files.removed, files.unchanged) == (2, 1, 1, 1, 2)
    assert report.items.embedded == indexing.backbone.embedded == 2
    assert report.items.removed == 2, "the old picture's point and the page's"
    assert indexing.paths() == ["copy.txt", "new.png", "notes.txt", "red.png", "sub/guide.md", "sub/water.jpg"]
    assert indexing.points() == indexing.scratch()


def test_the_same_content_twice_is_one_point(indexing: Indexing) -> None:
    for name in ("a.png", "b.png", "c.png"):
        indexing.picture(name)
    report = indexing.run()
    assert (report.files.added, report.items.embedded, report.items.reused, report.items.total) == (3, 1, 2, 1)
    assert indexing.paths() == ["a.png", "b.png", "c.png"]
    (indexing.files / "a.png").unlink()
    report = indexing.run()
    assert (report.files.removed, report.items.removed, report.items.total) == (1, 0, 1)
    assert indexing.paths() == ["b.png", "c.png"] and indexing.records()[0].payload["rel"] == "b.png"


def test_a_touched_file_is_hashed_but_not_embedded(indexing: Indexing) -> None:
    path = indexing.picture("a.png")
    indexing.run()
    os.utime(path, (1e9, 1e9))
    report = indexing.run()
    assert (report.files.unchanged, report.items.embedded) == (1, 0)
    assert indexing.records()[0].payload["mtime"] == pytest.approx(1e9)


def test_an_edit_within_the_clocks_grain_is_noticed(indexing: Indexing) -> None:
    path = indexing.write("a.txt", "red")
    facts = path.stat()
    indexing.run()
    path.write_text("tan")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert indexing.run().files.updated == 1
    assert [record.payload["text"] for record in indexing.records()] == ["tan"]


def test_a_file_keeps_its_place_under_another_root(indexing: Indexing) -> None:
    indexing.picture("sub/deep/a.png")
    indexing.run()
    for path in ("sub", "sub/deep", "sub/deep/a.png"):
        report = indexing.run(indexing.files / path)
        assert (report.files.unchanged, report.items.embedded, report.items.total) == (1, 0, 1)
    assert indexing.records()[0].payload["rel"] == "sub/deep/a.png"


def test_only_given_roots_are_pruned(indexing: Indexing) -> None:
    indexing.picture("one/a.png", "red")
    indexing.picture("two/b.png", "blue")
    indexing.run()
    shutil.rmtree(indexing.files / "one")
    indexing.picture("two/c.png", "green")
    assert indexing.run(indexing.files / "two").files.removed == 0
    assert indexing.paths() == ["one/a.png", "two/b.png", "two/c.png"]
    assert indexing.run(prune=False).files.removed == 0
    assert indexing.run().files.removed == 1
    assert indexing.paths() == ["two/b.png", "two/c.png"]


def test_what_options_pass_over_is_not_removed_but_what_is_ignored_is(indexing: Indexing) -> None:
    indexing.picture("a.png")
    indexing.picture("b.jpg", "blue")
    indexing.write("drafts/c.txt", "words")
    indexing.run()
    assert indexing.run(include=("*.jpg",)).files.removed == 0
    assert indexing.run(exclude=("drafts/",)).files.removed == 0
    assert len(indexing.paths()) == 3
    indexing.write(".tsembedignore", "drafts/\n*.jpg\n")
    assert indexing.run().files.removed == 2
    assert indexing.paths() == ["a.png"]


def test_unreadable_folders_lose_nothing(indexing: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
    indexing.picture("kept/a.png")
    indexing.run()
    listing = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("kept"):
            raise PermissionError(13, "Permission denied", path)
        return listing(path)

    monkeypatch.setattr(os, "scandir", denied)
    report = indexing.run()
    assert (report.files.removed, report.items.total) == (0, 1)
    assert "cannot be listed" in report.skipped[0].reason


def test_dry_runs_change_nothing(indexing: Indexing) -> None:
    fill(indexing)
    report = indexing.run(dry_run=True)
    assert report.files.added == 5 and not indexing.home.exists() and indexing.loads == 0
    indexing.run()
    before = indexing.points()
    indexing.picture("red.png", "green")
    (indexing.files / "sub/blue.jpg").rename(indexing.files / "sub/water.jpg")
    (indexing.files / "page.html").unlink()
    for _ in range(2):
        files = indexing.run(dry_run=True).files
        assert (files.updated, files.renamed, files.removed, files.unchanged) == (1, 1, 1, 2)
    assert indexing.points() == before


def test_skipped_files_are_told_again_and_retried_when_changed(indexing: Indexing) -> None:
    bad = indexing.write("bad.png", b"not a picture at all")
    indexing.picture("good.png")
    for _ in range(2):
        report = indexing.run()
        assert report.files.skipped == 1 and "not a picture" in report.skipped[0].reason
        assert [skip.path for skip in indexing.sink.skips] == [str(bad)]
    with closing(indexing.manifest()) as manifest:
        assert manifest.skipped()[0][0] == str(bad)
    indexing.picture("bad.png", "blue")
    report = indexing.run()
    assert (report.files.skipped, report.files.added, report.items.total) == (0, 1, 2)
    indexing.write("bad.png", b"broken again")
    report = indexing.run()
    assert (report.files.skipped, report.items.removed, report.items.total) == (1, 1, 1)


def test_a_file_that_is_named_is_taken_whatever_its_extension(indexing: Indexing) -> None:
    path = indexing.write("script.py", "print('red')")
    assert indexing.run().files.seen == 0
    assert indexing.run(path).files.added == 1
    assert indexing.run().files.removed == 0, "it is still there"
    assert indexing.run(include=("*.py",)).files.unchanged == 1


def test_wrong_arguments(indexing: Indexing) -> None:
    with pytest.raises(UsageError, match="There is no file or folder"):
        indexing.run(indexing.files / "nothing")
    with pytest.raises(UsageError, match="patterns to include"):
        indexing.run(include=("[z-a]",))
    report = indexing.run()
    assert report.files.seen == 0 and report.items.total == 0


def test_another_model_is_refused(indexing: Indexing) -> None:
    indexing.picture("a.png")
    indexing.backbone.info = type(indexing.backbone)(fingerprint="other").info
    with pytest.raises(IndexMismatchError):
        indexing.run()


def test_progress_tells_the_stages(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run()
    stages = list(dict.fromkeys(update.stage for update in indexing.sink.updates))
    assert stages == ["crawling", "loading the model", "checking", "embedding", "cleaning up", "optimizing"]
    last = indexing.sink.updates[-1]
    assert last.files == last.files_total == 5 and last.items > 0


def test_errors_of_the_store_end_the_run_and_the_next_goes_on(indexing: Indexing) -> None:
    fill(indexing)
    real = indexing.open

    def failing(info: object) -> object:
        store = real(info)
        if store is not None:
            calls = iter(range(100))
            upsert = store.upsert
            store.upsert = lambda points: upsert(points) if next(calls) < 1 else fail()
        return store

    def fail() -> None:
        raise StoreError("The disk is full.")

    indexing.open = failing
    with pytest.raises(StoreError, match="full"):
        indexing.run(points_per_write=1)
    indexing.open = real
    report = indexing.run()
    assert report.items.embedded < report.items.total
    assert indexing.points() == indexing.scratch()


def test_files_that_wait_for_their_vectors_cause_no_writes(indexing: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
    files, group = 60, 4
    for number in range(files):
        indexing.write(f"{number}.txt", f"{TEXT} number {number}")
    written: list[int] = []
    write = Writer._write
    monkeypatch.setattr(Writer, "_write", lambda writer: (written.append(0), write(writer)))
    report = indexing.run(points_per_write=group)
    assert report.files.added == files
    # Once for so many that have been read to their end, once for so many vectors, and at the end.
    assert len(written) <= (files + report.items.embedded) // group + 1


def test_an_item_that_the_model_cannot_take_fails_its_file_only(indexing: Indexing) -> None:
    fill(indexing)

    def refuse(batch: object) -> None:
        if any(one.tokens == 9 for one in batch):
            raise ModelError("Too long.")

    plain = indexing.backbone.prepare

    def prepare(item: Item, role: Role = "document") -> Prepared:
        return replace(plain(item, role), tokens=9) if item.text and "snow" in item.text else plain(item, role)

    indexing.backbone.prepare = prepare
    indexing.backbone.on_forward = refuse
    report = indexing.run()
    assert [(Path(s.path).name, "cannot embed" in s.reason) for s in report.skipped] == [("guide.md", True)]
    assert report.files.added == 4 and "sub/guide.md" not in indexing.paths()


def test_a_model_that_fails_on_everything_ends_the_run(indexing: Indexing) -> None:
    fill(indexing)

    def refuse(batch: object) -> None:
        raise ModelError("Broken.")

    indexing.backbone.on_forward = refuse
    with pytest.raises(ModelError, match="Broken"):
        indexing.run()


def test_ctrl_c_keeps_what_is_embedded_and_the_next_run_goes_on(indexing: Indexing) -> None:
    for number in range(60):
        indexing.write(f"{number:02}.txt", f"text number {number}")
    calls = iter(range(1000))

    def interrupt(batch: object) -> None:
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    indexing.backbone.on_forward = interrupt
    # Where tests run in the background, a shell has told them to ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted) as raised:
            indexing.run()
    finally:
        signal.signal(signal.SIGINT, before)
    kept = raised.value.report.items
    assert raised.value.exit_code == 130 and 0 < kept.embedded < 60
    assert kept.total == kept.embedded == len(indexing.records())
    report = indexing.run()
    assert report.items.embedded == 60 - kept.embedded and report.items.total == 60
    assert indexing.points() == indexing.scratch()


def test_a_stop_that_is_asked_for_keeps_what_is_embedded(indexing: Indexing) -> None:
    for number in range(60):
        indexing.write(f"{number:02}.txt", f"text number {number}")
    calls = iter(range(1000))
    indexing.backbone.on_forward = lambda batch: indexing.stop.set() if next(calls) == 2 else None
    with pytest.raises(Interrupted) as raised:
        indexing.run()
    kept = raised.value.report.items
    assert 0 < kept.embedded < 60 and kept.total == kept.embedded == len(indexing.records())
    with pytest.raises(Interrupted) as raised:
        indexing.run()
    assert raised.value.report.items.embedded == 0, "it is still asked for"
    indexing.stop.clear()
    assert indexing.run().items.embedded == 60 - kept.embedded
    assert indexing.points() == indexing.scratch()


def test_one_owner(indexing: Indexing) -> None:
    indexing.picture("a.png")
    with owned(indexing.home, "indexing"):
        owner = owner_of(indexing.home)
        assert owner is not None and owner.pid == os.getpid()
        with pytest.raises(IndexBusyError, match=f"process {os.getpid()} \\(indexing\\), since"):
            indexing.run()
    assert owner_of(indexing.home) is None
    release = threading.Event()

    def hold() -> None:
        with owned(indexing.home, "testing"):
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    while owner_of(indexing.home) is None:
        assert holder.is_alive()
        time.sleep(0.01)
    threading.Timer(0.5, release.set).start()
    assert indexing.run(wait=True).files.added == 1
    assert "Waiting for process" in indexing.sink.notes[0]
    holder.join()


def test_whoever_looks_keeps_nobody_out(tmp_path: Path) -> None:
    """To see who owns an index, its lock is taken for a moment."""
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            owner_of(tmp_path)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    with owned(tmp_path, "making the folder"):
        pass
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            with owned(tmp_path, "indexing"):
                pass
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_a_lock_whose_owner_was_killed_is_free(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tsembed_search.ownership import owned\n"
        "with owned(Path(sys.argv[1]), 'x'): print('mine', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"mine\n"
    assert owner_of(tmp_path) is not None
    process.kill()
    process.wait()
    process.stdout.close()
    assert owner_of(tmp_path) is None
    with owned(tmp_path, "indexing"):
        pass


def test_names_that_are_not_utf8(indexing: Indexing) -> None:
    name = os.fsdecode(b"caf\xe9 \xff.txt")
    try:
        indexing.write(name, "coffee")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes only Unicode names")
    indexing.write("new\nline [red]\x1b.txt", "odd")
    assert indexing.run().files.added == 2
    assert indexing.run().files.unchanged == 2
    payloads = {record.payload["text"]: record.payload for record in indexing.records()}
    assert payloads["coffee"]["rel"] == "caf\\udce9 \\udcff.txt"
    (indexing.files / name).rename(indexing.files / "cafe.txt")
    assert indexing.run().files.renamed == 1
