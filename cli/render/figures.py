"""The figures of an evaluation as a table, or as lines of fields where nobody looks at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from tsembed_search import wording
from tsembed_search.cli.render import text as render
from tsembed_search.evaluation.results import OVERALL, Evaluation, Group, TaskScores, groups
from tsembed_search.ranking.metrics import Estimate

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_WIDE = 120


def show(first: Evaluation, second: Evaluation | None, difference: Sequence[TaskScores]) -> None:
    """Print the figures of a model, and what it is better by than another. `difference`: first less second."""
    if not render.is_terminal():
        _print_fields(first, difference if second else [])
        return
    console = render.console()
    wide = console.width >= _WIDE
    console.print(_figures(first, wide))
    if second is not None:
        console.print(_differences(first, second, difference, wide))
    if first.gain is not None:
        console.print(_reranking(first))


def percent(value: float) -> str:
    """Return a share in percent, with one decimal."""
    return f"{100 * value:.1f}"


def interval(one: Estimate) -> str:
    """Return an estimate's interval in percent: `48.9–57.6`."""
    return f"{percent(one.low)}–{percent(one.high)}"


def change(one: Estimate) -> str:
    """Return a difference with its interval, in points: `+3.2 (+0.4 to +6.0)`."""
    return f"{100 * one.mean:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"


def _rows(tasks: Sequence[TaskScores]) -> Iterator[tuple[Group, str]]:
    """Groups of one task and of several, in the order of the table, each with its kind: task, meta or sum."""
    summed = {group.name: group for group in groups(tasks)}
    for meta, part in groupby(tasks, key=lambda task: task.meta):
        for task in part:
            yield Group(task.name, [task]), "task"
        if meta:
            yield summed.pop(meta), "meta"
    for group in summed.values():
        yield group, "sum"


def _figures(result: Evaluation, wide: bool) -> Table:
    from rich.text import Text

    def cells(number: int, one: Estimate, kind: str) -> list[Text]:
        shown = [Text(percent(one.mean), style="bold" if kind != "task" else "")]
        return [*shown, Text(interval(one), style="dim")] if wide or number == 0 else shown

    headings = [[name, "95%"] if wide or number == 0 else [name] for number, name in enumerate(result.metrics)]
    return _table("task", [heading for names in headings for heading in names], result.tasks, cells)


def _differences(first: Evaluation, second: Evaluation, difference: Sequence[TaskScores], wide: bool) -> Table:
    def cells(number: int, one: Estimate, kind: str) -> list[Text]:
        return [_change(one)] if wide or number == 0 else []

    names = [wording.shown(str(one.model.get("name", ""))) for one in (first, second)]
    return _table(" less ".join(names), first.metrics if wide else first.metrics[:1], difference, cells)


def _table(
    title: str,
    headings: Sequence[str],
    tasks: Sequence[TaskScores],
    cells: Callable[[int, Estimate, str], Sequence[Text]],
) -> Table:
    """A row for each task and group, of the `cells` of each metric (its number, estimate and kind of row)."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column(title, overflow="fold")
    for heading in ("queries", *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    for group, kind in _rows(tasks):
        estimates = enumerate(group.estimates())
        figures = [cell for number, one in estimates for cell in cells(number, one, kind)]
        queries = Text(f"{group.queries:,}", style="dim")
        table.add_row(_name(group.name, kind), queries, *figures, end_section=kind == "meta")
    return table


def _reranking(result: Evaluation) -> Text:
    from rich.text import Text

    assert result.gain is not None
    text = Text(f"Re-ranked by experts with weight {result.weight:g}")
    if result.sweep is not None:
        text.append(f", chosen on {result.sweep.queries:,} other queries")
    text.append(". Against no re-ranking: ")
    for number, (name, one) in enumerate(zip(result.metrics, result.gain, strict=True)):
        text.append(", " if number else "").append(f"{name} ").append_text(_change(one))
    return text.append(".")


def _change(one: Estimate) -> Text:
    """Green or red where the interval is clear of zero."""
    from rich.text import Text

    style = "" if not one.excludes_zero else "green" if one.mean > 0 else "red"
    return Text(change(one), style=style)


def _name(name: str, kind: str) -> Text:
    from rich.text import Text

    if kind == "task":
        return Text(wording.shown(name))
    label = "all tasks" if name == OVERALL else f"all {wording.shown(name)}" if kind == "meta" else name
    return Text(label, style="bold")


def _print_fields(first: Evaluation, difference: Sequence[TaskScores]) -> None:
    """Print lines of fields, for programs: of each figure its mean and the bounds of its interval."""
    render.print_fields(
        "task", "queries", *(f"{name}{side}" for name in first.metrics for side in ("", " low", " high"))
    )
    for label, sign, tasks in (("", "", first.tasks), ("difference ", "+", difference)):
        for group, _ in _rows(tasks) if tasks else ():
            figures = [value for one in group.estimates() for value in (one.mean, one.low, one.high)]
            render.print_fields(f"{label}{group.name}", group.queries, *(f"{value:{sign}.4f}" for value in figures))
