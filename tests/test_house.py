"""The rules of the house, checked on the source itself: who imports whom, what loads when, what is written down."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from packaging.requirements import Requirement

from helpers import house
from helpers.house import FOLDERS, PACKAGE, PROJECT, ROOT, RULES

HEAVY = (
    *("torch", "transformers", "qdrant_client", "qdrant_edge", "peft", "datasets", "matplotlib", "jinja2"),
    "sentence_transformers",
)
EXAMPLES = ROOT / "examples"
CORPUS = EXAMPLES / "corpus"
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(EXAMPLES.glob("*.md"))]


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_are_kept(rule: str) -> None:
    """See `helpers/house.py` for each rule, and `python tests/house_report.py --breaks` for all that breaks them."""
    found = sorted(set(RULES[rule]()))
    assert not found, f"{rule}:\n  " + "\n  ".join(found)


class TestTheRulesThemselves:
    """They find what they are for, in modules made up here."""

    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        def make(**sources: str) -> None:
            """A house of these modules; two underscores in a name stand for a dot."""
            found = {}
            for name, source in sources.items():
                dotted = ".".join([PACKAGE, *name.split("__")])
                path = ROOT.joinpath(*dotted.split(".")).with_suffix(".py")
                found[dotted] = house.Module(dotted, path, ast.parse(dedent(source)), source.count("\n"))
            monkeypatch.setattr(house, "modules", lambda: found)
            house.classes.cache_clear()

        yield make
        house.classes.cache_clear()

    def test_an_arrow_up(self, made: Any) -> None:
        made(
            store__base="def load():\n    from tsembed_search.search import where\n",
            search__where="from tsembed_search.store import base\nfrom tsembed_search import errors\n",
            errors="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tsembed_search.model.card\n",
            model__card="",
        )
        assert sorted(RULES["arrows up"]()) == [
            "tsembed_search/errors.py imports tsembed_search.model.card",
            "tsembed_search/store/base.py imports tsembed_search.search.where",
        ]

    def test_an_arrow_to_the_side_and_one_to_the_door(self, made: Any) -> None:
        made(
            indexer__jobs="import tsembed_search.trainer.job\n",
            trainer__job="from tsembed_search import Embedder\nfrom ..indexer import jobs\n",
        )
        assert sorted(RULES["arrows up"]()) == [
            "tsembed_search/indexer/jobs.py imports tsembed_search.trainer.job",
            "tsembed_search/trainer/job.py imports tsembed_search",
            "tsembed_search/trainer/job.py imports tsembed_search.indexer.jobs",
        ]

    def test_a_circle(self, made: Any) -> None:
        made(
            model__a="def f():\n    from tsembed_search.model.b import g\n",
            model__b="from tsembed_search.model import c\n",
            model__c="import tsembed_search.model.a as a\n",
            model__d="from tsembed_search.model import a, b, c\n",
        )
        assert list(RULES["circles"]()) == [f"{PACKAGE}.model.a <-> {PACKAGE}.model.b <-> {PACKAGE}.model.c"]

    def test_a_contract_is_the_class_s_own(self, made: Any) -> None:
        """That some protocol has a method of that name excuses nobody else's."""
        made(
            a="""
            'A.'
            from typing import Protocol
            class Store(Protocol):
                'S.'
                def size(self): 'N.'
                def bare(self): ...
            """,
            b="""
            'B.'
            from tsembed_search.a import Store
            class Named(Store):
                'N.'
                def size(self): ...
                def other(self): ...
            class Said:
                'A `Store` of sand.'
                def size(self): ...
                def bare(self): ...
            class Stranger:
                'No contract.'
                def size(self): ...
            class Later(Named):
                'L.'
                def size(self): ...
            class Loud(Exception):
                'L.'
                def with_traceback(self, tb): ...
                def shout(self): ...
            """,
        )
        assert sorted(RULES["undocumented"]()) == [
            "tsembed_search/a.py Store.bare",
            "tsembed_search/b.py Loud.shout",
            "tsembed_search/b.py Named.other",
            "tsembed_search/b.py Said.bare",
            "tsembed_search/b.py Stranger.size",
        ]

    def test_words_names_and_flags(self, made: Any) -> None:
        made(
            a="""
            'Whether it is so.'
            class Job:
                'A job.'
                x: int
                'How many.'
            """,
            b="""
            'However it is.'
            class _Other:
                class Job: ...
            def f():
                'Same as --json.'
                return 'Use --json.'
            """,
            c="""
            'C.'
            HINT = f'Run `tsembed index {1}`, or pip install --upgrade x.'
            print(HINT)
            """,
            cli__d="print('Use --json.')",
        )
        assert list(RULES["stilted"]()) == ["tsembed_search/a.py: Whether it is so.", "tsembed_search/a.py: How many."]
        assert list(RULES["names twice"]()) == ["Job: tsembed_search/a.py, tsembed_search/b.py"]
        assert list(RULES["flags"]()) == ["tsembed_search/b.py says --json", "tsembed_search/c.py says tsembed index"]
        assert list(RULES["printing"]()) == ["tsembed_search/c.py prints"]

    def test_a_long_module(self, made: Any) -> None:
        made(a="\n" * 401, b="\n" * 400)
        assert list(RULES["large"]()) == ["tsembed_search/a.py"]


