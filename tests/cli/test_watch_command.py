"""`tsembed watch` as a process: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from typer.testing import Result

Run = Callable[..., Result]
TSEMBED = [sys.executable, "-c", "from tsembed_search.cli.main import run; run()"]


@contextmanager
def watching(tmp_path: Path, *arguments: str | Path) -> Iterator[Callable[[str, str], str]]:
    """Gives what waits for words on `out` or `err` and returns what was printed there. Ends it by Ctrl-C."""
    streams = {name: tmp_path / name for name in ("out", "err")}
    environment = {**os.environ, "TSEMBED_HOME": str(tmp_path / "home"), "PYTHONUTF8": "1"}
    command = [*TSEMBED, "watch", *map(str, arguments), "--words", "--workers", "1"]
    with streams["out"].open("wb") as out, streams["err"].open("wb") as err:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)

    def wait(name: str, words: str) -> str:
        end = time.monotonic() + 60
        while words not in (said := streams[name].read_text("utf-8")):
            assert process.poll() is None and time.monotonic() < end, (said, streams["err"].read_text("utf-8"))
            time.sleep(0.02)
        return said

    try:
        yield wait
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
    assert process.returncode == 130


def test_a_line_for_each_run(tmp_path: Path) -> None:
    """For people, and beside it for programs."""
    files = tmp_path / "files"
    for name in ("files", "people", "programs"):
        (tmp_path / name).mkdir()
    (files / "a.txt").write_text("a zebra")
    with watching(tmp_path / "people", files) as wait, watching(tmp_path / "programs", files, "--json") as wait_json:
        wait("err", "Ctrl-C ends it")
        wait_json("err", "Ctrl-C ends it")
        assert "1 added" in wait("out", "The index default has 1 item.")
        (files / "b.txt").write_text("a giraffe")
        (files / "\x1b[31mbad.png").write_bytes(b"no picture")
        wait("out", "not a picture")
        wait_json("out", "not a picture")
    printed = (tmp_path / "people/out").read_text() + (tmp_path / "people/err").read_text()
    assert "1 added, 1 skipped" in printed and "The index has 2 items." in printed
    assert "\x1b" not in printed and "\\x1b[31mbad.png" in printed
    assert printed.rstrip().endswith("What changes from now on, the next run finds.")
    first, second = map(json.loads, (tmp_path / "programs/out").read_text().splitlines())
    assert first["files"]["seen"] == 1 and second["items"]["stored"] == 1


def test_what_others_remove_comes_back_while_the_files_are_there(tmp_path: Path) -> None:
    """All of it, whichever folder it is in, and without another change of a file."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.txt").write_text(f"a zebra in {name}, number {number}")

    def remove(*arguments: str | Path) -> None:
        environment = {**os.environ, "TSEMBED_HOME": str(tmp_path / "home"), "PYTHONUTF8": "1"}
        subprocess.run([*TSEMBED, "rm", *map(str, arguments), "--yes", "--quiet"], env=environment, check=True)

    with watching(tmp_path, tmp_path / "one", tmp_path / "two") as wait:
        wait("err", "Ctrl-C ends it")
        remove("--all")
        wait("err", "The index default was deleted. It is made again from the files.")
        assert "  6 added in" in wait("out", "The index has 6 items.")
        remove(tmp_path / "one/1.txt")
        assert "  1 added in" in wait("out", "  1 added in")


def test_wrong_usage_ends_it(run: Run, tmp_path: Path) -> None:
    for arguments in ((tmp_path / "nowhere",), (tmp_path, "--model", "no-such-model"), (tmp_path, "--exclude", "../x")):
        done = run("watch", *arguments)
        assert done.exit_code in (1, 2) and "error: " in done.stderr, arguments
