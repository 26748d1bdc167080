"""Little data: all of it is trained on where nothing could be measured, and the run says that nothing is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.training_data import job, listed, small
from tsembed_search.data.training import DataSet, load
from tsembed_search.errors import UsageError
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.log import read
from tsembed_search.trainer.loop import train

pytestmark = pytest.mark.usefixtures("one_block")


def rows(folder: Path, name: str, targets: list[str], split: str = "") -> Path:
    """A file of rows, each with a query of its own."""
    file = folder / split / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"query": {"text": f"{name} {split} question {at}"}, "positive": {"text": target}}
        for at, target in enumerate(targets)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def counts(data: DataSet) -> tuple[int, int]:
    return sum(map(len, data.train)), sum(map(len, data.validation))


def measurable(data: DataSet) -> bool:
    return all(len({task.identity(row) for row in range(len(task))}) > 1 for task in data.validation)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("validation", [0.02, 0.1, 1, 0.9, 1000])
def test_what_is_held_out_can_be_measured(count: int, validation: float, tmp_path: Path) -> None:
    """Or nothing is held out. What is trained on can be told apart in any case."""
    for seed in range(5):
        data = load([rows(tmp_path, "few", [f"target {at}" for at in range(count)])], validation=validation, seed=seed)
        trained, held = counts(data)
        assert trained + held == count and measurable(data)
        assert len({data.train[0].identity(row) for row in range(trained)}) > 1


def test_tasks_that_are_too_small_for_their_share(tmp_path: Path) -> None:
    """Of many small tasks, those with one row held out get it back."""
    files = [rows(tmp_path, f"task{number}", [f"{number} {at}" for at in range(12)]) for number in range(20)]
    data = load(files, validation=0.1)
    assert sum(counts(data)) == 240 and measurable(data)
    assert data.validation, "some tasks have two or more"


def test_a_group_that_another_task_measures_stays(tmp_path: Path) -> None:
    """What is tied to rows that are held out and measured is not trained on."""
    many = [f"target {at}" for at in range(30)]
    data = load([rows(tmp_path, "many", many), rows(tmp_path, "few", many[:6])], validation=0.2)
    held = {task.identity(row) for task in data.validation for row in range(len(task))}
    trained = {task.identity(row) for task in data.train for row in range(len(task))}
    assert held and not held & trained


def test_many_rows_of_two_targets(tmp_path: Path) -> None:
    data = load([rows(tmp_path, "two", ["yes", "no"] * 8)], validation=0.1)
    assert counts(data) == (16, 0) or measurable(data)
    assert len({data.train[0].identity(row) for row in range(len(data.train[0]))}) == 2


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([], "Nothing is measured"),
        ([listed("one", ["a"])], "Nothing is measured"),
        ([listed("same", ["a", "a", "a"])], "Nothing is measured"),
        ([listed("one", ["a"]), listed("two", ["a", "b"])], "Not measured, for want of two different targets"),
        ([listed("two", ["a", "b"])], "Lambda was chosen by 2 queries"),
    ],
)
def test_it_is_said(held: list[object], words: str, tmp_path: Path) -> None:
    train(job(tmp_path / "run", "steps=1", held_out=held))
    notes = [record["message"] for record in read(tmp_path / "run/log.jsonl") if record["kind"] == "note"]
    assert [note for note in notes if note.startswith(words)]


@pytest.mark.parametrize("count", [2, 3])
def test_a_batch_beyond_the_data(count: int, tmp_path: Path) -> None:
    """The steps have what there is, and what was asked for in vain is said."""
    asked = Job(
        small("steps=2", "batch.size=8"),
        [listed("few", list("abc")[:count])],
        [],
        tmp_path / "run",
        "cpu",
        chosen=("batch.size",),
    )
    assert train(asked).steps == 2
    records = list(read(tmp_path / "run/log.jsonl"))
    assert [record["rows"] for record in records if record["kind"] == "step"] == [count, count]
    assert any(record.get("message", "").startswith("batch.size has no effect") for record in records)


@pytest.mark.parametrize("targets", [["one"], ["same"] * 3, ["label"] * 30])
def test_nothing_to_tell_apart(targets: list[str], tmp_path: Path) -> None:
    """Then the reason is true: all rows have one target, whatever was held out."""
    data = load([rows(tmp_path, "rows", targets)], validation=0.1)
    with pytest.raises(UsageError, match="all rows of rows have the same target"):
        train(Job(small(), data.train, data.validation, tmp_path / "run", "cpu"))
    assert not (tmp_path / "run").exists()
