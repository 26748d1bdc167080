"""Qdrant Edge's conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qdrant_edge as engine

_RANGE = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


class EdgeDialect:
    """The `Dialect` (see `translate.py`) of Qdrant Edge."""

    def equals(self, key: str, value: str) -> Any:
        return engine.FieldCondition(key, match=engine.MatchValue(value))

    def one_of(self, key: str, values: Sequence[str]) -> Any:
        return engine.FieldCondition(key, match=engine.MatchAny(list(values)))

    def compares(self, key: str, op: str, number: float) -> Any:
        bounds = {"gte": number, "lte": number} if op == "=" else {_RANGE[op]: number}
        return engine.FieldCondition(key, range=engine.RangeFloat(**bounds))

    def starts_with(self, key: str, text: str) -> Any:
        return engine.FieldCondition(key, match=engine.MatchPrefix(text))

    def contains(self, key: str, text: str) -> Any:
        return engine.FieldCondition(key, match=engine.MatchSubstring(text))

    def nothing(self) -> Any:
        return engine.HasIdCondition(set())

    def all_of(self, parts: Sequence[Any]) -> Any:
        return engine.Filter(must=list(parts))

    def any_of(self, parts: Sequence[Any]) -> Any:
        return engine.Filter(should=list(parts))

    def none_of(self, parts: Sequence[Any]) -> Any:
        return engine.Filter(must_not=list(parts))


def as_filter(condition: Any) -> Any:
    """A condition as the filter that requests take; None stays None."""
    if condition is None or isinstance(condition, engine.Filter):
        return condition
    return engine.Filter(must=[condition])
