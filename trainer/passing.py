"""A step's passes there and back through the model, and what happens when they do not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tsembed_search.errors import ModelError
from tsembed_search.model.backbone import Trainable
from tsembed_search.model.embedder import free_memory
from tsembed_search.trainer import gradcache, setup
from tsembed_search.trainer.batches.loader import Load
from tsembed_search.trainer.distributed import Processes
from tsembed_search.trainer.losses.distillation import held
from tsembed_search.trainer.objective import Objective, Outcome
from tsembed_search.trainer.optimizer import Optimizer
from tsembed_search.trainer.packing import Shape, unpack
from tsembed_search.trainer.settings import LossSettings


@dataclass
class Passes:
    """Passes of one process's part of each batch, by a budget of `tokens` with gradients at once.

    A step that does not fit in memory in any process is begun anew in all of them, with half the budget where it did
    not fit, or without an item that does not fit alone. `remarks`: what a person should know of that, to be told.
    """

    backbone: Trainable
    objective: Objective
    optimizer: Optimizer
    ranks: Processes
    loss: LossSettings
    seed: int
    shape: Shape
    tokens: int
    device: torch.device
    precision: Callable[[], AbstractContextManager[object]]
    remarks: list[str] = field(default_factory=list)

    def step(self, load: Load, stage: int, step: int) -> tuple[Outcome, Load]:
        """Adds the gradients of a step. Gives its outcome, and the load that it was taken with.

        Raises `ModelError` when hardly an item fits.
        """
        before = self.objective.extra_state()
        outcome, too_large = self._once(load, stage, step)
        while self.ranks.sum(float(too_large is not None)) > 0:
            load = self._lighter(load, too_large)
            self.objective.restore(before)
            self.optimizer.clear()
            outcome, too_large = self._once(load, stage, step)
        return outcome, load

    def _once(self, load: Load, stage: int, step: int) -> tuple[Outcome, Sequence[int] | None]:
        """Also gives the places of items that together did not fit in memory, if any."""
        setup.seed_step(self.seed, step, self.ranks.rank)
        outcomes: list[Outcome] = []
        kept = held(self.backbone, load, self.loss, self.ranks, self.tokens, self.device, self.precision)

        def loss(packed: Tensor) -> Tensor:
            outcome = self.objective(*self.ranks.gather(packed, load.labels), stage, step)
            for one in kept:
                drift = one.drift(unpack(packed, self.shape).vectors)
                outcome = outcome.with_drift(one.part, drift, one.weight)
            outcomes.append(outcome)
            total: Tensor = outcome.total
            return total

        width, too_large = self.shape.width, None
        try:
            gradcache.backward(self.backbone.trace, load.items, loss, self.tokens, self.device, self.precision, width)
        except gradcache.TooLargeError as error:
            too_large = error.places
        if too_large is not None:
            free_memory()  # here, where no exception holds tensors any more
        if not outcomes:  # the other processes wait for this one's part of the loss
            with torch.no_grad():
                loss(torch.zeros(len(load.items), width, device=self.device))
        return outcomes[0], too_large

    def _lighter(self, load: Load, too_large: Sequence[int] | None) -> Load:
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
        if len(lighter.items) < 4 and self.ranks.count == 1:  # two rows
            raise ModelError(
                f"Items of {longest} tokens with gradients do not fit in the memory of {self.backbone.info.device}.",
                "Use --set run.checkpointing=true, smaller pictures, or a smaller model.",
            )
        return lighter
