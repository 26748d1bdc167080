"""The language of filters.

    where      = either ("or" either)*
    either     = condition ("and" condition)*
    condition  = "not" condition | "(" where ")" | field op value | field ["not"] "in" "(" value ("," value)* ")"
    op         = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~"

A value with spaces, commas, brackets or quotes goes in single or double quotes; inside, the quote is doubled.

A date stands for the whole of it, in local time: `2024-01-31` is that day, `2024-01` that month, `2024` that year,
`2024-01-31T10:30` that minute; `today` and `yesterday` are days. `30d` is the moment 30 days ago (also `min`, `h`, `w`,
`mo` of 30 days, `y` of 365), and `@1706659200` a moment in seconds since 1970.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

from tsembed_search.errors import UsageError
from tsembed_search.items import KINDS
from tsembed_search.paths import absolute, indexed_form
from tsembed_search.store.filters import And, Condition, Filter, Not, Or, all_of

MAX_DEPTH: Final = 40

Span = tuple[float, float]
_WORD = r"[^\W\d][\w.-]*"
_QUOTED = r'"((?:[^"]|"")*)"|\'((?:[^\']|\'\')*)\''
_UNITS = {"min": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "mo": 30 * 86400, "y": 365 * 86400}
_AGO = re.compile(r"(\d{1,9})\s?(min|mo|h|d|w|y)")
_EPOCH = re.compile(r"@(-?\d{1,12}(?:\.\d+)?(?:e[+-]?\d{1,3})?)")
_MONTH = re.compile(r"(\d{4})(?:-(\d{1,2}))?")


def parse_where(text: str, now: datetime | None = None) -> Filter:
    """Read an expression such as `kind=image and (path~"holiday/*.jpg" or modified>=30d)`.

    `now` (default: the present) is what relative dates count from. Raises `UsageError` that says where, what was
    expected and what may have been meant.
    """
    # The bytes of a file name that are not UTF-8 reach a command line as lone surrogates; the index spells them out.
    text = text.encode("utf-8", "backslashreplace").decode()
    reader = _Reader(text, now or datetime.now().astimezone())
    where = reader.alternatives()
    if reader.match(r"\)"):
        reader.fail("there is a ) too many", "Remove it, or put the value in quotes.", at=reader.at - 1)
    if reader.skip_space() < len(text):
        hint = "Join conditions with `and` or `or`; put values with spaces in quotes."
        reader.fail(f"unexpected {reader.rest()}", hint)
    return where


def selection(paths: Sequence[str | Path] = (), where: Sequence[str | Filter] = ()) -> Filter | None:
    """Return one filter for files, folders and expressions, None for none. Raises `UsageError` as `parse_where`."""
    parts: list[Filter | None] = [parse_where(one) if isinstance(one, str) else one for one in where]
    # The pattern that names this path and nothing else, and what lies in it, if it is a folder.
    names = [re.sub(r"([*?[])", r"[\1]", indexed_form(absolute(path))) for path in paths]
    places = tuple(Condition("path", "~", name) for name in names)
    return all_of([*parts, Or(places) if len(places) > 1 else places[0] if places else None])


def _span(text: str, now: datetime) -> Span:
    """The (start, end) of the span of time that `text` names, in seconds since 1970; equal when it is one moment.

    `now` is a local time with its zone. Raises `ValueError` for anything that is not a date, `OverflowError` for one
    that lies outside the calendar.
    """
    if match := _AGO.fullmatch(text):
        moment = now.timestamp() - int(match[1]) * _UNITS[match[2]]
        return moment, moment
    if match := _EPOCH.fullmatch(text):
        moment = float(match[1])
        if not math.isfinite(moment):
            raise ValueError(f"{text} is too large")
        return moment, moment
    if match := _MONTH.fullmatch(text):
        year, month = int(match[1]), int(match[2] or 1)
        after = date(year + 1, 1, 1) if month == 12 or not match[2] else date(year, month + 1, 1)
        return _seconds(datetime.combine(date(year, month, 1), time())), _seconds(datetime.combine(after, time()))
    named = {"today": now.date(), "yesterday": now.date() - timedelta(days=1)}
    if text in named or ("t" not in text and " " not in text):
        start = datetime.combine(named.get(text) or date.fromisoformat(text), time())
        return _seconds(start), _seconds(start + timedelta(days=1))
    start = datetime.fromisoformat(text.upper())
    clock = re.split(r"[t ]", text, maxsplit=1)[1]
    digits = len(re.sub(r"[^\d:].*", "", clock).replace(":", ""))
    # Hours, minutes or seconds were given; a fraction of a second is a moment.
    length = 0 if "." in clock else {2: 3600, 4: 60}.get(digits, 1)
    return _seconds(start), _seconds(start + timedelta(seconds=length))


def _seconds(moment: datetime) -> float:
    """Seconds since 1970. In years that the system's clock does not have, as in year 1, zones are left out."""
    try:
        return moment.timestamp()
    except (OverflowError, OSError, ValueError):
        return moment.replace(tzinfo=UTC).timestamp()


