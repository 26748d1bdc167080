"""`tsembed eval`."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast, get_args

from typer import Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import diversity
from tsembed_search.cli.render import text as render
from tsembed_search.errors import UsageError
from tsembed_search.paths import DEFAULT_MODEL

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from tsembed_search.data.tasks import EvaluationData
    from tsembed_search.evaluation.evaluate import Reranking
    from tsembed_search.evaluation.results import Evaluation, Group, TaskScores
    from tsembed_search.ranking.metrics import Estimate

_WIDE: Final = 120  # columns of a terminal


@options.described(
    ("the built-in model, on a data set in MMEB's layout", "tsembed eval ./mini-mmeb"),
    ("a quick look: a few queries of each task", "tsembed eval ./mini-mmeb --limit 50 --candidates 200"),
    ("your own model, compared with the one it was made from",
     "tsembed eval ./mini-mmeb --model runs/a/model --compare mini"),
    ("do experts help?", "tsembed eval ./mini-mmeb --model runs/a/model --rerank expert --sweep"),
    ("a table for a spreadsheet", "tsembed eval ./mini-mmeb --csv figures.csv"),
    ("how different are parallel paths?", "tsembed eval ./mini-mmeb --model runs/pdf/model --paths"),
    no_args_is_help=True,
)  # fmt: skip
def evaluate(
    data: options.Data,
    model: options.Model = DEFAULT_MODEL,
    compare: Annotated[
        str | None,
        Option(
            "--compare",
            metavar="NAME",
            help="Evaluate this model, too, and show by how much --model is better.",
            autocompletion=options.model_names,
        ),
    ] = None,
    rerank: Annotated[
        str,
        Option("--rerank", metavar="METHOD", help="Re-rank the first 100: none; expert, by the experts they share."),
    ] = "none",
    route_weight: options.RouteWeight = None,
    sweep: Annotated[
        bool, Option("--sweep", help="Find the best --route-weight on half of the queries; report the other half.")
    ] = False,
    split: Annotated[
        list[str] | None,
        Option("--split", metavar="NAME", help="Use this split. Repeatable.", show_default="test, if there"),
    ] = None,
    task: Annotated[list[str] | None, Option("--task", metavar="NAME", help="Only this task. Repeatable.")] = None,
    limit: Annotated[int | None, Option("--limit", metavar="N", min=1, help="At most N queries of each task.")] = None,
    candidates: Annotated[
        int | None, Option("--candidates", metavar="N", min=1, help="Rank at most N candidates. Easier than all.")
    ] = None,
    at: Annotated[
        list[int] | None, Option("--at", metavar="K", min=1, help="Also recall and nDCG at K. Repeatable.")
    ] = None,
    dims: Annotated[
        str | None,
        Option("--dims", metavar="N,N", help="Also measure vectors that are cut to N numbers, such as 64,128,256."),
    ] = None,
    depths: Annotated[
        str | None,
        Option("--depths", metavar="N,N", help="Also measure the model after N of its blocks, such as 3,4."),
    ] = None,
    paths: Annotated[
        bool, Option("--paths", help="Compare a model's parallel paths: how good each is, and how different they are.")
    ] = False,
    plot: Annotated[Path | None, Option("--plot", metavar="FILE", help="With --paths: write a plot, as SVG.")] = None,
    images: options.ImageFolders = None,
    instructions: Annotated[
        str | None,
        Option(
            "--instructions",
            metavar="text|field|none",
            help="Where a row's instruction goes: before its text, into the model's own field for it, or nowhere.",
            show_default="as the layout has it",
        ),
    ] = None,
    csv_file: Annotated[Path | None, Option("--csv", metavar="FILE", help="Write the figures to a CSV file.")] = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how well a model finds the right answers.

    Prints hit@1, recall, nDCG and MRR for each task, with 95% intervals. Reads MMEB's layouts and pairs of a query and
    its answer. A tie counts against the model.
    """
    from tsembed_search.data.records import Instructions
    from tsembed_search.data.tasks import load
    from tsembed_search.evaluation.results import compared, csv_rows, groups_json
    from tsembed_search.model import registry
    from tsembed_search.ranking.metrics import METRICS

    reranking = _reranking(rerank, route_weight, sweep)
    sizes, blocks = _numbers("--dims", dims, "64,128"), _numbers("--depths", depths, "3,4")
    diversity.check(paths, plot, compare or rerank != "none" or sizes or blocks or csv_file or at)
    model = model or DEFAULT_MODEL
    stopped = {depth: registry.named(model, depth) for depth in reversed(blocks)}  # one too many is told at once
    for name in (*stopped.values(), model, *([compare] if compare else [])):
        registry.resolve(name)  # better now than after the first model's work
    if csv_file is not None and not csv_file.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {csv_file.absolute().parent}.", "Give --csv a file in a folder.")
    known = get_args(Instructions)
    if instructions is not None and instructions not in known:
        raise UsageError(f"Instructions cannot go to {instructions!r}.", f"Use one of: {', '.join(known)}.")
    with render.working("Reading rows", quiet=quiet):
        found = load(
            data,
            splits=split or (),
            only=task or (),
            images=images or (),
            instructions=cast(Instructions | None, instructions),
            limit=limit,
            most_candidates=candidates,
        )
    render.tell_left_out(found, len(found.problems), quiet=quiet)
    if paths:
        report = diversity.measured(model, found.tasks, device=device, quiet=quiet)
        diversity.write(report, plot)
        if json:
            render.print_json(report.to_json() | {"data": {"sources": list(data)} | found.to_json()})
        else:
            diversity.show(report)
        return
    metrics = [*METRICS, *(f"{kind}@{k}" for k in at or () for kind in ("recall", "ndcg"))]
    measured = partial(_measured, found=found, metrics=metrics, dims=sizes, device=device, quiet=quiet)
    shallow = {depth: measured(name, reranking=None) for depth, name in stopped.items()}
    first = replace(measured(model, reranking=reranking), depths=dict(sorted(shallow.items())))
    second = measured(compare, reranking=reranking, where_it_can=True, dims=()) if compare else None
    difference = compared(second.tasks, first.tasks) if second else []
    if csv_file is not None:
        try:
            with csv_file.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(csv_rows(first.tasks, first.metrics))
        except OSError as error:
            problem = f"Cannot write {csv_file}: {error.strerror or error}."
            raise UsageError(problem, "Give --csv another file.") from error
    if json:
        # The difference: the model's figures less the other's, on the same queries.
        other = second and second.to_json() | {"difference": groups_json(difference, first.metrics)}
        render.print_json(first.to_json() | {"data": {"sources": list(data)} | found.to_json(), "compare": other})
        return
    _show(first, second, difference)
    if not quiet:
        render.remark(*_remarks(first, second, limit is not None or candidates is not None))


