"""What is asked of a training run, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsembed_search.errors import TsembedError
from tsembed_search.trainer.log import Observer
from tsembed_search.trainer.rows import Task
from tsembed_search.trainer.settings import Recipe
from tsembed_search.trainer.validation import Validation


@dataclass(frozen=True)
class TrainReport:
    """What a run came to. `validation` is that of the saved model, `before` that of the untrained one, where measured.

    `loss`: the mean of the last steps. `stage_switch`: the first step of stage 2, if it came to that.
    """

    steps: int
    stage_switch: int | None
    loss: float | None
    before: Validation | None
    validation: Validation | None
    seconds: float
    items_per_second: float
    checkpoint: Path | None
    route_weight: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The document of `tsembed train --json`."""
        return {
            "steps": self.steps,
            "stage_switch": self.stage_switch,
            "loss": self.loss,
            "validation": self.validation and self.validation.to_json(),
            "before": self.before and self.before.to_json(),
            "seconds": self.seconds,
            "items_per_second": self.items_per_second,
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "route_weight": self.route_weight,
            "reason": self.reason,
        }


class Stopped(TsembedError):
    """The run was asked to stop, and has saved its state."""

    exit_code = 130

    def __init__(self, report: TrainReport, out: Path) -> None:
        super().__init__(
            f"Interrupted after step {report.steps}. Nothing is lost.", f"Go on: tsembed train --resume --out {out}"
        )
        self.report = report


@dataclass(frozen=True)
class Job:
    """What to train: a recipe on the tasks of `train`, steered by those of `held_out`, in the folder `out`.

    `sources`: where the data came from, for the record. `chosen`: keys of the recipe that a person set, who is told
    when one has no effect. `stop` is asked after every step whether to end early.
    """

    recipe: Recipe
    train: Sequence[Task]
    held_out: Sequence[Task]
    out: Path
    device: str = "auto"
    resume: bool = False
    sources: Sequence[str] = ()
    problems: int = 0
    chosen: Collection[str] = ()
    observers: Sequence[Observer] = ()
    stop: Callable[[], bool] = field(default=lambda: False)
