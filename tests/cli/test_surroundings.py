"""Folders, streams and machines in a bad state: a command works, or says in words what is wrong, never "a fault"."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tsembed_search.cli import surroundings
from tsembed_search.errors import UsageError
from tsembed_search.paths import absolute, in_existing_folder

Run = Callable[..., Result]
TSEMBED = [sys.executable, "-c", "from tsembed_search.cli.main import run; run()"]
GONE = "The current folder no longer exists."
posix = pytest.mark.skipif(os.name != "posix", reason="shells and streams of POSIX")


@pytest.fixture
def nowhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs commands in a folder that was deleted."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    return run


@posix
@pytest.mark.parametrize(
    "line",
    [
        "search red", "search --like PALETTE/red.png", "search red -w ext=png", "search red --image PALETTE/red.png",
        "ls", "ls PALETTE/notes", "ls -w path~notes", "rm PALETTE/red.png --dry-run", "status", "models",
        "search --queries PALETTE/../q.jsonl", "index PALETTE --dry-run --model colours",
    ],
)  # fmt: skip
def test_whole_paths_need_no_current_folder(nowhere: Run, palette: Path, line: str) -> None:
    (palette.parent / "q.jsonl").write_text('{"text": "red"}\n{"image": "files/red.png"}\n')
    done = nowhere(*line.replace("PALETTE", str(palette)).split())
    assert done.exit_code == 0, done.stderr


@posix
@pytest.mark.parametrize(
    "line",
    [
        "index .", "index x", "ls x.txt", "ls -w path~./x", "search red -w path=../x", "rm x", "search --like x.png",
        "search --image x.png", "search --queries x.jsonl", "models ./x", "search red --model ./x", "explain red x.txt",
        "data check ./x", "eval ./x", "train ./x", "export ./x --out y",
    ],
)  # fmt: skip
def test_a_relative_path_is_answered_in_words(nowhere: Run, palette: Path, line: str) -> None:
    done = nowhere(*line.replace("PALETTE", str(palette)).split())
    assert done.exit_code in (1, 2) and GONE in done.stderr and "fault in" not in done.stderr, done.stderr


@posix
def test_a_batch_without_a_current_folder(nowhere: Run, palette: Path) -> None:
    lines = f'{{"text": "red"}}\n{{"image": "x.png"}}\n{{"image": "{palette}/red.png"}}\n'
    done = nowhere("search", "--queries", "-", stdin=lines)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1, 3]
    assert "stdin:2" in done.stderr and GONE in done.stderr


@posix
def test_the_numeric_library_is_loaded_from_a_folder_that_is_there(tmp_path: Path) -> None:
    code = (
        "import os; from tsembed_search.cli.surroundings import prepare\n"
        "os.mkdir('d'); os.chdir('d'); os.rmdir('../d'); prepare()\n"
        "import torch; x = torch.ones(64, 64); assert (x @ x)[0, 0] == 64"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr


@posix
def test_the_folder_is_left_for_the_block_only(nowhere: Run) -> None:
    with in_existing_folder():
        assert Path.cwd() == Path("/")
    with pytest.raises(UsageError, match="no longer exists"):
        absolute("x")
    assert absolute("/a/../b") == Path("/b")


def shell(command: str, home: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command of sh in which T is tsembed."""
    tsembed = " ".join(f"'{part}'" for part in TSEMBED)
    settings = {**os.environ, "TSEMBED_HOME": str(home), **environment}
    return subprocess.run(
        ["bash", "-c", f'T() {{ {tsembed} "$@"; }}; {command}'], env=settings, capture_output=True, timeout=120
    )


@posix
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("T ls > /dev/full", 1, b"No space left"),
        ("T ls --json > /dev/full", 1, b"No space left"),
        ("T --help > /dev/full", 1, b"No space left"),
        ("T ls --index nope 2> /dev/full", 1, b""),
        ("T ls > /dev/full 2> /dev/full", 1, b""),
        ("T ls >&-", 0, b""),
        ("T ls --index nope 2>&-", 1, b""),
        ("T status <&- >&- 2>&-", 0, b""),
        ("T search --queries - <&-", 1, b""),
        ("T ls | true; exit ${PIPESTATUS[0]}", 1, b""),
        ("TERM= COLUMNS=1 T ls", 0, b""),
        ("COLUMNS=0 T --help", 0, b""),
        ("PYTHONIOENCODING=ascii T ls", 0, b""),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 T ls", 0, b""),
        ("TSEMBED_HOME=/dev/null T ls", 1, b"no index"),
        ("TSEMBED_HOME=/dev/null/x T index . --model mini-base", 1, b"TSEMBED_HOME"),
        ("T ls --url 'http://a b'", 2, b"not the address"),
        ("QDRANT_API_KEY=\u00e9 T ls --url http://localhost:1", 2, b"QDRANT_API_KEY"),
    ],
)
def test_broken_surroundings_are_told_in_words(palette: Path, command: str, code: int, words: bytes) -> None:
    (palette / "notes" / "red.txt").touch()
    done = shell(command, palette.parent / "home")
    assert done.returncode == code, done.stderr
    assert words in done.stderr and b"fault in" not in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "not enough memory"),
        (ImportError("No module named 'yaml'"), "No module named 'yaml'"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), "/a: Too many open files"),
        (PermissionError(errno.EACCES, "Permission denied", b"/\xff"), "Permission denied"),
        (OSError("odd"), "odd"),
    ],
)
def test_what_the_machine_refuses_is_no_fault(error: Exception, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise error

    def wraps() -> None:
        try:
            raise error
        except Exception as cause:
            raise LookupError("a library's own words") from cause

    for command in (fails, wraps):
        assert surroundings.exit_code_of(command) == 1
        told = capsys.readouterr().err
        assert words in told and "fault in" not in told and len(told.splitlines()) == 2


def test_a_fault_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert surroundings.explained(KeyError("x")) is None

    def fails() -> None:
        raise KeyError("x")

    assert surroundings.exit_code_of(fails) == 1 and "fault in tsembed" in capsys.readouterr().err


def test_an_interrupt_outside_of_a_command_is_one_too() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert surroundings.exit_code_of(interrupted) == 130