def _numbers(option: str, given: str | None, such_as: str) -> list[int]:
    """The numbers in a list with commas, in their order. Raises `UsageError` for anything else."""
    try:
        return sorted({int(one) for one in (given or "").split(",") if one.strip()})
    except ValueError:
        advice = f"Give numbers with commas between: {option} {such_as}"
        raise UsageError(f"{option} cannot be {given!r}.", advice) from None


def _reranking(rerank: str, weight: float | None, sweep: bool) -> Reranking | None:
    from tsembed_search.evaluation.evaluate import Reranking

    if rerank not in ("none", "expert"):
        raise UsageError(f"An evaluation cannot re-rank by {rerank!r}.", "Use none or expert.")
    if rerank == "expert":
        return Reranking(weight, sweep)
    if weight is not None or sweep:
        raise UsageError("--route-weight and --sweep need re-ranking.", "Add: --rerank expert")
    return None


def _measured(
    name: str,
    *,
    found: EvaluationData,
    metrics: Sequence[str],
    reranking: Reranking | None,
    dims: Sequence[int],
    device: str,
    quiet: bool,
    where_it_can: bool = False,
) -> Evaluation:
    """The figures of a model, which is let go of before the next one is loaded. `where_it_can`: a model that cannot be
    reranked like this is not.
    """
    from tsembed_search.cli.render.progress import CountDisplay
    from tsembed_search.evaluation.evaluate import evaluate as measure
    from tsembed_search.model.embedder import Embedder

    started = time.perf_counter()
    with render.working(f"Loading {name}", quiet=quiet):
        embedder = Embedder.load(name, device)
    load_seconds = time.perf_counter() - started
    if where_it_can and reranking is not None and not reranking.possible(embedder.info):
        reranking = None
    with CountDisplay(f"Embedding with {name}", quiet=quiet) as display:
        names = list(dict.fromkeys(metrics))
        result = measure(embedder, found.tasks, metrics=names, reranking=reranking, dims=dims, progress=display.update)
    return replace(result, seconds={"load": load_seconds, **result.seconds})


def _remarks(first: Evaluation, second: Evaluation | None, fewer: bool) -> list[str]:
    said = []
    unread = next((one.unread for one in (first, second) if one is not None and one.unread.items), None)
    if unread is not None:
        what = f"{wording.count_words(unread.items, 'item')} could not be read"
        lost = f"{wording.count_words(unread.queries, 'query', 'queries')} left out"
        said.append(f"{what}, {lost}: {unread.examples[0]}")
    if fewer:
        said.append("Not all queries or candidates were used. Do not compare these figures with those of a full run.")
    queries = sum(len(task.queries) for task in first.tasks)
    spent = ", ".join(f"{what} {wording.time_words(seconds)}" for what, seconds in first.seconds.items())
    return [*said, f"{wording.count_words(queries, 'query', 'queries')}, in percent, with 95% intervals ({spent})"]


