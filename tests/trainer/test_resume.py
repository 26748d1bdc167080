"""Runs that end early go on as if nothing had happened, whatever ended them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from helpers.training_data import job, listed, same, weights
from tsembed_search.errors import ModelError, UsageError
from tsembed_search.trainer import loop, state, validation
from tsembed_search.trainer.gradcache import Passes
from tsembed_search.trainer.job import Stopped
from tsembed_search.trainer.log import Log, read
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.validation import Validation

pytestmark = pytest.mark.usefixtures("one_block")

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
    assert caught.value.exit_code == 130 and "{resume}" in caught.value.hint and str(out) in caught.value.hint
    assert caught.value.report.steps == after and caught.value.report.checkpoint is None
    report = train(job(out, *LONG, resume=True))
    assert same(weights(out / "model"), weights(whole / "model"))
    tensors, facts = state.load(out / "states" / "step-00000008")
    expected, known = state.load(whole / "states" / "step-00000008")
    assert same(tensors, expected)
    for key in ("sampler", "schedule", "monitor", "validations"):
        assert facts[key] == known[key]
    assert losses(out) == losses(whole)
    resumed = [record["resumed_from"] for record in read(out / "log.jsonl") if record["kind"] == "run"]
    assert resumed == [None, after]
    assert report.before is not None


@pytest.mark.parametrize("place", range(12))
def test_a_kill_at_any_moment_of_a_checkpoint_leaves_one_whole(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call of a checkpoint the process dies in, that one or the one before it is there and whole, with the
    best weights that belong to it.
    """
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

    def save(step: int) -> None:
        state.save(tmp_path, step, {"a": torch.full((9,), step)}, {"step": step}, {"b": torch.full((9,), step)})

    save(2)
    with monkeypatch.context() as patch:
        for of, name in ((Path, "mkdir"), (Path, "write_text"), (Path, "rename"), (state, "flush"),
                         (shutil, "rmtree"), (safetensors.torch, "save_file")):  # fmt: skip
            patch.setattr(of, name, dying(getattr(of, name)))
        try:
            save(4)
            assert calls <= place, "there is no call left to die in"
        except Killed:
            pass
    found = state.latest(tmp_path)
    assert found is not None
    tensors, facts = state.load(found)
    assert (tensors["a"] == facts["step"]).all() and (state.load_best(found)["b"] == facts["step"]).all()
    save(6)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-00000006"]


@pytest.fixture(scope="module")
def kept() -> dict[int, dict[str, torch.Tensor]]:
    """The models of runs that were left alone, by their number of steps."""
    return {}


