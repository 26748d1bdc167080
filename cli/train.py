"""`tsembed train`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.cli.surroundings import Interrupts
from tsembed_search.errors import TsembedError, UsageError

if TYPE_CHECKING:
    from tsembed_search.data.rows import Task
    from tsembed_search.trainer.job import TrainReport

_TIME_TO_SPEAK = 5.0  # seconds


@options.completing
def recipe_names() -> list[str]:
    """The recipes."""
    from tsembed_search.trainer.recipe import RECIPES

    return RECIPES.names()


@options.described(
    ("adapt mini to your own pictures and documents", "tsembed train ~/Pictures --out runs/mine"),
    ("then use it", "tsembed index ~/Pictures --index mine --model runs/mine/model"),
    ("rows from a file, and a recipe with some settings changed",
     "tsembed train rows.jsonl --recipe tsembed --set steps=500 --set loss.temperature=0.03 --out runs/a"),
    ("go on after an interruption", "tsembed train --resume --out runs/a"),
    ("try a recipe for a large machine on this one", "tsembed train --recipe mmeb-qwen2vl-2b --dry-run"),
)  # fmt: skip
def train(
    data: options.OptionalData = None,
    recipe: Annotated[
        str | None,
        Option(
            "--recipe",
            metavar="NAME|FILE",
            help="Settings to train with: the name of a recipe, or a TOML file.",
            show_default="one that suits the data",
            autocompletion=recipe_names,
        ),
    ] = None,
    out: Annotated[
        Path | None, Option("--out", metavar="DIR", help="Folder for the model and the log.", show_default="runs/NAME")
    ] = None,
    max_steps: Annotated[int | None, Option("--max-steps", metavar="N", min=1, help="Stop after N steps.")] = None,
    seed: Annotated[
        int | None,
        Option(
            "--seed",
            metavar="S",
            help="Seed of the random numbers. The same seed and data give the same run.",
            show_default="the recipe's",
        ),
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Go on with the run in --out.")] = False,
    set_: Annotated[
        list[str] | None, Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe. Repeatable.")
    ] = None,
    device: options.Device = "auto",
    dry_run: Annotated[
        bool, Option("--dry-run", help="Try the recipe on a tiny model, to see that it works. Nothing is saved.")
    ] = False,
    tensorboard: Annotated[bool, Option("--tensorboard", help="Write logs for TensorBoard, too.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on your own files, or on pairs of a query and its answer.

    The base model does not change: small adapters are trained and saved. Use the result with --model.
    """
    changes = [
        *(set_ or ()),
        *([f"run.steps={max_steps}"] if max_steps else []),
        *([] if seed is None else [f"run.seed={seed}"]),
    ]
    if dry_run:
        if (out or resume or tensorboard) and not quiet:
            render.remark("--out, --resume and --tensorboard have no effect: --dry-run keeps nothing.")
        _dry_run(data or [], recipe, changes, device, json=json, quiet=quiet)
        return
    from tsembed_search.cli.render.progress import TrainingDisplay
    from tsembed_search.trainer import log, preparation
    from tsembed_search.trainer import recipe as recipes
    from tsembed_search.trainer.distributed import AgreedError, LostProcessError
    from tsembed_search.trainer.job import Job, Stopped
    from tsembed_search.trainer.loop import train as run
    from tsembed_search.trainer.schedule import DivergedError

    speaks = os.environ.get("RANK", "0") == "0"
    quiet = quiet or not speaks
    with _one_voice():
        if tensorboard:
            log.packages()
        if resume and out is None:
            raise UsageError("Which run is to go on?", "Name its folder: tsembed train --resume --out DIR")
        with render.working("Reading data", quiet=quiet):
            if resume and out is not None:
                resolved, loaded, why = preparation.resumed(out, recipe, changes, data or [])
            else:
                resolved, loaded, why = preparation.prepared(recipe, changes, data or [], device)
        if not quiet:
            render.remark(why)
        folder = out or _free(resolved.name)
    if speaks:
        render.tell_left_out(loaded, sum(loaded.left_out.values()), quiet=quiet)
    display, interrupts = TrainingDisplay(resolved.run.steps, quiet=quiet), Interrupts()
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
        observers=[display.update, *([log.TensorBoard(folder)] if tensorboard and speaks else [])],
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
    elif not quiet:
        for line in _summary(report):
            print(line)


def _summary(report: TrainReport) -> list[str]:
    """The outcome of a run, for people, safe to show."""
    lines = [f"{wording.count_words(report.steps, 'step')} in {wording.time_words(report.seconds)}: {report.reason}."]
    after, before = report.validation, report.before
    if after is None:
        lines.append("Nothing was measured: no rows were held out for it. How good the model is, is not known.")
    elif before is not None:
        lines.append(f"Validation: {after.hit:.1%} of first hits are right, {before.hit:.1%} before training.")
        if after.hit <= before.hit:
            lines.append("Training did not help on held-out rows, so the saved model is as good as it began.")
    if report.checkpoint is not None:
        path = wording.shown(str(report.checkpoint))
        lines.append(f"The model is in {path}. Use it: tsembed index PATH --index NEW --model {path}")
    return lines


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes on a machine, which read the same data and find the same fault with it, one tells it."""
    try:
        yield
    except TsembedError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        time.sleep(_TIME_TO_SPEAK)  # whoever started the processes ends all of them with the first
        raise typer.Exit(error.exit_code) from error


def _free(name: str) -> Path:
    """`runs/NAME`, with a number when there is such a folder. Raises `UsageError` where processes could not agree."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("Several processes need to be told where to write.", "Add --out DIR.")
    first = Path("runs") / name
    numbered = (first.with_name(f"{name}-{number}") for number in range(2, 10_000))
    return next((path for path in (first, *numbered) if not path.exists()), first)


def _dry_run(
    data: Sequence[str], name: str | None, changes: Sequence[str], device: str, *, json: bool, quiet: bool
) -> None:
    from tsembed_search.trainer import preparation
    from tsembed_search.trainer import recipe as recipes

    asked = preparation.named(name, changes)
    rows: Sequence[Task] = []
    if data:
        with render.working("Reading data", quiet=quiet):
            loaded = preparation.rows_for(asked, data)
        render.tell_left_out(loaded, sum(loaded.left_out.values()), quiet=quiet)
        rows = loaded.train
    with render.working(f"Trying {asked.name}", quiet=quiet):
        walked, report = preparation.dry_run(asked, rows, device if device != "auto" else "cpu")
    if json:
        said = {"recipe": recipes.to_json(asked), "expected": dict(asked.expected), "walked": recipes.to_json(walked)}
        render.print_json(replace(report, checkpoint=None).to_json() | {"dry_run": True} | said)
        return
    print(wording.shown(f"{asked.name}: {asked.about}" if asked.about else f"{asked.name}."))
    print(f"Ran {report.steps} steps, in both stages, on a tiny random model. All went well. Nothing was saved.")
    for key, value in asked.expected.items():
        print(wording.shown(f"{key.replace('_', ' ')}: {value}"))
