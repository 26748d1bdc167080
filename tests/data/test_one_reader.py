"""Training, evaluation and `data check` take the same rows of every layout and container, and refuse the same ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from tsembed_search.cli.main import app
from tsembed_search.data.check import Report, check
from tsembed_search.data.records import MOST_LINE_BYTES, Problem, RowFile, RowRecord
from tsembed_search.data.rows import Row
from tsembed_search.data.sources import task_files
from tsembed_search.data.tasks import EvaluationData
from tsembed_search.data.tasks import load as load_evaluation
from tsembed_search.data.training import DataSet, load

pytestmark = pytest.mark.usefixtures("one_block")

COLOURS = ("red", "green", "blue", "grey")
GOOD: list[dict[str, Any]] = [{"query": f"question {at}", "positive": f"answer {at}"} for at in range(12)]


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, bytes]:
    """Some pictures, beside the rows and as bytes."""
    for colour in COLOURS:
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    return {colour: (tmp_path / f"{colour}.png").read_bytes() for colour in COLOURS}


def write(file: Path, rows: Sequence[Any]) -> Path:
    """Rows in the container that the file's name tells."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read_by_all(source: Path) -> tuple[DataSet, EvaluationData, Report]:
    """What training, evaluation and checking read; they have to agree on rows, problems and unread fields."""
    trained, evaluated, checked = load([source], validation=0), load_evaluation([source]), check([source])
    assert sum(map(len, trained.train)) == evaluated.rows == sum(task.rows for task in checked.tasks)
    assert list(map(str, trained.problems)) == list(map(str, evaluated.problems)) == list(map(str, checked.problems))
    assert list(map(str, trained.unread)) == list(map(str, evaluated.unread)) == list(map(str, checked.unread))
    assert sum(trained.left_out.values()) == len(evaluated.problems) == sum(task.bad.total() for task in checked.tasks)
    return trained, evaluated, checked


def rows_of(data: DataSet) -> list[Row]:
    return [task[number] for task in data.train for number in range(len(task))]


@pytest.mark.parametrize(
    "bad",
    [
        {"query": 1, "positive": "x"},
        {"query": "x", "positive": None},
        {"query": "x", "positive": "y", "negatives": [3]},
        {"query": "x", "positive": "y", "negatives": [{"image": "nowhere.png"}]},
        {"query": "x", "positive": "y", "negative_1": {"image": "nowhere.png"}},
        {"query": "x", "positive": "y", "identity": [1]},
        {"query": "x", "positive": "y", "task": {"name": "t"}},
        {"query": "x", "positive": {"image": ["red.png"]}},
        {"query": "x", "positive": {"image": {"bytes": "iVBO", "path": None}}},
        {"query": "x", "positive": {"image": "data:image/png;base64,iVBO"}},
        {"qry": "x", "pos_text": ["a", "b"]},
        {"qry": "x", "pos_text": "a", "neg_text": "", "neg_image_path": ["red.png", "nowhere.png"]},
        {"qry": "x", "pos_text": "a", "neg_text": ["b", "c"], "neg_image_path": ["red.png"]},
        {"qry_text": "x", "tgt_text": ["", ""], "tgt_img_path": ["red.png", "nowhere.png"]},
        {"qry_text": "x", "tgt_text": []},
        {"Query": "x", "Positive": "y"},
        {},
    ],
    ids=lambda row: json.dumps(row)[:40],
)
def test_a_row_counts_as_a_whole_or_is_named(tmp_path: Path, pictures: dict[str, bytes], bad: dict[str, Any]) -> None:
    data, evaluated, _ = read_by_all(write(tmp_path / "rows.jsonl", [*GOOD[:6], bad, *GOOD[6:]]))
    assert evaluated.rows == 12 and [problem.line for problem in data.problems] == [7]
    (task,) = evaluated.tasks
    assert {item.text for item in task.candidates} == {row["positive"] for row in GOOD}, "nothing of it is left behind"


