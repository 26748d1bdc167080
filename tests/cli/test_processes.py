"""The command as a process, as people and scripts meet it, with the real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tsembed_search.cli.main import app

TSEMBED = [sys.executable, "-c", "from tsembed_search.cli.main import run; run()"]
# What must not be imported for a command that needs no model.
HEAVY = ("torch", "transformers", "qdrant_client", "PIL", "rich.progress", "numpy", "huggingface_hub")


def tsembed(*arguments: str | Path, home: Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "TSEMBED_HOME": str(home), "PYTHONUTF8": "1"}
    return subprocess.run(
        [*TSEMBED, *map(str, arguments)], env=environment, capture_output=True, timeout=300, check=False, **options
    )  # type: ignore[call-overload,no-any-return]


def loaded_by(*arguments: str, home: Path) -> set[str]:
    """The names of the modules that a command has imported when it ends."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['tsembed', *{list(arguments)!r}]\n"
        "from tsembed_search.cli.main import run\nrun()"
    )
    environment = {**os.environ, "TSEMBED_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    return set(done.stderr.rpartition("MODULES ")[2].split())


@pytest.mark.parametrize("arguments", [("--help",), ("search", "--help"), ("index", "--help"), ("--version",)])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    modules = loaded_by(*arguments, home=tmp_path)
    assert "tsembed_search.cli.main" in modules
    assert not modules & set(HEAVY)


def test_errors_of_usage_import_no_model(tmp_path: Path) -> None:
    modules = loaded_by("search", "x", "--where", "colour=red", home=tmp_path)
    assert not modules & {"torch", "transformers", "qdrant_client", "PIL", "rich"}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(files, home): a few files with awkward names, indexed with `mini` by the command itself."""
    root = tmp_path_factory.mktemp("process")
    files, home = root / "files", root / "home"
    files.mkdir()
    for name in AWKWARD:
        (files / os.fsdecode(name)).write_text("a recipe for bread with yeast and flour")
    (files / "bicycle.txt").write_text("how to mend the tyre of a bicycle")
    Image.new("RGB", (40, 40), "red").save(files / "red.png")
    done = tsembed("index", files, "--json", "--workers", "1", home=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"]["added"] == len(AWKWARD) + 2
    return files, home


AWKWARD = [
    b"[bold]markup[red].txt", b"esc\x1b[31mred.txt", b"new\nline.txt", b"raw\xff\xfe.txt", "😀 emoji.txt".encode(),
    "\u202egnp.txt".encode(), b"-k.txt", "写真.txt".encode(),
]  # fmt: skip


def test_awkward_names_come_through_pipes_and_are_safe_to_show(indexed: tuple[Path, Path]) -> None:
    files, home = indexed
    nul = tsembed("search", "bread", "-k", "20", "-0", "-w", "ext=txt", home=home)
    assert nul.returncode == 0, nul.stderr
    found = nul.stdout.split(b"\0")
    # The same text in eight files is one item; all its places are one hit, named by the first.
    assert len(found) == 3 and all(Path(os.fsdecode(path)).exists() for path in found[:-1])
    listed = tsembed("ls", "-0", home=home).stdout.split(b"\0")
    assert {Path(os.fsdecode(path)) for path in listed if path} == set(files.iterdir())
    shown = tsembed("ls", home=home).stdout.decode()
    assert len(shown.splitlines()) == len(list(files.iterdir()))
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "[bold]markup[red].txt" in shown and "raw\\xff" in shown.replace("\\udcff", "\\xff")
    found_by = CliRunner().invoke(app, ["search", "bread", "--json", "-k", "1"], env={"TSEMBED_HOME": str(home)})
    hits = json.loads(found_by.stdout)["hits"]
    assert len(hits[0]["also_at"]) == len(AWKWARD) - 1


def test_best_hit_and_plain_lines(indexed: tuple[Path, Path]) -> None:
    _, home = indexed
    done = tsembed("search", "repairing a bike wheel", "-k", "2", home=home)
    assert done.returncode == 0 and b"bicycle.txt" in done.stdout.splitlines()[0]
    assert b"\x1b" not in done.stdout + done.stderr


def test_reader_that_leaves_early_does_no_harm(indexed: tuple[Path, Path]) -> None:
    _, home = indexed
    command = " ".join(f"'{part}'" for part in [*TSEMBED, "ls", "--paths"]) + " | head -c 1"
    environment = {**os.environ, "TSEMBED_HOME": str(home)}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=60)
    assert done.stderr == b""


def test_unchanged_files_load_no_model(indexed: tuple[Path, Path]) -> None:
    files, home = indexed
    modules = loaded_by("index", str(files), "--quiet", home=home)
    assert "tsembed_search.indexer.pipeline" in modules
    assert not modules & {"torch", "transformers", "qdrant_client", "PIL", "rich"}
