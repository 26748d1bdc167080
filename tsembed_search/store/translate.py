"""Filters, as the engines have them.

Both engines know the same conditions under different names, so the translation is written once over a `Dialect`. What
an engine cannot express (path patterns) becomes the narrowest condition that lets every matching point through; the
rest is checked here with `matches`, the reference.

How a filtered search walks the graph, so that it finds what there is however few points pass the filter.

A walk goes over points that pass. Fields with links of their own in the graph keep those together; with any other
filter that few pass, the graph falls into pieces and most of the nearest are never reached (measured: recall@10 of 0.53
where a folder held 3% of the points).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar

from tsembed_search.store import filters as globs
from tsembed_search.store.base import Payload, Record
from tsembed_search.store.filters import CHECKED_KEYS, PAYLOAD_KEYS, And, Condition, Filter, Not, Or, matches
from tsembed_search.store.schema import PATH_KEYS

C = TypeVar("C")


class Dialect(Protocol[C]):
    """An engine's conditions. `all_of`, `any_of` and `none_of` take at least one part.

    `starts_with` and `contains` are None where the engine is too old to have them.
    """

    def equals(self, key: str, value: str) -> C: ...
    def one_of(self, key: str, values: Sequence[str]) -> C: ...
    def compares(self, key: str, op: str, number: float) -> C: ...
    def starts_with(self, key: str, text: str) -> C | None: ...
    def contains(self, key: str, text: str) -> C | None: ...
    def nothing(self) -> C: ...
    def all_of(self, parts: Sequence[C]) -> C: ...
    def any_of(self, parts: Sequence[C]) -> C: ...
    def none_of(self, parts: Sequence[C]) -> C: ...


@dataclass(frozen=True)
class Native(Generic[C]):
    """An engine's condition (None: every point passes), and whether it is all that the filter says.

    When not `exact`, more points pass than match, and `matches` has to decide.
    """

    condition: C | None
    exact: bool


def translate(
    where: Filter | None, dialect: Dialect[C], *, path_keys: bool = False, negated: bool = False
) -> Native[C]:
    """The engine's form of `where`, or of its negation. `path_keys`: whether all points have these (`schema.py`).

    Negation is pushed down to the conditions: the negation of a condition that lets too much through would let too
    little through.
    """
    match where:
        case None:
            return Native(dialect.nothing(), True) if negated else Native(None, True)
        case Not(part):
            return translate(part, dialect, path_keys=path_keys, negated=not negated)
        case And(parts) | Or(parts):
            natives = [translate(part, dialect, path_keys=path_keys, negated=negated) for part in parts]
            return _all(natives, dialect) if isinstance(where, And) != negated else _any(natives, dialect)
        case Condition(field, "!=", value):
            return translate(Condition(field, "=", value), dialect, path_keys=path_keys, negated=not negated)
        case Condition():
            native = _condition(where, dialect, path_keys)
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


def _condition(where: Condition, dialect: Dialect[C], path_keys: bool) -> Native[C]:
    key, value = PAYLOAD_KEYS[where.field], where.value
    if isinstance(value, tuple):
        texts = [each for each in value if isinstance(each, str)]
        if len(texts) == len(value) and texts and where.field != "path" and (where.field != "ext" or path_keys):
            return Native(dialect.one_of(key, texts), True)
        each = [_condition(Condition(where.field, "=", one), dialect, path_keys) for one in value]
        return _any(each, dialect)
    if not isinstance(value, str):
        return Native(dialect.compares(key, where.op, value), True)
    if where.field in ("path", "ext") and not path_keys:
        # Older indexes have names only as the disk spells them, in whichever form.
        return _older(key, where, value, dialect)
    if where.op == "~":
        return _pattern(value, dialect)
    if where.field == "path":
        if value.endswith("/"):
            return Native(dialect.nothing(), True)
        if globs.is_anchored(value) or "/" not in value:
            return Native(dialect.equals(PATH_KEYS, value) if value else dialect.nothing(), True)
        return Native(dialect.contains(PATH_KEYS, f"/{value}"), False)
    return Native(dialect.equals(key, value), True)


def _pattern(pattern: str, dialect: Dialect[C]) -> Native[C]:
    folder = globs.literal_folder(pattern)
    if folder is not None:
        inside = dialect.equals(PATH_KEYS, f"{folder}/")
        itself = [] if globs.names_inside_only(pattern) else [dialect.equals(PATH_KEYS, folder)]
        return Native(dialect.any_of([*itself, inside]), True)
    if text := globs.bare_text(pattern):
        containing = dialect.contains(PATH_KEYS, text)
        return Native(containing, containing is not None)
    wanted = globs.wanted_keys(pattern)
    conditions = [dialect.one_of(PATH_KEYS, keys) for keys in wanted]
    literals = globs.wild_literals(pattern) if wanted else globs.literals(pattern)
    return _narrowed(pattern, PATH_KEYS, conditions, literals, dialect, exact=globs.is_key(pattern))


def _older(key: str, where: Condition, value: str, dialect: Dialect[C]) -> Native[C]:
    """For an index without path keys: only what is the same in every form narrows, `matches` does the rest."""
    if where.op == "~":
        literals = [text for text in globs.literals(value) if text.isascii()]
        return _narrowed(value, key, [], literals, dialect, exact=False)
    if not value.isascii():
        return Native(None, False)
    if where.field == "path" and not globs.is_anchored(value):
        return Native(dialect.contains(key, f"/{value}"), False)
    return Native(dialect.equals(key, value), True)


def _narrowed(
    pattern: str, key: str, conditions: Sequence[C], literals: Sequence[str], dialect: Dialect[C], *, exact: bool
) -> Native[C]:
    """The `conditions`, and that `key` has the `literals`, which every path has that the pattern matches."""
    known = list(conditions)
    for literal in literals:
        from_the_start = not conditions and globs.is_anchored(pattern) and pattern.startswith(literal)
        native = dialect.starts_with(key, literal) if from_the_start else dialect.contains(key, literal)
        if native is not None:
            known.append(native)
    # Each holds for some place of the item, perhaps not for the same one.
    return Native(dialect.all_of(known) if known else None, exact)


def search_checked(
    search: Callable[[int], list[list[Record]]], where: Filter | None, wanted: int
) -> list[list[Record]]:
    """The first `wanted` matching hits of each query: asks an inexact `search(limit)` for more until they are there."""
    limit = wanted + wanted // 2 + 5
    while True:
        found = search(limit)
        kept = [[hit for hit in hits if matches(where, hit.payload)] for hits in found]
        if all(len(good) >= wanted or len(hits) < limit for good, hits in zip(kept, found, strict=True)):
            return [good[:wanted] for good in kept]
        limit *= 4


def scroll_checked(
    scroll: Callable[[Sequence[str] | None], Iterator[Record]], where: Filter | None, fields: Sequence[str] | None
) -> Iterator[Record]:
    """The matching points of an inexact `scroll(fields)`, with the payload keys in `fields` (None: all)."""
    needed = None if fields is None else sorted({*fields, *CHECKED_KEYS})
    for record in scroll(needed):
        if matches(where, record.payload):
            yield record if fields is None else Record(record.id, _only(record.payload, fields), vector=record.vector)


def facet_checked(records: Iterator[Record], key: str, limit: int) -> dict[str, int]:
    """`Store.facet`, counted from a scroll."""
    counts: dict[str, int] = {}
    parent, _, inner = key.partition("[].")
    for record in records:
        found = record.payload.get(parent)
        values = [entry.get(inner) for entry in found or ()] if inner else found if isinstance(found, list) else [found]
        for value in {value for value in values if value is not None}:
            counts[value] = counts.get(value, 0) + 1
    return most_frequent(counts, limit)


def most_frequent(counts: dict[str, int], limit: int) -> dict[str, int]:
    """The `limit` largest counts, largest first, equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])


