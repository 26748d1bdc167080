"""The embedder: any backbone, driven in batches of similar lengths under a budget of padded tokens, and in smaller ones
where the memory runs out.
"""

from __future__ import annotations

import gc
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tsembed_search.errors import LoadError, ModelError, TooLargeError
from tsembed_search.items import Embeddings, InputSpec, Item, Role
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import Backbone, ModelInfo, ModelRef, Prepared
from tsembed_search.paths import DEFAULT_MODEL

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from tsembed_search.model.moe_lora import Adapters

T = TypeVar("T")
R = TypeVar("R")
# What PyTorch says when memory runs out and it is not an OutOfMemoryError: the driver, cuBLAS, a Mac's GPU, the CPU.
_NO_ROOM = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


class Embedder:
    """Turns items into unit vectors (and routing vectors, where the model has experts).

    `embed` does everything; `prepare` and `encode` are its two halves, for callers that overlap them. An embedder gives
    a backbone's adapters the precision of its base, which is faster: one that is being trained needs float32.

    Several threads may use one; their batches go through the model one after the other. What else it says of itself is
    what its `Backbone` says.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._forward = threading.Lock()  # adapters keep the routes of a forward pass until they are asked for them
        adapters: Adapters | None = getattr(backbone, "adapters", None)
        if adapters is not None:
            adapters.match_precision()

    @classmethod
    def load(cls, model: str | Path | ModelRef = DEFAULT_MODEL, device: str = "auto") -> Embedder:
        """Load a model by name, hub name or folder on `auto`, `cpu`, `cuda` or `cuda:i`. Raises `ModelError`."""
        ref = model if isinstance(model, ModelRef) else registry.resolve(model)
        return cls(loading.load_to_embed(ref, device))

    @property
    def info(self) -> ModelInfo:
        return self.backbone.info

    @property
    def inputs(self) -> InputSpec:
        return self.backbone.inputs

    @property
    def batch_tokens(self) -> int:
        return self.backbone.batch_tokens

    def prepare(self, item: Item, role: Role = "document") -> Prepared:
        return self.backbone.prepare(item, role)

    def prepare_stream(self, items: Iterable[Item], role: Role = "document") -> Iterator[Prepared | LoadError]:
        """Prepare items in their order, or say why one cannot be read. Beside a GPU, threads run ahead."""

        def prepare(item: Item) -> Prepared | LoadError:
            try:
                return self.prepare(item, role)
            except LoadError as error:
                return error

        if self.info.device == "cpu":
            yield from map(prepare, items)
            return
        workers = min(8, os.cpu_count() or 1)
        waiting: deque[Future[Prepared | LoadError]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for item in items:
                waiting.append(pool.submit(prepare, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def encode(self, batch: Sequence[Prepared]) -> Embeddings:
        """The device half: one batch `[B]` to `vectors [B, D]` and `routes [B, L·E]`, in the order given.

        A batch that does not fit in the device's memory is halved until it does. Raises `TooLargeError` for a single
        item that does not fit, and other `ModelError`s for vectors that are not finite.
        """
        return self._all([list(enumerate(batch))])[1]

    def embed(self, items: Sequence[Item], role: Role = "document") -> Embeddings:
        """Embed `N` items: `vectors [N, D]`, `routes [N, L·E]`, in their order."""
        prepared = ((row, self.prepare(item, role)) for row, item in enumerate(items))
        order, found = self._all([list(prepared)] if len(items) == 1 else batches(prepared, self.batch_tokens))
        if len(order) == 1:
            return found
        back = np.argsort(order)
        classes = None if found.classes is None else found.classes[back]
        return Embeddings(found.vectors[back], found.routes[back], classes)

    def embed_stream(
        self, stream: Iterable[Sequence[tuple[T, Prepared]]]
    ) -> Iterator[tuple[list[T], Embeddings | TooLargeError]]:
        """Embed batches of prepared items, one after the other; each item comes with what its owner knows it by.

        Gives each batch, or its parts where all of it does not fit in the device's memory, in their order; for a single
        item that does not fit, what is wrong with it. Raises other `ModelError`s as `encode` does.
        """
        for part, found in forward_stream(self._encoded, stream):
            too_large = TooLargeError(
                f"One item of {part[0][1].tokens} tokens does not fit in the memory of {self.info.device}.",
                "Use a smaller model, a lower image resolution, or the CPU.",
            )
            yield [key for key, _ in part], too_large if found is None else found

    def _all(self, stream: Iterable[Sequence[tuple[T, Prepared]]]) -> tuple[list[T], Embeddings]:
        """The keys of a whole stream in its order, and its embeddings together."""
        order: list[T] = []
        parts: list[Embeddings] = []
        for keys, found in self.embed_stream(stream):
            if isinstance(found, TooLargeError):
                raise found
            order += keys
            parts.append(found)
        if not parts:
            none = np.zeros((0, self.info.dim), np.float32), np.zeros((0, prod(self.info.routes or (0,))), np.float32)
            return order, Embeddings(*none)
        if len(parts) == 1:
            return order, parts[0]
        classes = [part.classes for part in parts if part.classes is not None]
        return order, Embeddings(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.routes for part in parts]),
            np.concatenate(classes) if classes else None,
        )

    def _encoded(self, batch: Sequence[Prepared]) -> Embeddings:
        context: AbstractContextManager[object] = nullcontext()
        if self.info.engine == "PyTorch":
            import torch

            context = torch.inference_mode()
        with self._forward, context:
            encoded = self.backbone.forward(batch)
            vectors = _array(encoded.vectors)
            routes = None if encoded.routes is None else _array(encoded.routes)
            classes = None if encoded.classes is None else _array(encoded.classes)
        if not (np.isfinite(vectors).all() and (routes is None or np.isfinite(routes).all())):
            raise ModelError(
                f"The model {self.info.name} gave vectors that are not finite.",
                "Its weights may be damaged, or too large for this precision: try the CPU.",
            )
        return Embeddings(vectors, np.zeros((len(batch), 0), np.float32) if routes is None else routes, classes)


def _array(found: torch.Tensor | NDArray[np.float32]) -> NDArray[np.float32]:
    array: NDArray[np.float32] = found if isinstance(found, np.ndarray) else found.float().cpu().numpy()
    return array


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


def forward_stream(
    forward: Callable[[Sequence[Prepared]], R], stream: Iterable[Sequence[tuple[T, Prepared]]]
) -> Iterator[tuple[Sequence[tuple[T, Prepared]], R | None]]:
    """Run a model on batches of prepared items, each known by something.

    Gives each batch, or the parts of it that fit, with what `forward` made of the items; None for one that is too large
    by itself.
    """
    for batch in stream:
        yield from in_fitting_parts(lambda part: forward([one for _, one in part]), batch)


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
    """Tell whether an error says that there was no memory left, on a GPU or elsewhere."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_ROOM)


def free_memory() -> None:
    """Gives the device's memory that nothing uses back to it. Call it when no exception holds tensors any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
