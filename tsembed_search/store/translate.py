"""Filters as engines have them.

Engines know the same conditions under different names, so the translation is written once over a `Dialect`. What an
engine cannot express (path patterns) becomes the narrowest condition that lets every matching point through; the rest
is checked with `filters.matches`, the reference (see `filtered.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from tsembed_search.store.filters import PAYLOAD_KEYS, And, Condition, Filter, Not, Or, is_anchored, lookup
from tsembed_search.store.schema import PATH_KEYS

C = TypeVar("C")


class Dialect(Protocol[C]):
    """An engine's conditions. `all_of`, `any_of` and `none_of` take at least one part."""

    def equals(self, key: str, value: str) -> C:
        """Hold when the field has this value."""
        ...

    def one_of(self, key: str, values: Sequence[str]) -> C:
        """Hold when the field has one of these values."""
        ...

    def compares(self, key: str, op: str, number: float) -> C:
        """Hold when the field's number is `<`, `<=`, `>`, `>=` or `=` another."""
        ...

    def contains(self, key: str, text: str) -> C | None:
        """Hold when a value contains the text. None where the engine is too old to look for that."""
        ...

    def nothing(self) -> C:
        """Hold for no point."""
        ...

    def all_of(self, parts: Sequence[C]) -> C:
        """Hold when all parts do."""
        ...

    def any_of(self, parts: Sequence[C]) -> C:
        """Hold when at least one part does."""
        ...

    def none_of(self, parts: Sequence[C]) -> C:
        """Hold when no part does."""
        ...


class Native(NamedTuple, Generic[C]):
    """An engine's condition (None: every point passes), and whether it is all that the filter says.

    When not `exact`, more points pass than match, and `matches` has to decide.
    """

    condition: C | None
    exact: bool


def translate(where: Filter | None, dialect: Dialect[C], *, negated: bool = False) -> Native[C]:
    """Return the engine's form of `where`, or of its negation.

    Negation is pushed down to the conditions: the negation of a condition that lets too much through would let too
    little through.
    """
    match where:
        case None:
            return Native(dialect.nothing(), True) if negated else Native(None, True)
        case Not(part):
            return translate(part, dialect, negated=not negated)
        case And(parts) | Or(parts):
            natives = [translate(part, dialect, negated=negated) for part in parts]
            return _all(natives, dialect) if isinstance(where, And) != negated else _any(natives, dialect)
        case Condition(field, "!=", value):
            return translate(Condition(field, "=", value), dialect, negated=not negated)
        case Condition():
            native = _condition(where, dialect)
            if not negated:
                return native
            if not native.exact:
                return Native(None, False)
            if native.condition is None:
                return Native(dialect.nothing(), True)
            return Native(dialect.none_of([native.condition]), True)


def _all(parts: Sequence[Native[C]], dialect: Dialect[C]) -> Native[C]:
    conditions = [part.condition for part in parts if part.condition is not None]
    return Native(dialect.all_of(conditions) if conditions else None, all(part.exact for part in parts))


def _any(parts: Sequence[Native[C]], dialect: Dialect[C]) -> Native[C]:
    if not parts:
        return Native(dialect.nothing(), True)
    if any(part.condition is None for part in parts):
        return Native(None, any(part.condition is None and part.exact for part in parts))
    conditions = [part.condition for part in parts if part.condition is not None]
    return Native(dialect.any_of(conditions), all(part.exact for part in parts))


def _condition(where: Condition, dialect: Dialect[C]) -> Native[C]:
    key, value = PAYLOAD_KEYS[where.field], where.value
    if isinstance(value, tuple):
        texts = [each for each in value if isinstance(each, str)]
        if len(texts) == len(value) and texts and where.field != "path":
            return Native(dialect.one_of(key, texts), True)
        return _any([_condition(Condition(where.field, "=", one), dialect) for one in value], dialect)
    if not isinstance(value, str):
        return Native(dialect.compares(key, where.op, value), True)
    if where.op == "~":
        return _pattern(value, dialect)
    if where.field != "path":
        return Native(dialect.equals(key, value), True)
    if not value or value.endswith("/"):
        return Native(dialect.nothing(), True)
    if is_anchored(value) or "/" not in value:
        return Native(dialect.equals(PATH_KEYS, value), True)
    return Native(dialect.contains(PATH_KEYS, f"/{value}"), False)


def _pattern(pattern: str, dialect: Dialect[C]) -> Native[C]:
    wanted = lookup(pattern)
    texts = [dialect.contains(PATH_KEYS, text) for text in wanted.texts]
    known = [dialect.one_of(PATH_KEYS, keys) for keys in wanted.keys] + [text for text in texts if text is not None]
    # Each holds for some place of the item, perhaps not for the same one: an exact lookup has one.
    return Native(dialect.all_of(known) if known else None, wanted.exact and bool(known))


class QdrantDialect:
    """The `Dialect` of both Qdrant engines, whose Python packages name conditions alike.

    `models` is the package's module of conditions, `number_range` its class for ranges of numbers, `nothing` a
    condition that no point passes. `substrings`: whether the engine can look for a part of a value.
    """

    def __init__(self, models: Any, number_range: Any, nothing: Any, *, substrings: bool = True) -> None:
        self._models = models
        self._range = number_range
        self._nothing = nothing
        self._substrings = substrings

    def equals(self, key: str, value: str) -> Any:
        """Hold when the field has this value."""
        return self._models.FieldCondition(key=key, match=self._models.MatchValue(value=value))

    def one_of(self, key: str, values: Sequence[str]) -> Any:
        """Hold when the field has one of these values."""
        return self._models.FieldCondition(key=key, match=self._models.MatchAny(any=list(values)))

    def compares(self, key: str, op: str, number: float) -> Any:
        """Hold when the field's number is `<`, `<=`, `>`, `>=` or `=` another."""
        bounds = ("gte", "lte") if op == "=" else ({"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[op],)
        return self._models.FieldCondition(key=key, range=self._range(**dict.fromkeys(bounds, number)))

    def contains(self, key: str, text: str) -> Any:
        """Hold when a value contains the text. None where the engine is too old to look for that."""
        if not self._substrings:
            return None
        return self._models.FieldCondition(key=key, match=self._models.MatchSubstring(substring=text))

    def nothing(self) -> Any:
        """Hold for no point."""
        return self._nothing

    def all_of(self, parts: Sequence[Any]) -> Any:
        """Hold when all parts do."""
        return self._models.Filter(must=list(parts))

    def any_of(self, parts: Sequence[Any]) -> Any:
        """Hold when at least one part does."""
        return self._models.Filter(should=list(parts))

    def none_of(self, parts: Sequence[Any]) -> Any:
        """Hold when no part does."""
        return self._models.Filter(must_not=list(parts))

    def as_filter(self, condition: Any) -> Any:
        """Return a condition as the filter that requests take; None stays None."""
        if condition is None or isinstance(condition, self._models.Filter):
            return condition
        return self._models.Filter(must=[condition])
