"""Batches of items of similar length under a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from tsembed_search.model.backbones.protocol import Prepared

T = TypeVar("T")


def batches(
    prepared: Iterable[tuple[T, Prepared]], budget_tokens: int, lookahead: int = 512
) -> Iterator[list[tuple[T, Prepared]]]:
    """Groups a stream into batches whose rows times longest row stay within `budget_tokens`.

    Within a window of `lookahead` items the order is by length, longest first, so that little padding is computed and
    running out of memory shows at once. An item longer than the budget is a batch of its own.
    """
    stream = iter(prepared)
    while window := list(islice(stream, lookahead)):
        window.sort(key=lambda pair: pair[1].tokens, reverse=True)
        start = 0
        while start < len(window):
            rows = max(1, budget_tokens // max(1, window[start][1].tokens))
            yield window[start : start + rows]
            start += rows