def embedded(data: bytes, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


@pytest.mark.parametrize("form", ["path", "file and path", "bytes", "bytes and path", "raw bytes"])
@pytest.mark.parametrize("layout", ["plain", "plain item", "mmeb", "evaluation", "query"])
def test_a_picture_in_any_form(tmp_path: Path, pictures: dict[str, bytes], layout: str, form: str) -> None:
    forms: dict[str, Any] = {
        "path": lambda name: f"{name}.png", "file and path": lambda name: {"bytes": None, "path": f"{name}.png"},
        "bytes": lambda name: embedded(pictures[name]),
        "bytes and path": lambda name: embedded(pictures[name], "x.png"),
        "raw bytes": lambda name: pictures[name],
    }  # fmt: skip
    if (layout, form) == ("plain item", "path"):
        pytest.skip("a text is a text")
    other = dict(zip(COLOURS, COLOURS[1:] + COLOURS[:1], strict=True))
    layouts: dict[str, Any] = {
        "plain": lambda name: {
            "query": name, "positive": {"image": forms[form](name)}, "negatives": [{"image": forms[form](other[name])}]
        },
        "plain item": lambda name: {
            "query": name, "positive": forms[form](name), "negatives": [forms[form](other[name])]
        },
        "mmeb": lambda name: {
            "qry": name, "pos_text": "", "pos_image_path": forms[form](name), "neg_text": [""],
            "neg_image_path": [forms[form](other[name])],
        },
        "evaluation": lambda name: {
            "qry_text": name, "tgt_text": ["", ""], "tgt_img_path": [forms[form](name), forms[form](other[name])],
        },
        "query": lambda name: {"qry": "", "qry_image_path": forms[form](name), "pos_text": name},
    }  # fmt: skip
    data, evaluated, _ = read_by_all(write(tmp_path / "rows.parquet", [layouts[layout](name) for name in COLOURS]))
    assert not data.problems and evaluated.rows == 4
    for name, row in zip(COLOURS, rows_of(data), strict=True):
        item = row.query if layout == "query" else row.positive
        assert item.image.read_bytes() == pictures[name]
        if layout in ("plain", "plain item", "mmeb"):
            assert row.negatives[0].image.read_bytes() == pictures[other[name]]
    assert len(evaluated.tasks[0].candidates) == 4


@pytest.mark.parametrize(
    ("data", "rows", "lines"),
    [
        (b"\xef\xbb\xbf", 12, []),
        (b"\n\r\n  \n", 12, []),
        (b'{"query": "caf\xe9", "positive": "x"}\n', 12, [1]),
        (b'{"query": "x", "posi\n', 12, [1]),
        (b'[{"query": "x", "positive": "y"}]\n', 12, [1]),
        (b'{"query": "a", "positive": "b"} {"query": "c", "positive": "d"}\n', 12, [1]),
        (b"\x1f\x8b\x08\x00 not a line\n", 12, [1]),
        (b'{"query": "a", "positive": "b"}\r\n\r\n', 13, []),
        (b'{"query": "' + b"a" * MOST_LINE_BYTES + b'", "positive": "b"}\n', 12, [1]),
    ],
    ids=["mark", "blank", "latin-1", "cut", "list", "two on a line", "packed", "crlf", "long"],
)
def test_whatever_a_file_begins_with(tmp_path: Path, data: bytes, rows: int, lines: list[int]) -> None:
    file = write(tmp_path / "rows.jsonl", GOOD)
    file.write_bytes(data + file.read_bytes())
    found, evaluated, _ = read_by_all(file)
    assert evaluated.rows == rows and [problem.line for problem in found.problems] == lines
    assert [row.query.text for row in rows_of(found)][-12:] == [row["query"] for row in GOOD]


def test_a_line_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'"' + b"a" * (2 * MOST_LINE_BYTES + 7) + b'"\n{"query": "a"}\n')
    long, after = RowFile(file)
    assert isinstance(long, Problem) and "longer than" in long.reason
    assert isinstance(after, RowRecord) and after.line == 2 and after.offset == 2 * MOST_LINE_BYTES + 10


