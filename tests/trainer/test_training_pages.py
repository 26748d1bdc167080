"""What docs/data.md shows is what happens, and examples/mini/README.md names every task."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

from mini_mmeb.tasks import TASKS
from typer.testing import CliRunner

from tsembed_search.cli.main import app
from tsembed_search.data.folder import TASKS as FOLDER_TASKS
from tsembed_search.data.layouts import RowReader
from tsembed_search.data.records import Images
from tsembed_search.trainer.settings import DataSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/data.md").read_text("utf-8")
EXAMPLE = (ROOT / "examples/mini/README.md").read_text("utf-8")
ROWS, REPORT = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)


def test_rows_of_the_page_are_rows(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in (17, 18, 99):
        (tmp_path / f"photos/{number}.jpg").touch()
    reader = RowReader(Images([tmp_path]))
    rows = [reader.read(json.loads(line)).row() for line in ROWS.splitlines()]
    assert [row.query.modality for row in rows] == ["text", "joint", "text"]
    assert [row.positive.modality for row in rows] == ["image", "image", "text"]
    assert len(rows[0].negatives) == 1 and rows[2].query.instruction


def test_the_report_of_the_page_has_the_fields_of_the_real_one(tmp_path: Path) -> None:
    file = tmp_path / "birds.jsonl"
    file.write_text("".join(json.dumps({"query": f"q{n}", "positive": f"p{n}"}) + "\n" for n in range(9)) + "no json\n")
    actual = json.loads(CliRunner().invoke(app, ["data", "check", str(file), "--json"]).stdout)
    shown = json.loads(REPORT)
    assert list(shown) == list(actual)
    assert set(shown["tasks"][0]) <= set(actual["tasks"][0])
    for name in ("findings", "problems"):
        assert set(shown[name][0]) == set(actual[name][0])


def test_the_recipe_of_the_page_has_keys_that_exist() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert set(tomllib.loads(block)["data"]) <= {field.name for field in fields(DataSettings)}


def test_every_task_is_on_the_page() -> None:
    rows = re.findall(r"^\| (\w*) ?\| (`.+?) \| .* \| ([\w\d,]+)(?: each)? \| ([^|]+) \|$", EXAMPLE, flags=re.MULTILINE)
    named = [name for _, cell, _, _ in rows for name in re.findall(r"`(\w+)`", cell)]
    assert named == [task.name for task in TASKS if not task.unseen]
    metas = [meta for meta, _, _, _ in rows if meta]
    assert metas == list(dict.fromkeys(task.meta for task in TASKS))
    counts = [int(count.replace(",", "")) * (1 + cell.count(",")) for _, cell, count, _ in rows]
    told = re.search(r"writes ([\d,]+) training rows", EXAMPLE)
    assert told is not None and sum(counts) == int(told[1].replace(",", ""))
    free = {name for _, cell, _, licence in rows for name in re.findall(r"`(\w+)`", cell)
            if licence in ("public domain", "MIT", "WordNet's")}  # fmt: skip
    assert free == {task.name for task in TASKS if task.free and not task.unseen}
    assert all(f"| `{task}` |" in PAGE for task in FOLDER_TASKS)