def imported(reference: str) -> Any:
    """What `"module:object"` names. Raises when there is none."""
    module, _, path = reference.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def test_references_resolve() -> None:
    """Strings are no imports: nothing but this tells that what they name is there."""
    references = house.references()
    assert references
    for reference in sorted(references):
        imported(reference)


def test_every_entry_of_a_registry_can_be_had() -> None:
    tables = house.registries()
    assert tables
    for table in tables:
        registry = imported(table)
        assert registry.names(), table
        assert registry.group.startswith("tsembed.")
        for name in registry.names():
            assert registry.get(name) is not None, name


@pytest.mark.parametrize(
    "module",
    ["tsembed_search", "tsembed_search.cli.main", "tsembed_search.indexer.pipeline", "tsembed_search.index"],
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    assert not heavy(f"import {module}")


def test_help_loads_nothing_heavy() -> None:
    assert not heavy("from typer.testing import CliRunner; from tsembed_search.cli.main import app; "
                     "assert CliRunner().invoke(app, ['--help']).exit_code == 0")  # fmt: skip


def heavy(code: str) -> list[str]:
    """The heavy libraries that are loaded after that code has run."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys; {code}; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted({name.split(".")[0] for name in json.loads(done.stdout)} & set(HEAVY))


def test_every_package_is_installed() -> None:
    """A folder of modules that `packages` forgets would be missing from an installed copy only."""
    found = {
        ".".join([package, *path.parent.relative_to(folder).parts])
        for package, folder in FOLDERS.items()
        for path in folder.rglob("*.py")
    }
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("document", DOCS, ids=[str(path.relative_to(ROOT)) for path in DOCS])
def test_links_resolve(document: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text("utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    for target in (a or b for a, b in targets):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (document.parent / file) if file else document
        assert linked.exists(), f"{document.name} links to {target}, which is not there"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{document.name} links to {target}, which has no such heading"


@pytest.mark.parametrize("document", DOCS, ids=[str(path.relative_to(ROOT)) for path in DOCS])
def test_files_that_are_named_are_there(document: Path) -> None:
    """Files move; what is written about them must move along."""
    folders = "tests|benchmarks|examples|docs|tsembed_search|indexer|trainer|cli|server"
    named = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]*[\w/])", document.read_text("utf-8"))
    gone = sorted(name for name in set(named) if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists())
    assert not gone, f"{document.name} names {gone}"


def anchors(document: Path) -> set[str]:
    """The anchors of a Markdown file's headings, made as hosting sites make them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_documented_commands_exist() -> None:
    import typer.main

    from tsembed_search.cli.main import app

    commands = set(typer.main.get_group(app).commands)
    for document in DOCS:
        text = document.read_text("utf-8")
        named = set(re.findall(r"^\s*(?:\$ )?(?:\S*/bin/)?tsembed ([a-z]+)", text, re.MULTILINE))
        assert named <= commands, f"{document.name} names {sorted(named - commands)}"
    assert {"index", "search", "status", "ls", "rm", "models", "doctor"} <= commands


def test_readme_starts_with_the_two_commands() -> None:
    opening = (ROOT / "README.md").read_text("utf-8")[:1500]
    assert "make demo" in opening
    assert "make test" in opening


def test_corpus_is_small_and_licensed() -> None:
    folders = (CORPUS, EXAMPLES / "drawings", EXAMPLES / "queries")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6_000_000
    licences = (EXAMPLES / "LICENSES.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \|.*\| ([^|]+) \|$", licences, re.MULTILINE))
    assert set(rows) == {path.relative_to(EXAMPLES).as_posix() for path in files}
    assert set(rows.values()) <= {"public domain", "CC0-1.0", "MIT", "Apache-2.0"}


def test_example_queries_name_files_of_the_corpus() -> None:
    queries = [json.loads(line) for line in (EXAMPLES / "queries.jsonl").read_text("utf-8").splitlines()]
    expected = json.loads((EXAMPLES / "expected.json").read_text("utf-8"))
    assert len(queries) >= 10
    assert [query["id"] for query in queries] == list(expected)
    for query in queries:
        assert expected[query["id"]]
        named = [CORPUS / name for name in expected[query["id"]]]
        named += [EXAMPLES / query["image"]] if "image" in query else []
        assert all(path.is_file() for path in named), f"query {query['id']} names a file that is not there"


def test_constraints_pin_every_dependency() -> None:
    """Each direct dependency has an exact pin that its own range allows, and every line is a pin.

    Without one for torch, pip would fetch a build for CUDA of several gigabytes.
    """
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    wanted = [Requirement(one) for one in [*project["dependencies"], *(one for extra in extras for one in extra)]]
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert all(re.fullmatch(r"[0-9][\w.]*", version) for version in pins.values())
    assert "torch" in {requirement.name for requirement in wanted}
    for requirement in wanted:
        name = requirement.name.lower().replace("_", "-")
        assert name in pins, f"constraints.txt does not pin {name}"
        assert requirement.specifier.contains(pins[name]), f"{requirement} does not allow {pins[name]}"
