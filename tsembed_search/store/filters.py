"""Filters, as data that every store translates, and what they mean.

`matches` is the reference: whatever an engine does, it must select the points that `matches` selects.

A condition on a field with several values holds when at least one of them satisfies it: `path`, `ext` and `modified`
have one value per place where a content was found, `expert` one per leading expert, `concept` one per thing or kind of
thing that a picture shows. A condition on a field without a
value (the page of a picture) does not hold. `a!=b` is exactly `not a=b`.

Path patterns are those of shells and `.gitignore`: `*` and `?` stay within one folder name or file name, `**` stands
for any number of folders, `[abc]` and `[!abc]` for one character. A pattern that starts with `/` (or a drive, `C:/`) is
matched from the start of the path; any other may start at any folder. A pattern that names a folder matches all that is
in it: `holiday` finds `/pics/holiday/2019/a.jpg`. Upper and lower case differ.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from tsembed_search.paths import name_form

Op = Literal["=", "!=", "<", "<=", ">", ">=", "~", "in"]

PAYLOAD_KEYS: Final[Mapping[str, str]] = {
    "kind": "kind",
    "path": "places[].path",
    "ext": "places[].ext",
    "modified": "places[].mtime",
    "page": "page",
    "expert": "top_experts",
    "concept": "concepts",
    "sha": "sha",
    "model": "model",
}
"""The fields of the language, and where a payload keeps each (see `store/schema.py`)."""

CHECKED_KEYS: Final = tuple(sorted({key.partition("[].")[0] for key in PAYLOAD_KEYS.values()}))
"""The payload keys that `matches` reads."""

_ORDER: Final = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_BARE: Final = re.compile(r"""[^\s()"',=<>!~][^\s()"',]*""")
_WILD: Final = re.compile(r"[*?\[]")
_DRIVE: Final = re.compile(r"[A-Za-z]:/")
_TEXT: Final = re.compile(r"\*+([^*?\[/]+)\*+")


@dataclass(frozen=True)
class Condition:
    """`field op value`; the fields are those of `PAYLOAD_KEYS`.

    `~` takes a path pattern, `in` a tuple of alternatives, the order operators a number: a page, or
    seconds since 1970 for `modified`. A relative `path=` means a path that ends in it. `ext` is lower case, no dot.
    Names are compared in one form (`paths.name_form`), and `value` has it.
    """

    field: str
    op: Op
    value: str | float | tuple[str, ...] | tuple[float, ...]

    def __post_init__(self) -> None:
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        formed = tuple(name_form(value) if isinstance(value, str) else value for value in values)
        object.__setattr__(self, "value", formed if isinstance(self.value, tuple) else formed[0])

    def __str__(self) -> str:
        if isinstance(self.value, tuple):
            return f"{self.field} in ({', '.join(_spell(self.field, value) for value in self.value)})"
        return f"{self.field}{self.op}{_spell(self.field, self.value)}"


@dataclass(frozen=True)
class And:
    """All of `parts` hold; of none: true."""

    parts: tuple[Filter, ...]

    def __str__(self) -> str:
        return " and ".join(f"({part})" if isinstance(part, And | Or) else str(part) for part in self.parts)


@dataclass(frozen=True)
class Or:
    """At least one of `parts` holds; of none: false."""

    parts: tuple[Filter, ...]

    def __str__(self) -> str:
        return " or ".join(f"({part})" if isinstance(part, Or) else str(part) for part in self.parts)


@dataclass(frozen=True)
class Not:
    """`part` does not hold."""

    part: Filter

    def __str__(self) -> str:
        return f"not ({self.part})" if isinstance(self.part, And | Or) else f"not {self.part}"


Filter = Condition | And | Or | Not
"""`str(filter)` is text that `parse_where` reads back, for every filter that it can give."""


def all_of(filters: Iterable[Filter | None]) -> Filter | None:
    """Join filters that must all hold into one; None when there is none."""
    parts: list[Filter] = []
    for part in filters:
        parts.extend(part.parts if isinstance(part, And) else [part] if part is not None else [])
    return parts[0] if len(parts) == 1 else And(tuple(parts)) if parts else None


def fields_of(where: Filter | None) -> set[str]:
    """Return the fields that a filter asks for."""
    match where:
        case None:
            return set()
        case Condition(field):
            return {field}
        case Not(part):
            return fields_of(part)
        case And(parts) | Or(parts):
            return set[str]().union(*map(fields_of, parts))


def matches(where: Filter | None, payload: Mapping[str, Any]) -> bool:
    """Tell whether an item with this payload is selected. Raises `ValueError` for a field that does not exist."""
    match where:
        case None:
            return True
        case And(parts):
            return all(matches(part, payload) for part in parts)
        case Or(parts):
            return any(matches(part, payload) for part in parts)
        case Not(part):
            return not matches(part, payload)
        case Condition(field, "!=", value):
            return not matches(Condition(field, "=", value), payload)
        case Condition(field, op, value):
            return any(_holds(field, op, value, actual) for actual in _values(field, payload))


def _values(field: str, payload: Mapping[str, Any]) -> Sequence[Any]:
    if field not in PAYLOAD_KEYS:
        raise ValueError(f"{field!r} is not a field; the fields are {', '.join(PAYLOAD_KEYS)}")
    parent, nested, key = PAYLOAD_KEYS[field].partition("[].")
    found = payload.get(parent)
    if nested:
        return [entry[key] for entry in found or () if key in entry]
    return () if found is None else found if isinstance(found, list | tuple) else (found,)


def _holds(field: str, op: Op, value: Any, actual: Any) -> bool:
    if op == "in":
        return any(_holds(field, "=", alternative, actual) for alternative in value)
    if isinstance(actual, str):
        actual = name_form(actual)
    if op == "~":
        return path_matches(str(value), str(actual))
    if op == "=":
        if field == "path" and not is_anchored(value):
            return bool(actual.endswith(f"/{value}"))
        return bool(actual == value)
    return bool(_ORDER[op](actual, value))


def _spell(field: str, value: str | float) -> str:
    """A value as `parse_where` reads it."""
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else '"' + value.replace('"', '""') + '"'
    return f"@{float(value)!r}" if field == "modified" else str(int(value) if value == int(value) else value)


def is_anchored(pattern: str) -> bool:
    """Tell whether the pattern is matched from the start of an absolute path."""
    return pattern.startswith("/") or _DRIVE.match(pattern) is not None


def path_matches(pattern: str, path: str) -> bool:
    """Tell whether `path` (absolute, forward slashes), or a folder that it lies in, is named by `pattern`.

    Both have one form (`paths.name_form`).
    """
    parts, inside = _parts(pattern)
    names = path.split("/")
    # Positions in `names` that some reading of the pattern so far has reached.
    reached: Iterable[int] = [0] if is_anchored(pattern) else range(len(names))
    for part in parts:
        if part == "**":
            reached = range(min(reached, default=len(names)), len(names))
        else:
            name_matches = _name(part)
            reached = [at + 1 for at in reached if at < len(names) and name_matches(names[at])]
    return any(at < len(names) for at in reached) if inside else any(True for _ in reached)


def path_keys(path: str) -> set[str]:
    """Return what an index looks a path up by, exactly.

    That is every folder that it lies in, as a path and by its name, both with a slash at the end (`/pics/holiday/` and
    `holiday/`), the name of the file, and the whole path; all in one form (`paths.name_form`). So a path contains a
    text if and only if one of its keys does.
    """
    path = name_form(path)
    *folders, file = path.split("/")
    within = {f"{'/'.join(folders[:end])}/" for end in range(1, len(folders) + 1)}
    return {file, path} | within | {f"{name}/" for name in folders if name}


class Lookup(NamedTuple):
    """Facts that all paths which match a pattern share, for an index to look for before `path_matches` decides.

    A path that matches has at least one of each of `keys` among its `path_keys`, and contains each of `texts`. When
    `exact`, a path like that matches.
    """

    keys: list[list[str]]
    texts: list[str]
    exact: bool = False


def lookup(pattern: str) -> Lookup:
    """Return what the paths that match a pattern have in common."""
    if text := _TEXT.fullmatch(pattern):
        return Lookup([], [text[1]], exact=True)
    parts, inside = _parts(pattern)
    anchored = is_anchored(pattern)
    wild = [at for at, part in enumerate(parts) if _WILD.search(part)]
    if not wild and (anchored or len(parts) == 1):
        name = "/".join(parts)
        return Lookup([[f"{name}/"] if inside else [name, f"{name}/"]], [], exact=True)
    last = len(parts) if inside else len(parts) - 1  # the last may be the file
    start = min([*wild, last]) if anchored else 0
    keys = [[f"{'/'.join(parts[:start])}/"]] if start > 1 else []  # all paths lie in the first
    keys += [[f"{parts[at]}/"] for at in range(start, last) if at not in wild and parts[at]]
    if last < len(parts) and last not in wild and parts[last]:
        keys.append([parts[last], f"{parts[last]}/"])
    texts = [text for at in wild for text in _literals(parts[at])] if keys else _literals(pattern)
    return Lookup(keys, texts)


def _literals(pattern: str) -> list[str]:
    """Texts of two letters or more that every matching path contains."""
    runs = re.split(r"\*+|\?|\[!?\]?[^\]]*\]", re.sub(r"/{2,}", "/", pattern))
    return [run for run in runs if len(run) > 1 and "[" not in run]


@lru_cache(maxsize=256)
def _parts(pattern: str) -> tuple[tuple[str, ...], bool]:
    """The pattern's names, and whether only what lies inside the folder so named matches (`holiday/`, `holiday/**`)."""
    parts = re.sub(r"/{2,}", "/", pattern).split("/")
    inside = False
    while len(parts) > 1 and parts[-1] in ("", "**"):
        inside = True
        parts.pop()
    return tuple(parts), inside


@lru_cache(maxsize=1024)
def _name(part: str) -> Callable[[str], object]:
    return re.compile(fnmatch.translate(part)).match
