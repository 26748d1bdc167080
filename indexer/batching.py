"""Batches out of a stream, as soon as there is one: items wait in groups of similar length until a group is full."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from tsembed_search.model.backbones.protocol import Prepared
from tsembed_search.model.batching import batches

T = TypeVar("T")

# Lengths within a group differ by this factor at most, so that at most this share of a batch is padding.
_SPREAD: Final = 1.2
# What waits, in batches: more finds fuller groups, less holds less memory.
_WAITING: Final = 6


class Pool(Generic[T]):
    """Collects items until some of similar length fill the budget of one batch.

    `model.batching.batches` sorts a window of a stream; this gives the first batch without waiting for a window, and
    bounds what waits by tokens (hence by bytes), not by count.
    """

    def __init__(self, budget_tokens: int) -> None:
        self._budget = budget_tokens
        self._groups: dict[int, list[tuple[T, Prepared]]] = {}
        self._longest: dict[int, int] = {}
        self._tokens = 0

    def add(self, item: T, prepared: Prepared) -> Iterator[list[tuple[T, Prepared]]]:
        """Takes one item; gives the batches that are due now (seldom more than one)."""
        key = math.ceil(math.log(max(1, prepared.tokens), _SPREAD))
        group = self._groups.setdefault(key, [])
        longest = max(self._longest.get(key, 0), prepared.tokens)
        if group and (len(group) + 1) * longest > self._budget:
            yield self._take(key)
            group, longest = self._groups.setdefault(key, []), prepared.tokens
        group.append((item, prepared))
        self._longest[key] = longest
        self._tokens += prepared.tokens
        while self._tokens > _WAITING * self._budget and len(self._groups) > 1:
            yield self._take(max(self._groups, key=lambda each: len(self._groups[each]) * self._longest[each]))

    def rest(self) -> Iterator[list[tuple[T, Prepared]]]:
        """Everything that still waits, in as few batches as the budget allows."""
        waiting = [each for group in self._groups.values() for each in group]
        self._groups.clear()
        self._longest.clear()
        self._tokens = 0
        yield from batches(waiting, self._budget, max(1, len(waiting)))

    def _take(self, key: int) -> list[tuple[T, Prepared]]:
        group = self._groups.pop(key)
        self._longest.pop(key)
        self._tokens -= sum(prepared.tokens for _, prepared in group)
        return group
