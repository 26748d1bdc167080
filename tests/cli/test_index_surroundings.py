"""What the commands say when a disk is away, when most of an index would go, and when something is in the way."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import Result

from helpers.indexing import copy_index
from tsembed_search.cli import rm as remove
from tsembed_search.indexer.manifest import NAME

Run = Callable[..., Result]
COLOURS = ("--model", "colours", "--workers", "1")
TEXTS = ("red", "green", "blue", "yellow", "black", "white")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the folder and its index are kept once they are made, each under its name."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def files(run: Run, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of six texts, the current one, and an index of it in a home of its own."""
    top = kept / "now"
    folder = top / "files"
    monkeypatch.setenv("TSEMBED_HOME", str(top / "home"))
    if (kept / "made").exists():
        copy_index(kept / "made", top)
        monkeypatch.chdir(folder)
    else:
        folder.mkdir(parents=True)
        monkeypatch.chdir(folder)
        for name in TEXTS:
            (folder / f"{name}.txt").write_text(f"all about {name}")
        assert run("index", folder, "--quiet", *COLOURS).exit_code == 0
        copy_index(top, kept / "made")
    yield folder
    monkeypatch.chdir(kept)
    shutil.rmtree(top)


@pytest.fixture
def folder(files: Path) -> Path:
    """The index's own folder."""
    return files.parent / "home" / "indexes" / "default"


def test_a_disk_that_is_away(run: Run, files: Path) -> None:
    away = files.with_name("away")
    assert json.loads(run("index", files, "--json", "--quiet").stdout)["offline"] == []
    shutil.copytree(files, away)
    for path in files.iterdir():
        path.unlink()
    told = run("index", files)
    assert told.exit_code == 0
    for words in ("Offline", "6 files", f"{files}: It is empty.", "Connect it", f"tsembed index {files} --prune-empty"):
        assert words in told.stdout, words
    dry = run("index", files, "--dry-run")
    assert dry.exit_code == 0 and f"{files}: It is empty." in dry.stdout
    done = run("index", files, "--json")
    assert json.loads(done.stdout)["offline"] == [{"path": str(files), "reason": "It is empty.", "files": 6}]
    assert "--prune-empty" in done.stderr
    hits = json.loads(run("search", "red", "--json").stdout)["hits"]
    assert hits and all(hit["offline"] for hit in hits)
    assert "red.txt  line 1  offline" in run("search", "red").stdout
    listed = json.loads(run("ls", "--json").stdout)["files"]
    assert len(listed) == 6 and all(file["offline"] for file in listed)
    assert run("ls").stdout.count("\toffline\n") == 6
    assert json.loads(run("status", "--json").stdout)["offline"] == [str(files)]
    assert f"offline       {files}" in run("status").stdout
    found = json.loads(run("doctor", "--json").stdout)["findings"]
    assert [(one["name"], one["state"]) for one in found if "offline" in one["detail"]] == [("folders", "slow")]

    for path in away.iterdir():
        path.rename(files / path.name)
    back = json.loads(run("index", files, "--json").stdout)
    assert back["offline"] == [] and back["items"]["embedded"] == 0 and back["files"]["removed"] == 0
    assert not any(hit["offline"] for hit in json.loads(run("search", "red", "--json").stdout)["hits"])
    assert json.loads(run("status", "--json").stdout)["offline"] == []


def test_a_disk_that_never_comes_back(run: Run, files: Path) -> None:
    files.rename(files.with_name("gone"))
    assert run("index", files).exit_code == 0
    assert run("index", files, "--no-prune", "--prune-empty").exit_code == 2
    assert "6 removed" in run("index", files, "--prune-empty").stdout
    assert run("index", files).exit_code == 2, "nothing is known of it any more"


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["."], 6),
        (["red.txt", "green.txt", "blue.txt", "black.txt"], 4),
        (["--where", "ext=txt"], 6),
        (["--where", "kind=text"], 6),
        (["--all"], 6),
        ([".", "--quiet"], 6),
        ([".", "--json"], 6),
    ],
    ids=str,
)
def test_rm_asks_before_most_of_an_index_goes(run: Run, files: Path, arguments: list[str], count: int) -> None:
    refused = run("rm", *arguments)
    assert refused.exit_code == 2 and refused.stdout == ""
    assert f"{count} of 6 files" in refused.stderr and "--yes" in refused.stderr
    assert len(run("ls", "--paths").stdout.splitlines()) == 6
    assert run("rm", *arguments, "--dry-run").exit_code == 0, "looking needs no leave"
    assert run("rm", *arguments, "--yes").exit_code == 0
    assert len(run("ls", "--paths").stdout.splitlines()) == 6 - count


