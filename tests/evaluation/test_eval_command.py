"""`tsembed eval` as people and scripts see it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from helpers.colour_index import solid
from helpers.colours import COLOURS, FINGERPRINT, ColourBackbone
from tsembed_search.cli.render import text as render
from tsembed_search.model.backbone import BuiltIn
from tsembed_search.model.registry import MODELS

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setitem(
        MODELS._entries, "colours", BuiltIn("colours", fingerprint=FINGERPRINT, loader="helpers.colours:load")
    )
    monkeypatch.setitem(
        MODELS._entries, "routed", BuiltIn("colours", fingerprint=FINGERPRINT, loader="test_eval_command:load_routed")
    )
    monkeypatch.setitem(sys.modules, "test_eval_command", sys.modules[__name__])
    from tsembed_search.cli.main import app

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["eval", *map(str, arguments)])

    return invoke


def load_routed(device: str = "auto") -> ColourBackbone:
    return ColourBackbone(device, experts=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    for colour, rgb in COLOURS.items():
        Image.fromarray(solid(*rgb)).save(folder / "images" / f"{colour}.png")
    words = list(COLOURS)
    rows = [{"query": {"image": f"images/{word}.png"}, "positive": word} for word in words]
    asked = [{"qry_text": word, "tgt_text": [f"{word} thing", f"{words[n - 1]} x"]} for n, word in enumerate(words)]
    for name, each in (("naming", rows), ("MSCOCO_t2i", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    return folder


def test_json_is_the_contracts(run: Run, data: Path) -> None:
    done = run(data, "--model", "colours", "--json", "--at", "3")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert list(said["tasks"]) == ["MSCOCO_t2i", "naming"]
    for figures in (*said["tasks"].values(), said["overall"], said["groups"]["in-distribution"]):
        for name in ("hit@1", "recall@10", "ndcg@10", "mrr", "recall@3"):
            low, high = figures["interval"][name]
            assert 0 <= low <= figures[name] <= high <= 1
        assert figures["n"] >= 6
    assert said["overall"]["hit@1"] == 1.0
    assert said["compare"] is None and said["rerank"] is None
    assert said["model"]["name"] == "colours"


def test_the_page_shows_the_document_as_it_is(run: Run, data: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text("utf-8")
    block = re.search(r"```json\n(.*?)```", page, flags=re.DOTALL)
    assert block is not None
    example, actual = json.loads(block[1]), json.loads(run(data, "--model", "colours", "--json").stdout)
    assert list(example) == list(actual)
    for part in ("model", "unread", "seconds", "data"):
        assert list(example[part]) == list(actual[part])
    assert list(example["tasks"]["clothing"]) == list(actual["tasks"]["naming"])
    for option in re.findall(r"`(--[a-z-]+)", page):
        assert option in page_of_options(run), option


def page_of_options(run: Run) -> str:
    """The command's help, wide enough to keep options whole."""
    return run("--help").stdout


def test_plain_lines_and_csv(run: Run, data: Path, tmp_path: Path) -> None:
    done = run(data, "--model", "colours", "--csv", tmp_path / "figures.csv")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["task", "MSCOCO_t2i", "retrieval", "naming", "in-distribution", "overall"]
    assert {len(line) for line in lines} == {14}
    assert "\x1b" not in done.stdout
    rows = list(csv.DictReader((tmp_path / "figures.csv").open()))
    assert [row["task"] for row in rows] == ["MSCOCO_t2i", "naming", "", "", ""]
    assert "12 queries" in done.stderr


@pytest.mark.parametrize("width", [80, 160])
def test_table_fits_the_terminal(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "is_terminal", lambda *, stderr=False: not stderr)
    monkeypatch.setenv("COLUMNS", str(width))
    done = run(data, "--model", "routed", "--rerank", "expert", "--route-weight", "0.2", "--compare", "colours", "-q")
    assert done.exit_code == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= width
    for words in ("all tasks", "all retrieval", "in-distribution", "colours less colours", "Re-ranked by experts"):
        assert words in done.stdout
    assert done.stdout.count("95%") == (4 if width == 160 else 1)


