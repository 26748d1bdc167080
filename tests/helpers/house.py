"""Our source, read as a tree: modules, imports, layers, circles, docstrings, names, sizes. Imports none of it."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import re
import statistics
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = "tsembed_search"
PROJECT: Final[Mapping[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FOLDERS: Final[Mapping[str, Path]] = {
    package: ROOT / folder for package, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()
}
"""Import names, and the folders that they stand for."""

LAYERS: Final = (
    ("cli",),
    ("server",),
    ("index",),
    ("indexer", "trainer"),
    ("search", "evaluation"),
    ("store", "data"),
    ("model",),
    ("documents", "ranking"),
)
"""From the top. Below them all is the ground: the other modules of the package. Above them all is its door."""
DOOR: Final = -1
LONGEST: Final = 400
"""Lines of a module, at most."""
OPENINGS: Final = ("What", "How", "Whether", "Those")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A file of ours, with the dotted name that it is imported by."""

    name: str
    path: Path
    tree: ast.Module = field(repr=False, compare=False)
    lines: int

    @property
    def where(self) -> str:
        """The path in the repository."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def area(self) -> str:
        """The name of its layer: a folder's, `index`, or empty for the ground and the door."""
        return area_of(self.name)


@functools.cache
def modules() -> Mapping[str, Module]:
    """Every module of ours by its dotted name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text("utf-8")
            found[name] = Module(name, path, ast.parse(text), text.count("\n"))
    return found


# Imports


def area_of(name: str) -> str:
    """The layer's name that a dotted name belongs to; empty for the ground and the door."""
    second = name.split(".")[1] if "." in name else ""
    return second if any(second in layer for layer in LAYERS) else ""


def rank_of(name: str) -> int:
    """How far down a dotted name stands."""
    if name == PACKAGE:
        return DOOR
    area = area_of(name)
    return next((rank for rank, layer in enumerate(LAYERS) if area in layer), len(LAYERS))


def imports(module: Module) -> set[str]:
    """The modules of ours that it imports, anywhere in it: in functions and for type checkers, too.

    `from a.b import c` imports `a.b.c` where that is a module, else `a.b`.
    """
    known, found = modules(), set[str]()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            named = [whole if (whole := f"{source}.{alias.name}") in known else source for alias in node.names]
        else:
            continue
        found.update(name for name in named if name.split(".")[0] == PACKAGE)
    return found


def absolute(module: Module, node: ast.ImportFrom) -> str:
    """The dotted name that a `from` names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    here = module.name.split(".") if module.path.name == "__init__.py" else module.name.split(".")[:-1]
    return ".".join([*here[: len(here) - node.level + 1], *([node.module] if node.module else [])])


def arrows_up() -> Iterator[str]:
    """Imports from a layer above or beside the importer's."""
    for module in modules().values():
        for name in imports(module):
            beside = rank_of(module.name) == rank_of(name) and area_of(name) != module.area
            if rank_of(name) < rank_of(module.name) or beside:
                yield f"{module.where} imports {name}"


def circles() -> Iterator[str]:
    """Sets of files that import one another, however indirectly (Tarjan's strongly connected components)."""
    graph = {name: sorted(imports(module) & modules().keys()) for name, module in modules().items()}
    order, low, stack = dict[str, int](), dict[str, int](), list[str]()
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            at = stack.index(name)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for name in graph:
        if name not in order:
            visit(name)
    for group in found:
        if len(group) > 1 or group[0] in graph[group[0]]:
            yield " <-> ".join(group)


# What is written down


@dataclass(frozen=True)
class Class:
    """A class of ours."""

    module: Module
    node: ast.ClassDef
    is_nested: bool

    @property
    def where(self) -> str:
        """Its place in the repository."""
        return f"{self.module.where}:{self.node.lineno}"


