"""`tsembed data`: looking training data over."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.options import examples
from tsembed_search.cli.render import text as render

if TYPE_CHECKING:
    from tsembed_search.data.check import Report, TaskReport

_MOST_SHOWN = 20

data = typer.Typer(
    name="data",
    add_completion=False,
    epilog=examples(
        ("what is in a set, and what is wrong with it", "tsembed data check ./my-rows"),
    ),
    no_args_is_help=True,
)


@data.callback()
def _group() -> None:
    """Look training data over before it is trained on."""


@data.command(
    epilog=examples(
        ("a folder of rows", "tsembed data check ./my-rows"),
        ("own pictures and documents: what can be learned from them", "tsembed data check ~/Pictures"),
        ("images that lie elsewhere", "tsembed data check train.jsonl --images /data/images"),
    )
)
def check(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="Files of rows, folders, or hub:owner/name.", show_default=False),
    ],
    images: Annotated[
        list[Path] | None, typer.Option("--images", metavar="DIR", help="A folder to look for images in first.")
    ] = None,
    open_images: Annotated[
        bool, typer.Option("--open/--no-open", help="Open a sample of each task's images to see whether they can be.")
    ] = True,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what is in a data set and what is wrong with it, before it is trained on.

    Exits with 1 when it cannot be trained on.
    """
    from tsembed_search.data.check import check as look_over

    tell, shown = _rows_read(quiet)
    with shown:
        report = look_over(sources, images=images or (), open_images=open_images, progress=tell)
    if json:
        render.print_json(check_json(report))
    else:
        _print_report(report, quiet)
    if not report.usable:
        raise typer.Exit(1)


def check_json(report: Report) -> dict[str, Any]:
    """What `data check --json` prints."""
    return {
        "usable": report.usable,
        "tasks": [task.to_json() for task in report.tasks],
        "findings": [{"level": finding.level, "text": finding.text} for finding in report.findings],
        "leaks": [
            {"split": leak.other, "what": leak.what, "rows": leak.rows, "example": leak.example}
            for leak in report.leaks
        ],
        "problems": [
            {"file": str(one.path), "line": one.line, "fault": one.fault, "reason": one.reason}
            for one in report.problems
        ],
        "unread_fields": [{"file": str(one.path), "fields": dict(one.fields)} for one in report.unread],
    }


def _print_report(report: Report, quiet: bool) -> None:
    if render.is_terminal():
        _print_tasks(report)
    else:
        for task in report.tasks:
            cells = (task.name, task.split or "train", task.rows, task.bad.total(), task.identities, task.duplicates)
            print("\t".join(wording.shown(str(cell)) for cell in cells))
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


def _print_tasks(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("task", overflow="fold")
    table.add_column("split")
    for heading in ("rows", "bad", "no image", "twice", "targets"):
        table.add_column(heading, justify="right")
    table.add_column("query to target", overflow="fold")
    table.add_column("words", justify="right")
    for task in report.tasks:
        table.add_row(
            Text(wording.shown(task.name), style="bold"),
            Text(wording.shown(task.split or "train")),
            f"{task.rows:,}",
            *(Text(f"{count:,}" if count else "", style="red") for count in (task.bad.total(), task.bad["image"])),
            Text(f"{task.duplicates:,}" if task.duplicates else "", style="yellow"),
            f"{task.identities:,}",
            Text(", ".join(task.kinds), style="dim"),
            Text(_words(task), style="dim"),
        )
    render.console().print(table)


def _words(task: TaskReport) -> str:
    """Median numbers of words of queries and targets."""
    return " / ".join(str(task.words[side][0]) if side in task.words else "-" for side in ("query", "target"))


def _rows_read(quiet: bool) -> tuple[Callable[[str, int], None], AbstractContextManager[object]]:
    """Something to tell of rows read, and a context that shows it on a terminal."""
    if quiet or not render.is_terminal(stderr=True):
        return (lambda task, rows: None), nullcontext()
    status = render.console(stderr=True).status("Reading …")
    return (lambda task, rows: status.update(f"Reading {wording.shown(task)}: {rows:,} rows …")), status