@pytest.mark.parametrize("name", ["damaged.parquet", "empty.parquet", "cut.parquet", "locked.jsonl", "folder.jsonl"])
def test_a_file_that_cannot_be_read_costs_itself(tmp_path: Path, name: str) -> None:
    write(tmp_path / "good.jsonl", GOOD)
    file = tmp_path / name
    if name == "cut.parquet":
        file.write_bytes(write(file, GOOD).read_bytes()[:-9])
    elif name == "locked.jsonl":
        file.symlink_to(tmp_path / "nothing")
    elif name == "folder.jsonl":
        file.symlink_to("/dev/null/none")
    else:
        file.write_bytes(b"PAR1 and no more" if name == "damaged.parquet" else b"")
    evaluated, report = load_evaluation([tmp_path]), check([tmp_path])
    assert evaluated.rows == 12
    (left_out,) = evaluated.problems
    assert left_out.path == file and left_out.line == 0 and str(left_out) == str(report.problems[0])
    result = CliRunner().invoke(app, ["train", str(tmp_path), "--dry-run"])
    assert result.exit_code == 2 and name in result.stderr, "training does without it only if it is told to"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Identity", "Identity (did you mean identity?)"),
        ("Negatives", "Negatives (did you mean negatives?)"),
        ("neg-text", "neg-text (did you mean neg_text?)"),
        ("neg_text", "neg_text (of another layout)"),
        ("tgt_text", "tgt_text (of another layout)"),
        ("neg_scores", "neg_scores"),
        ("label", "label"),
    ],
)
def test_fields_that_nothing_reads_are_named_once(tmp_path: Path, name: str, said: str) -> None:
    file = write(tmp_path / "rows.jsonl", [row | {name: "a value"} for row in GOOD])
    data, _, report = read_by_all(file)
    assert list(map(str, data.unread)) == [f"{file}: nothing reads the field {said}."]
    assert [finding.text for finding in report.findings if "nothing reads" in finding.text] == [str(data.unread[0])]
    shown = CliRunner().invoke(app, ["data", "check", str(file), "--json"])
    assert json.loads(shown.stdout)["unread_fields"] == [{"file": str(file), "fields": {name: 12}}]
    empty = write(tmp_path / "empty.jsonl", [row | {name: None} for row in GOOD])
    assert not read_by_all(empty)[0].unread, "an empty field has nothing to say"


def test_training_names_what_it_leaves_out(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row | {"Identity": "x", "score": 1} for row in GOOD] + [{"query": "alone"}])
    told = CliRunner().invoke(app, ["train", str(file), "--dry-run", "--quiet"]).stderr
    assert told.count("nothing reads the fields Identity (did you mean identity?), score.") == 1
    assert "1 row left out:" in told and f"{file}:13: a row needs a positive" in told


@pytest.mark.parametrize(
    "given",
    [
        {"negatives": ["a", "b"]}, {"negative": ["a", "b"]}, {"neg": ["a", "b"]}, {"hard_negatives": ["a", "b"]},
        {"negative_1": "a", "negative_2": "b"}, {"neg_1": "a", "neg_2": "b"}, {"negative": "a", "hard_negative": "b"},
        {"negatives": ["a", None, "", "b"]},
    ],
    ids=lambda given: " ".join(given),
)  # fmt: skip
def test_hard_negatives_by_the_names_of_other_libraries(tmp_path: Path, given: dict[str, Any]) -> None:
    data, evaluated, _ = read_by_all(write(tmp_path / "rows.jsonl", [GOOD[0] | given, *GOOD[1:]]))
    assert [item.text for item in rows_of(data)[0].negatives] == ["a", "b"]
    assert {item.text for item in evaluated.tasks[0].candidates} >= {"a", "b"} and not data.unread


@pytest.mark.parametrize("kind", ["rows", "pictures"])
@pytest.mark.parametrize("links", ["itself", "itself twice", "parent", "each other", "elsewhere"])
def test_a_folder_is_visited_once(tmp_path: Path, kind: str, links: str) -> None:
    top = tmp_path / "set"
    (top / "a").mkdir(parents=True)
    (top / "b").mkdir()
    if kind == "rows":
        write(top / "a/birds.jsonl", GOOD)
        write(top / "b/trees.jsonl", GOOD)
    else:
        for number, colour in enumerate(COLOURS):
            Image.new("RGB", (8, 8), colour).save(top / f"{'ab'[number % 2]}/{colour} thing.png")
    outside = write(tmp_path / "outside/stones.jsonl", GOOD)
    pairs = {
        "itself": [("latest", ".")], "itself twice": [("latest", "."), ("current", ".")], "parent": [("a/up", "..")],
        "each other": [("a/b", "../b"), ("b/a", "../a")], "elsewhere": [("linked", str(outside.parent))],
    }[links]  # fmt: skip
    for place, target in pairs:
        (top / place).symlink_to(target)
    report = check([top])
    count = 4 if kind == "pictures" else 24
    if links == "elsewhere":
        assert [file.path.name for file in task_files(top)][-1] == "stones.jsonl", "a link is followed"
        count = 12 if kind == "pictures" else 36
    assert sum(task.rows for task in report.tasks) == count
    assert all("more than once" not in finding.text for finding in report.findings)
