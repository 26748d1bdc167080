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
from PIL import Image

from helpers.training_data import Listed, job, listed, same, small, two_tasks, weights
from tsembed_search.data.rows import Row
from tsembed_search.errors import ModelError, UsageError
from tsembed_search.items import Item
from tsembed_search.model import checkpoint
from tsembed_search.model.backbones import mini, mini_spec
from tsembed_search.model.embedder import Embedder
from tsembed_search.trainer.job import Job, Stopped, TrainReport
from tsembed_search.trainer.log import read
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.schedule import DivergedError, DivergenceMonitor

pytestmark = pytest.mark.usefixtures("small_base")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    """A short run, long enough to learn its rows by heart. Read it only."""
    out = tmp_path_factory.mktemp("runs") / "first"
    overrides = (
        "steps=24",
        "learning_rate=0.001",
        "validate_every=8",
        "checkpoint_every=8",
        "queue=4",
        "margin=none",
    )
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
        assert header["recipe"]["optimizer"]["learning_rate"] == 0.001
        assert header["model"]["routes"] == [2, 4]
        learned = [one for name, one in weights(out / "model").items() if "mean" not in name]
        assert header["model"]["trainable"] == sum(one.numel() for one in learned)
        assert [task["name"] for task in header["data"]["tasks"]] == ["words", "colours"]
        step = records(out, "step")[-1]
        assert (np.shape(step["expert_load"]), step["stage"]) == ((2, 4), 2)
        np.testing.assert_allclose(np.sum(step["expert_load"], axis=1), 1, rtol=1e-4)
        assert 0 < step["routing_entropy"] <= 1 and 0 <= step["mask_rate"] < 1 and -1 <= step["hardness"] <= 1
        assert step["kappa_deviation"] > 0 and abs(step["kappa_cosine_correlation"]) <= 1
        assert step["memory"] > 1e6 and step["items_per_second"] > 0 and step["rows"] == 8
        assert step["items"] == 16 + step["tasks"].get("words", 0), "each word brings a hard negative"
        assert [record["step"] for record in records(out, "stage")] == [report.stage_switch] == [9]
        assert {name: np.shape(one["load"]) for name, one in records(out, "experts")[0]["tasks"].items()} == {
            "words": (2, 4), "colours": (2, 4),
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
    overrides = (
        "steps=50",
        "learning_rate=1e-12",
        "router_learning_rate=0",
        "validate_every=1",
        "patience=2",
    )
    report = train(job(tmp_path / "run", *overrides))
    assert (report.steps, report.reason) == (2, "early stop")
    assert records(tmp_path / "run", "end")[0]["best_step"] == 0


class TestDiverging:
    def test_not_finite(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The loss blows up at step 4: the run stops and says so, and the state of step 2 is whole."""
        from tsembed_search.trainer.objective import Objective

        forward = Objective.forward

        def blown_up(self: Objective, packed: torch.Tensor, labels: Any, stage: int, step: int, *own: Any) -> Any:
            outcome = forward(self, packed, labels, stage, step, *own)
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
        watch = DivergenceMonitor(4.0)

        def step(loss: float) -> None:
            record = {"step": 1, "stage": 1, "loss": loss, "gradient_norm": 1.0, "parts": {}, "rates": {}, "tasks": {}}
            watch.check(record)

        for _ in range(30):
            step(1.0)
        for loss in (9.0, 9.0, 1.0, 9.0, 9.0):
            step(loss)
        with pytest.raises(DivergedError, match="9, where it was 1"):
            step(9.0)

    def test_no_spikes_wanted(self) -> None:
        watch = DivergenceMonitor(0.0)
        for loss in [1.0] * 30 + [100.0] * 5:
            record = {"step": 1, "stage": 1, "loss": loss, "gradient_norm": 1.0, "parts": {}, "rates": {}, "tasks": {}}
            watch.check(record)


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

    def test_a_base_that_cannot_be_trained(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fixed = mini.load("cpu")
        fixed.info = replace(fixed.info, trainable=False)
        monkeypatch.setattr("tsembed_search.model.loading.load", lambda *given: fixed)
        with pytest.raises(ModelError, match="cannot be the base"):
            train(job(tmp_path / "run"))


class TestGoingOnFromACheckpoint:
    def test_its_adapters_are_trained_on(self, tmp_path: Path) -> None:
        first = train(job(tmp_path / "first", "steps=2", "adapter.rank=2")).checkpoint
        again = train(
            job(
                tmp_path / "again",
                f"base={first}",
                "steps=2",
                "adapter.rank=4",
                "learning_rate=0",
                "router_learning_rate=0",
            )
        )
        assert first and again.checkpoint
        assert same(weights(first), weights(again.checkpoint)), "with rates of 0 nothing moves"
        assert checkpoint.read(again.checkpoint).base == checkpoint.read(first).base
        assert checkpoint.read(again.checkpoint).method["rank"] == 2
        assert any("trained on" in note["message"] for note in records(tmp_path / "again", "note"))
        assert not records(tmp_path / "first", "note")

    def test_before_it_is_what_it_was_after(self, tmp_path: Path) -> None:
        first = train(job(tmp_path / "first", "steps=6", "validate_every=6"))
        again = train(job(tmp_path / "again", f"base={first.checkpoint}", "steps=1"))
        assert first.validation and again.before and again.before.hit == first.validation.hit


class TestTheProjector:
    @pytest.fixture(autouse=True)
    def whole_pictures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It sees four quarters of what the tower's last layer gives."""
        monkeypatch.setattr(mini_spec, "IMAGE_SIZE", 260)

    def pictures(self, folder: Path) -> list[Listed]:
        colours = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
        rows = []
        for name, colour in colours.items():
            Image.new("RGB", (40, 40), colour).save(folder / f"{name}.png")
            rows += [Row(Item(f"code {name} {at}"), Item(image=folder / f"{name}.png"), name) for at in range(3)]
        return [Listed("pictures", rows)]

    def test_learns_alone(self, tmp_path: Path) -> None:
        """Experts and routers at rest: what changes is how pictures are seen, and nothing else."""
        tasks = self.pictures(tmp_path)
        settings = (
            "steps=12",
            "projector=true",
            "learning_rate=0",
            "router_learning_rate=0",
            "projector_learning_rate=0.0005",
            "margin=none",
        )
        report = train(job(tmp_path / "run", *settings, train=tasks, held_out=tasks))
        assert report.checkpoint and report.before and report.validation
        assert report.validation.mrr > report.before.mrr
        trained, base = Embedder.load(str(report.checkpoint), "cpu"), Embedder.load(small().model.base, "cpu")
        texts, pictures = [Item("a red boat")], [Item(image=tmp_path / "red.png")]
        assert np.abs(trained.embed(texts).vectors - base.embed(texts).vectors).max() < 1e-6
        assert np.abs(trained.embed(pictures).vectors - base.embed(pictures).vectors).max() > 1e-3

    def test_comes_back_whole(self, tmp_path: Path) -> None:
        """After an interruption it is what it would have been, and as a checkpoint what it was in training."""
        tasks = self.pictures(tmp_path)
        settings = ("steps=4", "projector=true", "checkpoint_every=2", "margin=none")
        whole = train(job(tmp_path / "whole", *settings, train=tasks, held_out=tasks)).checkpoint
        seen: list[int] = []
        with pytest.raises(Stopped):
            stopping = replace(
                job(tmp_path / "cut", *settings, train=tasks, held_out=tasks),
                stop=lambda: seen.append(1) or len(seen) > 2,
            )
            train(stopping)
        again = train(job(tmp_path / "cut", *settings, train=tasks, held_out=tasks, resume=True)).checkpoint
        assert whole and again and same(weights(whole), weights(again))
        assert (whole / checkpoint.PROJECTOR).read_bytes() == (again / checkpoint.PROJECTOR).read_bytes()
        (again / checkpoint.PROJECTOR).unlink()
        with pytest.raises(ModelError, match=r"without projector\.safetensors"):
            Embedder.load(str(again), "cpu")


def test_documents_and_bare_queries_are_held_to_what_they_were(tmp_path: Path) -> None:
    """The more they are held, the less they drift, while queries with an instruction still learn."""
    base = Embedder.load(small().model.base, "cpu")
    told, bare = two_tasks()
    told.rows = [replace(row, query=replace(row.query, instruction="Find the thing:")) for row in told.rows]
    sides = {"documents": [row.positive for row in told.rows], "bare": [row.query for row in bare.rows]}
    before = {name: base.embed(items).vectors for name, items in sides.items()}
    drift = {}
    for keep in (0, 10):
        held = (f"loss.distillation_weight={keep}", f"loss.query_distillation_weight={keep}")
        settings = ("steps=16", "learning_rate=0.001", "margin=none", "validate_every=16", *held)
        report = train(job(tmp_path / str(keep), *settings, train=[told, bare], held_out=[told]))
        after = Embedder.load(str(report.checkpoint), "cpu")
        drift[keep] = {
            name: float(1 - (before[name] * after.embed(items).vectors).sum(1).mean()) for name, items in sides.items()
        }
        assert report.before and report.validation and report.validation.hit > report.before.hit
        parts = records(tmp_path / str(keep), "step")[-1]["parts"]
        assert ("distillation" in parts) == ("query_distillation" in parts) == bool(keep)
    for name in sides:
        assert drift[10][name] < drift[0][name] / 3, name


def test_a_few_bad_rows_are_left_out(tmp_path: Path) -> None:
    tasks = two_tasks()
    tasks[0].rows[3] = replace(tasks[0].rows[3], positive=Item(image=tmp_path / "gone.png"))
    report = train(job(tmp_path / "run", "steps=4", "task_temperature=1", train=tasks))
    notes = [record["message"] for record in records(tmp_path / "run", "note")]
    assert report.steps == 4 and notes and all(note.startswith("A row is left out. words:4: ") for note in notes)
