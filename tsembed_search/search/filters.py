"""The filters of `--where`, as data that every store translates, and what they mean.

`matches` is the reference: whatever an engine does, it must select the points that `matches` selects.

A condition on a field with several values holds when at least one of them satisfies it: `path`, `ext` and `modified`
have one value per place where a content was found, `expert` one per leading expert. A condition on a field without a
value (the page of a picture) does not hold. `a!=b` is exactly `not a=b`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tsembed_search.paths import name_form
from tsembed_search.search.globs import is_anchored, path_matches

Op = Literal["=", "!=", "<", "<=", ">", ">=", "~", "in"]

PAYLOAD_KEYS: Final[Mapping[str, str]] = {
    "kind": "kind",
    "path": "places[].path",
    "ext": "places[].ext",
    "modified": "places[].mtime",
    "page": "page",
    "expert": "top_experts",
    "sha": "sha",
    "model": "model",
}
"""The fields of the language, and where a payload keeps each (see `store/schema.py`)."""

CHECKED_KEYS: Final = tuple(sorted({key.partition("[].")[0] for key in PAYLOAD_KEYS.values()}))
"""The payload keys that `matches` reads."""

_BARE = re.compile(r"""[^\s()"',=<>!~][^\s()"',]*""")
_ORDER: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """`field op value`; the fields are those of `PAYLOAD_KEYS`.

    `~` takes a path pattern (`globs.py`), `in` a tuple of alternatives, the order operators a number: a page, or
    seconds since 1970 for `modified`. A relative `path=` means a path that ends in it. `ext` is lower case, no dot.
    Names are compared in one form (`paths.name_form`), and `value` has it.
    """

    field: str
    op: Op
    value: str | float | tuple[str, ...] | tuple[float, ...]

    def __post_init__(self) -> None:
        value = self.value
        if isinstance(value, str):
            object.__setattr__(self, "value", name_form(value))
        elif isinstance(value, tuple):
            object.__setattr__(self, "value", tuple(name_form(v) if isinstance(v, str) else v for v in value))

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
    """One filter for several that must all hold, or None when there is none: what several `--where` mean together."""
    parts: list[Filter] = []
    for part in filters:
        parts.extend(part.parts if isinstance(part, And) else [part] if part is not None else [])
    return parts[0] if len(parts) == 1 else And(tuple(parts)) if parts else None


def parse_where(text: str) -> Filter:
    """Reads an expression such as `kind=image and (path~"holiday/*.jpg" or modified>=30d)`; see `where.py`.

    Raises `UsageError` that says where, what was expected and what may have been meant.
    """
    from tsembed_search.search.where import parse

    return parse(text)


def matches(where: Filter | None, payload: Mapping[str, Any]) -> bool:
    """Whether an item with this payload is selected. Raises `ValueError` for a field that does not exist."""
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
    return _ORDER[op](actual, value)


def _spell(field: str, value: str | float) -> str:
    """A value as `parse_where` reads it."""
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else '"' + value.replace('"', '""') + '"'
    return f"@{float(value)!r}" if field == "modified" else str(int(value) if value == int(value) else value)
