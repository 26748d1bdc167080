"""`tsembed data`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render

if TYPE_CHECKING:
    from tsembed_search.data.check import Report, TaskReport

_MOST_SHOWN = 20

data = typer.Typer(
    name="data",
    add_completion=False,
    epilog=options.examples(("what is in a data set, and what is wrong with it", "tsembed data check ./my-rows")),
    no_args_is_help=True,
)


@data.callback()
def _group() -> None:
    """Check training data before you train on it."""


@data.command(
    epilog=options.examples(
        ("a folder of rows", "tsembed data check ./my-rows"),
        ("what can be learned from your own files", "tsembed data check ~/Pictures"),
        ("images in another folder", "tsembed data check train.jsonl --images /data/images"),
    )
)
def check(
    sources: options.Data,
    images: options.ImageFolders = None,
    open_images: Annotated[bool, Option("--open/--no-open", help="Open some images, to find damaged ones.")] = True,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what is in a data set, and what is wrong with it.

    Exits with 1 when it cannot be trained on.
    """
    from tsembed_search.data.check import check as look_over

    with render.working("Reading", quiet=quiet) as tell:
        report = look_over(
            sources,
            images=images or (),
            open_images=open_images,
            progress=lambda task, rows: tell(f"Reading {task}: {rows:,} rows"),
        )
    if json:
        render.print_json(report.to_json())
    else:
        _print_report(report, quiet)
    if not report.usable:
        raise typer.Exit(1)


def _print_report(report: Report, quiet: bool) -> None:
    if render.is_terminal():
        numbers = ("rows", "bad", "no image", "twice", "targets")
        headings = ["task", "split", *numbers, "query to target", "words"]
        render.print_table(headings, map(_row, report.tasks), right=(*numbers, "words"))
    else:
        for task in report.tasks:
            counts = (task.rows, task.bad.total(), task.identities, task.duplicates)
            render.print_fields(task.name, task.split or "train", *counts)
    if quiet:
        return
    for finding in report.findings:
        render.complain(finding.text, label=f"{finding.level}: ")
    shown = report.problems[:_MOST_SHOWN]
    for problem in shown:
        render.remark(str(problem))
    more = sum(task.bad.total() for task in report.tasks) - len(shown)
    if more > 0:
        render.remark(f"... and {more:,} more; --json lists them (of a file at most the first thousand).")
    if report.usable and not report.findings:
        render.remark("Nothing is wrong with it.")


def _row(task: TaskReport) -> tuple[render.Cell, ...]:
    bad, image, twice = (f"{n:,}" if n else "" for n in (task.bad.total(), task.bad["image"], task.duplicates))
    medians = (str(task.words[side][0]) if side in task.words else "-" for side in ("query", "target"))
    return (
        (wording.shown(task.name), "bold"),
        wording.shown(task.split or "train"),
        f"{task.rows:,}",
        (bad, "red"),
        (image, "red"),
        (twice, "yellow"),
        f"{task.identities:,}",
        (", ".join(task.kinds), "dim"),
        (" / ".join(medians), "dim"),
    )