def test_names_of_tasks_are_shown_safely(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"query": "red", "positive": "red", "task": "\x1b[31m[b]n"}
    (data / "evil.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(render, "is_terminal", lambda *, stderr=False: not stderr)
    done = run(data, "--model", "colours")
    assert "\x1b[31m" not in done.stdout and r"\x1b[31m[b]n" in done.stdout


def test_a_sweep_and_a_comparison_in_json(run: Run, data: Path) -> None:
    said = json.loads(
        run(data, "--model", "routed", "--rerank", "expert", "--sweep", "--compare", "colours", "--json").stdout
    )
    assert len(said["rerank"]["sweep"]["curve"]) == 21
    assert 0 <= said["rerank"]["weight"] <= 1
    assert said["compare"]["rerank"] is None  # colours has no experts
    difference = said["compare"]["difference"]["overall"]
    assert difference["n"] == said["rerank"]["sweep"]["reported_on"] == said["overall"]["n"]


def test_bad_rows_are_told_and_left_out(run: Run, data: Path) -> None:
    with (data / "naming.jsonl").open("a") as file:
        file.write("{broken\n")
    done = run(data, "--model", "colours", "--json")
    assert done.exit_code == 0
    assert "naming.jsonl:7: not valid JSON" in done.stderr
    assert json.loads(done.stdout)["data"]["left_out"]["rows"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "nothing-like-it"], 1, "nothing-like-it"),
        (["--model", "colours", "--compare", "nothing-like-it"], 1, "nothing-like-it"),
        (["--model", "colours", "--rerank", "expert"], 2, "no experts"),
        (["--model", "colours", "--rerank", "mmr"], 2, "none or expert"),
        (["--model", "colours", "--sweep"], 2, "--rerank expert"),
        (["--model", "colours", "--instructions", "all"], 2, "text, field, none"),
        (["--model", "colours", "--task", "other"], 2, "MSCOCO_t2i, naming"),
        (["--model", "colours", "--csv", "no/such/folder/x.csv"], 2, "no folder"),
    ],
)
def test_refusals(run: Run, data: Path, arguments: list[str], code: int, words: str) -> None:
    done = run(data, *arguments)
    assert done.exit_code == code
    assert words in done.stderr and done.stdout == ""


def test_refuses_data_that_is_not_there_or_without_images(run: Run, data: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere", "--model", "colours")
    assert done.exit_code == 2 and "There is no" in done.stderr
    for path in (data / "images").iterdir():
        path.unlink()
    done = run(data / "naming.jsonl", "--model", "colours")
    assert done.exit_code == 2
    assert "None of the images" in done.stderr and "naming.jsonl:1" in done.stderr


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        ("tsembed_search.cli.eval", ("torch", "numpy", "rich.table")),
        ("tsembed_search.evaluation.evaluate, tsembed_search.data.tasks, tsembed_search.ranking.metrics", ("torch",)),
    ],
)
def test_reading_and_measuring_import_no_torch(modules: str, without: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print([name for name in {without} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_depths_stand_beside_the_whole_model(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (data, "--model", "mini-base", "--task", "MSCOCO_t2i", "--depths", "6,2", "--dims", "64")
    said = json.loads(run(*asked, "--json").stdout)
    assert list(said["depths"]) == ["2", "6"]
    assert said["depths"]["6"]["overall"]["mrr"] == said["overall"]["mrr"]
    assert said["depths"]["6"]["dims"]["64"]["overall"] == said["dims"]["64"]["overall"]
    assert said["depths"]["6"]["difference"]["overall"]["mrr"] == 0
    assert said["depths"]["2"]["parameters"] < said["depths"]["6"]["parameters"] == said["model"]["parameters"]
    lines = [line.split("\t") for line in run(*asked, "-q").stdout.splitlines()]
    names = [line[0].removesuffix("overall") for line in lines if line[0].endswith("overall")]
    assert names == ["", "dim 64 ", "depth 2 ", "depth 2 dim 64 ", "depth 6 ", "depth 6 dim 64 "]
    monkeypatch.setattr(render, "is_terminal", lambda *, stderr=False: not stderr)
    shown = " ".join(run(*asked, "-q").stdout.split())
    assert re.search(r"After 2 blocks \([\d.]+ ms an item instead of [\d.]+\): hit@1 ", shown)
    assert "After 6 blocks, cut to 64 numbers: hit@1" in shown


@pytest.mark.parametrize(
    ("depths", "words"),
    [("7", "mini has 6 blocks, not 7"), ("0", "cannot stop after 0 blocks"), ("three", "--depths cannot be 'three'")],
)
def test_depths_that_there_are_not_are_refused(run: Run, data: Path, depths: str, words: str) -> None:
    done = run(data, "--depths", depths)
    assert done.exit_code != 0 and words in " ".join(done.stderr.split())