@functools.cache
def classes() -> tuple[Class, ...]:
    """Every class, also those in classes and functions."""
    found = []
    for module in modules().values():
        top = set(map(id, module.tree.body))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                found.append(Class(module, node, id(node) not in top))
    return tuple(found)


def undocumented() -> Iterator[str]:
    """Modules, public classes, and public functions and methods without a docstring.

    A method goes without where a contract of its class has one for it: a base class, or a protocol of ours that the
    class's docstring names in backticks, as structural subtypes do.
    """
    for module in modules().values():
        if module.tree.body and not ast.get_docstring(module.tree) and module.path.name != "version.py":
            yield f"{module.where} the module"
        yield from _undocumented(module, module.tree)


def _undocumented(module: Module, scope: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in scope.body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        inherits = (
            isinstance(scope, ast.ClassDef) and isinstance(node, Function) and is_promised(module, scope, node.name)
        )
        if not ast.get_docstring(node) and not inherits and not _is_variant(node):
            owner = f"{scope.name}." if isinstance(scope, ast.ClassDef) else ""
            yield f"{module.where} {owner}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from _undocumented(module, node)


def _is_variant(node: ast.ClassDef | Function) -> bool:
    """A further signature of a function, or the setter of a property."""
    names = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(name.endswith(("overload", ".setter", ".deleter")) for name in names)


def is_promised(module: Module, owner: ast.ClassDef, method: str) -> bool:
    """Does a contract that the class names document the method?"""
    for base in owner.bases:
        named = base.value if isinstance(base, ast.Subscript) else base
        if _documents(resolve(module, ast.unparse(named)), method):
            return True
    stated = re.findall(r"`(\w+)`", ast.get_docstring(owner) or "")
    contracts = (
        one for one in classes() if one.node.name in stated and is_protocol(one.node) and one.node is not owner
    )
    return any(_documents(contract, method) for contract in contracts)


def is_protocol(node: ast.ClassDef) -> bool:
    """Is it a `Protocol` itself?"""
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return any(ast.unparse(base).split(".")[-1] == "Protocol" for base in bases)


def _documents(contract: Class | type | None, method: str) -> bool:
    if isinstance(contract, Class):
        for node in contract.node.body:
            if isinstance(node, Function) and node.name == method and ast.get_docstring(node):
                return True
        return is_promised(contract.module, contract.node, method)
    return contract is not None and bool(getattr(getattr(contract, method, None), "__doc__", None))


def resolve(module: Module, name: str) -> Class | type | None:
    """The class that a name means in a module: one of ours, or one of a library, which is imported."""
    first, *rest = name.split(".")
    for one in classes():
        if one.module is module and one.node.name == first and not rest:
            return one
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name.split(".")[0]) != first:
                continue
            if isinstance(node, ast.ImportFrom):
                return _found(f"{absolute(module, node)}.{alias.name}", rest)
            return _found(alias.name if alias.asname else first, rest)
    built_in = getattr(builtins, name, None)
    return built_in if isinstance(built_in, type) else None


def _found(start: str, rest: list[str]) -> Class | type | None:
    source, _, name = ".".join([start, *rest]).rpartition(".")
    if source.split(".")[0] == PACKAGE:
        if source not in modules():
            return None
        return resolve(modules()[source], name)
    try:
        value: Any = importlib.import_module(start.split(".")[0])
        for part in [*start.split(".")[1:], *rest]:
            value = getattr(value, part, None) or importlib.import_module(f"{value.__name__}.{part}")
    except ImportError:
        return None
    return value if isinstance(value, type) else None


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Every string that stands by itself: docstrings, and those below a constant or a field."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value.strip()


def stilted() -> Iterator[str]:
    """Docstrings that open as a question does."""
    for module in modules().values():
        for text in docstrings(module.tree):
            if text.split(maxsplit=1)[:1] and re.split(r"\W", text)[0] in OPENINGS:
                yield f"{module.where}: {text.splitlines()[0][:60]}"


