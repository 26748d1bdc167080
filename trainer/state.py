"""The state of a run, and its form on disk: a folder per checkpoint, safetensors and JSON, whole or not there.

    states/step-00000120/tensors.safetensors    adapters, the optimizer's moments, the objective's memory
    states/step-00000120/state.json             the step, the sampler's place, the stage, figures so far
    states/step-00000120/best.safetensors       the weights that validated best, where those are of an earlier step

A checkpoint is written beside its place and renamed; only then the one before it goes. So weights and the state that
they belong to come and go together.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError

from tsembed_search.errors import ModelError
from tsembed_search.model.files import flush
from tsembed_search.trainer.job import TrainReport

if TYPE_CHECKING:
    from torch import Tensor

    from tsembed_search.model.moe_lora import Adapters
    from tsembed_search.trainer.batches.loader import Loader
    from tsembed_search.trainer.objective import Objective
    from tsembed_search.trainer.optimizer import Optimizer
    from tsembed_search.trainer.schedule import DivergenceMonitor, StageSchedule
    from tsembed_search.trainer.validation import Validations

FOLDER: Final = "states"
_TENSORS, _FACTS, _BEST = "tensors.safetensors", "state.json", "best.safetensors"
_UNFINISHED = ".new"
_AGAIN = "Train again into another folder."

_WITH_TENSORS = ("adapters", "optimizer", "objective")
_PARTS = (*_WITH_TENSORS, "sampler", "schedule", "monitor", "validations", "counters")
_SMOOTH = 0.9  # of the rate that is shown


@dataclass
class Counters:
    """Sums over the run's steps: `seconds` in training, `items` embedded, rows `skipped`; bytes of the `log`."""

    seconds: float = 0.0
    items: float = 0.0
    skipped: int = 0
    log: int = 0
    rate: float = field(default=0.0, compare=False)
    """Items a second lately: a moving mean, which a resumed run begins anew."""

    def add(self, items: float, seconds: float) -> None:
        """Take in a step."""
        self.items += items
        self.seconds += seconds
        self.rate = items / seconds if not self.rate else _SMOOTH * self.rate + (1 - _SMOOTH) * items / seconds

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, as JSON."""
        return {"seconds": self.seconds, "items": self.items, "skipped": self.skipped, "log": self.log}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        self.seconds, self.items = float(state["seconds"]), float(state["items"])
        self.skipped, self.log = int(state["skipped"]), int(state["log"])


@dataclass
class TrainState:
    """All that a run has come to after `step` steps: with it, the run goes on as if it had never ended.

    `sampler` is the loader, which knows the place in the data after the last batch that was used.
    """

    adapters: Adapters
    optimizer: Optimizer
    objective: Objective
    sampler: Loader
    schedule: StageSchedule
    monitor: DivergenceMonitor
    validations: Validations
    counters: Counters = field(default_factory=Counters)
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the step, and the state of each part by its name."""
        return {"step": self.step} | {name: getattr(self, name).state_dict() for name in _PARTS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.step = int(state["step"])

    def save(self, run: Path) -> Path:
        """Write the state into a run's folder, and the best weights if they are older. Raises what `save` does."""
        state = self.state_dict()
        tensors = {f"{part}.{name}": one for part in _WITH_TENSORS for name, one in state.pop(part).items()}
        return save(run, self.step, tensors, state, self.validations.best_weights if self._best_is_older else None)

    @property
    def _best_is_older(self) -> bool:
        return self.validations.best is not None and self.validations.best[0] != self.step

    def load(self, found: Path) -> str:
        """Go back to the state in a folder. Return what a person should know. Raises `ModelError` if it is damaged."""
        tensors, state = load(found)
        try:
            for part in _WITH_TENSORS:
                names = [name for name in tensors if name.startswith(f"{part}.")]
                state[part] = {name.removeprefix(f"{part}."): tensors[name] for name in names}
            self.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"The state of the run in {found} is damaged, or another version made it: {error!r}.", _AGAIN
            ) from error
        validations = self.validations
        validations.best_weights = state["adapters"]
        if validations.best is None or not self._best_is_older:
            return ""
        try:
            validations.best_weights = load_best(found)
            return ""
        except ModelError as error:  # the run can go on without them
            step, _ = validations.best
            validations.forget_best()
            return (
                f"The weights of step {step}, which validated best, are lost. {error.message} "
                "The best ones from here on will be saved."
            )

    def report(self, reason: str, path: Path | None = None, weight: float | None = None) -> TrainReport:
        """Return what the run has come to: `path` of the model, if there is one, and its re-ranking weight."""
        recent, counters, validations = self.monitor.losses[-10:], self.counters, self.validations
        return TrainReport(
            steps=self.step,
            stage_switch=self.schedule.at,
            loss=sum(recent) / len(recent) if recent else None,
            before=validations.before,
            validation=validations.best[1] if validations.best and path else validations.last,
            seconds=counters.seconds,
            items_per_second=counters.items / counters.seconds if counters.seconds else 0.0,
            checkpoint=path,
            route_weight=weight,
            reason=reason,
        )


def save(
    run: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    best: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the state after `step` steps and then remove older ones. Return its folder.

    `best`: the weights that validated best, unless they are those of this step. Raises `OSError` and `SafetensorError`
    when there is no room, and leaves nothing of the new state then.
    """
    folder = run / FOLDER / f"step-{step:08}"
    if folder.is_dir():  # a folder of this name is whole, and the same step gives the same state
        return folder
    new = folder.with_name(folder.name + _UNFINISHED)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        _write(new / _TENSORS, tensors)
        if best is not None:
            _write(new / _BEST, best)
        (new / _FACTS).write_text(json.dumps(facts, allow_nan=False), encoding="utf-8")
        for path in (new / _FACTS, new):
            flush(path)
        new.rename(folder)
    except (OSError, SafetensorError):
        shutil.rmtree(new, ignore_errors=True)  # what there is of it takes the room that is missing
        raise
    flush(folder.parent)
    for old in folder.parent.iterdir():
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def latest(run: Path) -> Path | None:
    """Return the newest whole state of a run, or None."""
    return max((one for one in (run / FOLDER).glob("step-*") if one.suffix != _UNFINISHED), default=None)


def safe(run: Path) -> str:
    """Say what is safe of a run."""
    found = latest(run)
    return f"The last whole state is {found}." if found else "No state was saved."


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and facts of a state. Raises `ModelError` when a file is damaged."""
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        return _read(folder / _TENSORS), facts
    except (OSError, ValueError) as error:
        raise ModelError(f"The state of the run in {folder} cannot be read: {error}.", _AGAIN) from error


def load_best(folder: Path) -> dict[str, Tensor]:
    """Return the weights that validated best before the state in `folder`. Raises `ModelError` when they are lost."""
    return _read(folder / _BEST)


def _write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
    flush(file)


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read: {error}.", _AGAIN) from error
