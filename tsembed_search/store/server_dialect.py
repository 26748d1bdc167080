"""A Qdrant server's conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

_RANGE = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


@dataclass(frozen=True)
class ServerDialect:
    """The `Dialect` (see `translate.py`) of a server. Prefixes came with version 1.19, substrings with 1.20."""

    version: tuple[int, int]

    def equals(self, key: str, value: str) -> Any:
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))

    def one_of(self, key: str, values: Sequence[str]) -> Any:
        return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))

    def compares(self, key: str, op: str, number: float) -> Any:
        bounds = {"gte": number, "lte": number} if op == "=" else {_RANGE[op]: number}
        return models.FieldCondition(key=key, range=models.Range(**bounds))

    def starts_with(self, key: str, text: str) -> Any:
        if self.version < (1, 19):
            return None
        return models.FieldCondition(key=key, match=models.MatchPrefix(prefix=text))

    def contains(self, key: str, text: str) -> Any:
        if self.version < (1, 20):
            return None
        return models.FieldCondition(key=key, match=models.MatchSubstring(substring=text))

    def nothing(self) -> Any:
        return models.HasIdCondition(has_id=[])

    def all_of(self, parts: Sequence[Any]) -> Any:
        return models.Filter(must=list(parts))

    def any_of(self, parts: Sequence[Any]) -> Any:
        return models.Filter(should=list(parts))

    def none_of(self, parts: Sequence[Any]) -> Any:
        return models.Filter(must_not=list(parts))


def as_filter(condition: Any) -> Any:
    """A condition as the filter that requests take; None stays None."""
    if condition is None or isinstance(condition, models.Filter):
        return condition
    return models.Filter(must=[condition])
