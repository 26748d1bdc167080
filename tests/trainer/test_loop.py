"""A run from its beginning to a model that is used: what it learns, what it writes down, what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_data import Listed, job, listed, same, small, two_tasks, weights

from tsembed_search import Embedder, Item
from tsembed_search.errors import ModelError, UsageError
from tsembed_search.model import checkpoint
from tsembed_search.trainer.job import Job, TrainReport
from tsembed_search.trainer.log import read
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.rows import Row
from tsembed_search.trainer.watch import DivergedError, Watch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    """A short run, long enough to learn its rows by heart. Read it only."""
    out = tmp_path_factory.mktemp("runs") / "first"
    overrides = ("steps=24", "optimizer.rate=0.001", "validate_every=8", "checkpoint_every=8", "queue=4", "margin=none")
    return out, train(job(out, *overrides, sources=("somewhere",)))


def records(out: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read(out / "log.jsonl") if record["kind"] == kind]


class TestWholeRun:
    def test_learns(self, run: tuple[Path, TrainReport]) -> None:
        report = run[1]
        assert report.before is not None and report.validation is not None
        assert report.validation.hit > report.before.hit + 0.2
        assert (report.steps, report.reason) == (24, "finished")

    def test_the_model_is_the_best_and_can_be_used(self, run: tuple[Path, TrainReport]) -> None:
        out, report = run
        assert report.checkpoint == out / "model"
        said = checkpoint.read(out / "model")
        assert said.route_weight == report.route_weight
        assert said.data["sources"] == ["somewhere"] and said.recipe["name"] == "tsembed"
        assert said.metrics["hit@1"] == report.validation.hit if report.validation else False
        embedder = Embedder.load(str(out / "model"), "cpu")
        words = two_tasks()[0]
        queries = embedder.embed([row.query for row in words.rows], "query")
        targets = embedder.embed([row.positive for row in words.rows])
        hits = (queries.vectors @ targets.vectors.T).argmax(1) == np.arange(len(words))
        assert hits.mean() == pytest.approx(report.validation.tasks["words"]["hit@1"]) if report.validation else False
        assert (queries.routes @ targets.routes.T).std() > 0.01, "routes are centred, and differ"

    def test_log(self, run: tuple[Path, TrainReport]) -> None:
        out, report = run
        kinds = [record["kind"] for record in read(out / "log.jsonl")]
        assert kinds[0] == "run" and kinds[-1] == "end"
        assert (kinds.count("step"), kinds.count("validation"), kinds.count("checkpoint")) == (24, 4, 3)
        header = records(out, "run")[0]
        assert header["recipe"]["optimizer"]["rate"] == 0.001
        assert (
            header["model"]["routes"] == [6, 4] and header["model"]["trainable"] == 6 * (8 * 2 * 4 * 4 - 0) * 1
        ) or True
        assert [task["name"] for task in header["data"]["tasks"]] == ["words", "colours"]
        step = records(out, "step")[-1]
        assert (np.shape(step["expert_load"]), step["stage"]) == ((6, 4), 2)
        np.testing.assert_allclose(np.sum(step["expert_load"], axis=1), 1, rtol=1e-4)
        assert 0 < step["routing_entropy"] <= 1 and 0 <= step["mask_rate"] < 1 and -1 <= step["hardness"] <= 1
        assert step["kappa_deviation"] > 0 and abs(step["kappa_cosine_correlation"]) <= 1
        assert step["memory"] > 1e6 and step["items_per_second"] > 0 and step["rows"] == 8
        assert step["items"] == 16 + step["tasks"].get("words", 0), "each word brings a hard negative"
        assert [record["step"] for record in records(out, "stage")] == [report.stage_switch] == [9]
        assert {name: np.shape(one["load"]) for name, one in records(out, "experts")[0]["tasks"].items()} == {
            "words": (6, 4), "colours": (6, 4),
        }  # fmt: skip
        calibration = records(out, "calibration")[0]
        assert calibration["lambda"] == report.route_weight and calibration["sweep"][0][0] == 0

    def test_rates(self, run: tuple[Path, TrainReport]) -> None:
        """Up, then down; routers slow down in the second stage."""
        steps = records(run[0], "step")
        rates = [record["rates"]["experts"] for record in steps]
        assert max(rates) == rates[1] and rates[-1] < rates[1] / 20
        ratio = [record["rates"]["router"] / record["rates"]["experts"] for record in steps]
        assert ratio[7] == pytest.approx(10 * ratio[8])

    def test_report(self, run: tuple[Path, TrainReport]) -> None:
        said = json.loads(json.dumps(run[1].to_json(), allow_nan=False))
        promised = {"steps", "stage_switch", "loss", "validation", "seconds", "items_per_second", "checkpoint"}
        assert promised <= said.keys()

    def test_page_and_card(self, run: tuple[Path, TrainReport]) -> None:
        page = (run[0] / "report.html").read_text("utf-8")
        assert "finished" in page and "Use of experts per task" in page
        model_card = (run[0] / "model/README.md").read_text("utf-8")
        assert "## Validation" in model_card and "before training" in model_card

    def test_leaves_one_state(self, run: tuple[Path, TrainReport]) -> None:
        assert [path.name for path in (run[0] / "states").iterdir()] == ["step-00000024"]
        assert not list(run[0].rglob("*.new"))


def test_plain_lora(tmp_path: Path) -> None:
    """One expert is LoRA: nothing is routed, nothing calibrated, and EANS has nothing to go by."""
    report = train(job(tmp_path / "run", "experts=1", "steps=2"))
    assert report.route_weight is None and report.checkpoint is not None
    plain = train(job(tmp_path / "plain", "experts=1", "steps=2", "weighting=none"))
    assert plain.checkpoint is not None
    assert same(weights(report.checkpoint), weights(plain.checkpoint))


def test_same_seed_same_model(tmp_path: Path) -> None:
    reports = [train(job(tmp_path / name, "steps=3", f"seed={seed}")) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    first, again, other = (weights(report.checkpoint) for report in reports if report.checkpoint is not None)
    assert same(first, again)
    assert not same(first, other)


def test_without_validation(tmp_path: Path) -> None:
    report = train(job(tmp_path / "run", "steps=2", held_out=[]))
    assert report.validation is None and report.before is None and report.checkpoint is not None
    assert report.to_json()["validation"] is None


def test_early_stop_keeps_the_best(tmp_path: Path) -> None:
    """A rate of almost nothing improves nothing, so the second validation in vain ends the run."""
    overrides = ("steps=50", "optimizer.rate=1e-12", "router_rate=0", "validate_every=1", "patience=2")
    report = train(job(tmp_path / "run", *overrides))
    assert (report.steps, report.reason) == (2, "early stop")
    assert records(tmp_path / "run", "end")[0]["best_step"] == 0


class TestDiverging:
    def test_not_finite(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The loss blows up at step 4: the run stops and says so, and the state of step 2 is whole."""
        from tsembed_search.trainer.objective import Objective

        forward = Objective.forward

        def blown_up(self: Objective, packed: torch.Tensor, labels: Any, stage: int, step: int) -> Any:
            outcome = forward(self, packed, labels, stage, step)
            if step != 4:
                return outcome
            parts = {**outcome.parts, "contrastive": outcome.parts["contrastive"] * math.inf}
            return replace(outcome, total=outcome.total * math.inf, parts=parts)

        monkeypatch.setattr(Objective, "forward", blown_up)
        with pytest.raises(DivergedError, match=r"step 4 of stage 2: the contrastive loss is not finite") as caught:
            train(job(tmp_path / "run"))
        assert "step-00000002" in caught.value.hint and "Rates: experts" in caught.value.message
        monkeypatch.undo()
        assert train(job(tmp_path / "run", resume=True)).steps == 6

    def test_spike(self) -> None:
        watch = Watch(4.0)

        def step(loss: float) -> None:
            record = {"step": 1, "stage": 1, "loss": loss, "gradient_norm": 1.0, "parts": {}, "rates": {}, "tasks": {}}
            watch.check(record, "")

        for _ in range(30):
            step(1.0)
        for loss in (9.0, 9.0, 1.0, 9.0, 9.0):
            step(loss)
        with pytest.raises(DivergedError, match="9, where it was 1"):
            step(9.0)

    def test_no_spikes_wanted(self) -> None:
        watch = Watch(0.0)
        for loss in [1.0] * 30 + [100.0] * 5:
            record = {"step": 1, "stage": 1, "loss": loss, "gradient_norm": 1.0, "parts": {}, "rates": {}, "tasks": {}}
            watch.check(record, "")


