"""The filters of `--where`, as data that every store translates, and what they mean.

`matches` is the reference: whatever an engine does, it must select the points that `matches` selects.

A condition on a field with several values holds when at least one of them satisfies it: `path`, `ext` and `modified`
have one value per place where a content was found, `expert` one per leading expert. A condition on a field without a
value (the page of a picture) does not hold. `a!=b` is exactly `not a=b`.

Path patterns, as shells and `.gitignore` have them.

`*` and `?` stay within one folder name or file name, `**` stands for any number of folders, `[abc]` and `[!abc]` for
one character. A pattern that starts with `/` (or a drive, `C:/`) is matched from the start of the path; any other may
start at any folder. A pattern that names a folder matches everything in it: `holiday` finds `/pics/holiday/2019/a.jpg`.
Upper and lower case differ.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, Literal

from tsembed_search.paths import name_form

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


_WILD = re.compile(r"[*?\[]")

_DRIVE = re.compile(r"[A-Za-z]:/")

_TYPE = re.compile(r"\*\.[^.*?\[\]]+")


def is_anchored(pattern: str) -> bool:
    """Whether the pattern is matched from the start of an absolute path."""
    return pattern.startswith("/") or _DRIVE.match(pattern) is not None


def literal_folder(pattern: str) -> str | None:
    """The one path that the pattern names, without a slash at its end; None when it has wildcards or is relative.

    It matches that path (unless `names_inside_only`) and every path inside.
    """
    path = "/".join(_parts(pattern)[0])
    return path if is_anchored(pattern) and not _WILD.search(path) else None


def names_inside_only(pattern: str) -> bool:
    """Whether the pattern (`holiday/`, `holiday/**`) matches what lies in a folder but nothing of its own name."""
    return _parts(pattern)[1]


def bare_text(pattern: str) -> str | None:
    """`text` when the pattern is `*text*`, which is any path that contains it; else None."""
    found = re.fullmatch(r"\*+([^*?\[/]+)\*+", pattern)
    return found[1] if found else None


def path_matches(pattern: str, path: str) -> bool:
    """Whether `path` (absolute, forward slashes), or a folder that it lies in, is named by `pattern`.

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


def literals(pattern: str) -> list[str]:
    """Texts that every matching path contains: what an index can look for first. Only those of two letters or more."""
    runs = re.split(r"\*+|\?|\[!?\]?[^\]]*\]", re.sub(r"/{2,}", "/", pattern))
    return [run for run in runs if len(run) > 1 and "[" not in run]


def path_keys(path: str) -> set[str]:
    """What an index can look a path up by, exactly: every folder that it lies in as a path and by its name, both with a
    slash at the end (`/pics/holiday/` and `holiday/`), the name of the file, what is of a type in a folder
    (`holiday/*.jpg`), and the whole path. All in one form (`paths.name_form`), in which a filter has them, too.

    So what a path contains one of its keys contains, and the other way round, unless it holds a `*`.
    """
    path = name_form(path)
    names = path.split("/")
    folders = names[:-1]
    inner = {f"{name}/" for name in folders if name}
    typed = {f"{folder}/*.{name.rpartition('.')[2]}" for folder, name in pairwise(names) if folder and "." in name}
    within = {f"{'/'.join(folders[:end])}/" for end in range(1, len(folders) + 1)}
    return within | inner | typed | {names[-1], path}


def is_key(pattern: str) -> bool:
    """Whether the pattern is nothing but a name, or `name/*.type`: then a path matches if and only if it has one of its
    `wanted_keys`.
    """
    parts, inside = _parts(pattern)
    if is_anchored(pattern) or not parts[0]:
        return False
    if len(parts) == 2:
        return not inside and _typed(parts, 1) is not None
    return len(parts) == 1 and not _WILD.search(parts[0])


def _typed(parts: Sequence[str], at: int) -> str | None:
    """The key for `*.type` in a folder whose name is known; None when that is not what stands there."""
    if at == 0 or not parts[at - 1] or _WILD.search(parts[at - 1]) or not _TYPE.fullmatch(parts[at]):
        return None
    return f"{parts[at - 1]}/{parts[at]}"


def wanted_keys(pattern: str) -> list[list[str]]:
    """What every matching path has among its `path_keys`: of each list at least one. For what has no wildcards."""
    parts, inside = _parts(pattern)
    wild = [at for at, part in enumerate(parts) if _WILD.search(part)]
    last = len(parts) if inside else len(parts) - 1  # the last may be the file
    start = 0
    keys: list[list[str]] = []
    if is_anchored(pattern):
        start = min([*wild, last])
        if start > 1:  # all paths lie in the first
            keys.append(["/".join(parts[:start]) + "/"])
    keys += [[f"{parts[at]}/"] for at in range(start, last) if at not in wild and parts[at]]
    if last < len(parts) and last not in wild and parts[last]:
        keys.append([parts[last], f"{parts[last]}/"])
    typed = [key for at in wild if (key := _typed(parts, at)) is not None]
    return keys if not typed else [[key] for key in typed] + [each for each in keys if not _implied(each, typed)]


def _implied(keys: Sequence[str], typed: Sequence[str]) -> bool:
    """Whether what has one of the `typed` keys has this one, too: `holiday/*.jpg` lies in `holiday/`."""
    return len(keys) == 1 and any(key.startswith(keys[0]) for key in typed)


def wild_literals(pattern: str) -> list[str]:
    """The `literals` of the names with wildcards, which `wanted_keys` leave out."""
    parts, _ = _parts(pattern)
    wild = [part for at, part in enumerate(parts) if _WILD.search(part) and _typed(parts, at) is None]
    return [literal for part in wild for literal in literals(part)]


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
