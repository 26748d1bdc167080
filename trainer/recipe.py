"""Recipes: TOML files that say only what differs from their parent, and single keys set on top of them.

extends = "tsembed"        a recipe of this package, or a file beside this one
about = "one line"
[stages]
switch = 0.0

A recipe for whoever names none: by how much data there is, and on what it will be trained.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tsembed_search.data.rows import Task
from tsembed_search.errors import UsageError
from tsembed_search.trainer import settings
from tsembed_search.trainer.settings import TABLES, Recipe

_DEPTH = 8  # recipes that extend recipes

_RENAMED = {
    "loss.both_directions": "loss.symmetric",
    "loss.keep": "loss.distillation_weight",
    "loss.keep_queries": "loss.query_distillation_weight",
    "negatives.keep": "negatives.top_k",
    "negatives.explicit": "negatives.hard_negatives",
    "optimizer.rate": "optimizer.learning_rate",
    "optimizer.router_rate": "optimizer.router_learning_rate",
    "optimizer.projector_rate": "optimizer.projector_learning_rate",
    "batch.mixing": "batch.task_temperature",
}
"""Keys by the names that they once had, for the hints of errors."""


def names() -> list[str]:
    """The recipes that come with the package."""
    folder = resources.files("tsembed_search.trainer") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by its name or file, with `key=value` overrides; `key` is `table.key`, or `key` where only one table has
    it. Raises `UsageError` for what is not there (with near matches), and for values of the wrong kind.
    """
    return changed(from_tables(_chain(name_or_file)), overrides)


