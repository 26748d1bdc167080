"""`tsembed train`: its document, its interruption, its refusals. What training does is tested with the trainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Run = Callable[..., Result]
SMALL = ("--set", "batch.size=8", "--set", "sub_batch=8", "--set", "rank=2", "--set", "workers=1", "--device", "cpu")


@pytest.fixture
def small_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mini with two of its six layers, for one test alone: another goes on with the run of a real process."""
    from tsembed_search.model import engine
    from tsembed_search.model.backbones import mini_encoder

    monkeypatch.setattr(mini_encoder, "_LAYERS", 2)
    monkeypatch.setattr(engine, "facts", lambda: None)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines = [{"query": {"text": f"question {at}"}, "positive": {"text": f"the answer {at * 7}"}} for at in range(40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.usefixtures("small_base")
def test_document(run: Run, rows: Path, tmp_path: Path, plots: None) -> None:
    """Whatever else it says goes to stderr."""
    result = run(
        "train", rows, "--recipe", "tsembed", "--out", tmp_path / "run", "--max-steps", 2, "--seed", 7, "--json", *SMALL
    )
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert (said["steps"], said["checkpoint"]) == (2, str(tmp_path / "run" / "model"))
    assert {"stage_switch", "loss", "validation", "seconds", "items_per_second"} <= said.keys()
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()
    kept = json.loads((tmp_path / "run" / "run.json").read_text())
    assert kept["recipe"]["run"]["seed"] == 7 and kept["recipe"]["batch"]["size"] == 8
    shown = run("search", "red", "--model", tmp_path / "run" / "model", "--index", "none")
    assert "none" in shown.stderr, "the model is found; the index is not there"


@pytest.mark.usefixtures("small_base")
def test_for_people(run: Run, rows: Path, tmp_path: Path) -> None:
    """Without a recipe it finds one, and says which."""
    result = run("train", rows, "--out", tmp_path / "run", "--max-steps", 1, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert "1 task: the recipe lora" in result.stderr
    assert f"--model {tmp_path / 'run' / 'model'}" in result.stdout.replace("\n", "")


def test_ctrl_c_and_resume(run: Run, rows: Path, tmp_path: Path) -> None:
    """In a process of its own: the signal ends it with 130 and a way to go on, which is then gone."""
    out = tmp_path / "run"
    code = "import sys; sys.modules['matplotlib'] = None; from tsembed_search.cli.main import run; run()"  # no plots
    command = [sys.executable, "-c", code, "train"]
    fresh = [str(rows), "--recipe", "tsembed", "--out", str(out), "--max-steps", "400", "--json", *SMALL]
    environment = os.environ | {"TSEMBED_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *fresh], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        log = out / "log.jsonl"
        while running.poll() is None and not (log.is_file() and '"kind": "step"' in log.read_text()):
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 130, stderr
    steps = json.loads(stdout)["steps"]
    assert 1 <= steps < 400
    assert f"--resume --out {out}" in stderr
    resumed = run("train", "--resume", "--out", out, "--max-steps", steps + 2, "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == steps + 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "no data"),
        (("nowhere.jsonl",), 2, "nowhere.jsonl"),
        (("DATA", "--recipe", "tsembd"), 2, "Did you mean tsembed?"),
        (("DATA", "--set", "tau=1"), 2, "no key tau"),
        (("DATA", "--set", "checkpont_every=1"), 2, "Did you mean run.checkpoint_every"),
        (("DATA", "--set", "temperature=1"), 2, "adapter.temperature or loss.temperature"),
        (("DATA", "--set", "batch.size=1"), 2, "Use 2 or more"),
        (("DATA", "--set", "optimizer.clip=-1"), 2, "optimizer.clip cannot be -1. Use 0 or more"),
        (("DATA", "--set", "weight_decay=nan"), 2, "optimizer.weight_decay cannot be nan"),
        (("DATA", "--seed", "-1"), 2, "run.seed cannot be -1"),
        (("DATA", "--max-steps", "99999999999"), 2, "run.steps cannot be"),
        (("DATA", "--max-steps", "0"), 2, "--max-steps"),
        (
            ("DATA", "--set", "dimensions=[64, 385]"),
            2,
            "loss.dimensions cannot have 385: vectors of mini-base have 384",
        ),
        (("DATA", "--set", "blocks=[0, 6]"), 2, "blocks 0 to 5"),
        (("DATA", "--set", "projections=['q_prj']"), 2, "no projection called q_prj"),
        (("DATA", "--set", "learn_temperature=true", "--set", "loss.temperature=0.005"), 2, "0.01 or more"),
        (("DATA", "--set", "images=['nowhere']"), 2, "nowhere, which is no folder"),
        (("DATA", "--out", ""), 2, "after --out is empty"),
        (("DATA", "--out", "TAKEN/mine.txt/run"), 2, "is a file"),
        (("DATA", "--recipe", ""), 2, "after --recipe is empty"),
        (("",), 2, "An argument is empty"),
        (("DATA", "--set", ""), 2, "after --set is empty"),
        (("SINGLE", "--recipe", "tsembed"), 2, "nothing to tell apart"),
        (("DATA", "--out", "TAKEN"), 2, "not empty"),
        (("--resume",), 2, "--out DIR"),
        (("--resume", "--out", "nowhere"), 2, "no run in"),
        (("DATA", "--set", "adapter.top_k=9", "--recipe", "tsembed"), 2, "9 of 4 experts"),
    ],
)
def test_refusals(arguments: tuple[str, ...], code: int, words: str, run: Run, rows: Path, tmp_path: Path) -> None:
    single, taken = tmp_path / "single.jsonl", tmp_path / "taken"
    single.write_text(rows.read_text().splitlines(keepends=True)[0])
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    places = {"DATA": str(rows), "SINGLE": str(single), "TAKEN": str(taken)}
    given = [places.get(one, one).replace("TAKEN/", f"{taken}/") for one in arguments]
    if "--out" not in given and "--resume" not in given:
        given += ["--out", str(tmp_path / "run")]
    result = run("train", *given, "--device", "cpu")
    assert (result.exit_code, words in " ".join(result.stderr.split())) == (code, True), result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("small_base")
def test_a_setting_in_vain_is_said(run: Run, rows: Path, tmp_path: Path) -> None:
    """On stderr, of what was asked for, and of nothing else."""
    vain = ("--set", "negatives.beta=7", "--set", "patience=2", "--set", "data.validation=0")
    result = run("train", rows, "--recipe", "lora", "--out", tmp_path / "run", "--max-steps", 1, *SMALL, *vain)
    assert result.exit_code == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if "has no effect" in line]
    assert sorted(line.partition(" ")[0] for line in said) == ["negatives.beta", "run.patience"]
    assert "Nothing is measured" in result.stderr and "Nothing was measured" in result.stdout


def test_dry_run(run: Run, tmp_path: Path) -> None:
    result = run("train", "--recipe", "mmeb-qwen3vl-emb-2b", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["dry_run"] and said["stage_switch"] == 3 and said["checkpoint"] is None
    assert said["recipe"]["batch"]["size"] == 1024 and "torchrun" in said["expected"]["command_eight_gpus"]
