"""The form of `gpu_check.py`, and that it runs where there is no GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import gpu_check
import gpu_checks
import pytest
from gpu_check import Line, Setting

from helpers.fixtures import small_base as small_base


def fine(setting: Setting) -> Iterator[Line]:
    yield Line("fine", "a figure", "3 GB", "at most 4 GB", True, {"bytes": 3e9})
    yield Line("fine", "a remark", "words")


def wrong(setting: Setting) -> Iterator[Line]:
    yield Line("wrong", "a figure", "5 GB", "at most 4 GB", False)


def broken(setting: Setting) -> Iterator[Line]:
    yield from fine(setting)
    raise RuntimeError("no such kernel\nand more")


def test_every_check_is_tried_and_told(tmp_path: Path) -> None:
    told: list[str] = []
    setting = Setting("cpu", tmp_path)
    checks = {"broken": broken, "wrong": wrong, "fine": fine}
    lines = gpu_check.run(checks, setting, lambda line: told.append(line.text()))
    said = json.loads(json.dumps(gpu_check.document(lines, setting)))
    assert (said["ok"], said["failed"]) == (False, ["broken: ran to its end", "wrong: a figure"])
    assert len(told) == len(said["lines"]) == 9
    assert any("RuntimeError: no such kernel (test_gpu_check.py:" in line and line.endswith("FAILED") for line in told)
    assert all("\n" not in line for line in told)
    assert said["lines"][0]["figures"] == {"bytes": 3e9}


@pytest.mark.parametrize("ok", [True, False])
def test_exit_code(
    ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_checks, "CHECKS", {"one": fine if ok else wrong})
    file = tmp_path / "figures.json"
    assert gpu_check.main(["--device", "cpu", "--json", str(file)]) == (not ok)
    assert json.loads(file.read_text())["ok"] == ok
    assert f"{int(not ok)} of 1 checks failed" in capsys.readouterr().out


def test_unknown_checks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["--only", "cards"])
    assert "there is no check called cards; there are card, vectors," in capsys.readouterr().err


@pytest.mark.usefixtures("small_base")
@pytest.mark.parametrize("name", ["card", "pieces"])
def test_runs_on_a_cpu(name: str, tmp_path: Path) -> None:
    lines = gpu_check.run({name: gpu_checks.CHECKS[name]}, Setting("cpu", tmp_path, quick=True), lambda line: None)
    assert lines and not [line.text() for line in lines if line.ok is False]


@pytest.mark.slow
def test_all_of_it_on_a_cpu(tmp_path: Path) -> None:
    lines = gpu_check.run(gpu_checks.CHECKS, Setting("cpu", tmp_path, quick=True), lambda line: None)
    assert not [line.text() for line in lines if line.ok is False]
