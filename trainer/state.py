"""The state of a run on disk, so that it can go on: a folder per checkpoint, safetensors and JSON, whole or not there.

    states/step-00000120/tensors.safetensors    weights, moments, the loss's memory
    states/step-00000120/state.json             the step, the sampler's place, the stage, figures so far
    states/step-00000120/best.safetensors       the weights that validated best, where those are of an earlier step

A checkpoint is written beside its place and renamed; only then the one before it goes. So weights and the state that
they belong to come and go together.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from tsembed_search.errors import ModelError
from tsembed_search.model.files import flush

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "states"
_TENSORS, _FACTS, _BEST = "tensors.safetensors", "state.json", "best.safetensors"
_UNFINISHED = ".new"


def save(
    run: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    best: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes the state after `step` steps and then removes older ones. Gives its folder.

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
    """The newest whole state of a run, or None."""
    folder = run / FOLDER
    whole = [one for one in folder.glob("step-*") if one.suffix != _UNFINISHED] if folder.is_dir() else []
    return max(whole, default=None)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts. Raises `ModelError` when a file is damaged."""
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        return read(folder / _TENSORS), facts
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The state of the run in {folder} cannot be read: {error}.", "Train again into another folder."
        ) from error


def load_best(folder: Path) -> dict[str, Tensor]:
    """The weights that validated best before the state in `folder`. Raises `ModelError` when they cannot be read."""
    return read(folder / _BEST)


def _write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
    flush(file)


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of one file. Raises `ModelError` when it is damaged."""
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read: {error}.", "Train again into another folder.") from error


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `part`."""
    return {prefix + name: tensor for name, tensor in tensors.items()}
