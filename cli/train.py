"""`tsembed train`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.options import described
from tsembed_search.cli.render import text as render

if TYPE_CHECKING:
    from tsembed_search.data.training import DataSet
    from tsembed_search.trainer.job import TrainReport
    from tsembed_search.trainer.log import Observer
    from tsembed_search.trainer.settings import Recipe


_FEW_ROWS = 2500  # with fewer, a fiftieth of them would say little about the others
_TIME_TO_SPEAK = 5.0  # seconds


def recipe_names(incomplete: str) -> list[str]:
    """Names of recipes that begin with `incomplete`."""
    from tsembed_search.trainer.recipe import RECIPES

    return [name for name in RECIPES.names() if name.startswith(incomplete)]


@described(
    ("adapt mini to a folder of captioned pictures and documents", "tsembed train ~/Pictures --out runs/mine"),
    ("then use it", "tsembed index ~/Pictures --index mine --model runs/mine/model"),
    ("rows of a file, with a recipe and some keys of it changed",
     "tsembed train rows.jsonl --recipe tsembed --set steps=500 --set loss.temperature=0.03 --out runs/a"),
    ("go on after an interruption", "tsembed train --resume --out runs/a"),
    ("walk through a recipe for a large machine", "tsembed train --recipe mmeb-qwen2vl-2b --dry-run"),
)  # fmt: skip
def train(
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA...", help="Files of rows, folders, or hub:owner/name.", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="How to train.",
            show_default="one that suits the data",
            autocompletion=recipe_names,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run's folder.", show_default="runs/NAME")
    ] = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", metavar="N", min=1, help="Steps of the run.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="Of every random choice.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe. Repeatable.")
    ] = None,
    device: options.Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Walk through the recipe on a tiny model; keep nothing.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files, too.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on your own pairs of queries and what they should find.

    The base model stays as it is; adapters are trained and saved with the run, ready for --model.
    """
    from tsembed_search.cli.render.text import tell_left_out
    from tsembed_search.trainer import recipe as recipes
    from tsembed_search.trainer.distributed import AgreedError, LostProcessError
    from tsembed_search.trainer.job import Job, Stopped
    from tsembed_search.trainer.loop import train as run
    from tsembed_search.trainer.schedule import DivergedError

    speaks = os.environ.get("RANK", "0") == "0"
    changes = [*(set_ or ()), *([f"run.steps={max_steps}"] if max_steps else [])]
    changes += [] if seed is None else [f"run.seed={seed}"]
    if dry_run:
        if (out or resume or tensorboard) and not quiet:
            render.remark("--out, --resume and --tensorboard have no effect: --dry-run keeps nothing.")
        _dry_run(data or [], recipe, changes, device, json=json, quiet=quiet)
        return
    with _one_voice():
        if tensorboard:
            from tsembed_search.trainer.log import TensorBoard, packages

            packages()
        resolved, sources = _resumed(out, recipe, changes, data) if resume else (None, data or [])
        asked = resolved or _named(recipe, changes)
        loaded = _load(sources, asked, seed, quiet=quiet or not speaks)
        if recipe is None and not resume and sum(len(task) for task in loaded.train) < _FEW_ROWS:
            asked = recipes.changed(asked, ["data.validation=0.1", *changes])
            loaded = _load(sources, asked, seed, quiet=quiet or not speaks)
        if resolved is None:
            resolved = (
                asked if recipe is not None else _suited(asked, loaded, changes, device, quiet=quiet or not speaks)
            )
        folder = out or _free(resolved.name)
    if speaks:
        tell_left_out(loaded.problems, loaded.unread, sum(loaded.left_out.values()), quiet=quiet)
    display, observer = _display(resolved.run.steps, quiet=quiet or not speaks)
    observers: list[Observer] = [observer] if observer else []
    if tensorboard and speaks:
        observers.append(TensorBoard(folder))
    interrupts = options.Interrupts()
    job = Job(
        recipe=resolved,
        train=loaded.train,
        held_out=loaded.validation,
        out=folder,
        device=device,
        resume=resume,
        sources=loaded.sources,
        problems=sum(loaded.left_out.values()),
        chosen=recipes.chosen(recipe, changes),
        observers=observers,
        stop=interrupts.is_set,
    )
    try:
        with display, interrupts:
            report = run(job)
    except Stopped as stopped:
        if json and speaks:
            render.print_json(stopped.report.to_json())
        raise
    except (AgreedError, DivergedError, LostProcessError) as error:
        if speaks:  # one of the processes that know of it is enough
            raise
        raise typer.Exit(error.exit_code) from error
    if json and speaks:
        render.print_json(report.to_json())
    elif not quiet and speaks:
        for line in summary_lines(report):
            print(line)


