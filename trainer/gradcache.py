"""Gradients of a batch that does not fit in memory at once (GradCache; Gao et al., arXiv 2101.06983).

The batch is cut into pieces by a budget of tokens. Every piece is embedded without gradients, the loss of all pieces
together gives the gradient of each embedding, and then piece after piece is embedded again, under the same random
numbers, to pass that gradient on. What is cached is all that a loss may use, vectors and routing alike. The last piece
keeps its graph and is not embedded again; a batch of one piece is an ordinary step.

`Passes` takes a run's steps so, and goes on with less where one does not fit in memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tsembed_search.errors import ModelError
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.model.embedder import batches, forward_stream, free_memory, ran_out_of_memory
from tsembed_search.model.routing import Traced
from tsembed_search.trainer.batches.loader import Load
from tsembed_search.trainer.distributed import Processes
from tsembed_search.trainer.losses.base import Held, pack, unpack
from tsembed_search.trainer.objective import Objective, Outcome
from tsembed_search.trainer.optimizer import Optimizer


class PieceTooLargeError(Exception):
    """A piece, of the items at `places`, did not fit in memory. Gradients may have been added before."""

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__(f"A piece of {len(places)} items does not fit in memory.")
        self.places = places


def rng_state(device: torch.device) -> Callable[[], None]:
    """Take the state of all that a forward pass may draw from, torch's and Python's. Return what goes back to it."""
    cpu, python = torch.get_rng_state(), random.getstate()
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, device)

    return restore


def seed_step(seed: int, step: int, rank: int) -> None:
    """Start torch's and Python's random numbers of one step."""
    number = (seed * 1_000_003 + step) * 4099 + rank
    torch.manual_seed(number)
    random.seed(number)


def backward(
    trace: Callable[[Sequence[Prepared]], Traced],
    items: Sequence[Prepared],
    loss: Callable[[Tensor], Tensor],
    tokens: int,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    width: int = 0,
) -> None:
    """Add the gradient of `loss` over `items` to the parameters behind `trace`.

    `loss` takes `losses.base.pack` of all items in their order `[N, W]` and is called once. `tokens` is the budget
    of padded tokens that are in memory with gradients, on `device`. `precision` makes a context for each forward pass.
    `width` W matters where there are no items: another process's items make a loss all the same.
    Raises `PieceTooLargeError` when a piece does not fit in the device's memory.
    """
    if not items:
        torch.autograd.backward(loss(torch.zeros(0, width, device=device, requires_grad=True)))
        return
    pieces = [
        ([place for place, _ in batch], [one for _, one in batch])
        for batch in batches(enumerate(items), tokens, lookahead=max(1, len(items)))
    ]
    cached: list[Tensor] = []
    restores: list[Callable[[], None]] = []

    def run(piece: Sequence[Prepared]) -> Tensor:
        # A context of its own: autocast would reuse weights that it has cast without gradients.
        with precision():
            return pack(trace(piece))

    at = 0  # the piece that is being computed

    def all_pieces() -> None:
        nonlocal at
        for _, piece in pieces[:-1]:
            restores.append(rng_state(device))
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
        after = rng_state(device)
        at = 0
        for (_, piece), gradient, restore in zip(pieces[:-1], gradients[:-1], restores, strict=True):
            restore()
            torch.autograd.backward(run(piece), gradient)
            at += 1
        after()

    try:
        all_pieces()
        return
    except RuntimeError as error:
        if not ran_out_of_memory(error):
            raise
    # Only here is the error gone, and with its traceback what did not fit.
    raise PieceTooLargeError(pieces[at][0])


@dataclass
class Passes:
    """The forward and backward passes of one process's part of each batch, by a budget of `tokens` with gradients.

    A step that does not fit in memory in any process is begun anew in all of them, with half the budget where it did
    not fit, or without an item that does not fit alone. `remarks`: what a person should know of that, to be told.
    """

    backbone: Trainable
    objective: Objective
    optimizer: Optimizer
    processes: Processes
    seed: int
    tokens: int
    device: torch.device
    precision: Callable[[], AbstractContextManager[object]]
    remarks: list[str] = field(default_factory=list)

    def step(self, load: Load, stage: int, step: int) -> tuple[Outcome, Load]:
        """Add the gradients of a step. Also return the load as it was taken. Raises `ModelError`."""
        before = self.objective.state_dict()
        outcome, too_large = self._once(load, stage, step)
        while self.processes.sum(float(too_large is not None)) > 0:
            load = self._lighter(load, too_large)
            self.objective.load_state_dict(before)
            self.optimizer.clear()
            outcome, too_large = self._once(load, stage, step)
        return outcome, load

    def _once(self, load: Load, stage: int, step: int) -> tuple[Outcome, Sequence[int] | None]:
        """Also return the places of items that together did not fit in memory, if any."""
        seed_step(self.seed, step, self.processes.rank)
        outcomes: list[Outcome] = []
        held = {name: self._held(load, places) for name, places in self.objective.held(load.labels, load.bare).items()}

        def loss(packed: Tensor) -> Tensor:
            own = unpack(packed, self.objective.shape).vectors
            outcomes.append(self.objective(*self.processes.gather(packed, load.labels), stage, step, own, held))
            return outcomes[-1].total

        width, too_large = self.objective.shape.width, None
        try:
            backward(self.backbone.trace, load.items, loss, self.tokens, self.device, self.precision, width)
        except PieceTooLargeError as error:
            too_large = error.places
        if too_large is not None:
            free_memory()  # here, where no exception holds tensors any more
        if not outcomes:  # the other processes wait for this one's part of the loss
            with torch.no_grad():
                loss(torch.zeros(len(load.items), width, device=self.device))
        return outcomes[0], too_large

    def _held(self, load: Load, places: Sequence[int]) -> Held:
        """Embed items of a load without adapters. Every process has to call it, since they count together."""
        chosen = ((place, load.items[place]) for place in places)

        def embed(batch: Sequence[Prepared]) -> Tensor:
            with self.precision():
                return self.backbone.without_adapters(batch).float()

        found: dict[int, Tensor] = {}  # an item that is too large by itself is not held
        for batch, vectors in forward_stream(embed, batches(chosen, self.tokens, max(1, len(places)))):
            if vectors is not None:
                found.update(zip((place for place, _ in batch), vectors, strict=True))
        fits = [place for place in places if place in found]
        where = torch.tensor(fits, dtype=torch.int64, device=self.device)
        held = torch.zeros(0, self.objective.shape.dim, device=self.device)
        if fits:
            held = torch.stack([found[place] for place in fits])
        return Held(where, held, self.processes.sum(float(len(fits))), self.processes.sum)

    def _lighter(self, load: Load, too_large: Sequence[int] | None) -> Load:
        """Halve the budget, or leave out the item that does not fit."""
        if too_large is None:  # it was another process's
            return load
        longest = max(load.items[place].tokens for place in too_large)
        if len(too_large) > 1:
            tried = min(self.tokens, len(too_large) * longest)
            self.tokens = max(1, tried // 2)
            self.remarks.append(
                f"{tried} tokens with gradients do not fit in memory: {self.tokens} at once from now on."
            )
            return load
        lighter = load.without(too_large[0], f"An item of {longest} tokens with gradients does not fit in memory.")
        if len(lighter.items) < 4 and self.processes.count == 1:  # two rows
            raise ModelError(
                f"Items of {longest} tokens with gradients do not fit in the memory of {self.backbone.info.device}.",
                "Set run.gradient_checkpointing to true in the recipe, or use smaller pictures or a smaller model.",
            )
        return lighter
