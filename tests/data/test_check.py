"""`tsembed data check`: what it says of a set, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tsembed_search.cli.main import app
from tsembed_search.data.check import check


def run(*arguments: object) -> Result:
    """`tsembed data ARGUMENTS`."""
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def write(path: Path, rows: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A set with a bit of everything that can be wrong."""
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG but no more")
    words = [{"query": f"gloss {at}", "positive": f"word {at}"} for at in range(40)]
    write(tmp_path / "train/words.jsonl", [*words, words[0], words[1], words[2], "no json", {"query": "x"}])
    pictures = [
        {"query": f"title {name}", "positive": {"image": f"{name}.png"}} for name in ("a", "b", "broken", "none")
    ]
    write(tmp_path / "train/pictures.jsonl", list(pictures))
    write(
        tmp_path / "test/words.jsonl", [{"query": "gloss 3", "positive": "word 3"}, {"query": "new", "positive": "one"}]
    )
    write(tmp_path / "validation/pictures.jsonl", [{"query": {"image": "a.png"}, "positive": "red"}])
    return tmp_path


def test_what_is_wrong_is_found(mixed: Path) -> None:
    report = check([mixed])
    tasks = {(task.name, task.split): task for task in report.tasks}
    words, pictures = tasks["words", "train"], tasks["pictures", "train"]
    assert (words.rows, words.identities, words.duplicates, words.bad.total()) == (43, 40, 3, 2)
    assert words.words == {"query": (2, 2), "target": (2, 2)} and words.kinds == {"text to text": 43}
    assert (pictures.rows, pictures.bad["image"], pictures.opened, len(pictures.damaged)) == (3, 1, 3, 1)
    assert "broken.png" in pictures.damaged[0]
    leaks = {(leak.split, leak.what): leak.rows for leak in report.leaks}
    assert leaks == {("test", "target"): 1, ("test", "query"): 1, ("validation", "query image"): 1}
    texts = [finding.text for finding in report.findings]
    assert any("images that were opened are damaged" in text for text in texts)
    assert any("words: 3 rows are there more than once" in text for text in texts)
    assert any("pictures has 3 different targets" in text for text in texts)
    assert report.usable


def test_a_clean_set_has_no_findings(tmp_path: Path) -> None:
    write(tmp_path / "words.jsonl", [{"query": f"gloss {at}", "positive": f"word {at}"} for at in range(30)])
    report = check([tmp_path])
    assert not report.findings and not report.problems and report.usable
    done = run("check", tmp_path)
    assert done.exit_code == 0 and "Nothing is wrong" in done.stderr and done.stdout == "words\ttrain\t30\t0\t30\t0\n"


def test_the_command_prints_json_and_nothing_else(mixed: Path) -> None:
    done = run("check", mixed, "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == 0 and document["usable"] is True
    assert {"file", "line", "fault", "reason"} == set(document["problems"][0])
    assert [problem["line"] for problem in document["problems"] if problem["fault"] == "image"] == [4]
    assert {leak["split"] for leak in document["leaks"]} == {"test", "validation"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"query": "a", "positive": "same"}, {"query": "b", "positive": "same"}], "nothing to tell apart"),
        (["no json"] * 5, "nothing to train on"),
        ([*({"query": str(n), "positive": str(n)} for n in range(9)), *["no json"] * 5], "5 of 14 rows cannot be used"),
    ],
)
def test_what_cannot_be_trained_on_exits_with_1(tmp_path: Path, rows: list[object], words: str) -> None:
    write(tmp_path / "rows.jsonl", rows)
    done = run("check", tmp_path)
    assert done.exit_code == 1 and words in done.stderr
    assert json.loads(run("check", tmp_path, "--json").stdout)["usable"] is False


def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    assert run("check", tmp_path / "nowhere").exit_code == 2
    assert run("check").exit_code == 2
    assert run("check", "hub:nothing").exit_code == 2


def test_names_from_files_are_safe_to_show(tmp_path: Path) -> None:
    write(tmp_path / "rows\x1b[31m.jsonl", ["no json"] * 5)
    done = run("check", tmp_path)
    assert "\x1b" not in done.stdout + done.stderr and "\\x1b" in done.stdout


def test_own_files_are_looked_over_too(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"thing number {number}")
    report = check([tmp_path])
    assert [(task.name, task.rows, task.opened) for task in report.tasks] == [("captions", 3, 3)]
