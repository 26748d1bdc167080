"""Training data: layouts, rows on disk, splits without leaks, weights and caps, and refusals."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsembed_search.data.gathering import StoredTask
from tsembed_search.data.rows import Row, Task
from tsembed_search.data.training import groups, held_out, load
from tsembed_search.errors import UsageError


def write(path: Path, rows: Sequence[Any]) -> Path:
    """Rows as JSON Lines; what is text already is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def plain(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows of the plain layout, each of its own target."""
    return [{"query": f"query {at}", "positive": f"target {at}"} for at in range(start, start + count)]


def all_rows(tasks: Sequence[Task]) -> list[Row]:
    """Every row of every task."""
    return [task[place] for task in tasks for place in range(len(task))]


def test_rows_of_every_layout_load(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).touch()
    mmeb = {
        "qry": "<|image_1|>\nWhat is it?", "qry_image_path": "images/a.png", "pos_text": "a cat", "pos_image_path": "",
        "neg_text": "a dog", "neg_image_path": "",
    }  # fmt: skip
    evaluation = {
        "qry_text": "find it", "qry_img_path": "", "tgt_text": ["", ""],
        "tgt_img_path": ["images/b.png", "images/a.png"],
    }  # fmt: skip
    own = {
        "query": {"text": "cat", "instruction": "Find"}, "positive": {"image": "images/a.png"},
        "negatives": ["dog", {"image": "images/b.png"}],
    }  # fmt: skip
    write(tmp_path / "rows.jsonl", [mmeb, evaluation, own])
    data = load([tmp_path], validation=0)
    (task,) = data.train
    assert (task.name, len(task), task.weight, data.validation, data.problems) == ("rows", 3, 1.0, [], [])
    first, second, third = (task[place] for place in range(3))
    assert (first.query.text, first.query.image) == ("What is it?", tmp_path / "images/a.png")
    assert (first.positive.text, [one.text for one in first.negatives]) == ("a cat", ["a dog"])
    assert (second.positive.image, second.negatives) == (tmp_path / "images/b.png", ())
    assert (third.query.instruction, len(third.negatives)) == ("Find", 2)
    assert [row.origin for row in (first, second, third)] == [f"{tmp_path}/rows.jsonl:{line}" for line in (1, 2, 3)]
    assert [task.identity(place) for place in range(3)] == [row.identity for row in (first, second, third)]


def test_rows_come_in_any_order_and_in_other_processes(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ["", *plain(50), "", *plain(50, 50)])
    (task,) = load([tmp_path], validation=0).train
    again: Task = pickle.loads(pickle.dumps(task))
    for place in (99, 0, 50, 49, 7):
        assert again[place].query.text == task[place].query.text == f"query {place}"
    assert isinstance(task, StoredTask)
    assert task.table.nbytes == 56 * len(task)


def test_bad_rows_are_told_by_file_and_line_and_not_fatal(tmp_path: Path) -> None:
    rows = [*plain(30), "not json", {"query": "no positive"}, {"query": "cat", "positive": {"image": "none.png"}}]
    file = write(tmp_path / "rows.jsonl", rows)
    data = load([file], validation=0)
    assert len(data.train[0]) == 30
    assert [(one.line, one.fault) for one in data.problems] == [(31, "json"), (32, "fields"), (33, "image")]
    assert str(data.problems[2]) == f"{file}:33: there is no image none.png"
    assert data.left_out == {file: 3}


def test_a_large_share_of_bad_rows_is_refused_in_words(tmp_path: Path) -> None:
    rows = [{"query": "cat", "positive": {"image": f"{at}.png"}} for at in range(8)]
    file = write(tmp_path / "rows.jsonl", [*plain(12), *rows])
    with pytest.raises(UsageError, match=r"8 of 20 rows of .* line 13: there is no image 0\.png") as caught:
        load([file])
    assert "{images}" in caught.value.hint
    for at in range(8):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / f"elsewhere/{at}.png").touch()
    assert len(load([file], validation=0, images=[tmp_path / "elsewhere"]).train[0]) == 20


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("none.jsonl", [], "nothing to train on"),
        ("test.jsonl", plain(3), "named for test"),
        ("wrong.jsonl", [{"anchor": "a", "positives": "b"}] * 5, "this one has anchor, positives"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, name: str, rows: list[Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load([write(tmp_path / "set" / name, rows)])
    with pytest.raises(UsageError, match="no data"):
        load([])


def test_several_tasks_with_weights_caps_and_patterns(tmp_path: Path) -> None:
    for name, start in (("birds_a", 0), ("birds_b", 100), ("fish", 200)):
        write(tmp_path / f"{name}.jsonl", plain(40, start))
    write(tmp_path / "more.jsonl", [{**row, "task": "fish"} for row in plain(10, 300)])
    options: dict[str, Any] = {"weights": {"birds_*": 3, "birds_b": 0.5}, "caps": {"fish": 15}, "validation": 0}
    found = {task.name: task for task in load([tmp_path], **options).train}
    assert {name: (len(task), task.weight) for name, task in found.items()} == {
        "birds_a": (40, 3.0), "birds_b": (40, 0.5), "fish": (15, 1.0)
    }  # fmt: skip
    same = {task.name: task for task in load([tmp_path], **options).train}
    assert [row.query for row in all_rows([same["fish"]])] == [row.query for row in all_rows([found["fish"]])]
    assert [task.name for task in load([tmp_path], only=["birds_*"]).train] == ["birds_a", "birds_b"]
    with pytest.raises(UsageError, match=r"No task of .* is called fsh") as caught:
        load([tmp_path], weights={"fsh": 1})
    assert "fish" in caught.value.hint


def test_shards_of_a_task_are_one_task(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"MSCOCO/train-0000{number}-of-00003.jsonl", plain(10, 10 * number))
    (task,) = load([tmp_path], validation=0).train
    assert (task.name, task.meta, len(task)) == ("MSCOCO", "grounding", 30)
    assert {row.query.text for row in all_rows([task])} == {f"query {at}" for at in range(30)}


def test_a_validation_file_is_the_validation_of_its_task(tmp_path: Path) -> None:
    write(tmp_path / "train/words.jsonl", plain(50))
    write(tmp_path / "validation/words.jsonl", plain(5, 100))
    write(tmp_path / "test/words.jsonl", plain(5, 200))
    write(tmp_path / "train/other.jsonl", plain(200, 300))
    data = load([tmp_path], validation=0.2)
    assert {task.name: len(task) for task in data.validation}["words"] == 5
    assert {task.name: len(task) for task in data.train}["words"] == 50
    other = {task.name: len(task) for task in data.validation}["other"]
    assert 10 < other < 80 and {task.name: len(task) for task in data.train}["other"] == 200 - other


@settings(max_examples=40, deadline=None)
@given(
    links=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60),
    share=st.sampled_from([0.1, 0.3, 5]),
    seed=st.integers(0, 5),
)
def test_no_tie_crosses_the_split(links: list[tuple[int, int, int]], share: float, seed: int) -> None:
    keys = np.array([[a + 1, b + 101, c + 1000 if c else 0] for a, b, c in links], np.uint64)
    group = groups(keys)
    out = held_out(group, seed, share)
    for column in range(3):
        sides: dict[int, set[bool]] = {}
        for key, side in zip(keys[:, column].tolist(), out.tolist(), strict=True):
            sides.setdefault(key, set()).add(side)
        assert all(len(found) == 1 for key, found in sides.items() if key)
    shuffled = np.random.default_rng(0).permutation(len(keys))
    assert np.array_equal(held_out(groups(keys[shuffled]), seed, share), out[shuffled])
    # Rows with the same group are linked indeed: by a walk over shared keys.
    assert len(set(group.tolist())) == _components(keys)


def _components(keys: np.ndarray[Any, Any]) -> int:
    left = set(range(len(keys)))
    count = 0
    while left:
        count += 1
        walk = [left.pop()]
        while walk:
            at = walk.pop()
            near = {other for other in left if any(a and a == b for a, b in zip(keys[at], keys[other], strict=True))}
            left -= near
            walk += near
    return count


def test_rows_and_images_of_an_identity_fall_on_one_side(tmp_path: Path) -> None:
    for at in range(120):
        (tmp_path / f"{at}.png").touch()
    # Three captions a picture, the picture's own classification, and pictures with one of four labels.
    captions = [
        {"query": f"caption {at} {n}", "positive": {"image": f"{at}.png"}} for at in range(120) for n in range(3)
    ]
    labels = [{"query": {"image": f"{at}.png"}, "positive": f"label {at % 4}"} for at in range(120)]
    write(tmp_path / "captions.jsonl", captions)
    write(tmp_path / "labels.jsonl", labels)
    data = load([tmp_path], validation=0.25, seed=1)
    train, held = all_rows(data.train), all_rows(data.validation)
    assert len(train) + len(held) == 480 and 40 < len(held) < 240

    def pictures(rows: Sequence[Row]) -> set[object]:
        return {item.image for row in rows for item in (row.query, row.positive) if item.image is not None}

    assert not pictures(train) & pictures(held)
    # A label is no identity: it is learned on one side and asked for on the other.
    assert {row.positive.text for row in held if row.positive.text} == {f"label {n}" for n in range(4)}
    again = load([tmp_path], validation=0.25, seed=1)
    assert [row.origin for row in all_rows(again.validation)] == [row.origin for row in held]
    other = load([tmp_path], validation=0.25, seed=2)
    assert pictures(all_rows(other.validation)) != pictures(held)


def test_new_rows_move_no_others(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", plain(200))
    before = {row.query.text for row in all_rows(load([tmp_path], validation=0.2).validation)}
    write(tmp_path / "rows.jsonl", plain(300))
    after = {row.query.text for row in all_rows(load([tmp_path], validation=0.2).validation)}
    assert before <= after and len(after - before) > 0


@pytest.mark.parametrize(("validation", "low", "high"), [(20, 15, 25), (0.02, 1, 12), (0, 0, 0), (10_000, 80, 100)])
def test_so_much_is_held_out(tmp_path: Path, validation: float, low: int, high: int) -> None:
    write(tmp_path / "rows.jsonl", plain(200))
    assert low <= len(all_rows(load([tmp_path], validation=validation).validation)) <= high


def test_parquet_rows_and_the_images_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setenv("TSEMBED_HOME", str(tmp_path / "home"))
    rows = [{"query": f"query {at}", "positive": {"text": None, "image": {"bytes": b"\x89PNG%d" % at, "path": "x"}}}
            for at in range(5)]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (task,) = load([tmp_path / "rows.parquet"], validation=0).train
    row = task[3]
    assert row.query.text == "query 3" and row.origin == f"{tmp_path}/rows.parquet:4"
    assert isinstance(row.positive.image, Path) and row.positive.image.read_bytes() == b"\x89PNG3"