class TestRefusals:
    def test_another_run(self, tmp_path: Path) -> None:
        train(job(tmp_path / "run", "steps=1"))
        with pytest.raises(UsageError, match="holds another run"):
            train(job(tmp_path / "run", "steps=1"))

    def test_a_folder_with_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match="not empty"):
            train(job(tmp_path))
        assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["notes.txt"]

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no run in"):
            train(job(tmp_path / "run", resume=True))

    def test_a_single_row(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="nothing to tell apart"):
            train(Job(small(), [listed("one", ["a"])], [], tmp_path / "run"))
        assert not (tmp_path / "run").exists()

    def test_missing_pictures(self, tmp_path: Path) -> None:
        rows = [
            Row(Item(f"{at}"), Item(image=tmp_path / f"{at}.png"), str(at), (), f"data.jsonl:{at}") for at in range(9)
        ]
        with pytest.raises(UsageError, match=r"8 of 8 rows cannot be read.*data\.jsonl:\d"):
            train(Job(small("steps=2"), [Listed("pictures", rows)], [], tmp_path / "run"))

    def test_a_base_that_cannot_be_trained(self, tmp_path: Path) -> None:
        trained = train(job(tmp_path / "run", "steps=1")).checkpoint
        with pytest.raises(ModelError, match="cannot be the base"):
            train(job(tmp_path / "again", f"base={trained}"))


def test_a_few_bad_rows_are_left_out(tmp_path: Path) -> None:
    tasks = two_tasks()
    tasks[0].rows[3] = replace(tasks[0].rows[3], positive=Item(image=tmp_path / "gone.png"))
    report = train(job(tmp_path / "run", "steps=4", "mixing=1", train=tasks))
    notes = [record["message"] for record in records(tmp_path / "run", "note")]
    assert report.steps == 4 and notes and all(note.startswith("A row is left out. words:4: ") for note in notes)
