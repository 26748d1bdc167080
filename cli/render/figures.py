"""The figures of an evaluation as a table, or as lines of fields where nobody looks at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Prints the figures of a model, and what it is better by than another. `difference`: first less second."""
    if not render.is_terminal():
        for line in _lines(first, difference if second else []):
            print(line)
        return
    console = render.console()
    wide = console.width >= _WIDE
    console.print(_figures(first, wide))
    if second is not None:
        console.print(_differences(first, second, difference, wide))
    if first.gain is not None:
        console.print(_reranking(first))


def percent(value: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * value:.1f}"


def interval(one: Estimate) -> str:
    """An estimate's interval in percent: `48.9–57.6`."""
    return f"{percent(one.low)}–{percent(one.high)}"


def change(one: Estimate) -> str:
    """A difference with its interval, in points: `+3.2 (+0.4 to +6.0)`."""
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

    table = _table(["task", "queries"])
    for number, name in enumerate(result.metrics):
        table.add_column(name, justify="right", no_wrap=True)
        if wide or number == 0:
            table.add_column("95%", justify="right", no_wrap=True, style="dim")
    for group, kind in _rows(result.tasks):
        cells = [_name(group.name, kind), Text(f"{group.queries:,}", style="dim")]
        for number, one in enumerate(group.estimates()):
            cells.append(Text(percent(one.mean), style="bold" if kind != "task" else ""))
            if wide or number == 0:
                cells.append(Text(interval(one)))
        table.add_row(*cells, end_section=kind == "meta")
    return table


def _differences(first: Evaluation, second: Evaluation, difference: Sequence[TaskScores], wide: bool) -> Table:
    from rich.text import Text

    shown = range(len(first.metrics) if wide else 1)
    names = [str(one.model.get("name", "")) for one in (first, second)]
    table = _table([f"{wording.shown(names[0])} less {wording.shown(names[1])}", "queries"])
    for number in shown:
        table.add_column(first.metrics[number], justify="right", no_wrap=True)
    for group, kind in _rows(difference):
        estimates = group.estimates()
        cells = [_name(group.name, kind), Text(f"{group.queries:,}", style="dim")]
        cells += [_change(estimates[number]) for number in shown]
        table.add_row(*cells, end_section=kind == "meta")
    return table


def _reranking(result: Evaluation) -> Text:
    from rich.text import Text

    assert result.gain is not None
    text = Text(f"Reranked by experts with weight {result.weight:g}")
    if result.sweep is not None:
        text.append(f", chosen on {result.sweep.queries:,} other queries")
    text.append(". Against no reranking: ")
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


def _table(headings: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column(headings[0], overflow="fold")
    table.add_column(headings[1], justify="right", no_wrap=True)
    return table


def _lines(first: Evaluation, difference: Sequence[TaskScores]) -> Iterator[str]:
    yield "\t".join(["task", "queries", *(f"{name}\t{name} low\t{name} high" for name in first.metrics)])
    for group, _ in _rows(first.tasks):
        figures = [f"{one.mean:.4f}\t{one.low:.4f}\t{one.high:.4f}" for one in group.estimates()]
        yield "\t".join([wording.shown(group.name), str(group.queries), *figures])
    for group, _ in _rows(difference) if difference else ():
        figures = [f"{one.mean:+.4f}\t{one.low:+.4f}\t{one.high:+.4f}" for one in group.estimates()]
        yield "\t".join([f"difference {wording.shown(group.name)}", str(group.queries), *figures])
