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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tsembed_search.data.gathering import StoredTask
from tsembed_search.data.rows import Task
from tsembed_search.errors import TsembedError, UsageError
from tsembed_search.model.registry import MODELS
from tsembed_search.paths import typed
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.log import Observer
from tsembed_search.trainer.settings import Recipe
from tsembed_search.trainer.validation import Validation


@dataclass(frozen=True)
class TrainReport:
    """The result of a run. `validation` is that of the saved model, `before` that of the untrained one, where measured.

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
        """Return the document that says it all."""
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


def _resume(out: Path) -> str:
    """Say how a run goes on, with the names of settings in braces."""
    return f"{{train()}} {{resume}} {{out}} {out}"


class Stopped(TsembedError):
    """The run was asked to stop, and has saved its state."""

    exit_code = 130

    def __init__(self, report: TrainReport, out: Path) -> None:
        super().__init__(f"Interrupted after step {report.steps}. Nothing is lost.", f"Go on: {_resume(out)}")
        self.report = report


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


MARKER = "run.json"

MODEL = "model"

# How long a run lasts, what it writes, and what fits in memory; not what it computes.
_MAY_CHANGE = frozenset(
    "run.steps run.checkpoint_every run.validate_every run.patience run.workers run.cache run.spike "
    "run.checkpointing run.compile batch.tokens".split()
)

_FORMAT = 1


def summary(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Return what there is of each task. `content`: a hash of what its rows hold, "" for tasks that are not read from
    files.
    """
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


def placed(recipe: Recipe) -> Recipe:
    """Return the recipe with places that mean the same in any folder: of pictures, and of a base model."""
    images = tuple(str(typed(folder)) for folder in recipe.data.images)
    base = recipe.model.base
    if base not in MODELS and base and typed(base).is_dir():
        base = str(typed(base))
    return replace(recipe, data=replace(recipe.data, images=images), model=replace(recipe.model, base=base))


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


def begin(
    out: Path,
    recipe: Recipe,
    sources: Sequence[str],
    tasks: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Make the folder of a new run. `tasks` and `held_out`: the `summary` of what is trained on and validated on.
    Raises `UsageError` when the folder holds anything.
    """
    check_free(out)
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    said = {
        "format": _FORMAT,
        "recipe": recipes.to_json(recipe),
        "sources": list(sources),
        "tasks": [dict(task) for task in tasks],
        "held_out": [dict(task) for task in held_out],
    }
    new = out / f"{MARKER}.new"
    try:
        new.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        new.replace(out / MARKER)
    except OSError:
        new.unlink(missing_ok=True)  # or the next try would find a folder that is not empty
        if made:
            out.rmdir()
        raise


def read(out: Path) -> tuple[Recipe, list[str], list[dict[str, Any]]]:
    """Return recipe, sources and tasks of a run. Raises `UsageError` when there is none."""
    try:
        said = json.loads((out / MARKER).read_text(encoding="utf-8"))
        return recipes.from_json(said["recipe"]), list(said["sources"]), list(said["tasks"])
    except FileNotFoundError:
        raise UsageError(f"There is no run in {out} to go on with.", "Leave {resume} out to begin one.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{out / MARKER} cannot be read: {error}.", "Train again into another folder.") from error


def check_same(
    out: Path, recipe: Recipe, tasks: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Raise `UsageError` unless the run in `out` was begun with this recipe (but for `_MAY_CHANGE`) and data."""
    before, _, known = read(out)
    known_held = json.loads((out / MARKER).read_text(encoding="utf-8")).get("held_out", [])
    old, new = recipes.to_json(before), recipes.to_json(recipe)
    for table, values in old.items():
        if not isinstance(values, dict) or table == "expected":
            continue
        for key, value in values.items():
            if value != new[table][key] and f"{table}.{key}" not in _MAY_CHANGE:
                raise UsageError(
                    f"The run in {out} was begun with {table}.{key} = {value}, not {new[table][key]}.",
                    "Go on with {resume} and neither {recipe} nor {set}, or choose another folder: {out}.",
                )
    for what, then, now in (("data", known, tasks), ("validation data", known_held, held_out)):
        if [dict(task) for task in now] == then:
            continue
        said = f"{_words(then)} then, {_words(now)} now"
        if _words(then) == _words(now):
            changed = [new["name"] for old, new in zip(then, now, strict=True) if old != dict(new)]
            said = f"as many rows, but those of {', '.join(changed)} or their pictures have changed"
        raise UsageError(
            f"The run in {out} was begun with other {what}: {said}.",
            "Give the same data, or choose another folder: {out}.",
        )


def _words(tasks: Sequence[Mapping[str, Any]]) -> str:
    return f"{sum(task['rows'] for task in tasks):,} rows of {len(tasks)} tasks"


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_NO_LEAVE = (errno.EACCES, errno.EPERM, errno.EROFS)

_NUMBER = re.compile(r"\(os error (\d+)\)")  # how safetensors tells which one it was


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
    what = f"There is no space left on the disk of {run}" if number in _NO_ROOM else f"{file or run}: {words}"
    todo = "Make room" if number in _NO_ROOM else "See to it"
    if number in _NO_LEAVE:
        what, todo = f"{file or run} cannot be used: {words}", "Make the folder writable"
    begun = (run / "run.json").is_file()
    again = f"go on: {_resume(run)}" if begun else "begin again"
    return DiskError(f"{what}.", f"{todo}, then {again}")
