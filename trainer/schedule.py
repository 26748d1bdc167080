"""The schedule of a run: its two stages, and its early end when it has diverged.

In stage 1 experts part ways, in stage 2 negatives are weighed by them. Two stages are the paper's (TSEmbed, arXiv
2603.04772). When to switch is ours: at a share of the steps, or when the routing entropy has settled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from tsembed_search.errors import ModelError, TsembedError
from tsembed_search.trainer.settings import ENOUGH_LOSSES, StageSettings

_WINDOW = 20  # steps over which entropy is averaged
_SETTLED = 0.01  # how little the mean may move from one window to the next
_EARLIEST = 0.1  # share of the steps before which nothing counts as settled
_REMEMBERED = 50  # losses
_IN_A_ROW = 3


class StageSchedule:
    """The stage of each step. `total` is the number of planned steps."""

    def __init__(self, settings: StageSettings, total: int) -> None:
        self._settings = settings
        self._total = total
        self._entropies: list[float] = []
        self.at: int | None = None
        """The first step of stage 2, once it has come."""
        self.reason = ""

    def stage(self, step: int) -> int:
        """Return 1 or 2, for step number `step` (from 1)."""
        if self.at is None and (reason := self._due(step)):
            self.at, self.reason = step, reason
        return 1 if self.at is None else 2

    def observe(self, entropy: float) -> None:
        """Take in a step's routing entropy (0..1)."""
        self._entropies = [*self._entropies, entropy][-2 * _WINDOW :]

    def router_factor(self, stage: int) -> float:
        """Return how fast routers learn, relative to their own learning rate."""
        return self._settings.router_factor if stage == 2 else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return what it has seen, as JSON."""
        return {"entropies": self._entropies, "at": self.at, "reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
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


class DivergedError(TsembedError):
    """Training has gone wrong: something is not finite, or a loss is far above what it was. All processes raise it."""


class DivergenceMonitor:
    """The end of a run that has diverged. `spike`: how many times the median of recent losses is too much, three times
    in a row (0: never). `saved` says what is safe. `record`: that of the last step, {} before the first.
    """

    def __init__(self, spike: float, saved: Callable[[], str] = str) -> None:
        self._spike = spike
        self._saved = saved
        self.record: Mapping[str, Any] = {}
        self.losses: list[float] = []
        self._high = 0

    def check(self, record: Mapping[str, Any]) -> None:
        """Take in a step's record. Raises `DivergedError`."""
        self.record = record
        loss, norm = record["loss"], record["gradient_norm"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            odd = [name for name, part in record["parts"].items() if not math.isfinite(part)]
            what = f"the {' and '.join(odd)} loss is" if odd else "gradients are"
            raise self.diverged(f"{what} not finite")
        usual = median(self.losses) if len(self.losses) >= ENOUGH_LOSSES else math.inf
        self._high = self._high + 1 if self._spike and loss > self._spike * max(usual, 1e-3) else 0
        if self._high >= _IN_A_ROW:
            raise self.diverged(f"the loss is {loss:.3g}, where it was {usual:.3g}")
        if not self._high:
            self.losses = [*self.losses, loss][-_REMEMBERED:]

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers, as JSON."""
        return {"losses": self.losses, "high": self._high}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        self.losses, self._high = list(state["losses"]), int(state["high"])

    def diverged(self, what: str) -> TsembedError:
        """Return the error that ends the run after the last step: `what` is wrong."""
        record = self.record
        if not record:
            return ModelError(f"Before any step, {what}.", "Train from another model.")
        rates = ", ".join(f"{name} {rate:.2g}" for name, rate in record["rates"].items())
        tasks = ", ".join(f"{name} ({rows})" for name, rows in record["tasks"].items())
        recent = ", ".join(f"{loss:.3g}" for loss in self.losses[-3:]) or "none"
        return DivergedError(
            f"Training has diverged. It stopped at step {record['step']} of stage {record['stage']}: {what}.\n"
            f"Losses before: {recent}. Norm of the gradient: {record['gradient_norm']:.3g}. Rates: {rates}.\n"
            f"Rows of the batch: {tasks}.",
            f"{self._saved()} Train with a lower optimizer.learning_rate, a longer optimizer.warmup, or a higher "
            "loss.temperature; look at the rows of these tasks.",
        )
