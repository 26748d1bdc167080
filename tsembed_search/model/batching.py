"""Batches of items of similar length under a budget of padded tokens, and smaller ones where the memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from tsembed_search.model.backbones.protocol import Prepared

T = TypeVar("T")
R = TypeVar("R")

# What PyTorch says when memory runs out and it is not an OutOfMemoryError: the driver, cuBLAS, a Mac's GPU, the CPU.
_NO_ROOM = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


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


def in_fitting_parts(work: Callable[[Sequence[T]], R], batch: Sequence[T]) -> Iterator[tuple[Sequence[T], R | None]]:
    """Does `work` on a batch, and where the device's memory runs out on its halves, until each part fits.

    Gives the parts in their order, with what `work` made of each; None for a single item that does not fit alone.
    """
    waiting = [batch]
    while waiting:
        part = waiting.pop()
        found: R | None = None
        try:
            found = work(part)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
        # Only here is the error gone, and with its traceback the tensors of the part that did not fit.
        if found is None:
            free_memory()
        if found is not None or len(part) == 1:
            yield part, found
        else:
            half = len(part) // 2
            waiting += [part[half:], part[:half]]


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that there was no memory left, on a GPU or elsewhere."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_ROOM)


def free_memory() -> None:
    """Gives the device's memory that nothing uses back to it. Call it when no exception holds tensors any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
