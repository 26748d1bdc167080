"""Reading evaluation data in its layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tsembed_search.data.rows import RankingTask
from tsembed_search.data.sources import meta_task
from tsembed_search.data.tasks import distribution, load
from tsembed_search.errors import UsageError


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    return path


def texts(task: RankingTask, places: Any) -> list[str | None]:
    return [task.candidates[place].text for place in places]


def test_mmeb_eval_rows_have_candidates_of_their_own(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    token = "<|image_1|>\nWhat is it?"
    file = write(
        tmp_path / "rows.jsonl",
        {"qry_text": token, "qry_img_path": "images/a.png", "tgt_text": ["cat", "dog"], "tgt_img_path": ["", ""]},
        {
            "qry_text": "bird",
            "qry_img_path": "",
            "tgt_text": ["", "dog", "dog"],
            "tgt_img_path": ["images/a.png", "", ""],
        },
    )
    (task,) = load([file]).tasks
    assert [query.text for query in task.queries] == ["What is it?", "bird"]
    assert task.queries[0].image == tmp_path / "images/a.png"
    assert task.choices is not None
    assert texts(task, task.choices[0]) == ["cat", "dog"]
    assert [texts(task, right) for right in task.correct] == [["cat"], [None]]
    assert len(task.choices[1]) == 2  # the same distractor twice is one candidate


def test_candidates_that_all_queries_share_are_ranked_for_all(tmp_path: Path) -> None:
    rows = [{"qry_text": q, "tgt_text": t} for q, t in (("a", ["x", "y"]), ("b", ["y", "x"]))]
    (task,) = load([write(tmp_path / "rows.jsonl", *rows)]).tasks
    assert task.choices is None
    assert [texts(task, right) for right in task.correct] == [["x"], ["y"]]


def test_a_distractor_that_says_the_same_as_the_right_one_is_right(tmp_path: Path) -> None:
    (task,) = load([write(tmp_path / "rows.jsonl", {"qry_text": "a", "tgt_text": ["x", "y", "x"]})]).tasks
    assert len(task.candidates) == 2 and task.correct == [frozenset({0})]


def test_pairs_share_all_candidates(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl",
        {"query": "fruit", "positive": "apple", "negatives": ["stone"]},
        {"query": "fruit", "positive": {"text": "pear"}},
        {"query": "animal", "positive": "cat"},
    )
    (task,) = load([file]).tasks
    assert task.choices is None
    assert [query.text for query in task.queries] == ["fruit", "animal"]
    assert texts(task, range(4)) == ["apple", "stone", "pear", "cat"]
    assert [sorted(texts(task, right), key=str) for right in task.correct] == [["apple", "pear"], ["cat"]]


def test_positives_of_one_identity_are_all_right(tmp_path: Path) -> None:
    rows = [
        {"qry": "small cat", "pos_text": "kitten", "identity": "cat"},
        {"qry": "large cat", "pos_text": "lion", "identity": "cat"},
        {"qry": "dog", "pos_text": "puppy", "neg_text": "wolf"},
    ]
    (task,) = load([write(tmp_path / "rows.jsonl", *rows)]).tasks
    assert [sorted(texts(task, right), key=str) for right in task.correct] == [["kitten", "lion"]] * 2 + [["puppy"]]
    assert len(task.candidates) == 4


def test_bad_rows_are_named_and_left_out(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl",
        {"query": "a", "positive": "x"},
        "{not json",
        {"query": "b", "positive": {"image": "missing.png"}},
        {"something": 1},
        {"qry_text": "c", "tgt_text": ["x", "y"], "tgt_img_path": [""]},
        {"qry_text": "c", "tgt_text": []},
    )
    data = load([file])
    assert len(data.tasks[0].queries) == 1
    assert [problem.line for problem in data.problems] == [2, 3, 4, 5, 6]
    assert str(data.problems[1]) == f"{file}:3: there is no image missing.png"
    assert "this one has something" in data.problems[2].reason
    assert "2 entries" in data.problems[3].reason


def test_test_splits_are_preferred_and_unseen_is_out_of_distribution(tmp_path: Path) -> None:
    row = {"query": "a", "positive": "x"}
    for name in ("train/t", "validation/t", "test/t", "unseen_test/u"):
        write(tmp_path / f"{name}.jsonl", row)
    (tmp_path / "tasks.json").write_text(json.dumps({"tasks": {"t": {"meta": "vqa"}, "u": {"meta": "retrieval"}}}))
    data = load([tmp_path])
    assert set(data.splits) == {"test", "unseen_test"}
    assert [(task.name, task.meta, task.distribution) for task in data.tasks] == [
        ("t", "vqa", ""),
        ("u", "retrieval", "out"),
    ]
    assert load([tmp_path], splits=["train"]).splits == ("train",)
    both = load([tmp_path], splits=["train", "test"])
    assert [task.name for task in both.tasks] == [f"{tmp_path.name}/{split}/t" for split in ("test", "train")]
    with pytest.raises(UsageError, match="no split called dev"):
        load([tmp_path], splits=["dev"])
    with pytest.raises(UsageError, match="no task called v"):
        load([tmp_path], only=["v"])


def test_a_limit_takes_the_same_queries_whatever_their_order(tmp_path: Path) -> None:
    rows = [{"query": f"q{n}", "positive": f"x{n}"} for n in range(40)]
    first = load([write(tmp_path / "a.jsonl", *rows)], limit=10, most_candidates=15).tasks[0]
    second = load([write(tmp_path / "b.jsonl", *rows[::-1])], limit=10, most_candidates=15).tasks[0]
    assert {query.text for query in first.queries} == {query.text for query in second.queries}
    assert len(first.queries) == 10 and len(first.candidates) == 15
    for task in (first, second):
        for query, right in zip(task.queries, task.correct, strict=True):
            assert texts(task, right) == [f"x{(query.text or '')[1:]}"]
    assert len(load([tmp_path / "a.jsonl"], limit=10).tasks[0].candidates) == 40


def test_a_limit_drops_candidates_that_no_query_needs(tmp_path: Path) -> None:
    rows = [{"qry_text": f"q{n}", "tgt_text": [f"x{n}", f"y{n}"]} for n in range(20)]
    task = load([write(tmp_path / "a.jsonl", *rows)], limit=5).tasks[0]
    assert len(task.candidates) == 10 and task.choices is not None
    for query, places, right in zip(task.queries, task.choices, task.correct, strict=True):
        number = (query.text or "")[1:]
        assert texts(task, places) == [f"x{number}", f"y{number}"] and texts(task, right) == [f"x{number}"]


def test_mmebs_own_tasks_are_grouped() -> None:
    assert (meta_task("MSCOCO"), distribution("MSCOCO")) == ("grounding", "in")
    assert (meta_task("OVEN"), distribution("OVEN")) == ("retrieval", "out")
    assert (meta_task("ImageNet-1K"), distribution("ImageNet-1K")) == ("classification", "in")
    assert (meta_task("GQA"), distribution("GQA")) == ("vqa", "out")
    assert distribution("mine") == ""


def test_instructions_go_where_they_are_wanted(tmp_path: Path) -> None:
    row = {"qry_text": "Find it: a cat", "qry_inst": "Find it:", "tgt_text": ["x", "y"]}
    file = write(tmp_path / "rows.jsonl", row)
    asked = [load([file], instructions=how).tasks[0].queries[0] for how in (None, "text", "field", "none")]
    assert [(one.text, one.instruction) for one in asked] == [
        ("Find it: a cat", None),
        ("Find it: a cat", None),
        ("a cat", "Find it:"),
        ("a cat", None),
    ]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no"):
        load([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no file of rows"):
        load([tmp_path / "empty"])
    with pytest.raises(UsageError, match="There are no rows"):
        load([write(tmp_path / "none.jsonl")])
    row = {"query": {"image": "a.png"}, "positive": "x"}
    with pytest.raises(UsageError, match="None of the images") as error:
        load([write(tmp_path / "bare.jsonl", row)])
    assert "{images}" in error.value.hint
    with pytest.raises(UsageError, match="None of the 2 rows"):
        load([write(tmp_path / "bad.jsonl", row, {"x": 1})])
