"""Runs that end early go on as if nothing had happened, whatever ended them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_data import job, listed, same, weights

from tsembed_search.errors import UsageError
from tsembed_search.trainer import state
from tsembed_search.trainer.job import Stopped
from tsembed_search.trainer.log import read
from tsembed_search.trainer.loop import train

LONG = ("steps=8", "switch=0.5", "queue=6", "learn_temperature=true", "dimensions=[64]", "noise=0.5", "dropout=0.2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left alone."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(job(out, *LONG))
    return out


def stopping_after(steps: int) -> Callable[[], bool]:
    """Asks to stop before step `steps + 1`."""
    asked = iter(range(steps + 1))
    return lambda: next(asked) == steps


def losses(out: Path) -> list[tuple[int, float, float]]:
    steps = [record for record in read(out / "log.jsonl") if record["kind"] == "step"]
    return [(record["step"], record["loss"], record["temperature"]) for record in steps]


@pytest.mark.parametrize("after", [1, 4, 7])
def test_interrupted_and_resumed_is_uninterrupted(whole: Path, after: int, tmp_path: Path) -> None:
    """To the last bit, with dropout, router noise, a queue, a learned temperature, both stages, and validations."""
    out = tmp_path / "run"
    with pytest.raises(Stopped) as caught:
        train(job(out, *LONG, stop=stopping_after(after)))
    assert caught.value.exit_code == 130 and "--resume" in caught.value.hint and str(out) in caught.value.hint
    assert caught.value.report.steps == after and caught.value.report.checkpoint is None
    report = train(job(out, *LONG, resume=True))
    assert same(weights(out / "model"), weights(whole / "model"))
    tensors, facts = state.load(out / "states" / "step-00000008")
    expected, known = state.load(whole / "states" / "step-00000008")
    assert same(tensors, expected)
    for key in ("sampler", "switch", "watch", "validation", "waited"):
        assert facts[key] == known[key]
    assert losses(out) == losses(whole)
    resumed = [record["resumed_from"] for record in read(out / "log.jsonl") if record["kind"] == "run"]
    assert resumed == [None, after]
    assert report.before is not None


@pytest.mark.parametrize("place", range(12))
def test_a_kill_at_any_moment_of_a_checkpoint_leaves_one_whole(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call of a checkpoint the process dies in, that one or the one before it is there and whole."""
    import safetensors.torch

    class Killed(BaseException):
        pass

    calls = 0

    def dying(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == place + 1:
                raise Killed
            return original(*args, **kwargs)

        return call

    state.save(tmp_path, 2, {"a": torch.full((9,), 2.0)}, {"step": 2})
    with monkeypatch.context() as patch:
        for of, name in ((Path, "mkdir"), (Path, "write_text"), (Path, "rename"), (state, "flush"),
                         (shutil, "rmtree"), (safetensors.torch, "save_file")):  # fmt: skip
            patch.setattr(of, name, dying(getattr(of, name)))
        try:
            state.save(tmp_path, 4, {"a": torch.full((9,), 4.0)}, {"step": 4})
            assert calls <= place, "there is no call left to die in"
        except Killed:
            pass
    found = state.latest(tmp_path)
    assert found is not None
    tensors, facts = state.load(found)
    assert (tensors["a"] == facts["step"]).all()
    state.save(tmp_path, 6, {"a": torch.full((9,), 6.0)}, {"step": 6})
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-00000006"]


def test_a_half_written_state_is_not_taken(tmp_path: Path) -> None:
    state.save(tmp_path, 2, {"a": torch.ones(2)}, {"step": 2})
    half = tmp_path / "states" / "step-00000004.new"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"\x10")
    found = state.latest(tmp_path)
    assert found is not None and found.name == "step-00000002"
    state.save(tmp_path, 4, {"a": torch.zeros(2)}, {"step": 4})
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-00000004"]


def test_killed_before_the_first_checkpoint(whole: Path, tmp_path: Path) -> None:
    """There is a folder and a log, and nothing to go on from: it begins again."""
    out = tmp_path / "run"

    def die() -> bool:
        raise MemoryError

    with pytest.raises(MemoryError):
        train(job(out, *LONG, stop=die))
    train(job(out, *LONG, resume=True))
    assert losses(out) == losses(whole)
    assert [record["kind"] for record in read(out / "log.jsonl")].count("run") == 1


def test_a_finished_run_is_finished_again(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "run")
    report = train(job(out, *LONG, resume=True))
    assert report.steps == 8 and same(weights(out / "model"), weights(whole / "model"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"overrides": ("optimizer.rate=0.5",)}, r"begun with optimizer.rate = 0.001, not 0.5"),
        ({"train": [listed("other", ["a", "b", "c"])]}, r"other data: 36 rows of 2 tasks then, 3 rows of 1 tasks now"),
    ],
)
def test_another_recipe_or_other_data(whole: Path, change: dict[str, object], words: str) -> None:
    overrides = change.pop("overrides", ())
    with pytest.raises(UsageError, match=words):
        train(job(whole, *LONG, *overrides, resume=True, **change))  # type: ignore[misc]
    assert json.loads((whole / "run.json").read_text())["recipe"]["optimizer"]["rate"] == 0.001
