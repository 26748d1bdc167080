"""Experts by name, and where the routing of a query and of an item agree.

A route is a vector `[L·E]`, centred and of unit length, so it says how much more (or less) than usual an item uses each
of the E experts of each of the L adapted blocks. Expert 5 of block 3, both counted from 0, is called `b3e5`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOP = 8
"""At most so many experts are an item's top experts."""


def top_experts(route: Any, experts: int, most: int = TOP) -> list[str]:
    """The experts that are used most above the average, as `b3e5` (block 3, expert 5), the foremost first.

    `route` `[L·E]`, centred; `experts` E. At most `most` of them; those at or below the average never.
    """
    import numpy as np

    order = np.argsort(-np.asarray(route), kind="stable")[:most]
    return [f"b{place // experts}e{place % experts}" for place in order.tolist() if route[place] > 0]


def shared_experts(query: Any, item: Any, experts: int) -> list[str]:
    """The experts that both use above the average; the one that adds most to their similarity first. At most eight."""
    import numpy as np

    query, item = np.asarray(query), np.asarray(item)
    return top_experts(np.where((query > 0) & (item > 0), query * item, 0.0), experts)


@dataclass(frozen=True)
class Agreement:
    """The routes of a query and an item, expert by expert: `query` and `item` `[L, E]`."""

    query: NDArray[np.float64]
    item: NDArray[np.float64]

    @classmethod
    def of(cls, query: Any, item: Any, shape: tuple[int, int]) -> Agreement:
        """From two routes `[L·E]` of a model whose routes have `shape` (L, E)."""
        import numpy as np

        return cls(*(np.asarray(route, dtype=np.float64).reshape(shape) for route in (query, item)))

    @property
    def experts(self) -> NDArray[np.float64]:
        """What each expert adds to the routes' similarity: `[L, E]`, which sums to it."""
        return self.query * self.item

    @property
    def blocks(self) -> NDArray[np.float64]:
        """What each block adds to it: `[L]`."""
        total: NDArray[np.float64] = self.experts.sum(axis=1)
        return total

    @property
    def similarity(self) -> float:
        """The similarity of the two routes, -1 to 1."""
        return float(self.experts.sum())

    def shared(self, most: int = TOP) -> list[tuple[str, float]]:
        """The experts that both use above the average, with what they add; the largest first."""
        both = (self.query > 0) & (self.item > 0)
        return self._named(self.experts * both, most)

    def opposed(self, most: int = TOP) -> list[tuple[str, float]]:
        """The experts that one uses above and the other below the average, with what they take away."""
        return [(name, -value) for name, value in self._named(-self.experts, most)]

    def _named(self, values: NDArray[np.float64], most: int) -> list[tuple[str, float]]:
        experts = values.shape[1]
        names = top_experts(values.reshape(-1), experts, most)
        places = (name[1:].split("e") for name in names)
        return [(name, float(values[int(block), int(e)])) for name, (block, e) in zip(names, places, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """`blocks`, each with what it adds and with its experts; `shared_experts`."""
        return {
            "blocks": [
                {
                    "block": number,
                    "agreement": float(total),
                    "experts": [
                        {"expert": place, "query": float(a), "hit": float(b), "agreement": float(a * b)}
                        for place, (a, b) in enumerate(zip(query, item, strict=True))
                    ],
                }
                for number, (total, query, item) in enumerate(zip(self.blocks, self.query, self.item, strict=True))
            ],
            "shared_experts": [name for name, _ in self.shared()],
        }
