"""How a filtered search walks the graph, so that it finds what there is however few points pass the filter.

A walk goes over points that pass. Fields with links of their own in the graph keep those together; with any other
filter that few pass, the graph falls into pieces and most of the nearest are never reached (measured: recall@10 of 0.53
where a folder held 3% of the points).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final

from tsembed_search.search.filters import And, Condition, Filter, Not, Or

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
