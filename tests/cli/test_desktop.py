"""Files are handed to the desktop as arguments, never through a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tsembed_search.cli import desktop
from tsembed_search.errors import LoadError, TsembedError

HOSTILE = "a b; $(touch x) `y` '\".txt"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that would be run."""
    found: list[list[str]] = []

    def fake(arguments: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        assert not options.get("shell")
        found.append(list(arguments))
        return subprocess.CompletedProcess(arguments, 0)

    monkeypatch.setattr(subprocess, "run", fake)
    return found


@pytest.mark.parametrize(
    ("system", "opened", "revealed"),
    [("linux", ["xdg-open", "{file}"], ["xdg-open", "{folder}"]),
     ("darwin", ["open", "{file}"], ["open", "-R", "{file}"])],
)  # fmt: skip
def test_a_file_is_one_argument(
    asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, opened: list[str],
    revealed: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.platform", system)
    file = tmp_path / HOSTILE
    file.touch()
    desktop.open_file(str(file))
    desktop.reveal(str(file))
    names = {"{file}": str(file), "{folder}": str(tmp_path)}
    assert asked == [[names.get(one, one) for one in opened], [names.get(one, one) for one in revealed]]


def test_what_cannot_be_opened_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for way in (desktop.open_file, desktop.reveal):
        with pytest.raises(LoadError, match="no longer there"):
            way(str(tmp_path / "gone.txt"))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.txt").touch()
    with pytest.raises(TsembedError, match="no program to open"):
        desktop.open_file(str(tmp_path / "a.txt"))
    opener = tmp_path / "xdg-open"
    opener.write_text("#!/bin/sh\nexit 4\n")
    opener.chmod(0o755)
    with pytest.raises(TsembedError, match="exit code 4"):
        desktop.open_file(str(tmp_path / "a.txt"))