def _read_kind(raw: str, now: datetime) -> str:
    kind = raw.lower()
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.5)
        raise ValueError(f"{raw!r} is not a kind" + (f", did you mean {close[0]}?" if close else ""))
    return kind


def _read_path(raw: str, now: datetime) -> str:
    """`~/` is the home folder; `./` and `../` count from the current folder."""
    if not raw.strip("/") and raw != "/":
        raise ValueError("a path cannot be empty")
    tail = "/" if raw.endswith("/") else ""
    return absolute(raw).as_posix() + tail if raw.startswith(("~/", "./", "../")) else raw


def _read_page(raw: str, now: datetime) -> float:
    if not re.fullmatch(r"[0-9]{1,9}", raw):
        raise ValueError(f"{raw!r} is not a page number")
    return int(raw)


def _read_modified(raw: str, now: datetime) -> Span:
    try:
        return _span(raw.strip().lower(), now)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{raw!r} is not a date") from error


def _read_concept(raw: str, now: datetime) -> str:
    """The usual name of a concept, by any of its names."""
    from tsembed_search.model.concepts import hierarchy

    known, name = hierarchy().usual_names, " ".join(raw.lower().split())
    found = known.get(name) or known.get(name.removesuffix("s"))
    if found is None:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        meant = (
            f", did you mean {close[0]}?" if close else "; there are classes of ImageNet, and what they are kinds of"
        )
        raise ValueError(f"{raw!r} is not a concept{meant}")
    return found


@dataclass(frozen=True)
class _Field:
    """A field: the operators that it takes, and a reader of values. `others`: names that people may give it."""

    ops: Sequence[str]
    example: str
    others: Sequence[str] = ()
    read: Callable[[str, datetime], Any] = lambda raw, now: raw

    @property
    def takes(self) -> str:
        return f"{', '.join(self.ops[:-1])} or {self.ops[-1]}"


_EQUAL: Final = ("=", "!=", "in")
_ORDER: Final = (*_EQUAL, "<", "<=", ">", ">=")
_DATE: Final = "2024-01-31, 2024-01, 2024, 2024-01-31T10:30, today, yesterday, or 30d for 30 days ago"
_FIELDS: Final = {
    "kind": _Field(_EQUAL, "kind=image or kind in (image, page)", ("type",), _read_kind),
    "path": _Field(
        (*_EQUAL, "~"), 'path~"holiday/*.jpg" or path=/home/me/notes.txt', ("file", "name", "folder"), _read_path
    ),
    "ext": _Field(
        _EQUAL,
        "ext=pdf or ext in (jpg, png)",
        ("extension", "suffix"),
        lambda raw, now: raw.lower().removeprefix("*").removeprefix("."),
    ),
    "page": _Field(_ORDER, "page<=3", ("pages",), _read_page),
    "modified": _Field(_ORDER, f"modified>=2024-01-31. A date is {_DATE}", ("mtime", "date", "time"), _read_modified),
    "expert": _Field(_EQUAL, "expert=b3e5", ("experts",)),
    "concept": _Field(_EQUAL, "concept=bird or concept in (cat, dog)", ("concepts", "shows", "thing"), _read_concept),
    "sha": _Field(_EQUAL, "sha=abc", ("hash",)),
    "model": _Field(_EQUAL, "model=abc"),
}


