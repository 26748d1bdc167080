"""The language of `--where`.

    where      = either ("or" either)*
    either     = condition ("and" condition)*
    condition  = "not" condition | "(" where ")" | field op value | field ["not"] "in" "(" value ("," value)* ")"
    op         = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~"

A value with spaces, commas, brackets or quotes goes in single or double quotes; inside, the quote is doubled.

Dates as people write them, read as spans of time.

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
from typing import Final, NoReturn

from tsembed_search.errors import UsageError
from tsembed_search.items import KINDS
from tsembed_search.paths import absolute
from tsembed_search.store.filters import And, Condition, Filter, Not, Op, Or, all_of

MAX_DEPTH: Final = 40

_EQUAL: Final = ("=", "!=", "in")

_ORDER: Final = ("<", "<=", ">", ">=")

_OPS: Final = (*_EQUAL, "~", *_ORDER)

_FIELDS: Final = {
    "kind": _EQUAL,
    "path": (*_EQUAL, "~"),
    "ext": _EQUAL,
    "page": (*_EQUAL, *_ORDER),
    "modified": (*_EQUAL, *_ORDER),
    "expert": _EQUAL,
    "sha": _EQUAL,
    "model": _EQUAL,
}

_ALIASES: Final = {
    "type": "kind", "file": "path", "name": "path", "folder": "path", "extension": "ext", "suffix": "ext",
    "pages": "page", "mtime": "modified", "date": "modified", "time": "modified", "experts": "expert", "hash": "sha",
}  # fmt: skip

_SPACE = re.compile(r"\s*")

_WORD = re.compile(r"[^\W\d][\w.-]*")

_OPERATOR = re.compile(r"!=|!~|==|<=|>=|[=<>~]")

_QUOTED = re.compile(r'"((?:[^"]|"")*)"|\'((?:[^\']|\'\')*)\'')

_VALUE = re.compile(r"""[^\s()"',]+""")


