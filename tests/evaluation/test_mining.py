"""Hard negatives, mined: never right, never nearly right, and rows that can be trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.colours import COLOURS, ColourBackbone
from tsembed_search.cli.main import app
from tsembed_search.data.rows import Task
from tsembed_search.data.training import load
from tsembed_search.errors import UsageError
from tsembed_search.evaluation.mining import Mined, Mining, TaskTally, mine, written
from tsembed_search.evaluation.target_pool import indexed, pooled
from tsembed_search.index import Index
from tsembed_search.model.embedder import Embedder
from tsembed_search.store.base import StoreSettings

ROWS = [
    {"query": "red stone", "positive": "a red stone wall", "identity": "wall", "group": "walls"},
    {"query": "red stone old", "positive": "an old red stone wall"},
    {"query": "green grass", "positive": "grass that is green"},
    {"query": "blue sea", "positive": "the sea is blue", "negatives": ["a blue car"]},
    {"query": "blue car", "positive": "the car is blue"},
    {"query": "red stone", "positive": "stone of red"},
    {"query": "yellow sun", "positive": "sun yellow high"},
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def mined(rows: Path, **settings: object) -> tuple[list[Mined], TaskTally]:
    (task,) = load([rows], validation=0).train
    return found(task, Mining(**settings))  # type: ignore[arg-type]


def found(task: Task, settings: Mining) -> tuple[list[Mined], TaskTally]:
    tally = TaskTally(task.name)
    return list(mine(Embedder(ColourBackbone()), task, settings, tally)), tally


def test_another_rows_right_answer_is_never_a_negative(rows: Path) -> None:
    every = {"margin": 1.0, "query_margin": 1.0, "duplicate_margin": 1.0, "keep": 6, "depth": 7}
    for one in mined(rows, **every)[0]:
        if one.row.query.text == "red stone":
            texts = {item.text for item in one.row.negatives}
            assert texts and not texts & {"a red stone wall", "stone of red"}


def test_what_is_nearly_right_is_dropped_by_each_margin(rows: Path) -> None:
    everything = {"margin": 1.0, "query_margin": 1.0, "duplicate_margin": 1.0, "keep": 6, "depth": 7}
    near = "an old red stone wall"

    def of_first(**margins: float) -> tuple[set[str | None], TaskTally]:
        rows_found, tally = mined(rows, **{**everything, **margins})
        return {item.text for item in rows_found[0].row.negatives}, tally

    assert near in of_first()[0]
    for name, reason in (("query_margin", "query"), ("duplicate_margin", "duplicate"), ("margin", "score")):
        texts, tally = of_first(**{name: 0.5})
        assert near not in texts
        assert tally.dropped[reason] > 0  # type: ignore[index]


def test_own_negatives_stay_first_and_rows_can_be_trained_on(rows: Path, tmp_path: Path) -> None:
    kept, tally = mined(rows, keep=2, choose="top")
    assert kept[3].row.negatives[0].text == "a blue car"
    assert tally.rows == len(ROWS) and tally.negatives == sum(len(one.ranks) for one in kept) > 0
    out = tmp_path / "mined" / "out.jsonl"
    out.parent.mkdir()
    out.write_text("".join(written(one, "colours", out.parent) + "\n" for one in kept))
    data = load([out], validation=0)
    assert not data.unread and not data.problems
    (task,) = data.train
    again = [task[number] for number in range(len(task))]
    assert [one.negatives for one in again] == [one.row.negatives for one in kept]
    assert again[0].group == "walls"
    assert len({one.identity for one in again}) == len({one.row.identity for one in kept})
    note = json.loads(out.read_text().splitlines()[0])["mined"]
    assert note["positive"]["rank"] == kept[0].right_rank
    assert [one["rank"] for one in note["negatives"]] == list(kept[0].ranks)


def test_batches_hold_what_is_taken_for_one_another(tmp_path: Path) -> None:
    """Written, read back, and drawn together; negatives are left alone."""
    words = {"red": "car sea wall door", "green": "grass tree leaf frog", "blue": "sky lake ink whale"}
    things = [f"{colour} {own[at]}" for at in range(4) for colour, own in ((one, words[one].split()) for one in words)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"query": f"{one} seen", "positive": one}) + "\n" for one in things))
    near = {"margin": 1.0, "query_margin": 1.0, "duplicate_margin": 1.0}
    kept, _ = mined(path, keep=0, batch=4, depth=3, **near)
    assert not any(one.row.negatives for one in kept)
    out = tmp_path / "mined.jsonl"
    out.write_text("".join(written(one, "colours", tmp_path) + "\n" for one in kept))
    (task,) = load([out], validation=0).train
    numbers = [task.batch(row) for row in range(len(task))]
    assert 0 not in numbers and len(set(numbers)) == 3
    for number in set(numbers):
        texts = [task[row].positive.text or "" for row in range(len(task)) if numbers[row] == number]
        assert len({text.split()[0] for text in texts}) == 1


def test_rows_of_one_identity_are_in_one_batch(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"query": f"red {at}", "positive": f"red {at}", "identity": f"{at // 2}"} for at in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, _ = mined(path, keep=0, batch=2)
    assert all(kept[at].batch == kept[at + 1].batch for at in range(0, 8, 2))
    assert len({one.batch for one in kept}) == 2


def test_what_is_of_the_wrong_kind_is_a_negative_where_an_instruction_names_the_kind(tmp_path: Path) -> None:
    for colour in ("red", "green"):
        Image.new("RGB", (20, 20), COLOURS[colour]).save(tmp_path / f"{colour}.png")
    rows = [
        {"query": {"text": "red", "instruction": "Find its name"}, "positive": "red wall", "task": "names"},
        {"query": {"text": "green"}, "positive": "green grass", "task": "names"},
        {"query": {"text": "red", "instruction": "Find a picture"}, "positive": {"image": "red.png"}, "task": "shown"},
        {"query": {"text": "green"}, "positive": {"image": "green.png"}, "task": "shown"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks, embedder = load([path], validation=0).train, Embedder(ColourBackbone())
    pool = pooled(embedder, tasks)
    assert len(pool.items) == 4
    got = {}
    for task in tasks:
        tally = TaskTally(task.name)
        for one in mine(embedder, task, Mining(keep=0, wrong_kind=1), tally, pool=pool):
            got[task.name, one.row.query.text] = [item.text or Path(item.image).name for item in one.row.negatives]
        assert tally.wrong_kind == 1
    assert got == {
        ("names", "red"): ["red.png"],
        ("names", "green"): [],
        ("shown", "red"): ["red wall"],
        ("shown", "green"): [],
    }


def test_what_an_index_holds_is_a_candidate_too(rows: Path, tmp_path: Path) -> None:
    """But not what holds the same as a right answer, nor what holds the same as the query."""
    folder = tmp_path / "notes"
    folder.mkdir()
    texts = ("green grass", "grass that is green", "grass and trees, green all over")
    for at, text in enumerate(texts):
        (folder / f"{at}.txt").write_text(text)
    Image.new("RGB", (20, 20), COLOURS["green"]).save(folder / "green.png")
    embedder = Embedder(ColourBackbone())
    with Index.open("notes", embedder=embedder, create=StoreSettings(0)) as index:
        index.add([folder])
        more = indexed(index.store)
    assert {item.text or Path(item.image).name for item in more.items} == {*texts, "green.png"}
    (task,) = load([rows], validation=0).train
    settings = Mining(keep=9, depth=9, margin=1.0, query_margin=1.0, duplicate_margin=1.0)
    found = list(mine(embedder, task, settings, TaskTally(task.name), more=more))
    green = {item.text or Path(item.image).name for item in found[2].row.negatives}
    assert {texts[2], "green.png"} <= green and not green & set(texts[:2])
    assert len({one.batch for one in mine(embedder, task, replace(settings, batch=2), TaskTally(""), more=more)}) == 4


def test_an_index_of_the_command_brings_its_own_model(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "one.txt").write_text("the grass of the meadow is green and high")
    assert CliRunner().invoke(app, ["index", str(folder), "--index", "notes", "--model", "mini-base"]).exit_code == 0
    out = tmp_path / "mined.jsonl"
    asked = ["data", "mine", str(rows), "--out", str(out), "--index", "notes", "--keep", "9", "--json"]
    done = CliRunner().invoke(app, [*asked, "--margin", "1", "--query-margin", "1", "--duplicate-margin", "1"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["model"] == "mini-base"
    assert "the grass of the meadow is green and high" in out.read_text()


def test_the_same_seed_chooses_the_same(rows: Path) -> None:
    settings = {"keep": 1, "margin": 1.0}
    first, again = (mined(rows, seed=3, **settings)[0] for _ in range(2))
    assert [one.ranks for one in first] == [one.ranks for one in again]
    others = [[one.ranks for one in mined(rows, seed=seed, **settings)[0]] for seed in range(5)]
    assert any(other != others[0] for other in others)


def test_a_row_whose_answer_is_far_down_gets_none(rows: Path) -> None:
    path = rows.with_name("far.jsonl")
    path.write_text(rows.read_text() + json.dumps({"query": "green grass", "positive": "black night"}) + "\n")
    path.write_text(path.read_text() + json.dumps({"query": "white wood", "positive": "yellow sun low"}) + "\n")
    last = mined(path, depth=2, keep=1)[0][-1]
    assert last.right_rank is None and not last.row.negatives


@pytest.mark.parametrize(
    "wrong", [{"keep": 5, "depth": 4}, {"skip": 98}, {"margin": 0.0}, {"query_margin": 1.5}, {"keep": 0}]
)
def test_settings_that_choose_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Mining(**wrong).check()  # type: ignore[arg-type]


def test_the_command_writes_a_file_once(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "mined.jsonl"
    asked = ["data", "mine", str(rows), "--out", str(out), "--model", "mini-base", "--keep", "2", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    (task,) = json.loads(done.stdout)["tasks"]
    assert task["rows"] == len(ROWS) == len(out.read_text().splitlines())
    before = out.read_text()
    assert CliRunner().invoke(app, asked).exit_code == 2
    assert out.read_text() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