def _show(first: Evaluation, second: Evaluation | None, difference: Sequence[TaskScores]) -> None:
    """Print the figures of a model, and what it is better by than another. `difference`: first less second."""
    if not render.is_terminal():
        _print_fields(first, difference)
        return
    from rich.text import Text

    console = render.console()
    wide = console.width >= _WIDE

    def figures(one: Estimate, interval: bool, style: str) -> list[Text]:
        mean, low, high = (f"{100 * value:.1f}" for value in (one.mean, one.low, one.high))
        return [Text(mean, style=style), *([Text(f"{low}–{high}", style="dim")] if interval else [])]

    def changes(one: Estimate, interval: bool, style: str) -> list[Text]:
        return [_change(one)] if interval else []

    headings = [[name, "95%"] if wide or number == 0 else [name] for number, name in enumerate(first.metrics)]
    console.print(_table("task", chain.from_iterable(headings), first.tasks, figures, wide))
    if second is not None:
        names = " less ".join(wording.shown(str(one.model.get("name", ""))) for one in (first, second))
        console.print(_table(names, first.metrics if wide else first.metrics[:1], difference, changes, wide))
    for depth, dim, tasks in first.shorter():
        console.print(Text(f"{_cut_words(first, depth, dim)}: ") + _cut_to(first, tasks))
    if first.gain is not None:
        chosen = f", chosen on {first.sweep.queries:,} other queries" if first.sweep is not None else ""
        text = Text(f"Re-ranked by experts with weight {first.weight:g}{chosen}. Against no re-ranking: ")
        told = (Text(f"{name} ") + _change(one) for name, one in zip(first.metrics, first.gain, strict=True))
        console.print(text + Text(", ").join(told) + ".")


def _table(
    title: str,
    headings: Iterable[str],
    tasks: Sequence[TaskScores],
    cells: Callable[[Estimate, bool, str], list[Text]],
    wide: bool,
) -> Table:
    """A row for each task and group: the `cells` of each metric, of its estimate, with an interval or not, in a style.

    Only a wide table has intervals of others than the first metric.
    """
    from rich import box
    from rich.table import Table

    from tsembed_search.evaluation.results import OVERALL

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column(title, overflow="fold")
    for heading in ("queries", *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    for group, kind in _rows(tasks):
        name, style = wording.shown(group.name), "" if kind == "task" else "bold"
        if kind != "task":
            name = "all tasks" if name == OVERALL else f"all {name}" if kind == "meta" else name
        figures = [cells(one, wide or number == 0, style) for number, one in enumerate(group.estimates())]
        row = [
            render.styled(name, style=style),
            render.styled(f"{group.queries:,}", style="dim"),
            *chain.from_iterable(figures),
        ]
        table.add_row(*row, end_section=kind == "meta")
    return table


def _cut_words(whole: Evaluation, depth: int | None, dim: int | None) -> str:
    """Words for a depth, a number of numbers, or both; with the time of an item, where all of it differs."""
    if depth is None:
        return f"Cut to {dim} numbers"
    stopped = f"After {wording.count_words(depth, 'block')}"
    if dim is not None:
        return f"{stopped}, cut to {dim} numbers"
    times = (one.milliseconds() for one in (whole.depths[depth], whole))
    return f"{stopped} ({{:.1f}} ms an item instead of {{:.1f}})".format(*times)


def _cut_to(whole: Evaluation, cut: Sequence[TaskScores]) -> Text:
    """The figures of a cut model over all tasks, each with what it differs by from that of whole ones."""
    from rich.text import Text

    from tsembed_search.evaluation.results import Group, compared

    means = Group("", cut).estimates()
    changes = Group("", compared(whole.tasks, cut)).estimates()
    pairs = zip(whole.metrics, means, changes, strict=True)
    return Text(", ").join(Text(f"{name} {100 * one.mean:.1f} ") + _change(change) for name, one, change in pairs)


def _change(one: Estimate) -> Text:
    """A difference with its interval, in points: green or red where that is clear of zero."""
    style = "" if not one.excludes_zero else "green" if one.mean > 0 else "red"
    return render.styled(f"{100 * one.mean:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})", style=style)


def _rows(tasks: Sequence[TaskScores]) -> Iterator[tuple[Group, str]]:
    """Groups of one task and of several, in the order of the table, each with its kind: task, meta or sum."""
    from tsembed_search.evaluation.results import Group, groups

    summed = {group.name: group for group in groups(tasks)}
    for meta, part in groupby(tasks, key=lambda task: task.meta):
        for task in part:
            yield Group(task.name, [task]), "task"
        if meta:
            yield summed.pop(meta), "meta"
    for group in summed.values():
        yield group, "sum"


def _print_fields(first: Evaluation, difference: Sequence[TaskScores]) -> None:
    """Print lines of fields, for programs: of each figure its mean and the bounds of its interval."""
    names = (f"{name}{side}" for name in first.metrics for side in ("", " low", " high"))
    render.print_fields("task", "queries", *names)
    cut = (
        (f"{f'depth {depth} ' if depth else ''}{f'dim {dim} ' if dim else ''}", "", tasks)
        for depth, dim, tasks in first.shorter()
    )
    for label, sign, tasks in (("", "", first.tasks), ("difference ", "+", difference), *cut):
        for group, _ in _rows(tasks) if tasks else ():
            figures = [value for one in group.estimates() for value in (one.mean, one.low, one.high)]
            render.print_fields(f"{label}{group.name}", group.queries, *(f"{value:{sign}.4f}" for value in figures))
