"""Gradients of a batch that does not fit in memory at once (GradCache; Gao et al., arXiv 2101.06983).

The batch is cut into pieces by a budget of tokens. Every piece is embedded without gradients, the loss of all pieces
together gives the gradient of each embedding, and then piece after piece is embedded again, under the same random
numbers, to pass that gradient on. What is cached is all that a loss may use, vectors and routing alike. The last piece
keeps its graph and is not embedded again; a batch of one piece is an ordinary step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from tsembed_search.model.backbone import Prepared
from tsembed_search.model.embedder import batches, ran_out_of_memory
from tsembed_search.model.routing import Traced
from tsembed_search.trainer.packing import pack


class TooLargeError(Exception):
    """A piece did not fit in the device's memory. `places` are those of its items; nothing is said of gradients that
    were added before.
    """

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__(f"A piece of {len(places)} items does not fit in memory.")
        self.places = places


class RngState:
    """The random number generators that a forward pass may use, as they are now: torch's on CPU and GPU, Python's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._python = random.getstate()

    def restore(self) -> None:
        """Makes them give again what they gave then."""
        torch.set_rng_state(self._cpu)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu, self._device)
        random.setstate(self._python)


def backward(
    trace: Callable[[Sequence[Prepared]], Traced],
    items: Sequence[Prepared],
    loss: Callable[[Tensor], Tensor],
    tokens: int,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    width: int = 0,
) -> None:
    """Adds the gradient of `loss` over `items` to the parameters behind `trace`.

    `loss` takes `representations.pack` of all items in their order `[N, W]` and is called once. `tokens` is the budget
    of padded tokens that are in memory with gradients, on `device`. `precision` makes a context for each forward pass.
    `width` W matters where there are no items: another process's items make a loss all the same.
    Raises `TooLargeError` when a piece does not fit in the device's memory.
    """
    if not items:
        torch.autograd.backward(loss(torch.zeros(0, width, device=device, requires_grad=True)))
        return
    pieces = [
        ([place for place, _ in batch], [one for _, one in batch])
        for batch in batches(enumerate(items), tokens, lookahead=max(1, len(items)))
    ]
    cached: list[Tensor] = []
    states: list[RngState] = []

    def run(piece: Sequence[Prepared]) -> Tensor:
        # A context of its own: autocast would reuse weights that it has cast without gradients.
        with precision():
            return pack(trace(piece))

    at = 0  # the piece that is being computed

    def all_pieces() -> None:
        nonlocal at
        for _, piece in pieces[:-1]:
            states.append(RngState(device))
            with torch.no_grad():
                cached.append(run(piece))
            at += 1
        last = run(pieces[-1][1])
        cached.append(last.detach())
        order = torch.tensor([place for places, _ in pieces for place in places], device=last.device)
        whole = torch.cat(cached)[order.argsort()].requires_grad_()
        torch.autograd.backward(loss(whole))
        assert whole.grad is not None
        gradients = torch.split_with_sizes(whole.grad[order], [len(places) for places, _ in pieces])
        torch.autograd.backward(last, gradients[-1])
        del last
        after = RngState(device)
        at = 0
        for (_, piece), gradient, state in zip(pieces[:-1], gradients[:-1], states, strict=True):
            state.restore()
            torch.autograd.backward(run(piece), gradient)
            at += 1
        after.restore()

    try:
        all_pieces()
        return
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
    # Only here is the error gone, and with its traceback what did not fit.
    raise TooLargeError(pieces[at][0])
