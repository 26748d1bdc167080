"""Pages for people who change the code name what is there, and what they show works."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.other_package import Commands

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FOLDERS = ("tsembed_search", "indexer", "trainer", "cli")
ARCHITECTURE = (DOCS / "architecture.md").read_text("utf-8")
EXTENDING = (DOCS / "extending.md").read_text("utf-8")
EVENTS = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY:Choir practice in the old church\nEND:VEVENT\nEND:VCALENDAR\n"


def modules() -> set[str]:
    """All modules but those that only make a folder a package, as paths."""
    files = (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    return {file.relative_to(ROOT).as_posix() for file in files if file.name != "__init__.py"}


def test_the_page_lists_every_module() -> None:
    listed = set()
    for folder, section in re.findall(r"^### `([\w/]+/)`\n(.*?)(?=^##)", ARCHITECTURE, re.MULTILINE | re.DOTALL):
        listed |= {folder + name for name in re.findall(r"^\| `([\w/]+\.py)` \|", section, re.MULTILINE)}
    assert listed == modules()


def test_walks_find_every_name_in_its_file() -> None:
    steps = re.findall(r"^\d+\. `([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", ARCHITECTURE, re.MULTILINE)
    assert len(steps) > 30
    for file, named in steps:
        there = names_in(ROOT / file)
        missing = [name for name in re.findall(r"`([\w.]+)`", named) if name not in there]
        assert not missing, f"{file} has no {missing}"


@pytest.mark.parametrize("page", [*DOCS.glob("*.md"), ROOT / "README.md"], ids=lambda page: page.stem)
def test_examples_import_what_is_there(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tsembed_search"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    at = f"{node.module}.{alias.name}"
                    assert hasattr(module, alias.name) or importlib.util.find_spec(at), f"{page.name}: {at}"


def names_in(file: Path) -> set[str]:
    """The functions, classes, methods (`Class.method`) and variables of a module."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The command where the package of the page is installed."""
    site = tmp_path_factory.mktemp("page")
    notes = site / "my_package-1.0.dist-info"
    for folder in (notes, site / "my_package"):
        folder.mkdir()
    (site / "my_package/__init__.py").touch()
    for name, source in re.findall(r"^```\w+\n# my_package/([\w.]+)\n(.*?)^```", EXTENDING, re.MULTILINE | re.DOTALL):
        (site / "my_package" / name).write_text(source)
    (entries,) = re.findall(r"^```toml\n(\[project.*?)^```", EXTENDING, re.MULTILINE | re.DOTALL)
    groups = tomllib.loads(entries)["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in one.items()) for group, one in groups.items()]
    (notes / "entry_points.txt").write_text("\n".join(lines))
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    with Commands(site, site / "home") as running:
        yield running


def test_what_the_page_adds_works(commands: Commands, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "choir.ics").write_text(EVENTS)
    (files / "song.txt").write_text("We sing in the church choir.")
    assert commands("index", files, "--json", "--workers", "1").json["files"]["added"] == 2
    found = commands("search", "singing in a church", "--rerank", "newest", "--json").json["hits"]
    assert {hit["snippet"] for hit in found} == {"Choir practice in the old church", "We sing in the church choir."}
    assert Path(found[0]["path"]).name == "song.txt"
    assert commands("count").stdout == "text 2\n"


def test_the_recipe_of_the_page_trains_by_its_loss(commands: Commands) -> None:
    tiny = ("--set", "base=HuggingFaceTB/SmolVLM-256M-Instruct")  # of which there is a tiny one, unlike mini
    assert commands("train", "--recipe", "margin", "--dry-run", "--json", *tiny).json["steps"] == 4


def test_the_layout_of_the_page_is_read(commands: Commands, tmp_path: Path) -> None:
    rows = [{"ask": f"Who is {name}?", "choices": [name, "nobody"], "points": 3} for name in ("Ada", "Grace")]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"ask": "?", "choices": []}])
    )
    checked = commands("data", "check", tmp_path / "rows.jsonl", "--json").json
    assert [(task["rows"], task["bad"]) for task in checked["tasks"]] == [(2, 1)]
    assert checked["unread_fields"][0]["fields"] == {"points": 2}
    assert checked["problems"][0]["reason"] == "a question needs choices"