def _only(payload: Payload, fields: Sequence[str]) -> Payload:
    return {key: value for key, value in payload.items() if key in fields}


_LINKED: Final = frozenset({"ext", "modified", "page", "expert"})

ENOUGH: Final = 0.15

"""The share of points from which on a graph of 2 · `HNSW_M` neighbours holds together."""

FEW: Final = 20_000

"""So many points are compared one by one in the time that a detour takes."""


class Walk(Enum):
    """`GRAPH`: as always. `SCAN`: compare all that pass. `DETOUR`: also over neighbours that do not pass (ACORN, Patel
    et al., arXiv 2403.04871), which finds as much and takes about five times as long.
    """

    GRAPH = "graph"
    SCAN = "scan"
    DETOUR = "detour"


def walk(where: Filter | None, passing: Callable[[], int], total: Callable[[], int]) -> Walk:
    """The way for this filter. `passing` and `total` estimate numbers of points, and are asked only when it matters."""
    fields = [condition.field for condition in _conditions(where) if condition.field != "kind"]
    if not fields or (len(fields) == 1 and fields[0] in _LINKED):
        return Walk.GRAPH
    some = passing()
    if some >= ENOUGH * total():
        return Walk.GRAPH
    return Walk.SCAN if some <= FEW else Walk.DETOUR


def _conditions(where: Filter | None) -> Iterator[Condition]:
    match where:
        case Condition():
            yield where
        case And(parts) | Or(parts):
            for part in parts:
                yield from _conditions(part)
        case Not(part):
            yield from _conditions(part)
