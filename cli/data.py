"""`tsembed data`."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import UsageError
from tsembed_search.paths import DEFAULT_MODEL

if TYPE_CHECKING:
    from tsembed_search.data.check import Report, TaskReport
    from tsembed_search.data.records import Instructions

_MOST_SHOWN = 20

data = typer.Typer(
    name="data",
    add_completion=False,
    epilog=options.examples(("what is in a data set, and what is wrong with it", "tsembed data check ./my-rows")),
    no_args_is_help=True,
)


@data.callback()
def _group() -> None:
    """Check training data before you train on it, and add hard negatives to it."""


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


@data.command(
    epilog=options.examples(
        ("four negatives for each row", "tsembed data mine ./my-rows --out mined.jsonl"),
        (
            "with another model, from the top",
            "tsembed data mine ./my-rows --model runs/a/model --choose top -o top.jsonl",
        ),
        ("also from what an index holds", "tsembed data mine ./my-rows --index notes -o mined.jsonl"),
        (
            "no negatives, batches of 16 that are alike",
            "tsembed data mine ./my-rows --keep 0 --batch 16 -o alike.jsonl",
        ),
    )
)
def mine(
    sources: options.Data,
    out: Annotated[Path, Option("--out", "-o", metavar="FILE", help="Where to write the rows: a new .jsonl file.")],
    model: options.Model = None,
    index: Annotated[
        str | None,
        Option(
            "--index",
            metavar="NAME",
            help="Also look among what this index holds.",
            autocompletion=options.index_names,
        ),
    ] = None,
    keep: Annotated[int, Option("--keep", metavar="N", min=0, help="Negatives for each row.")] = 4,
    depth: Annotated[int, Option("--depth", metavar="N", min=1, help="Look at the N best wrong candidates.")] = 100,
    skip: Annotated[int, Option("--skip", metavar="N", min=0, help="Pass over the first N of them.")] = 0,
    margin: Annotated[
        float, Option("--margin", metavar="S", help="Negatives score below this share of the right answer's score.")
    ] = 0.95,
    query_margin: Annotated[
        float, Option("--query-margin", metavar="S", help="Their own queries are less similar to the row's than this.")
    ] = 0.95,
    duplicate_margin: Annotated[
        float, Option("--duplicate-margin", metavar="S", help="They are less similar to the right answer than this.")
    ] = 0.95,
    choose: Annotated[Literal["random", "top"], Option("--choose", help="Which of those that are left.")] = "random",
    batch: Annotated[
        int,
        Option("--batch", metavar="N", min=0, help="Also make batches of N targets that are taken for one another."),
    ] = 0,
    wrong_kind: Annotated[
        int,
        Option("--wrong-kind", metavar="N", min=0, help="Also N targets of a kind that is not asked for."),
    ] = 0,
    seed: Annotated[int, Option("--seed", metavar="N", help="Decides what is chosen at random.")] = 0,
    images: options.ImageFolders = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add hard negatives to rows: what a model takes for right and the data says is not.

    Writes the rows that would be trained on, each with what was found for it.
    """
    from tsembed_search.cli.render.progress import CountDisplay
    from tsembed_search.data.training import load
    from tsembed_search.evaluation.mining import Mining, TaskTally, written
    from tsembed_search.evaluation.mining import mine as negatives_of
    from tsembed_search.evaluation.target_pool import indexed, pooled
    from tsembed_search.index import Index
    from tsembed_search.model.embedder import Embedder

    settings = Mining(keep, depth, skip, margin, query_margin, duplicate_margin, choose, seed, batch, wrong_kind)
    settings.check()
    if out.suffix != ".jsonl":
        raise UsageError(f"{out} is no .jsonl file.", "Give --out a name that ends in .jsonl.")
    if out.exists():
        raise UsageError(f"{out} exists already.", "Give --out another name, or move that file away.")
    with render.working("Reading rows", quiet=quiet):
        where: Instructions | None = "field" if wrong_kind else None  # only there it is known what they are
        found = load(sources, validation=0, images=images or (), instructions=where)
    render.tell_left_out(found, sum(found.left_out.values()), quiet=quiet)
    pool, more, tallies = None, None, []
    with ExitStack() as closing:
        with render.working("Loading the model", quiet=quiet):
            if index is None:
                embedder = Embedder.load(model or DEFAULT_MODEL, device)
            else:
                opened = closing.enter_context(Index.open(index, model=model, device=device))
                embedder = opened.embedder
        if index is not None:
            with render.working(f"Reading {index}", quiet=quiet):
                more = indexed(opened.store)
    if wrong_kind:
        with CountDisplay("Embedding all targets", quiet=quiet) as display:
            pool = pooled(embedder, found.train, display.update)
    unfinished = out.with_name(f".{out.name}.part")
    folder = out.absolute().parent
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            for task in found.train:
                tallies.append(tally := TaskTally(task.name))
                with CountDisplay(f"Embedding {wording.shown(task.name)}", quiet=quiet) as display:
                    for mined in negatives_of(embedder, task, settings, tally, display.update, pool, more):
                        file.write(written(mined, embedder.info.name, folder) + "\n")
        unfinished.replace(out)
    except OSError as error:
        raise UsageError(f"Cannot write {out}: {error.strerror or error}.", "Give --out another file.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    if json:
        render.print_json({"out": str(out), "model": embedder.info.name, "tasks": [one.to_json() for one in tallies]})
        return
    for one in tallies:
        render.print_fields(one.task, one.rows, one.negatives + one.wrong_kind, one.without)
    if not quiet:
        rows, negatives = sum(one.rows for one in tallies), sum(one.negatives + one.wrong_kind for one in tallies)
        render.remark(f"{negatives:,} negatives for {rows:,} rows. Fields: task, rows, negatives, rows without any.")
        render.remark(f"To train on them: tsembed train {wording.shown(shlex.quote(str(out)))}")


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