def changed(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with `key=value` overrides, as in `load`."""
    changes: dict[str, dict[str, Any]] = {}
    for override in overrides:
        table, key, value = _parsed(override)
        changes.setdefault(table, {})[key] = value
    return apply(recipe, changes)


def chosen(name_or_file: str | None, overrides: Sequence[str] = ()) -> set[str]:
    """The keys, as `table.key`, that a person set: by overrides, and in files that are not of this package."""
    own = [] if name_or_file is None else [content for file, content in _chain(name_or_file) if file not in names()]
    found = {f"{table}.{key}" for content in own for table in TABLES for key in content.get(table, ())}
    return found | {".".join(_parsed(override)[:2]) for override in overrides}


def from_tables(levels: Sequence[tuple[str, Mapping[str, Any]]]) -> Recipe:
    """A recipe from the content of files: (file, content) from the most general to the most special one."""
    recipe = Recipe()
    for file, content in levels:
        known = (*TABLES, "extends", "about", "expected")
        for key in content:
            if key not in known:
                raise UsageError(f"{file} has an unknown key, {key}.", _near(key, [*known, *_leaves()]))
        recipe = apply(recipe, {name: _table(file, name, content[name]) for name in TABLES if name in content}, file)
        name = Path(file).name.removesuffix(".toml")
        expected = _table(file, "expected", content.get("expected", {}))
        said = {str(key): str(value) for key, value in expected.items()}
        recipe = replace(recipe, name=name, about=str(content.get("about", "")), expected=said)
    return recipe


def apply(recipe: Recipe, changes: Mapping[str, Mapping[str, Any]], file: str = "--set") -> Recipe:
    """The recipe with some keys of some tables changed. Raises `UsageError`."""
    new: dict[str, Any] = {}
    for table, values in changes.items():
        part = getattr(recipe, table)
        hints = get_type_hints(type(part), include_extras=True)
        for key in values:
            if key not in hints:
                hint = _near(f"{table}.{key}", [*hints, *_leaves()])
                raise UsageError(f"{file} has an unknown key, {table}.{key}.", hint)
        checked = {key: _typed(f"{table}.{key}", value, hints[key]) for key, value in values.items()}
        new[table] = replace(part, **checked)
    resolved = replace(recipe, **new)
    settings.check(resolved)
    return resolved


def to_json(recipe: Recipe) -> dict[str, Any]:
    """All settings, resolved, as nested tables."""
    return asdict(recipe)


def from_json(data: Mapping[str, Any]) -> Recipe:
    """The inverse of `to_json`. Raises `UsageError` when a version with other settings wrote it."""
    tables = {name: data.get(name, {}) for name in TABLES}
    recipe = apply(Recipe(), tables, "The run's recipe")
    return replace(
        recipe, name=str(data.get("name", "")), about=str(data.get("about", "")), expected=data.get("expected") or {}
    )


def _chain(name_or_file: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The recipe and all that it extends, the most general one first."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    name, beside = name_or_file, Path()
    for _ in range(_DEPTH):
        file, text = _source(name, beside)
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"The recipe {file} is not TOML: {error}.", "See docs/training.md for an example."
            ) from error
        found.insert(0, (file, content))
        if "extends" not in content:
            return found
        name, beside = str(content["extends"]), Path(file).parent
    raise UsageError(f"The recipe {name_or_file} extends itself.", "Change `extends` in one of the files.")


def _source(name: str, beside: Path) -> tuple[str, str]:
    """Where a recipe is, and its text."""
    own = resources.files("tsembed_search.trainer") / "recipes" / f"{name}.toml"
    if "/" not in name and "\\" not in name and not name.endswith(".toml") and own.is_file():
        return name, own.read_text(encoding="utf-8")
    for path in (beside / name, Path(name)):
        if path.is_file():
            try:
                return str(path), path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"The recipe {path} cannot be read: {error}.", "Give a TOML file.") from error
    raise UsageError(f"There is no recipe {name!r} and no such file.", _near(name, names()))


def _table(file: str, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"In {file}, {name} is not a table.", f"Write [{name}], and its keys below.")
    return value


def _parsed(override: str) -> tuple[str, str, Any]:
    """`table.key=value` or `key=value` to its three parts."""
    left, equals, right = override.partition("=")
    left = left.strip()
    if not equals or not left:
        raise UsageError(f"{override!r} sets nothing.", "Write --set key=value.")
    table, _, key = left.rpartition(".")
    if table:
        if table not in TABLES:
            raise UsageError(f"A recipe has no table {table}.", _near(left, _leaves()))
    else:
        tables = [name for name in TABLES if key in _keys(name)]
        if not tables:
            raise UsageError(f"A recipe has no key {key}.", _near(key, _leaves()))
        if len(tables) > 1:
            choice = " or ".join(f"{name}.{key}" for name in tables)
            raise UsageError(f"{key} can mean several keys.", f"Say which one: {choice}.")
        table = tables[0]
    text = right.strip()
    try:
        return table, key, tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, or a number of thousands of digits
        return table, key, text


def _keys(table: str) -> list[str]:
    return [one.name for one in fields(type(getattr(Recipe(), table)))]


def _leaves() -> list[str]:
    return [f"{table}.{key}" for table in TABLES for key in _keys(table)]


def _near(name: str, known: Sequence[str]) -> str:
    """A hint with what is spelled like `name`, or all there is to choose from."""
    renamed = [new for old, new in _RENAMED.items() if name in (old, old.rpartition(".")[2])]
    if renamed:
        return f"It is called {' or '.join(renamed)} now."
    by_leaf = {one.rpartition(".")[2]: one for one in known} | {one: one for one in known}
    near = list(dict.fromkeys(by_leaf[match] for match in difflib.get_close_matches(name, by_leaf, 3, 0.6)))
    if near:
        return f"Did you mean {' or '.join(near)}?"
    if len(known) > 20:
        return "All keys with their defaults are in docs/training.md."
    return f"There are {', '.join(known)}."


def _typed(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type that the setting has. Raises `UsageError`."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _typed(key, value, choices[0])
    if origin in (Union, UnionType):
        if value in (None, "none") and type(None) in choices:
            return None
        for choice in choices:
            if choice is not type(None):
                try:
                    return _typed(key, value, choice)
                except UsageError:
                    continue
    elif origin is Literal:
        if value in choices:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_typed(key, one, choices[0]) for one in value)
    elif origin is Mapping:
        if isinstance(value, Mapping):
            return {str(name): _typed(f"{key}.{name}", one, choices[1]) for name, one in value.items()}
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    elif isinstance(value, hint) and isinstance(value, bool) == (hint is bool) and value != "":
        return value
    said = repr(value)
    said = said if len(said) <= 60 else f"{said[:60]}..."
    raise UsageError(f"{key} cannot be {said}.", f"It takes {_words(hint)}.")


def _words(hint: Any) -> str:
    """A type for people."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _words(choices[0])
    if origin in (Union, UnionType):
        return " or ".join(_words(choice) for choice in choices)
    if origin is Literal:
        return ", ".join(map(str, choices))
    if origin is tuple:
        return f"a list such as [{_words(choices[0])}, ...]"
    if origin is Mapping:
        return f"a table of names, each with {_words(choices[1])}"
    named = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    return named[hint]


_FEW_TASKS = 3  # with fewer, experts have no tasks to part

_FEW_ROWS = 1000

_PASSES_OF_FEW, _PASSES_OF_MANY = 10, 3

_STEPS_ON_CPU, _STEPS_ON_GPU = (30, 600), (100, 5000)


def suited(tasks: Sequence[Task], gpu: bool) -> tuple[Recipe, str]:
    """The recipe, and why that one, in words.

    Few tasks or rows get the single LoRA. The batch leaves each step something to choose from; steps go through the
    data a few times, within what a machine does in about an hour.
    """
    rows = sum(len(task) for task in tasks)
    few = len(tasks) < _FEW_TASKS or rows < _FEW_ROWS
    chosen = load("lora" if few else "tsembed")
    identities = len({task.identity(row) for task in tasks for row in range(len(task))})
    size = max(2, min(256 if gpu else chosen.batch.size, identities // 2))
    least, most = _STEPS_ON_GPU if gpu else _STEPS_ON_CPU
    steps = min(most, max(least, round((_PASSES_OF_FEW if few else _PASSES_OF_MANY) * rows / size)))
    every = max(1, steps // 6)
    changes: dict[str, dict[str, Any]] = {
        "batch": {"size": size, "sub_batch": min(chosen.batch.sub_batch, size)},
        "run": {"steps": steps, "validate_every": every, "checkpoint_every": every},
    }
    why = f"{rows:,} rows of {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}: the recipe {chosen.name}"
    return apply(chosen, changes), f"{why}, {steps} steps of {size} rows."