@pytest.mark.parametrize("arguments", [["red.txt"], ["red.txt", "blue.txt", "green.txt"], ["--where", "path=red.txt"]])
def test_rm_of_less_does_not_ask(run: Run, files: Path, arguments: list[str]) -> None:
    assert run("rm", *arguments).exit_code == 0
    assert len(run("ls", "--paths").stdout.splitlines()) < 6


def test_rm_of_a_copy_removes_no_item(run: Run, files: Path) -> None:
    shutil.copy(files / "red.txt", files / "copy.txt")
    run("index", files)
    done = json.loads(run("rm", "copy.txt", "--dry-run", "--json").stdout)
    assert done == {"files": 1, "items": 0, "dry_run": True}


def test_rm_asks_in_a_terminal(run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remove, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    no = run("rm", ".", stdin="n\n")
    assert no.exit_code == 1 and "6 of 6 files" in no.stderr
    assert len(run("ls", "--paths").stdout.splitlines()) == 6
    assert run("rm", ".", stdin="y\n").exit_code == 0
    assert run("ls", "--paths").exit_code == 1


def _folder_for(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        for path in folder.glob(f"{name}*"):
            path.unlink()
        (folder / name).mkdir()

    return act


def _text_for(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def _edited(old: str, new: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        text = (folder / "index.json").read_text()
        assert old in text
        (folder / "index.json").write_text(text.replace(old, new))

    return act


def _file_for_points(folder: Path) -> None:
    shutil.rmtree(folder / "points")
    (folder / "points").write_text("in the way")


def _file_for_the_index(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("in the way")


def _file_for_the_home(folder: Path) -> None:
    home = folder.parent.parent
    shutil.rmtree(home)
    home.write_text("in the way")


def _link_to_nowhere(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "nowhere" / "at all")


BROKEN: dict[str, Callable[[Path], None]] = {
    "manifest is a folder": _folder_for(NAME),
    "manifest is noise": _text_for(NAME, "noise" * 1000),
    "lock is a folder": _folder_for("owner.lock"),
    "index.json is a folder": _folder_for("index.json"),
    "index.json is cut short": _text_for("index.json", '{"schema": 1, "st'),
    "index.json is empty": _text_for("index.json", ""),
    "index.json is a list": _text_for("index.json", "[]"),
    "index.json has no store": _edited('"store"', '"stored"'),
    "index.json has an odd size": _edited('"dim"', '"dimension"'),
    "index.json has an odd model": _edited('"fingerprint"', '"finger"'),
    "points are a file": _file_for_points,
    "the index is a file": _file_for_the_index,
    "the home is a file": _file_for_the_home,
    "the index is a link to nowhere": _link_to_nowhere,
}


@pytest.mark.parametrize("broken", list(BROKEN))
def test_broken_surroundings_are_said_in_words(run: Run, files: Path, folder: Path, broken: str) -> None:
    BROKEN[broken](folder)
    for arguments in (["search", "red"], ["ls"], ["status"], ["doctor", "--model", "colours"], ["index", files],
                      ["index", files, "--dry-run"], ["rm", "red.txt"], ["rm", "--all", "--yes"],
                      ["doctor", "--repair", "--model", "colours"]):  # fmt: skip
        done = run(*arguments)
        said = done.stdout + done.stderr
        assert "fault in tsembed" not in said and "Traceback" not in said, (arguments, said)
        assert done.exit_code in (0, 1), (arguments, said)
        assert said.strip(), arguments


def test_a_manifest_that_another_program_has_locked(
    run: Run, files: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sqlite3.connect
    other = plain(folder / NAME, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **o: plain(*a, **(o | {"timeout": 0})))
    (files / "new.txt").write_text("something new")
    try:
        told = run("index", files)
        assert told.exit_code == 1 and "Another program has" in told.stderr
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert "1 added" in run("index", files).stdout


def test_a_disk_without_locks(run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tsembed_search import ownership

    def refuse(file: object) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(ownership, "_try_lock", refuse)
    told = run("index", files)
    assert told.exit_code == 1 and "No locks available" in told.stderr and "TSEMBED_HOME" in told.stderr


def test_doctor_says_that_others_can_read_an_index(run: Run, files: Path, folder: Path) -> None:
    def privacy() -> tuple[str, str]:
        found = json.loads(run("doctor", "--json", "--model", "colours").stdout)["findings"]
        (one,) = (one for one in found if one["name"] == "privacy")
        return one["state"], one["advice"]

    assert privacy() == ("ok", "")
    folder.chmod(0o755)
    state, advice = privacy()
    assert state == "problem" and f"chmod -R go= {folder}" in advice
    assert run("index", files).exit_code == 0
    assert privacy() == ("ok", "") and folder.stat().st_mode & 0o077 == 0
