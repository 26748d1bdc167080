"""What watches a run shows what the log says, and leaves nothing where there is no run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.training_data import job, listed
from tsembed_search.errors import TsembedError, UsageError
from tsembed_search.trainer.job import Job, Stopped
from tsembed_search.trainer.log import TensorBoard, packages, read
from tsembed_search.trainer.loop import train

pytestmark = pytest.mark.usefixtures("one_block")

SHORT = ("steps=4", "validate_every=2")


def shown(out: Path, tag: str) -> list[tuple[int, float]]:
    """The points of a curve, in every event that the files hold."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    points = []
    for file in sorted((out / "tensorboard").iterdir()):
        for event in EventFileLoader(str(file)).Load():
            points += [
                (event.step, one.tensor.float_val[0] if one.HasField("tensor") else one.simple_value)
                for one in event.summary.value
                if one.tag == tag
            ]
    return points


def logged(out: Path, kind: str, key: str) -> list[tuple[int, Any]]:
    found = [(record["step"], record[key]) for record in read(out / "log.jsonl") if record["kind"] == kind]
    return [(step, pytest.approx(value)) for step, value in found]


def watched(out: Path, *overrides: str, **changes: Any) -> Job:
    return job(out, *SHORT, *overrides, observers=[TensorBoard(out)], **changes)


class TestCurves:
    def check(self, out: Path, steps: int) -> None:
        for kind, key, tag in (("step", "loss", "loss"), ("validation", "hit@1", "validation/hit@1")):
            assert shown(out, tag) == logged(out, kind, key)
        assert [step for step, _ in shown(out, "loss")] == list(range(1, steps + 1))

    def test_of_a_new_run(self, tmp_path: Path) -> None:
        train(watched(tmp_path / "run"))
        self.check(tmp_path / "run", 4)
        assert shown(tmp_path / "run", "rates/experts")

    def test_after_a_kill(self, tmp_path: Path) -> None:
        """Steps that are taken again are there once."""
        asked = iter(range(9))

        def die() -> bool:
            if next(asked) == 3:
                raise MemoryError
            return False

        out = tmp_path / "run"
        with pytest.raises(MemoryError):
            train(watched(out, stop=die))
        assert [step for step, _ in shown(out, "loss")] == [1, 2, 3]
        train(watched(out, resume=True))
        self.check(out, 4)

    def test_after_an_interruption(self, tmp_path: Path) -> None:
        out, asked = tmp_path / "run", iter(range(9))
        with pytest.raises(Stopped):
            train(watched(out, stop=lambda: next(asked) == 1))
        train(watched(out, resume=True))
        self.check(out, 4)

    def test_asked_for_later(self, tmp_path: Path) -> None:
        """The steps before are there as well."""
        out = tmp_path / "run"
        train(job(out, *SHORT))
        train(watched(out, "steps=5", resume=True))
        self.check(out, 5)

    def test_finished_twice(self, tmp_path: Path) -> None:
        out = tmp_path / "run"
        train(watched(out))
        train(watched(out, resume=True))
        self.check(out, 4)

    @pytest.mark.parametrize("why", ["one target", "no rows", "taken", "dimensions", "pictures"])
    def test_a_run_that_is_refused_leaves_nothing(self, why: str, tmp_path: Path) -> None:
        from tsembed_search.data.rows import Row
        from tsembed_search.items import Item

        out = tmp_path / "run"
        changes: dict[str, Any] = {
            "one target": {"train": [listed("one", ["a"])]},
            "no rows": {"train": []},
            "pictures": {"train": [listed("some", list("abcdefgh"))]},
        }.get(why, {})
        if why == "pictures":
            changes["train"][0].rows = [Row(Item(n), Item(image=tmp_path / n), n) for n in "abcdefgh"]
        if why == "taken":
            out.mkdir()
            (out / "mine.txt").write_text("mine")
        with pytest.raises(UsageError):
            train(watched(out, *(["dimensions=[1024]"] if why == "dimensions" else []), **changes))
        assert [path.name for path in out.rglob("*")] == (["mine.txt"] if why == "taken" else [])
        assert out.exists() == (why == "taken")


def test_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "tensorboard.summary.writer.record_writer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"not installed.*tsembed-search\[tensorboard\]"):
        packages()


def test_who_cannot_show_a_run_does_not_stop_it(tmp_path: Path) -> None:
    """A full disk, a closed terminal: said once, and the run goes on."""
    calls: list[Any] = []

    class Full:
        def __call__(self, record: Any) -> None:
            calls.append(record)
            if record["kind"] == "step":
                raise OSError(28, "No space left on device")

    seen: list[str] = []
    observers = [Full(), lambda record: seen.append(record["kind"])]
    try:
        train(job(tmp_path / "run", *SHORT, observers=observers))
    except TsembedError as error:
        pytest.fail(str(error))
    notes = [json.loads(line)["message"] for line in (tmp_path / "run/log.jsonl").open() if '"note"' in line]
    assert [note for note in notes if "Full" in note] == [
        "Full cannot show the run from here on: No space left on device."
    ]
    assert seen.count("step") == 4 and sum(one["kind"] == "step" for one in calls) == 1