def summary_lines(report: TrainReport) -> list[str]:
    """What a run came to, for people, safe to show."""
    lines = [f"{wording.count_words(report.steps, 'step')} in {wording.time_words(report.seconds)}: {report.reason}."]
    if report.validation is not None and report.before is not None:
        gained = report.validation.hit - report.before.hit
        lines.append(
            f"Validation: {report.validation.hit:.1%} of first hits are right, {report.before.hit:.1%} before training."
        )
        if gained <= 0:
            lines.append("Training did not help on held-out rows, so the saved model is as good as it began.")
    if report.validation is None:
        lines.append(
            "Nothing was measured, for no rows were held out that could be. How good the model is, is not known."
        )
    if report.checkpoint is not None:
        path = wording.shown(str(report.checkpoint))
        lines += [f"The model is in {path}. Use it: tsembed index PATH --index NEW --model {path}"]
    return lines


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes on a machine, which read the same data and find the same fault with it, one tells it."""
    from tsembed_search.errors import TsembedError

    try:
        yield
    except TsembedError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        time.sleep(_TIME_TO_SPEAK)  # whoever started the processes ends all of them with the first
        raise typer.Exit(error.exit_code) from error


def _named(name: str | None, changes: Sequence[str]) -> Recipe:
    """The recipe asked for; without one the default, for what it says about data."""
    from tsembed_search.trainer import job as folder
    from tsembed_search.trainer import recipe as recipes

    return folder.placed(recipes.load(name or "tsembed", changes))


def _suited(asked: Recipe, loaded: DataSet, changes: Sequence[str], device: str, *, quiet: bool) -> Recipe:
    from tsembed_search.trainer import job as folder
    from tsembed_search.trainer import recipe as recipes
    from tsembed_search.trainer.recipe import suited

    found, why = suited(loaded.train, gpu=_on_gpu(device))
    if not quiet:
        render.remark(why)
    return folder.placed(recipes.changed(replace(found, data=asked.data), changes))


def _on_gpu(device: str) -> bool:
    from tsembed_search.model.backbone import pick

    return pick(device).type == "cuda"


def _resumed(
    out: Path | None, recipe: str | None, changes: Sequence[str], data: Sequence[str] | None
) -> tuple[Recipe, list[str]]:
    """What the run in `out` was begun with, and what was asked to be otherwise now."""
    from tsembed_search.errors import UsageError
    from tsembed_search.trainer import job as folder
    from tsembed_search.trainer import recipe as recipes

    if out is None:
        raise UsageError("Which run is to go on?", "Name its folder: tsembed train --resume --out DIR")
    known, sources, _ = folder.read(out)
    asked = recipes.changed(known, changes) if recipe is None else recipes.load(recipe, changes)
    return folder.placed(asked), list(data or sources)


def _load(sources: Sequence[str], recipe: Recipe, seed: int | None, *, quiet: bool) -> DataSet:
    from tsembed_search.data.training import load
    from tsembed_search.errors import UsageError

    said = recipe.data
    for folder in said.images:
        if not Path(folder).expanduser().is_dir():
            raise UsageError(f"data.images names {folder}, which is no folder.", "Name a folder that is there.")
    with render.working("Reading data", quiet=quiet):
        return load(
            list(sources),
            validation=said.validation,
            seed=recipe.run.seed if seed is None else seed,
            weights=said.weights,
            caps=said.caps,
            only=said.only,
            images=[Path(folder).expanduser() for folder in said.images],
            instructions=None if said.instructions == "layout" else said.instructions,
        )


def _free(name: str) -> Path:
    """`runs/NAME`, with a number when there is such a folder. Raises `UsageError` where processes could not agree."""
    from tsembed_search.errors import UsageError

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("Several processes need to be told where to write.", "Add --out DIR.")
    first = Path("runs") / name
    numbered = (first.with_name(f"{name}-{number}") for number in range(2, 10_000))
    return next((path for path in (first, *numbered) if not path.exists()), first)


def _display(steps: int, *, quiet: bool) -> tuple[AbstractContextManager[object], Observer | None]:
    if quiet:
        return nullcontext(), None
    from tsembed_search.cli.render.training import Display

    display = Display(steps, render.console(stderr=True))
    return display, display.update


def _dry_run(
    data: Sequence[str], name: str | None, changes: Sequence[str], device: str, *, json: bool, quiet: bool
) -> None:
    from tsembed_search.cli.render.text import tell_left_out
    from tsembed_search.trainer import recipe as recipes
    from tsembed_search.trainer.dry_run import dry_run

    asked = _named(name, changes)
    loaded = _load(data, asked, None, quiet=quiet) if data else None
    if loaded is not None:
        tell_left_out(loaded.problems, loaded.unread, sum(loaded.left_out.values()), quiet=quiet)
    tasks = loaded.train if loaded is not None else []
    with render.working(f"Walking through {asked.name}", quiet=quiet):
        walked, report = dry_run(asked, tasks, device if device != "auto" else "cpu")
    if json:
        said = {"recipe": recipes.to_json(asked), "expected": dict(asked.expected), "walked": recipes.to_json(walked)}
        render.print_json(replace(report, checkpoint=None).to_json() | {"dry_run": True} | said)
        return
    about = f": {asked.about}" if asked.about else "."
    print(wording.shown(f"{asked.name}{about}"))
    print(f"Walked through {report.steps} steps of both kinds on a tiny random model. All went well; nothing is kept.")
    for key, value in asked.expected.items():
        print(wording.shown(f"{key.replace('_', ' ')}: {value}"))
