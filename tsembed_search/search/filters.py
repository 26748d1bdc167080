"""The filter language of `--where`, as data that every store translates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Op = Literal["=", "!=", "<", "<=", ">", ">=", "~", "in"]


@dataclass(frozen=True)
class Condition:
    """`field op value`; `~` is a glob on the whole value, `in` takes a tuple."""

    field: str
    op: Op
    value: str | float | tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True)
class And:
    """All of `parts` hold; of none: true."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    """At least one of `parts` holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """`part` does not hold."""

    part: Filter


Filter = Condition | And | Or | Not