@dataclass
class _Reader:
    """Recursive descent over `text`; `at` is how far it has come."""

    text: str
    now: datetime
    at: int = 0
    depth: int = 0

    def alternatives(self) -> Filter:
        parts = [self.conjunction()]
        while self.keyword("or"):
            parts.append(self.conjunction())
        flat = tuple(inner for part in parts for inner in (part.parts if isinstance(part, Or) else (part,)))
        return flat[0] if len(flat) == 1 else Or(flat)

    def conjunction(self) -> Filter:
        parts = [self.condition()]
        while self.keyword("and"):
            parts.append(self.condition())
        joined = all_of(parts)
        assert joined is not None
        return joined

    def condition(self) -> Filter:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail("too many brackets or `not` inside each other", f"At most {MAX_DEPTH} are read.")
        if self.keyword("not"):
            result: Filter = Not(self.condition())
        elif self.match(r"\("):
            opened = self.at
            result = self.alternatives()
            if not self.match(r"\)"):
                found = f" before {self.rest()}" if self.skip_space() < len(self.text) else ""
                self.fail(f"the ( at character {opened} is not closed{found}", "Add a ).")
        else:
            result = self.comparison()
        self.depth -= 1
        return result

    def comparison(self) -> Filter:
        field = self.field()
        negated = self.keyword("not")
        at = self.skip_space()
        if self.keyword("in"):
            self.allow(field, "in", at)
            result = self.membership(field)
            return Not(result) if negated else result
        found = None if negated else self.match("!=|!~|==|<=|>=|[=<>~]")
        if found is None:
            self.expected(f"{_FIELDS[field].takes} after {field}", _example(field))
        op = {"==": "=", "!~": "~"}.get(found[0], found[0])
        self.allow(field, op, at)
        result = _compare(field, op, self.value(field))
        return Not(result) if found[0] == "!~" else result

    def membership(self, field: str) -> Filter:
        hint = f"Write {field} in (one, another)."
        if not self.match(r"\("):
            self.expected("( after `in`", hint)
        values = [self.value(field)]
        while self.match(","):
            values.append(self.value(field))
        if not self.match(r"\)"):
            self.expected(", or ) in the list", hint)
        if field == "modified":
            parts = tuple(_compare(field, "=", value) for value in values)
            return parts[0] if len(parts) == 1 else Or(parts)
        return Condition(field, "in", tuple(values))

    def field(self) -> str:
        start = self.skip_space()
        fields = f"The fields are {', '.join(_FIELDS)}."
        word = self.match(_WORD)
        if word is None:
            self.expected("a field", fields)
        name = word[0].lower()
        if name not in _FIELDS:
            close = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.6)
            meant = next((field for field, one in _FIELDS.items() if name in one.others), close[0] if close else None)
            self.fail(f"{word[0]!r} is not a field", f"Did you mean {meant}? {fields}" if meant else fields, at=start)
        return name

    def value(self, field: str) -> Any:
        """One value, read the way its field wants; for `modified` the span of time."""
        start = self.skip_space()
        if quoted := self.match(_QUOTED):
            raw = quoted[1].replace('""', '"') if quoted[1] is not None else quoted[2].replace("''", "'")
        elif found := self.match(r"""[^\s()"',]+"""):
            raw = found[0]
        elif self.text.startswith(("'", '"'), start):
            self.fail("a closing quote is missing", _example(field))
        else:
            self.expected(f"a value for {field}", _example(field))
        try:
            return _FIELDS[field].read(raw, self.now)
        except ValueError as error:
            self.fail(str(error), _example(field), at=start)

    def allow(self, field: str, op: str, at: int) -> None:
        if op not in _FIELDS[field].ops:
            self.fail(f"{field} does not take {op}, only {_FIELDS[field].takes}", _example(field), at)

    def keyword(self, word: str) -> bool:
        return self.match(rf"(?i:{word})(?![\w.-])") is not None

    def match(self, pattern: str) -> re.Match[str] | None:
        """Go past what matches here, after blanks."""
        found = re.compile(pattern).match(self.text, self.skip_space())
        self.at = found.end() if found else self.at
        return found

    def skip_space(self) -> int:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.at

    def rest(self) -> str:
        """The next characters, for a message."""
        following = self.text[self.skip_space() : self.at + 20].split()
        return repr(following[0]) if following else "the end"

    def expected(self, what: str, hint: str) -> NoReturn:
        self.fail(f"expected {what}, found {self.rest()}", hint)

    def fail(self, what: str, hint: str, at: int | None = None) -> NoReturn:
        position = self.skip_space() if at is None else at
        shown = self.text if len(self.text) <= 100 else self.text[:97] + "..."
        raise UsageError(f"Cannot read the filter `{shown}` at character {position + 1}: {what}.", hint)


def _example(field: str) -> str:
    return f"For example {_FIELDS[field].example}."


def _compare(field: str, op: Any, value: Any) -> Filter:
    """A condition; a date stands for the whole of its span."""
    if not isinstance(value, tuple):
        return Condition(field, op, value)
    start, end = value
    if op == "!=":
        return Not(_compare(field, "=", value))
    if op == "=":
        upper = Condition(field, "<=" if start == end else "<", end)
        return And((Condition(field, ">=", start), upper))
    if op in ("<=", ">") and start != end:
        return Condition(field, "<" if op == "<=" else ">=", end)
    return Condition(field, op, start)
