"""The report on parallel paths: on made-up paths whose figures are known, and as people and scripts see it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from tsembed_search.cli.main import app
from tsembed_search.data.rows import RankingTask
from tsembed_search.evaluation.diversity import PathReport, likeness, report_of, with_noise
from tsembed_search.evaluation.evaluate import Embedded, EmbeddedTasks
from tsembed_search.items import Item
from tsembed_search.model import checkpoint, registry
from tsembed_search.model.backbones import mini
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.path_settings import PathSettings
from tsembed_search.ranking.similarity import best_pairs, rank

Floats = NDArray[np.float32]
COUNT = 8


def random(*shape: int, seed: int = 0) -> Floats:
    drawn = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    found: Floats = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    return found


def report(queries: Floats, documents: Floats) -> PathReport:
    """Of paths `[N, P, D]`; query i should find document i."""
    task = RankingTask(
        "made up", "", [Item(f"q{at}") for at in range(COUNT)], [Item(f"d{at}") for at in range(COUNT)],
        [frozenset({at}) for at in range(COUNT)],
    )  # fmt: skip
    rows = np.arange(COUNT)
    parts = []
    for paths in (queries, documents):
        flat = paths.reshape(COUNT, -1)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        parts.append(Embedded(flat, np.zeros((COUNT, 0), np.float32), {}))
    settings = PathSettings("suffix", queries.shape[1])
    return report_of("made up", settings, EmbeddedTasks(*parts, [(rows, rows)]), [task])


class TestLikeness:
    def test_identical_paths(self) -> None:
        found = likeness(np.repeat(random(50, 1, 16), 3, axis=1))
        assert found.cosine == pytest.approx(1) and found.alignment == pytest.approx(1)
        assert found.rank == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(found.cosines, 1)

    def test_orthogonal_paths(self) -> None:
        """Each in numbers of its own: cosine 0 and full rank; and no alignment, where they are independent as well."""
        paths = np.zeros((4000, 3, 12), np.float32)
        for path in range(3):
            paths[:, path, 4 * path : 4 * path + 4] = random(4000, 4, seed=path)
        found = likeness(paths)
        assert found.cosine == pytest.approx(0, abs=1e-6) and found.rank == pytest.approx(3, abs=1e-6)
        assert found.alignment < 0.01

    def test_a_rotation_is_no_other_content(self) -> None:
        one = random(200, 6)
        turned = one @ np.linalg.qr(random(6, 6, seed=1))[0]
        found = likeness(np.stack([one, turned.astype(np.float32)], axis=1))
        assert found.alignment == pytest.approx(1, abs=1e-5) and found.cosine < 0.9

    def test_what_could_not_be_embedded_is_left_out(self) -> None:
        paths = np.repeat(random(5, 1, 4), 2, axis=1)
        paths[3] = 0
        assert likeness(paths).cosine == pytest.approx(1)


class TestReport:
    def test_identical_paths_are_one_path(self) -> None:
        paths = np.repeat(random(COUNT, 1, 3), 4, axis=1)
        found = report(paths, paths + np.repeat(random(COUNT, 1, 3, seed=5), 4, axis=1))
        scores = {name: one.mean for name, one in found.scores().items()}
        first = scores["path 0"]
        assert 0 < first < 1
        for name in ("path 1", "path 2", "path 3", "mean", "concat", "maxsim", "oracle"):
            assert scores[name] == first, name
        assert all(found.gains()[name].mean == 0 for name in ("mean", "concat", "maxsim", "oracle"))

    def test_paths_that_know_different_things(self) -> None:
        """Path 0 finds the even ones, path 1 the odd ones, and the others by chance at most: together they find all."""
        queries, documents = random(COUNT, 2, COUNT, seed=1), random(COUNT, 2, COUNT, seed=2)
        for at in range(COUNT):
            queries[at, at % 2] = documents[at, at % 2] = np.eye(COUNT, dtype=np.float32)[at]
        found = report(queries, documents)
        scores = {name: one.mean for name, one in found.scores().items()}
        best = max(scores["path 0"], scores["path 1"])
        assert scores["oracle"] == 1.0 and 0.5 <= best < 1
        assert scores[found.names[found.best]] == best
        assert found.gains()["oracle"].mean == pytest.approx(1 - best)

    def test_a_path_that_matters_is_missed(self) -> None:
        """The better half of the vector swapped for noise costs; the figure is the mean over paths."""
        good, noise = random(COUNT, 16), random(COUNT, 16, seed=2)
        found = report(np.stack([good, noise], 1), np.stack([good, random(COUNT, 16, seed=3)], 1))
        assert found.names[found.best] == "path 0"
        assert found.scores()["path 0"].mean == 1.0
        assert found.gains()["noise"].mean < 0

    def test_noise_is_in_one_path_and_as_long(self) -> None:
        whole = random(COUNT, 12)
        noisy = with_noise(whole, 3, 1, np.random.default_rng(0))
        np.testing.assert_array_equal(noisy[:, [0, 1, 2, 3, 8, 9, 10, 11]], whole[:, [0, 1, 2, 3, 8, 9, 10, 11]])
        lengths = [np.linalg.norm(part[:, 4:8], axis=1) for part in (whole, noisy)]
        np.testing.assert_allclose(*lengths, rtol=1e-5)
        assert np.abs(noisy - whole)[:, 4:8].max() > 0.01

    def test_json(self) -> None:
        said = report(random(COUNT, 2, 4), random(COUNT, 2, 4)).to_json()
        json.dumps(said)
        assert said["paths"]["count"] == 2 and said["best"] in ("path 0", "path 1")
        assert said["hit@1"].keys() == {"path 0", "path 1", "mean", "concat", "maxsim", "oracle", "noise"}
        assert said["tasks"]["overall"]["n"] == said["tasks"]["made up"]["n"] == COUNT
        assert set(said["less_best"]) == {"mean", "concat", "maxsim", "oracle", "noise"}


def test_best_pairs_as_a_loop_says() -> None:
    queries, items = random(5, 3, 4), random(6, 3, 4, seed=1)
    expected = [[np.mean([max(q @ d for d in item) for q in query]) for item in items] for query in queries]
    flat = [part.reshape(len(part), 12) / np.float32(3**0.5) for part in (queries, items)]
    np.testing.assert_allclose(best_pairs(flat[0], flat[1], 3), expected, atol=1e-6)
    ranked = rank(flat[0], flat[1], [frozenset({at, 5}) for at in range(5)], paths=3)
    for row in range(5):
        scores = np.array(expected[row])
        best = 1 + min(sum(scores > scores[place]) for place in (row, 5))
        assert ranked.ranks.best()[row] <= best + 1 and ranked.ranks.best()[row] >= 1
        assert ranked.ranks.best()[row] == 1 + min(
            sum(scores[other] > scores[place] for other in range(6) if other not in (row, 5)) for place in (row, 5)
        )


@pytest.fixture
def model(tmp_path: Path, small_base: None) -> Path:
    """Mini with two layers and three random paths."""
    backbone = mini.load("cpu")
    torch.manual_seed(0)
    backbone.adapt(AdapterSettings(experts=2, rank=1))
    backbone.add_paths(PathSettings("suffix", 3, 1))
    return checkpoint.save(tmp_path / "model", backbone, registry.resolve("mini-base"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    words = ["apple", "boat", "cat", "door", "engine", "flower"]
    rows = [{"query": f"a picture of a {word}", "positive": word} for word in words]
    file = tmp_path / "words.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


class TestCommand:
    def test_report(self, model: Path, data: Path, tmp_path: Path) -> None:
        plot = tmp_path / "plot.svg"
        done = CliRunner().invoke(
            app, ["eval", str(data), "--model", str(model), "--paths", "--json", "--plot", str(plot)]
        )
        assert done.exit_code == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["paths"] == {"kind": "suffix", "count": 3, "length": 1, "combine": "first"}
        assert said["tasks"]["overall"]["n"] == 6 and said["hit@1"]["path 0"]["hit@1"] > 0.5
        assert plot.read_text().startswith("<svg") and "maxsim" in plot.read_text()
        plain = CliRunner().invoke(app, ["eval", str(data), "--model", str(model), "--paths", "--quiet"])
        lines = [line.split("\t") for line in plain.stdout.splitlines()]
        assert [line[0] for line in lines] == [
            "paths", "path 0", "path 1", "path 2", "mean", "concat", "maxsim", "oracle", "noise",
            "cosine", "cka", "effective rank",
        ]  # fmt: skip
        assert float(lines[1][1]) == pytest.approx(said["hit@1"]["path 0"]["hit@1"], abs=1e-4)

    def test_refused(self, model: Path, data: Path, tmp_path: Path) -> None:
        for arguments, words in (
            (["--model", "mini-base", "--paths"], "mini-base has no parallel paths to compare"),
            (["--model", str(model), "--plot", "a.svg"], "--plot draws the report of --paths"),
            (["--model", str(model), "--paths", "--dims", "8"], "--paths makes a report of its own"),
            (["--model", f"{model}:64", "--paths"], "has no parallel paths to compare"),
            (["--model", str(model), "--paths", "--plot", str(tmp_path / "no" / "a.svg")], "There is no folder"),
        ):
            done = CliRunner().invoke(app, ["eval", str(data), *arguments])
            assert done.exit_code == 2, done.output
            assert words in " ".join(done.stderr.split()), done.stderr


def test_combine_makes_no_difference_to_the_report(model: Path, data: Path) -> None:
    """It measures all of them in any case."""
    found = []
    for how in ("first", "mean", "concat"):
        marker = model / checkpoint.MARKER
        said = json.loads(marker.read_text())
        said["method"]["paths"]["combine"] = how
        marker.write_text(json.dumps(said))
        done = CliRunner().invoke(app, ["eval", str(data), "--model", str(model), "--paths", "--json"])
        found.append(json.loads(done.stdout)["hit@1"])
    assert found[0] == found[1] == found[2]
    assert replace(PathSettings(count=2), combine="mean").used == 2
