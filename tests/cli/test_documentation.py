"""What the pages about searching show is what happens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tsembed_search.search.where import parse_where
from tsembed_search.store.filters import PAYLOAD_KEYS

DOCS = Path(__file__).parents[2] / "docs"
Run = Callable[..., Result]


def test_examples_of_the_python_api_run_as_they_stand(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python-api.md").read_text("utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "python-api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "red.png" in printed and "'image': 6" in printed
    assert "(3, 384)" in printed and "(3, 24)" in printed


def test_filters_of_the_page_can_be_read() -> None:
    page = (DOCS / "search.md").read_text("utf-8")
    filters = re.findall(r'--where "([^"]+)"', page)
    assert len(filters) >= 3
    for text in filters:
        parse_where(text)
    table = page[page.index("## Filters") : page.index("## Output")]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) | {"model"} == set(PAYLOAD_KEYS)


def test_fields_of_the_page_are_those_of_the_output(run: Run) -> None:
    page = (DOCS / "search.md").read_text("utf-8")
    shown = re.search(r"```json\n(.*?)```", page, flags=re.DOTALL)
    assert shown is not None
    example = json.loads(shown[1])
    actual = json.loads(run("search", "red", "--json", "-w", "kind=text").stdout)
    assert list(example) == list(actual)
    assert list(example["hits"][0]) == list(actual["hits"][0])
    assert list(example["seconds"]) == list(actual["seconds"])
