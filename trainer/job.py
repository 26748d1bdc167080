"""The request for a training run, its result, and its folder: what that holds, and if a run may begin or go on in it.

run.json      what was asked for: recipe, data, when
log.jsonl     what happened: see `log`
states/       the last whole state, to go on from, with the weights that validated best: see `state`
model/        the finished checkpoint, for `--model`
report.html   the run with plots: see `report`
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError

from tsembed_search.data.gathering import StoredTask
from tsembed_search.data.rows import Task
from tsembed_search.errors import TsembedError, UsageError
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.log import Observer
from tsembed_search.trainer.settings import Recipe
from tsembed_search.trainer.validation import Validation

MODEL: Final = "model"
MARKER: Final = "run.json"
_FORMAT = 1
# How long a run lasts, what it writes, and what fits in memory; not what it computes.
_MAY_CHANGE = frozenset(
    "run.steps run.checkpoint_every run.validate_every run.patience run.workers run.cache run.spike "
    "run.gradient_checkpointing run.compile batch.tokens".split()
)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LEAVE = (errno.EACCES, errno.EPERM, errno.EROFS)
_NUMBER = re.compile(r"\(os error (\d+)\)")  # how safetensors tells which one it was

Summary = Sequence[Mapping[str, Any]]
"""The facts about some tasks, as `summary` gives them."""


@dataclass(frozen=True)
class Job:
    """The request for a run: a recipe on the tasks of `train`, steered by those of `held_out`, in the folder `out`.

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


@dataclass(frozen=True)
class TrainReport:
    """The result of a run. `validation` is that of the saved model, `before` that of the untrained one, where measured.

    `loss`: the mean of the last steps. `stage_switch`: the first step of stage 2, if it came to that.
    """

    steps: int
    stage_switch: int | None
    loss: float | None
    validation: Validation | None
    before: Validation | None
    seconds: float
    items_per_second: float
    checkpoint: Path | None
    route_weight: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the document that says it all."""
        return vars(self) | {
            "validation": self.validation and self.validation.to_json(),
            "before": self.before and self.before.to_json(),
            "checkpoint": self.checkpoint and str(self.checkpoint),
        }


class Stopped(TsembedError):
    """The run was asked to stop, and has saved its state."""

    exit_code = 130

    def __init__(self, report: TrainReport, out: Path) -> None:
        super().__init__(f"Interrupted after step {report.steps}. Nothing is lost.", f"Go on: {_resume(out)}")
        self.report = report


def _resume(out: Path) -> str:
    """Say how a run goes on, with the names of settings in braces."""
    return f"{{train()}} {{resume}} {{out}} {out}"


def summary(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Return what there is of each task. `content`: a hash of what its rows hold, if they are read from files."""
    return [
        {
            "name": task.name,
            "meta": task.meta,
            "rows": len(task),
            "identities": len({task.identity(row) for row in range(len(task))}),
            "weight": task.weight,
            "content": task.fingerprint() if isinstance(task, StoredTask) else "",
        }
        for task in tasks
    ]


def check_free(out: Path) -> None:
    """Raise `UsageError` when a new run cannot begin in `out`, because the folder holds something."""
    if (out / MARKER).is_file():
        raise UsageError(
            f"{out} holds another run.", "Go on with it: {resume}. Or choose another folder for a new one: {out}."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty.", "Choose another folder: {out}.")
    above = next((one for one in out.absolute().parents if one.exists()), out)
    if not above.is_dir():
        raise UsageError(f"{out} cannot be a folder: {above} is a file.", "Choose another folder: {out}.")


def begin(out: Path, recipe: Recipe, sources: Sequence[str], tasks: Summary, held_out: Summary = ()) -> None:
    """Make the folder of a new run. Raises `UsageError` when it holds anything."""
    check_free(out)
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    said = {"format": _FORMAT, "recipe": recipes.to_json(recipe), "sources": list(sources)}
    text = json.dumps(said | {"tasks": list(tasks), "held_out": list(held_out)}, indent=2)
    new = out / f"{MARKER}.new"
    try:
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(out / MARKER)
    except OSError:
        new.unlink(missing_ok=True)  # or the next try would find a folder that is not empty
        if made:
            out.rmdir()
        raise


def read(out: Path) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of a run, and all that `begin` wrote of it. Raises `UsageError` when there is none."""
    try:
        said = json.loads((out / MARKER).read_text(encoding="utf-8"))
        return recipes.from_json(said["recipe"]), {name: list(said[name]) for name in ("sources", "tasks", "held_out")}
    except FileNotFoundError:
        raise UsageError(f"There is no run in {out} to go on with.", "Leave {resume} out to begin one.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{out / MARKER} cannot be read: {error}.", "Train again into another folder.") from error


def check_same(out: Path, recipe: Recipe, tasks: Summary, held_out: Summary = ()) -> None:
    """Raise `UsageError` unless the run in `out` was begun with this recipe (but for `_MAY_CHANGE`) and data."""
    before, known = read(out)
    for key, old, new in recipes.differences(before, recipe):
        if key not in _MAY_CHANGE:
            raise UsageError(
                f"The run in {out} was begun with {key} = {old}, not {new}.",
                "Go on with {resume} and neither {recipe} nor {set}, or choose another folder: {out}.",
            )
    for what, then, now in (("data", known["tasks"], tasks), ("validation data", known["held_out"], held_out)):
        if list(now) == then:
            continue
        was, said = (f"{sum(one['rows'] for one in each):,} rows of {len(each)} tasks" for each in (then, now))
        told = f"{was} then, {said} now"
        if was == said:
            changed = [new["name"] for old, new in zip(then, now, strict=True) if old != new]
            told = f"as many rows, but those of {', '.join(changed)} or their pictures have changed"
        raise UsageError(
            f"The run in {out} was begun with other {what}: {told}.",
            "Give the same data, or choose another folder: {out}.",
        )


class DiskError(TsembedError):
    """A run cannot write or read one of its files."""


@contextmanager
def in_words(run: Path) -> Iterator[None]:
    """Inside, the run in the folder `run` works. Raises `DiskError` for what the disk does to it."""
    try:
        yield
    except OSError as error:
        raise _error(run, error.errno, error.filename, error.strerror or str(error)) from error
    except SafetensorError as error:
        found = _NUMBER.search(str(error))
        number = int(found[1]) if found else None
        raise _error(run, number, None, os.strerror(number) if number else str(error)) from error


def _error(run: Path, number: int | None, file: object, words: str) -> DiskError:
    what, todo = f"{file or run}: {words}", "See to it"
    if number in _NO_ROOM:
        what, todo = f"There is no space left on the disk of {run}", "Make room"
    elif number in _NO_LEAVE:
        what, todo = f"{file or run} cannot be used: {words}", "Make the folder writable"
    again = f"go on: {_resume(run)}" if (run / MARKER).is_file() else "begin again"
    return DiskError(f"{what}.", f"{todo}, then {again}")
