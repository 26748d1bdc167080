"""When stage 1, in which experts part ways, gives way to stage 2, in which negatives are weighed by them.

Two stages are the paper's (TSEmbed, arXiv 2603.04772). When to switch is ours: at a share of the steps, or when the
routing entropy has settled.

Looks at every step's loss and stops a run that has gone wrong, with words on what and where.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from statistics import median
from typing import Any

import torch

from tsembed_search.errors import TsembedError
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.model.embedder import batches, in_fitting_parts
from tsembed_search.model.routing import Traced
from tsembed_search.trainer.settings import StageSettings

_WINDOW = 20  # steps over which entropy is averaged

_SETTLED = 0.01  # how little the mean may move from one window to the next

_EARLIEST = 0.1  # share of the steps before which nothing counts as settled


class StageSchedule:
    """Says which stage a step belongs to. `total` is the number of planned steps."""

    def __init__(self, settings: StageSettings, total: int) -> None:
        self._settings = settings
        self._total = total
        self._entropies: list[float] = []
        self.at: int | None = None
        """The first step of stage 2, once it has come."""
        self.reason = ""

    def stage(self, step: int) -> int:
        """1 or 2, for step number `step` (from 1)."""
        if self.at is None and (reason := self._due(step)):
            self.at, self.reason = step, reason
        return 1 if self.at is None else 2

    def observe(self, entropy: float) -> None:
        """Takes in a step's routing entropy (0..1)."""
        self._entropies = [*self._entropies, entropy][-2 * _WINDOW :]

    def router_factor(self, stage: int) -> float:
        """How fast routers learn, relative to their own rate."""
        return self._settings.router_factor if stage == 2 else 1.0

    def state(self) -> dict[str, Any]:
        """What it has seen, as JSON."""
        return {"entropies": self._entropies, "at": self.at, "reason": self.reason}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self._entropies, self.at, self.reason = list(state["entropies"]), state["at"], state["reason"]

    def _due(self, step: int) -> str:
        done = (step - 1) / self._total
        if self._settings.switch != "auto":
            return f"after {self._settings.switch:.0%} of the steps" if done >= self._settings.switch else ""
        if done >= self._settings.latest:
            return f"routing entropy has not settled after {self._settings.latest:.0%} of the steps"
        if done < _EARLIEST or len(self._entropies) < 2 * _WINDOW:
            return ""
        before, now = (sum(part) / _WINDOW for part in (self._entropies[:_WINDOW], self._entropies[_WINDOW:]))
        return f"routing entropy has settled at {now:.2f}" if abs(now - before) < _SETTLED else ""


_REMEMBERED = 50

_ENOUGH = 20  # losses before one can be called high

_IN_A_ROW = 3

_LOOKED_AT = 64  # items of a batch


class DivergedError(TsembedError):
    """Training has gone wrong: something is not finite, or a loss is far above what it was. All processes raise it."""


class DivergenceMonitor:
    """`spike`: how many times the median of recent losses is too much, three times in a row (0: never)."""

    def __init__(self, spike: float) -> None:
        self._spike = spike
        self.losses: list[float] = []
        self._high = 0

    def check(self, record: Mapping[str, Any], checkpoint: str) -> None:
        """Takes in a step's record. Raises `DivergedError`; `checkpoint` says what is safe."""
        loss, norm = record["loss"], record["gradient_norm"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            odd = [name for name, part in record["parts"].items() if not math.isfinite(part)]
            what = f"the {' and '.join(odd)} loss is" if odd else "gradients are"
            raise self.diverged(f"{what} not finite", record, checkpoint)
        usual = median(self.losses) if len(self.losses) >= _ENOUGH else math.inf
        self._high = self._high + 1 if self._spike and loss > self._spike * max(usual, 1e-3) else 0
        if self._high >= _IN_A_ROW:
            raise self.diverged(f"the loss is {loss:.3g}, where it was {usual:.3g}", record, checkpoint)
        if not self._high:
            self.losses = [*self.losses, loss][-_REMEMBERED:]

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON."""
        return {"losses": self.losses, "high": self._high}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.losses, self._high = list(state["losses"]), int(state["high"])

    def diverged(self, what: str, record: Mapping[str, Any], checkpoint: str) -> DivergedError:
        """The error that stops the run after a step's `record`: `what` is wrong, and `checkpoint` is safe."""
        rates = ", ".join(f"{name} {rate:.2g}" for name, rate in record["rates"].items())
        tasks = ", ".join(f"{name} ({rows})" for name, rows in record["tasks"].items())
        recent = ", ".join(f"{loss:.3g}" for loss in self.losses[-3:]) or "none"
        return DivergedError(
            f"Training has diverged. It stopped at step {record['step']} of stage {record['stage']}: {what}.\n"
            f"Losses before: {recent}. Norm of the gradient: {record['gradient_norm']:.3g}. Rates: {rates}.\n"
            f"Rows of the batch: {tasks}.",
            f"{checkpoint} Train with a lower rate (--set optimizer.learning_rate=...), a longer warm-up, or a higher "
            "temperature of the loss; look at the rows of these tasks with tsembed data check.",
        )


@torch.no_grad()
def finite_vectors(
    backbone: Trainable, items: Sequence[Prepared], precision: Callable[[], AbstractContextManager[object]]
) -> bool:
    """Say if the model, as it is now, gives finite vectors and routes for some of these items.

    Weights that are finite can be too large for what is computed with them. Training mode afterwards.
    """

    def traced_of(batch: Sequence[tuple[int, Prepared]]) -> Traced:
        with precision():
            return backbone.trace([one for _, one in batch], losses=False)

    chosen = items[:: -(-len(items) // _LOOKED_AT) or 1]
    backbone.train(False)
    try:
        for batch in batches(enumerate(chosen), backbone.batch_tokens, max(1, len(chosen))):
            for _, traced in in_fitting_parts(traced_of, batch):
                if traced is not None and not bool(
                    torch.isfinite(traced.vectors).all() & torch.isfinite(traced.routes).all()
                ):
                    return False
        return True
    finally:
        backbone.train(True)