def parse(text: str, now: datetime | None = None) -> Filter:
    """Reads one expression. `now` (default: the present) is what relative dates count from.

    Raises `UsageError` that says where, what was expected and what may have been meant.
    """
    # The bytes of a file name that are not UTF-8 reach a command line as lone surrogates; the index spells them out.
    text = text.encode("utf-8", "backslashreplace").decode()
    reader = _Reader(text, now or datetime.now().astimezone())
    where = reader.alternatives()
    if not reader.at_end():
        if reader.take(")"):
            reader.fail("there is a ) too many", "Remove it, or put the value in quotes.", at=reader.at - 1)
        reader.fail(
            f"unexpected {reader.rest()}", "Join conditions with `and` or `or`; put values with spaces in quotes."
        )
    return where


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
        elif self.take("("):
            opened = self.at - 1
            result = self.alternatives()
            if not self.take(")"):
                found = "" if self.at_end() else f" before {self.rest()}"
                self.fail(f"the ( at character {opened + 1} is not closed{found}", "Add a ).")
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
        operator = None if negated else self.match(_OPERATOR)
        if operator is None:
            self.fail(f"expected {_either(_FIELDS[field])} after {field}, found {self.rest()}", _example(field))
        op = {"==": "=", "!~": "~"}.get(operator, operator)
        self.allow(field, op, at)
        result = _compare(field, op, self.value(field))
        return Not(result) if operator == "!~" else result

    def membership(self, field: str) -> Filter:
        if not self.take("("):
            self.fail(f"expected ( after `in`, found {self.rest()}", f"Write {field} in (one, another).")
        values = [self.value(field)]
        while self.take(","):
            values.append(self.value(field))
        if not self.take(")"):
            self.fail(f"expected , or ) in the list, found {self.rest()}", f"Write {field} in (one, another).")
        if field == "modified":
            parts = tuple(_compare(field, "=", value) for value in values)
            return parts[0] if len(parts) == 1 else Or(parts)
        return Condition(field, "in", tuple(values))  # type: ignore[arg-type]

    def field(self) -> str:
        start = self.skip_space()
        word = self.match(_WORD)
        if word is None:
            self.fail(f"expected a field, found {self.rest()}", f"The fields are {', '.join(_FIELDS)}.")
        name = word.lower()
        if name not in _FIELDS:
            close = difflib.get_close_matches(name, _FIELDS, n=1, cutoff=0.6)
            meant = _ALIASES.get(name) or (close[0] if close else None)
            guess = f"Did you mean {meant}? " if meant else ""
            self.fail(f"{word!r} is not a field", f"{guess}The fields are {', '.join(_FIELDS)}.", at=start)
        return name

    def value(self, field: str) -> str | float | tuple[float, float]:
        """One value, read the way its field wants; for `modified` the span of time (start, end)."""
        start = self.skip_space()
        if quoted := _QUOTED.match(self.text, self.at):
            self.at = quoted.end()
            raw = quoted[1].replace('""', '"') if quoted[1] is not None else quoted[2].replace("''", "'")
        else:
            found = self.match(_VALUE)
            if found is None:
                closed = "a closing quote is missing" if self.text[start : start + 1] in ("'", '"') else None
                self.fail(closed or f"expected a value for {field}, found {self.rest()}", _example(field))
            raw = found
        try:
            return _READERS[field](raw, self.now)
        except ValueError as error:
            self.fail(str(error), _example(field), at=start)

    def allow(self, field: str, op: str, at: int) -> None:
        if op not in _FIELDS[field]:
            self.fail(f"{field} does not take {op}, only {_either(_FIELDS[field])}", _example(field), at)

    def keyword(self, word: str) -> bool:
        self.skip_space()
        found = _WORD.match(self.text, self.at)
        if found is None or found[0].lower() != word:
            return False
        self.at = found.end()
        return True

    def take(self, mark: str) -> bool:
        self.skip_space()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self.skip_space()
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[0]

    def skip_space(self) -> int:
        if space := _SPACE.match(self.text, self.at):
            self.at = space.end()
        return self.at

    def at_end(self) -> bool:
        return self.skip_space() == len(self.text)

    def rest(self) -> str:
        """What comes next, for a message."""
        if self.at_end():
            return "the end"
        left = self.text[self.at : self.at + 20].split()[0]
        return repr(left)

    def fail(self, what: str, hint: str, at: int | None = None) -> NoReturn:
        position = self.skip_space() if at is None else at
        shown = self.text if len(self.text) <= 100 else self.text[:97] + "..."
        raise UsageError(f"Cannot read the filter `{shown}` at character {position + 1}: {what}.", hint)


def _compare(field: str, op: str, value: str | float | tuple[float, float]) -> Filter:
    """A condition; a date stands for the whole of its span."""
    if not isinstance(value, tuple):
        return Condition(field, _op(op), value)
    start, end = value
    if op == "!=":
        return Not(_compare(field, "=", value))
    if op == "=":
        if start == end:
            return And((Condition(field, ">=", start), Condition(field, "<=", start)))
        return And((Condition(field, ">=", start), Condition(field, "<", end)))
    if start != end and op == "<=":
        return Condition(field, "<", end)
    if start != end and op == ">":
        return Condition(field, ">=", end)
    return Condition(field, _op(op), start)


def _op(op: str) -> Op:
    assert op in _OPS
    return op  # type: ignore[return-value]


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
    if raw.startswith(("~/", "./", "../")):
        return absolute(raw).as_posix() + tail
    return raw


def _read_ext(raw: str, now: datetime) -> str:
    return raw.lower().removeprefix("*").removeprefix(".")


def _read_page(raw: str, now: datetime) -> float:
    if not re.fullmatch(r"[0-9]{1,9}", raw):
        raise ValueError(f"{raw!r} is not a page number")
    return int(raw)


def _read_modified(raw: str, now: datetime) -> tuple[float, float]:
    try:
        return read_span(raw, now)
    except ValueError as error:
        raise ValueError(f"{raw!r} is not a date") from error


def _read_keyword(raw: str, now: datetime) -> str:
    return raw


