"""A filter as an engine's own condition.

What an engine cannot express (path patterns) becomes the narrowest condition that lets every matching point through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tsembed_search.store.filters import PAYLOAD_KEYS, And, Condition, Filter, Not, Or, is_anchored, lookup
from tsembed_search.store.schema import CONCEPTS_NAME, PATH_KEYS, VECTOR_NAME


class Dialect:
    """The conditions of both Qdrant engines, whose Python packages name them alike.

    `models` is the package's module of conditions, `number_range` its class for ranges of numbers, `with_ids` makes a
    condition that only points of these ids pass, `with_vector` one that points with a vector of that name pass.
    `substrings`: the engine can look for a part of a value. `all_of`, `any_of` and `none_of` take at least one part.
    """

    def __init__(
        self,
        models: Any,
        number_range: Any,
        with_ids: Callable[[list[str]], Any],
        with_vector: Callable[[str], Any],
        *,
        substrings: bool = True,
    ) -> None:
        self._models = models
        self._range = number_range
        self.with_ids = with_ids
        self.has_vector = with_vector(VECTOR_NAME)
        self.has_concepts = with_vector(CONCEPTS_NAME)
        self.nothing = with_ids([])
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
        return self.all_of([condition])


class Native(NamedTuple):
    """An engine's `condition` (None: every point passes), and whether that is all that the filter says.

    When not `exact`, more points pass than match, and `matches` has to decide. `loose`, where there is such a
    condition: one that still more points pass, and that the engine checks far faster.
    """

    condition: Any
    exact: bool
    loose: Any = None

    @property
    def easiest(self) -> Any:
        """The condition that is checked fastest."""
        return self.condition if self.loose is None else self.loose


def translate(where: Filter | None, dialect: Dialect, *, negated: bool = False) -> Native:
    """Return the engine's form of `where`, or of its negation.

    Negation is pushed down to the conditions: the negation of one that lets too much through would let too little
    through.
    """
    match where:
        case None:
            return Native(dialect.nothing, True) if negated else Native(None, True)
        case Not(part):
            return translate(part, dialect, negated=not negated)
        case And(parts) | Or(parts):
            natives = [translate(part, dialect, negated=negated) for part in parts]
            if isinstance(where, Or) != negated:
                return _any(natives, dialect)
            return _together(natives, dialect.all_of, all(part.exact for part in natives))
        case Condition(field, "!=", value):
            return translate(Condition(field, "=", value), dialect, negated=not negated)
        case Condition():
            native = _condition(where, dialect)
            if not negated:
                return native
            if not native.exact:
                return Native(None, False)
            return Native(dialect.nothing if native.condition is None else dialect.none_of([native.condition]), True)


def _any(parts: Sequence[Native], dialect: Dialect) -> Native:
    if not parts:
        return Native(dialect.nothing, True)
    if everything := [part for part in parts if part.condition is None]:
        return Native(None, any(part.exact for part in everything))
    return _together(parts, dialect.any_of, all(part.exact for part in parts))


def _together(parts: Sequence[Native], join: Callable[[list[Any]], Any], exact: bool) -> Native:
    """Parts that a condition is made of; those that every point passes are left out."""
    telling = [part for part in parts if part.condition is not None]
    if not telling:
        return Native(None, exact)
    loose = join([part.easiest for part in telling]) if any(part.loose is not None for part in telling) else None
    return Native(join([part.condition for part in telling]), exact, loose)


def _condition(where: Condition, dialect: Dialect) -> Native:
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
        return Native(dialect.nothing, True)
    if is_anchored(value) or "/" not in value:
        return Native(dialect.equals(PATH_KEYS, value), True)
    return Native(dialect.contains(PATH_KEYS, f"/{value}"), False)


def _pattern(pattern: str, dialect: Dialect) -> Native:
    wanted = lookup(pattern)
    found = [dialect.contains(PATH_KEYS, text) for text in wanted.texts]
    texts = [text for text in found if text is not None]
    keys = [dialect.one_of(PATH_KEYS, keys) for keys in wanted.keys]
    known = keys + texts
    # Each holds for some place of the item, perhaps not for the same one: an exact lookup has one.
    exact = wanted.exact and bool(known)
    # A key is looked up; for a text, every path is read.
    return Native(dialect.all_of(known) if known else None, exact, dialect.all_of(keys) if keys and texts else None)
