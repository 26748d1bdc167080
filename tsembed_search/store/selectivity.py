"""How a filtered search walks the graph, so that it finds what there is however few points pass the filter.

A walk goes over points that pass. When few do, the graph falls into pieces and most of the nearest are never reached:
a tenth of the points gave a recall@10 of 0.6. The engine could lay links of its own among the points that share a
value. That was measured and left: it made building up to three times as long and every search twice as long.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

ENOUGH: Final = 0.4
"""The share of points from which on a graph of 2 · `HNSW_M` neighbours holds together."""
FEW: Final = 10_000
"""So many points are compared one by one in the time that a detour takes."""
_RARE: Final = 0.1
"""Of a smaller share than this, even a detour misses some."""
_NOT_SO_FEW: Final = 20_000


class Walk(Enum):
    """`GRAPH`: as always. `SCAN`: compare all that pass. `DETOUR`: also over neighbours that do not pass (ACORN, Patel
    et al., arXiv 2403.04871), which finds as much and takes two to three times as long.
    """

    GRAPH = "graph"
    SCAN = "scan"
    DETOUR = "detour"


def walk(passing: Callable[[], int], total: Callable[[], int]) -> Walk:
    """The way for a filter. `passing` and `total` estimate numbers of points, and are asked only when it matters."""
    some = passing()
    if some <= FEW:
        return Walk.SCAN
    share = some / max(1, total())
    if share >= ENOUGH:
        return Walk.GRAPH
    return Walk.SCAN if share < _RARE and some <= _NOT_SO_FEW else Walk.DETOUR
