"""Routes as numbers: experts by name, where the routing of a query and of an item agree, and how experts are used.

A route is a vector `[L·E]`, centred and of unit length, so it says how much more (or less) than usual an item uses each
of the E experts of each of the L adapted blocks. Expert 5 of block 3, both counted from 0, is called `b3e5`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

TOP = 8
"""At most so many experts are an item's top experts."""


def top_experts(route: Any, experts: int, most: int = TOP) -> list[str]:
    """Return the experts that are used most above the average, as `b3e5` (block 3, expert 5), the foremost first.

    `route` `[L·E]`, centred; `experts` E. At most `most` of them; those at or below the average never.
    """
    order = np.argsort(-np.asarray(route), kind="stable")[:most]
    return [_name(place, experts) for place in order.tolist() if route[place] > 0]


def shared_experts(query: Any, items: Any, experts: int) -> list[list[str]]:
    """Return the experts that a query `[L·E]` and each of N items `[N, L·E]` both use above the average, at most eight;
    the one that adds most to kappa first.
    """
    query, items = np.asarray(query), np.asarray(items)
    both = np.where((query > 0) & (items > 0), query * items, 0.0)
    order = np.argsort(-both, axis=1, kind="stable")[:, :TOP].tolist()
    used = (both > 0).sum(axis=1).tolist()
    return [[_name(place, experts) for place in row[:count]] for row, count in zip(order, used, strict=True)]


def _name(place: int, experts: int) -> str:
    return f"b{place // experts}e{place % experts}"


@dataclass(frozen=True)
class Agreement:
    """The routes of a query and an item, expert by expert: `query` and `item` `[L, E]`."""

    query: NDArray[np.float64]
    item: NDArray[np.float64]

    @classmethod
    def of(cls, query: Any, item: Any, shape: tuple[int, int]) -> Agreement:
        """Compare two routes `[L·E]` of a model whose routes have `shape` (L, E)."""
        return cls(*(np.asarray(route, dtype=np.float64).reshape(shape) for route in (query, item)))

    @property
    def experts(self) -> NDArray[np.float64]:
        """The part of each expert in the routes' similarity: `[L, E]`, which sums to it."""
        return self.query * self.item

    @property
    def blocks(self) -> NDArray[np.float64]:
        """The part of each block in it: `[L]`."""
        total: NDArray[np.float64] = self.experts.sum(axis=1)
        return total

    @property
    def similarity(self) -> float:
        """The similarity of the two routes, -1 to 1."""
        return float(self.experts.sum())

    def shared(self, most: int = TOP) -> list[tuple[str, float]]:
        """Return the experts that both use above the average, with what they add; the largest first."""
        both = (self.query > 0) & (self.item > 0)
        return self._named(self.experts * both, most)

    def opposed(self, most: int = TOP) -> list[tuple[str, float]]:
        """Return the experts that one uses above and the other below the average, with what they take away."""
        return [(name, -value) for name, value in self._named(-self.experts, most)]

    def _named(self, values: NDArray[np.float64], most: int) -> list[tuple[str, float]]:
        flat = values.reshape(-1)
        places = np.argsort(-flat, kind="stable")[:most].tolist()
        return [(_name(place, values.shape[1]), float(flat[place])) for place in places if flat[place] > 0]

    def to_json(self) -> dict[str, Any]:
        """Return `blocks`, each with its part and its experts, and `shared_experts`."""
        blocks = []
        for number, (total, query, item) in enumerate(zip(self.blocks, self.query, self.item, strict=True)):
            experts = [
                {"expert": place, "query": float(a), "hit": float(b), "agreement": float(a * b)}
                for place, (a, b) in enumerate(zip(query, item, strict=True))
            ]
            blocks.append({"block": number, "agreement": float(total), "experts": experts})
        return {"blocks": blocks, "shared_experts": [name for name, _ in self.shared()]}


Of = Literal["all", "kind", "folder"]
Group = tuple[Of, str]
"""Items that have nothing, a kind or a folder in common, and its name."""


@dataclass(frozen=True)
class Usage:
    """The use of experts by a number of `items`. They have `of` in common: nothing, a kind or a folder, called `name`.

    `share` `[L, E]`: the share of them that have an expert among their top experts. `mean` `[L, E]`: their mean route.
    """

    of: Of
    name: str
    items: int
    share: NDArray[np.float64]
    mean: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        arrays = {"share": self.share.tolist(), "mean": self.mean.tolist()}
        return {"of": self.of, "name": self.name, "items": self.items, **arrays}


def expert_usage(
    portions: Iterable[tuple[Sequence[Sequence[Group]], NDArray[np.float32]]], shape: tuple[int, int]
) -> dict[Group, Usage]:
    """Return the usage by each group of items, in the order in which groups first appear.

    Items come in portions: each one's groups, and their routes `[N, L·E]`; `shape` is (L, E). Memory does not grow with
    the number of items.
    """
    sums: dict[Group, NDArray[np.float64]] = {}  # of each group: top experts, routes `[2, L·E]`
    items: Counter[Group] = Counter()
    for groups, raw in portions:
        routes = raw.astype(np.float64)
        order = np.argsort(-routes, axis=1, kind="stable")[:, :TOP]
        top = np.zeros_like(routes)
        np.put_along_axis(top, order, np.take_along_axis(routes, order, axis=1) > 0, axis=1)
        members: defaultdict[Group, list[int]] = defaultdict(list)
        for row, own in enumerate(groups):
            for group in own:
                members[group].append(row)
        for group, rows in members.items():
            items[group] += len(rows)
            sums[group] = sums.get(group, 0.0) + np.stack([top[rows].sum(axis=0), routes[rows].sum(axis=0)])
    means = {group: (total / items[group]).reshape(2, *shape) for group, total in sums.items()}
    return {group: Usage(*group, items[group], *mean) for group, mean in means.items()}