class TestBest:
    """The best weights come and go with the state that they belong to."""

    hits: ClassVar = {0: 0.5, 1: 0.2, 2: 0.3, 3: 0.7, 4: 0.4, 5: 0.8, 6: 0.1}
    """At step 2 the best are those of step 0, at step 4 those of step 3, in the end those of step 5."""
    settings = ("steps=6", "checkpoint_every=2", "validate_every=1", "schedule=constant", "warmup=0", "switch=0")

    @pytest.fixture(autouse=True)
    def _scripted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is measured depends on the step that the run has come to."""
        taken = {"step": 0}
        make, step = loop.TrainState.__init__, Passes.step
        load = loop.TrainState.load

        def begun(state: Any, *args: Any, **more: Any) -> None:
            make(state, *args, **more)
            taken["step"] = 0

        def resumed(state: Any, found: Path) -> str:
            said = load(state, found)
            taken["step"] = state.step
            return said

        def stepping(passes: Any, batch: Any, stage: int, number: int) -> Any:
            taken["step"] = number
            return step(passes, batch, stage, number)

        def scripted(*_: Any) -> tuple[Validation, dict[str, Any]]:
            hit = self.hits[taken["step"]]
            return Validation({"words": {"meta": "", "hit@1": hit, "mrr": hit, "n": 9}}), {}

        monkeypatch.setattr(loop.TrainState, "__init__", begun)
        monkeypatch.setattr(loop.TrainState, "load", resumed)
        monkeypatch.setattr(Passes, "step", stepping)
        monkeypatch.setattr(validation, "measure", scripted)

    def alone(self, kept: dict[int, dict[str, torch.Tensor]], steps: int, folder: Path) -> dict[str, torch.Tensor]:
        if steps not in kept:
            train(job(folder / "alone", *self.settings, f"steps={steps}"))
            kept[steps] = weights(folder / "alone" / "model")
        return kept[steps]

    @pytest.mark.parametrize(("place", "steps"), [(3, 2), (7, 4), (10, 2), (11, 4), (14, 4), (15, 4), (20, 6)])
    def test_a_kill_at_any_moment(
        self,
        place: int,
        steps: int,
        kept: dict[int, dict[str, torch.Tensor]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Killed on its way to six steps, and then finished after fewer: as if it had never been further."""

        class Killed(BaseException):
            pass

        out, written = tmp_path / "run", 0
        write = Log.write

        def dying(log: Log, kind: str, **values: Any) -> None:
            nonlocal written
            written += 1
            write(log, kind, **values)
            if written == place:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Log, "write", dying)
            train(job(out, *self.settings))
        report = train(job(out, *self.settings, f"steps={steps}", resume=True))
        assert same(weights(out / "model"), self.alone(kept, steps, tmp_path))
        best = max(self.hits[step] for step in range(steps + 1))
        assert report.validation is not None and report.validation.hit == best

    @pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(b"\x10\0\0"), Path.touch])
    def test_lost_or_damaged(self, harm: Callable[[Path], object], tmp_path: Path) -> None:
        """It is said at once, and the run goes on without them. A file that was only touched is as good as ever."""
        out = tmp_path / "run"
        train(job(out, *self.settings, "steps=2"))
        harm(out / "states" / "step-00000002" / "best.safetensors")
        report = train(job(out, *self.settings, "steps=4", resume=True))
        records = list(read(out / "log.jsonl"))
        place = max(at for at, record in enumerate(records) if record["kind"] == "run")
        said = [record.get("message", "") for record in records[place + 1 : place + 2]]
        assert any("weights of step 0, which validated best, are lost" in one for one in said) == (
            harm is not Path.touch
        )
        assert report.validation is not None and report.validation.hit == 0.7

    def test_those_of_the_state_itself_are_not_written_twice(self, tmp_path: Path) -> None:
        out = tmp_path / "run"
        train(job(out, *self.settings, "steps=3"))
        assert not list(out.rglob("best.safetensors"))
        report = train(job(out, *self.settings, "steps=4", resume=True))
        assert report.validation is not None and report.validation.hit == 0.7
        assert same(weights(out / "model"), self.alone({}, 3, tmp_path))


@pytest.mark.parametrize("text", ["{}", "[]", '{"step": 2}', "no json", "null"])
def test_a_damaged_state_is_told(text: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(job(out, "steps=2", held_out=[]))
    (out / "states" / "step-00000002" / "state.json").write_text(text)
    with pytest.raises(ModelError, match=r"state of the run in .*step-00000002"):
        train(job(out, "steps=3", held_out=[], resume=True))


def test_an_early_stop_is_one_after_a_kill_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("steps=50", "optimizer.learning_rate=1e-12", "router_learning_rate=0", "validate_every=1", "patience=2")

    def die(*_: Any) -> None:
        raise MemoryError

    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(loop.diagnostics, "calibrated", die)
        train(job(out, *settings))
    report = train(job(out, *settings, resume=True))
    assert (report.steps, report.reason) == (2, "early stop")
    validated = [record["step"] for record in read(out / "log.jsonl") if record["kind"] == "validation"]
    assert validated == [0, 1, 2], "nothing is measured twice"


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
        ({"overrides": ("optimizer.learning_rate=0.5",)}, r"begun with optimizer.learning_rate = 0.001, not 0.5"),
        ({"train": [listed("other", ["a", "b", "c"])]}, r"other data: 36 rows of 2 tasks then, 3 rows of 1 tasks now"),
    ],
)
def test_another_recipe_or_other_data(whole: Path, change: dict[str, object], words: str) -> None:
    overrides = change.pop("overrides", ())
    with pytest.raises(UsageError, match=words):
        train(job(whole, *LONG, *overrides, resume=True, **change))  # type: ignore[misc]
    assert json.loads((whole / "run.json").read_text())["recipe"]["optimizer"]["learning_rate"] == 0.001
