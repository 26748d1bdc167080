"""The recipe and the data of a run, from what a person gives: a recipe's name or none, changes to it, and sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from tsembed_search.data.training import DataSet, load
from tsembed_search.errors import UsageError
from tsembed_search.trainer import job
from tsembed_search.trainer import recipe as recipes
from tsembed_search.trainer.settings import Recipe

_FEW_ROWS: Final = 2500  # with fewer, a fiftieth of them would say little about the others


class ReadyRun(NamedTuple):
    """A recipe and its data. `why`: in words, why this recipe was chosen; empty when it was asked for."""

    recipe: Recipe
    data: DataSet
    why: str = ""


def named(name: str | None, changes: Sequence[str]) -> Recipe:
    """Return the recipe of that name or file, with `changes` (`key=value`); without a name the default one, for what it
    says about data. Raises `UsageError`.
    """
    return job.placed(recipes.load(name or "tsembed", changes))


def prepared(name: str | None, changes: Sequence[str], sources: Sequence[str], device: str) -> ReadyRun:
    """Read data from `sources`, with the recipe that is asked for or, without a `name`, one that suits the data and the
    device. Of few rows, more are held out. Raises `UsageError` and `LoadError`.
    """
    from tsembed_search.model.backbone import pick

    asked = named(name, changes)
    data = rows_for(asked, sources)
    if name is not None:
        return ReadyRun(asked, data)
    if sum(len(task) for task in data.train) < _FEW_ROWS:
        asked = recipes.changed(asked, ["data.validation=0.1", *changes])
        data = rows_for(asked, sources)
    found, why = recipes.suited(data.train, gpu=pick(device).type == "cuda")
    return ReadyRun(job.placed(recipes.changed(replace(found, data=asked.data), changes)), data, why)


def resumed(out: Path, name: str | None, changes: Sequence[str], sources: Sequence[str]) -> ReadyRun:
    """Return what the run in `out` was begun with, apart from what is asked to be otherwise now. Raises `UsageError`
    when there is no run.
    """
    known, read, _ = job.read(out)
    asked = job.placed(recipes.changed(known, changes) if name is None else recipes.load(name, changes))
    return ReadyRun(asked, rows_for(asked, sources or read))


def rows_for(recipe: Recipe, sources: Sequence[str]) -> DataSet:
    """Read rows from files, folders and the hub, as a recipe wants them. Raises `UsageError` and `LoadError`."""
    said = recipe.data
    folders = [Path(folder).expanduser() for folder in said.images]
    for given, folder in zip(said.images, folders, strict=True):
        if not folder.is_dir():
            raise UsageError(f"data.images names {given}, which is no folder.", "Name a folder that is there.")
    return load(
        list(sources),
        validation=said.validation,
        seed=recipe.run.seed,
        weights=said.weights,
        caps=said.caps,
        only=said.only,
        images=folders,
        instructions=None if said.instructions == "layout" else said.instructions,
    )
