"""Recipes: TOML files that say only what differs from their parent, and single keys set on top of them.

extends = "tsembed"        a recipe by its name, or a file beside this one
about = "one line"
[stages]
switch = 0.0
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from tsembed_search.errors import ModelError, UsageError
from tsembed_search.registry import Registry
from tsembed_search.trainer.settings import TABLES, Recipe, check, checked, hints_of

_OWN = sorted((Path(__file__).parent / "recipes").glob("*.toml"))

RECIPES: Final[Registry[Path]] = Registry("recipe", "tsembed.recipes", {file.stem: file for file in _OWN})
"""The recipes that have a name: each is a TOML file."""

_DEPTH = 8  # recipes that extend recipes


def load(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe by its name or file, with `key=value` overrides; `key` is `table.key`, or `key` where only one
    table has it. Raises `UsageError` for what is not there (with near matches), and for values of the wrong kind.
    """
    return changed(_of_files(_chain(name_or_file)), overrides)


def changed(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return the recipe with `key=value` overrides, as in `load`."""
    changes: dict[str, dict[str, Any]] = {}
    for override in overrides:
        table, key, value = _parsed(override)
        changes.setdefault(table, {})[key] = value
    return apply(recipe, changes)


def chosen(name_or_file: str | None, overrides: Sequence[str] = ()) -> set[str]:
    """Return the keys, as `table.key`, that a person set: by overrides, and in files that are not of this package."""
    own = [] if name_or_file is None else [content for file, content in _chain(name_or_file) if file not in RECIPES]
    found = {f"{table}.{key}" for content in own for table in TABLES for key in content.get(table, ())}
    return found | {".".join(_parsed(override)[:2]) for override in overrides}


def _of_files(levels: Sequence[tuple[str, Mapping[str, Any]]]) -> Recipe:
    recipe = Recipe()
    known = (*TABLES, "extends", "about", "expected")
    for file, content in levels:
        for key, value in content.items():
            if key not in known:
                raise UsageError(f"{file} has an unknown key, {key}.", _near(key, [*known, *_keys()]))
            if key not in ("extends", "about") and not isinstance(value, Mapping):
                raise UsageError(f"In {file}, {key} is not a table.", f"Write [{key}], and its keys below.")
        recipe = apply(recipe, {name: content[name] for name in TABLES if name in content}, file)
        expected = {key: str(value) for key, value in content.get("expected", {}).items()}
        name = Path(file).name.removesuffix(".toml")
        recipe = replace(recipe, name=name, about=str(content.get("about", "")), expected=expected)
    return recipe


def apply(recipe: Recipe, changes: Mapping[str, Mapping[str, Any]], file: str = "An override") -> Recipe:
    """Return the recipe with some keys of some tables changed. Raises `UsageError`."""
    for table, values in changes.items():
        part = getattr(recipe, table)
        hints = hints_of(type(part))
        for key in values:
            if key not in hints:
                raise UsageError(f"{file} has an unknown key, {table}.{key}.", _near(key, [*hints, *_keys()]))
        values = {key: checked(f"{table}.{key}", value, hints[key]) for key, value in values.items()}
        try:
            recipe = replace(recipe, **{table: replace(part, **values)})
        except ModelError as error:  # values that are good alone, and not together
            raise UsageError(f"The table {table} makes no sense as it is. {error.message}", error.hint) from error
    check(recipe)
    return recipe


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Return all settings, resolved, as nested tables."""
    return asdict(recipe)


def from_json(data: Mapping[str, Any]) -> Recipe:
    """Return the inverse of `to_json`. Raises `UsageError` when a version with other settings wrote it."""
    recipe = apply(Recipe(), {name: data.get(name, {}) for name in TABLES}, "The run's recipe")
    name, about = str(data.get("name", "")), str(data.get("about", ""))
    return replace(recipe, name=name, about=about, expected=data.get("expected") or {})


def differences(old: Recipe, new: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Return the settings that are not the same, as `table.key`, with both values."""
    for key in _keys():
        table, _, name = key.partition(".")
        before, now = (getattr(getattr(recipe, table), name) for recipe in (old, new))
        if before != now:
            yield key, before, now


def _chain(name_or_file: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the recipe and all that it extends, the most general one first."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    name, beside = name_or_file, Path()
    for _ in range(_DEPTH):
        file, text = _source(name, beside)
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"The recipe {file} is not TOML: {error}.", "See docs/training.md for one.") from error
        found.insert(0, (file, content))
        if "extends" not in content:
            return found
        name, beside = str(content["extends"]), Path(file).parent
    raise UsageError(f"The recipe {name_or_file} extends itself.", "Change `extends` in one of the files.")


def _source(name: str, beside: Path) -> tuple[str, str]:
    """Find a recipe, and read its text."""
    paths = [RECIPES.get(name)] if name in RECIPES else [beside / name, Path(name)]
    for path in paths:
        if path.is_file():
            try:
                return (name if name in RECIPES else str(path)), path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"The recipe {path} cannot be read: {error}.", "Give a TOML file.") from error
    raise UsageError(f"There is no recipe {name!r} and no such file.", _near(name, RECIPES.names()))


def _parsed(override: str) -> tuple[str, str, Any]:
    """Take `table.key=value` or `key=value` apart."""
    left, equals, right = override.partition("=")
    left = left.strip()
    if not equals or not left:
        raise UsageError(f"{override!r} sets nothing.", "Write key=value.")
    table, _, key = left.rpartition(".")
    if table and table not in TABLES:
        raise UsageError(f"A recipe has no table {table}.", _near(left, _keys()))
    if not table:
        known = [one for one in _keys() if one.endswith(f".{key}")]
        if not known:
            raise UsageError(f"A recipe has no key {key}.", _near(key, _keys()))
        if len(known) > 1:
            raise UsageError(f"{key} can mean several keys.", f"Say which one: {' or '.join(known)}.")
        table = known[0].partition(".")[0]
    text = right.strip()
    try:
        return table, key, tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, or a number of thousands of digits
        return table, key, text


def _keys() -> list[str]:
    """Return all keys, as `table.key`."""
    return [f"{table}.{one.name}" for table in TABLES for one in fields(getattr(Recipe(), table))]


def _near(name: str, known: Sequence[str]) -> str:
    """Return a hint with what is spelled like `name`, or all there is to choose from."""
    by_leaf = {one.rpartition(".")[2]: one for one in known} | {one: one for one in known}
    near = list(dict.fromkeys(by_leaf[match] for match in difflib.get_close_matches(name, by_leaf, 3, 0.6)))
    if near:
        return f"Did you mean {' or '.join(near)}?"
    if len(known) > 20:
        return "All keys with their defaults are in docs/training.md."
    return f"There are {', '.join(known)}."
