"""The rules of the house, checked on the source itself: who imports whom, what loads when, what is written down."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "tsembed_search": ROOT / "tsembed_search",
    "tsembed_search.indexer": ROOT / "indexer",
    "tsembed_search.trainer": ROOT / "trainer",
    "tsembed_search.cli": ROOT / "cli",
}
FORBIDDEN = {
    "tsembed_search": {"indexer", "trainer", "cli"},
    "tsembed_search.indexer": {"trainer", "cli"},
    "tsembed_search.trainer": {"indexer", "cli"},
    "tsembed_search.cli": set(),
}
HEAVY = ("torch", "transformers", "qdrant_client", "qdrant_edge", "peft", "sentence_transformers")
EXAMPLES = ROOT / "examples"
CORPUS = EXAMPLES / "corpus"
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(EXAMPLES.glob("*.md"))]
DOCS += sorted((EXAMPLES / "mini").glob("*.md"))


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of ours: the package that its folder is imported as, and its file."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            yield package, path


MODULES = list(modules())
each_module = pytest.mark.parametrize(
    ("package", "path"), MODULES, ids=[str(path.relative_to(ROOT)) for _, path in MODULES]
)


def imported_names(path: Path) -> set[str]:
    """Dotted names that a module imports, anywhere in it. `from a.b import c` gives `a.b` and `a.b.c`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports would hide who imports whom"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@each_module
def test_arrows_point_down(package: str, path: Path) -> None:
    upward = {
        name
        for name in imported_names(path)
        for layer in FORBIDDEN[package]
        if name == f"tsembed_search.{layer}" or name.startswith(f"tsembed_search.{layer}.")
    }
    assert not upward, f"{path.relative_to(ROOT)} imports from a layer above or beside it: {sorted(upward)}"


@each_module
def test_a_module_is_one_idea(package: str, path: Path) -> None:
    lines = path.read_text("utf-8").count("\n")
    assert lines <= 500, f"{path.relative_to(ROOT)} has {lines} lines: split it by idea"


@each_module
def test_everything_public_is_documented(package: str, path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    where = path.relative_to(ROOT)
    if tree.body and path.name != "version.py":
        assert ast.get_docstring(tree), f"{where} has no docstring"
    bare = [f"{where}:{line} {name}" for name, line in undocumented(tree, in_protocol=False)]
    assert not bare, "no docstring: " + ", ".join(bare)


def undocumented(scope: ast.Module | ast.ClassDef, in_protocol: bool) -> Iterator[tuple[str, int]]:
    """Public classes and functions of `scope` without a docstring, with their lines.

    Free of the duty: methods of a protocol whose name says it all, and methods that implement or override (their class
    has bases, or the contract is a protocol elsewhere and the name is documented there).
    """
    for node in scope.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        is_method = isinstance(scope, ast.ClassDef)
        if not ast.get_docstring(node) and not (is_method and (in_protocol or node.name in contract_methods())):
            yield node.name, node.lineno
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node, in_protocol=is_protocol(node))


def is_protocol(node: ast.ClassDef) -> bool:
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in bases)


def contract_methods() -> set[str]:
    """Names of the methods that a protocol of ours declares; the protocol says what they do."""
    if not _CONTRACT_METHODS:
        for _, path in MODULES:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef) and is_protocol(node):
                    _CONTRACT_METHODS.update(child.name for child in node.body if isinstance(child, ast.FunctionDef))
    return _CONTRACT_METHODS


_CONTRACT_METHODS: set[str] = set()


@pytest.mark.parametrize(
    "module", ["tsembed_search", "tsembed_search.cli.main", "tsembed_search.indexer.pipeline", "tsembed_search.index"]
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {name for name in json.loads(done.stdout) if name.split(".")[0] in HEAVY}
    assert not heavy, f"importing {module} loads {sorted(heavy)[:5]}"


def test_every_package_is_installed() -> None:
    """A folder of modules that `packages` forgets would be missing from an installed copy only."""
    import tomllib

    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    found = {
        ".".join([package, *path.parent.relative_to(folder).parts])
        for package, folder in FOLDERS.items()
        for path in folder.rglob("*.py")
    }
    assert found == set(setuptools["packages"])
    for package, folder in FOLDERS.items():
        assert ROOT / setuptools["package-dir"][package] == folder


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
    """Each direct dependency has its pin, and every line is one."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert all(re.fullmatch(r"[0-9][\w.]*", version) for version in pins.values())
    for requirement in wanted:
        name = re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")
        assert name in pins, f"constraints.txt does not pin {name}"
    assert pins["torch"] == "2.13.0"
