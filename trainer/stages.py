"""When stage 1, in which experts part ways, gives way to stage 2, in which negatives are weighed by them.

Two stages are the paper's (TSEmbed, arXiv 2603.04772). When to switch is ours: at a share of the steps, or when the
routing entropy has settled.
"""

from __future__ import annotations

from typing import Any

from tsembed_search.trainer.settings import Stages

_WINDOW = 20  # steps over which entropy is averaged
_SETTLED = 0.01  # how little the mean may move from one window to the next
_EARLIEST = 0.1  # share of the steps before which nothing counts as settled


class Switch:
    """Says which stage a step belongs to. `total` is the number of planned steps."""

    def __init__(self, settings: Stages, total: int) -> None:
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
