"""A run goes on with the data that it began with, wherever one stands, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.training_data import small
from tsembed_search.cli.main import app
from tsembed_search.data.training import load
from tsembed_search.errors import UsageError
from tsembed_search.trainer import job as folder
from tsembed_search.trainer import recipe
from tsembed_search.trainer.preparation import placed as placed_in

pytestmark = pytest.mark.usefixtures("one_block")

Change = Callable[[Path], object]


def write(file: Path, rows: Sequence[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def replaced(name: str, old: str, new: str) -> Change:
    """Changes a file's text."""

    def change(top: Path) -> None:
        before = (top / name).read_text()
        assert old in before
        (top / name).write_text(before.replace(old, new))

    return change


def turned(top: Path) -> None:
    lines = (top / "set/train/words.jsonl").read_text().splitlines(keepends=True)
    (top / "set/train/words.jsonl").write_text("".join(lines[::-1]))


def exchanged(top: Path) -> None:
    """Another picture of the same name and size in bytes."""
    file = top / "set/images/0.bmp"
    Image.new("RGB", (8, 8), "yellow").save(top / "other.bmp")
    assert file.stat().st_size == (top / "other.bmp").stat().st_size
    (top / "other.bmp").replace(file)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows with pictures, negatives and a validation file, and a folder of a person's own files."""
    top = tmp_path / "place"
    words = [{"query": f"q{n}", "positive": f"Item {n}", "negatives": [f"no {n}"]} for n in range(12)]
    write(top / "set/train/words.jsonl", words)
    write(top / "set/validation/words.jsonl", [{"query": f"v{n}", "positive": f"Held {n}"} for n in range(4)])
    write(top / "set/pictures.jsonl", [{"query": f"p{n}", "positive": {"image": f"images/{n}.bmp"}} for n in range(4)])
    for place in ("set/images", "own"):
        (top / place).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), f"hsl({90 * number}, 80%, 50%)").save(top / place / f"{number}.bmp")
    for number in range(4):
        (top / "own" / f"{number}.txt").write_text(f"caption of thing {number}")
    return top


def check(data: Path, run: Path) -> None:
    """Begins a run with the data, or makes sure that it is what the run began with."""
    loaded = load([data / "set", data / "own"], validation=0)
    summaries = [folder.summary(tasks) for tasks in (loaded.train, loaded.validation)]
    if (run / folder.MARKER).exists():
        folder.check_same(run, small(), *summaries)
    else:
        folder.begin(run, small(), loaded.sources, *summaries)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replaced("set/train/words.jsonl", "Item 3", "Item X"), "but those of words or their pictures have changed"),
        (replaced("set/train/words.jsonl", "Item 3", "item 3"), "but those of words"),
        (replaced("set/train/words.jsonl", '"q7"', '"q77"'), "but those of words"),
        (replaced("set/train/words.jsonl", "no 3", "not 3"), "but those of words"),
        (replaced("set/validation/words.jsonl", "Held 1", "Held X"), "begun with other validation data"),
        (turned, "but those of words"),
        (exchanged, "but those of pictures or their pictures"),
        (replaced("own/2.txt", "thing 2", "thing Y"), "but those of captions"),
        (lambda top: (top / "own/2.txt").unlink(), "begun with other data: 20 rows of 3 tasks then, 19"),
    ],
    ids=["target", "case", "query", "negative", "validation", "order", "picture", "caption", "row fewer"],
)
def test_changed_data_is_refused(tmp_path: Path, data: Path, change: Change, words: str) -> None:
    check(data, tmp_path / "run")
    check(data, tmp_path / "run")
    change(data)
    with pytest.raises(UsageError, match=words):
        check(data, tmp_path / "run")


def test_the_same_data_elsewhere_is_the_same(tmp_path: Path, data: Path) -> None:
    check(data, tmp_path / "run")
    there = shutil.copytree(data, tmp_path / "elsewhere")
    for file in there.rglob("*"):
        os.utime(file, (1, 1))
    contents = [
        [task["content"] for task in folder.summary(load([top / "set", top / "own"], validation=0).train)]
        for top in (data, there)
    ]
    assert contents[0] == contents[1] and all(contents[0])


def test_parquet_that_was_written_anew(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    found = []
    for word in ("Item", "Item", "WRONG"):
        rows = [{"query": f"q{n}", "positive": f"{word} {n}"} for n in range(12)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
        found.append(folder.summary(load([tmp_path / "rows.parquet"], validation=0).train))
    assert found[0] == found[1] != found[2]


def test_places_are_kept_whole(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    (data / "base").mkdir()
    asked = recipe.load("lora", ['data.images=["own", "~/pictures"]', "model.base=base"])
    placed = placed_in(asked)
    assert placed.data.images == (str(data / "own"), str(Path("~/pictures").expanduser()))
    assert placed.model.base == str(data / "base") and placed_in(placed) == placed
    assert placed_in(recipe.load("lora", ["model.base=mini"])).model.base == "mini"
    assert load(["set", Path("own")], validation=0).sources == (str(data / "set"), str(data / "own"))


def test_a_run_goes_on_from_anywhere(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the same name is another file, or none at all."""
    flags = ["--device", "cpu", "--quiet", "--json"]
    keys = ("batch.size=4", "batch.sub_batch=4", "rank=1", "warmup=0", "data.validation=0", "cache=false")
    monkeypatch.chdir(data / "set")
    begin = ["train", "pictures.jsonl", "--recipe", "lora", "--max-steps", "1", "--out", str(tmp_path / "run"), *flags]
    begun = CliRunner().invoke(app, [*begin, *(part for key in keys for part in ("--set", key))])
    assert begun.exit_code == 0, begun.stderr
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    write(tmp_path / "other/pictures.jsonl", [{"query": f"o{n}", "positive": f"other {n}"} for n in range(4)])
    resume = ["train", "--resume", "--out", str(tmp_path / "run"), *flags, "--max-steps"]
    gone_on = CliRunner().invoke(app, [*resume, "2"])
    assert gone_on.exit_code == 0 and json.loads(gone_on.stdout)["steps"] == 2, gone_on.stderr
    refused = CliRunner().invoke(app, ["train", "pictures.jsonl", *resume[1:], "3"])
    assert refused.exit_code == 2 and "begun with other data" in refused.stderr
    exchanged(data)
    refused = CliRunner().invoke(app, [*resume, "3"])
    assert refused.exit_code == 2 and "their pictures have changed" in refused.stderr