def twice() -> Iterator[str]:
    """Names that several classes have."""
    names = Counter(one.node.name for one in classes())
    for name, count in sorted(names.items()):
        if count > 1:
            places = ", ".join(one.module.where for one in classes() if one.node.name == name)
            yield f"{name}: {places}"


def speaking_of_flags() -> Iterator[str]:
    """Messages of the library that advise a shell: they name a flag or a command of ours.

    The command line may, and so may a model's card. Other programs have flags, too.
    """
    for module in modules().values():
        if module.area == "cli" or module.path.name == "card.py":
            continue
        documented = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in documented:
                continue
            text = re.sub(r"(pip install|hf download)[^`'.]*", "", node.value)
            for found in re.findall(r"(?<![\w-])--[a-z][a-z-]+|`tsembed [a-z]+", text):
                yield f"{module.where} says {found.strip('`')}"


def printing() -> Iterator[str]:
    """Calls of `print` outside the command line."""
    for module in modules().values():
        calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))
        if module.area != "cli" and any(ast.unparse(call.func) == "print" for call in calls):
            yield f"{module.where} prints"


def large() -> Iterator[str]:
    """Modules that are longer than one idea takes."""
    yield from (module.where for module in modules().values() if module.lines > LONGEST)


RULES: Final = {
    "arrows up": arrows_up,
    "circles": circles,
    "undocumented": undocumented,
    "stilted": stilted,
    "names twice": twice,
    "flags": speaking_of_flags,
    "printing": printing,
    "large": large,
}
"""Each yields what breaks it."""


def references() -> set[str]:
    """Every string of the form `"tsembed_search.module:object"`."""
    shape = re.compile(rf"{PACKAGE}(\.\w+)+:\w+(\.\w+)*")
    constants = (
        node for module in modules().values() for node in ast.walk(module.tree) if isinstance(node, ast.Constant)
    )
    return {node.value for node in constants if isinstance(node.value, str) and shape.fullmatch(node.value)}


def registries() -> list[str]:
    """Every module-level table that is a `Registry`, as `"module:NAME"`."""
    found = []
    for module in modules().values():
        for node in module.tree.body:
            value = getattr(node, "value", None)
            called = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
            if called.partition("[")[0].split(".")[-1] == "Registry":
                target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
                found.append(f"{module.name}:{ast.unparse(target)}" if target is not None else module.name)
    return sorted(found)


# Sizes


@dataclass(frozen=True)
class Sizes:
    """The sizes of a folder's modules and functions, in lines."""

    folder: str
    modules: tuple[int, ...]
    functions: tuple[int, ...]

    def row(self) -> tuple[str, ...]:
        """The figures as a table shows them: counts, sums, medians and largest."""
        figures = (
            len(self.modules), sum(self.modules), round_median(self.modules), max(self.modules, default=0),
            len(self.functions), round_median(self.functions), max(self.functions, default=0),
        )  # fmt: skip
        return (self.folder, *(f"{figure:,.0f}" for figure in figures))


HEADINGS: Final = ("folder", "modules", "lines", "median", "largest", "functions", "median", "largest")


def round_median(sizes: Sequence[int]) -> float:
    return statistics.median(sizes) if sizes else 0


def sizes() -> list[Sizes]:
    """The sizes by folder, and of everything, last. A package's `__init__.py` of one docstring does not count."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for module in modules().values():
        if module.path.name == "__init__.py" and len(module.tree.body) <= 1:
            continue
        files, functions = found.setdefault(module.path.parent.relative_to(ROOT).as_posix(), ([], []))
        files.append(module.lines)
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                functions.append((node.end_lineno or node.lineno) - node.lineno + 1)
    rows = [Sizes(folder, tuple(files), tuple(functions)) for folder, (files, functions) in sorted(found.items())]
    every = (tuple(n for row in rows for n in row.modules), tuple(n for row in rows for n in row.functions))
    return [*rows, Sizes("all", *every)]