_READERS: Final[dict[str, Callable[[str, datetime], str | float | tuple[float, float]]]] = {
    "kind": _read_kind,
    "path": _read_path,
    "ext": _read_ext,
    "page": _read_page,
    "modified": _read_modified,
    "expert": _read_keyword,
    "sha": _read_keyword,
    "model": _read_keyword,
}


def _example(field: str) -> str:
    examples = {
        "kind": "For example kind=image or kind in (image, page).",
        "path": 'For example path~"holiday/*.jpg" or path=/home/me/notes.txt.',
        "ext": "For example ext=pdf or ext in (jpg, png).",
        "page": "For example page<=3.",
        "modified": f"For example modified>=2024-01-31. A date is {EXPECTED.removeprefix('a date such as ')}.",
        "expert": "For example expert=b3e5.",
    }
    return examples.get(field, f"For example {field}=abc.")


def _either(ops: Sequence[str]) -> str:
    return f"{', '.join(ops[:-1])} or {ops[-1]}"


_UNITS = {"min": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "mo": 30 * 86400, "y": 365 * 86400}

_AGO = re.compile(r"(\d{1,9})\s?(min|mo|h|d|w|y)")

_EPOCH = re.compile(r"@(-?\d{1,12}(?:\.\d+)?(?:e[+-]?\d{1,3})?)")

_MONTH = re.compile(r"(\d{4})(?:-(\d{1,2}))?")


EXPECTED = "a date such as 2024-01-31, 2024-01, 2024, 2024-01-31T10:30, today, yesterday, or 30d for 30 days ago"


def read_span(text: str, now: datetime) -> tuple[float, float]:
    """(start, end) of the span of time that `text` names, in seconds since 1970; equal when it is one moment.

    `now` is a local time with its zone. Raises `ValueError` for anything that is not a date.
    """
    text = text.strip().lower()
    if match := _AGO.fullmatch(text):
        moment = now.timestamp() - int(match[1]) * _UNITS[match[2]]
        return moment, moment
    if match := _EPOCH.fullmatch(text):
        moment = float(match[1])
        if not math.isfinite(moment):
            raise ValueError(f"{text} is too large")
        return moment, moment
    try:
        start, end = _calendar(text, now)
    except OverflowError as error:
        raise ValueError(f"{text} lies outside the calendar") from error
    return _seconds(start), _seconds(end)


def _seconds(moment: datetime) -> float:
    """Seconds since 1970. In years that the system's clock does not have, as in year 1, zones are left out."""
    try:
        return moment.timestamp()
    except (OverflowError, OSError, ValueError):
        return moment.replace(tzinfo=UTC).timestamp()


def _calendar(text: str, now: datetime) -> tuple[datetime, datetime]:
    if text in ("today", "yesterday"):
        day = now.date() - timedelta(days=text == "yesterday")
        return _midnight(day), _midnight(day + timedelta(days=1))
    if match := _MONTH.fullmatch(text):
        year, month = int(match[1]), int(match[2] or 1)
        first = date(year, month, 1)
        after = date(year + 1, 1, 1) if month == 12 or not match[2] else date(year, month + 1, 1)
        return _midnight(first), _midnight(after)
    if "t" not in text and " " not in text:
        day = date.fromisoformat(text)
        return _midnight(day), _midnight(day + timedelta(days=1))
    start = datetime.fromisoformat(text.upper())
    clock = re.split(r"[t ]", text, maxsplit=1)[1]
    digits = len(re.sub(r"[^\d:].*", "", clock).replace(":", ""))
    # Hours, minutes or seconds were given; a fraction of a second is a moment.
    length = 0 if "." in clock else {2: 3600, 4: 60}.get(digits, 1)
    return start, start + timedelta(seconds=length)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time())


def parse_where(text: str) -> Filter:
    """Reads an expression such as `kind=image and (path~"holiday/*.jpg" or modified>=30d)`; see `where.py`.

    Raises `UsageError` that says where, what was expected and what may have been meant.
    """

    return parse(text)
