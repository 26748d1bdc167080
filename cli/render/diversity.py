"""The report of `tsembed eval --paths`: how good a model's parallel paths are, and how different."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tsembed_search import wording
from tsembed_search.cli.render import text as render
from tsembed_search.errors import TsembedError, UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from tsembed_search.data.rows import RankingTask
    from tsembed_search.evaluation.diversity import PathReport
    from tsembed_search.ranking.metrics import Estimate

_WORDS = {
    "mean": "all, as their mean",
    "concat": "all, side by side",
    "maxsim": "all, by the best pairs",
    "oracle": "the right one, if any",
    "noise": "side by side, one of them noise",
}


def check(paths: bool, plot: Path | None, others: object) -> None:
    """Refuse options that do not go together, before any work. Raises `UsageError`."""
    if plot is not None and not paths:
        raise UsageError("--plot draws the report of --paths.", "Add --paths, or leave out --plot.")
    if paths and others:
        raise UsageError(
            "--paths makes a report of its own.",
            "Leave out --compare, --rerank, --dims, --depths, --at and --csv, or --paths.",
        )
    if plot is not None and not plot.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {plot.absolute().parent}.", "Give --plot a file in a folder.")


def measured(name: str, tasks: Sequence[RankingTask], *, device: str, quiet: bool) -> PathReport:
    """Load a model and measure its paths."""
    from tsembed_search.cli.render.progress import CountDisplay
    from tsembed_search.evaluation.diversity import path_report
    from tsembed_search.model.embedder import Embedder

    with render.working(f"Loading {name}", quiet=quiet):
        embedder = Embedder.load(name, device)
    with CountDisplay(f"Embedding with {name}", quiet=quiet) as display:
        return path_report(embedder, tasks, display.update)


def write(report: PathReport, plot: Path | None) -> None:
    """Draw each path's hit@1 on each task into a file, if one is wanted. Raises `UsageError` without matplotlib."""
    if plot is None:
        return
    from tsembed_search.trainer.plots import heat_map, installed

    if not installed():
        raise UsageError("A plot needs matplotlib.", "Install it: pip install 'tsembed-search[report]'")
    tasks, values = [task.name for task in report.tasks], [task.values.mean(0).tolist() for task in report.tasks]
    drawn = heat_map("hit@1 per task", tasks, report.names, values, low=0.0, high=1.0, groups=report.paths.count)
    try:
        plot.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise TsembedError(f"Cannot write {plot}: {error.strerror or error}.", "Give --plot another file.") from error


def show(report: PathReport) -> None:
    """Print the report: a table in a terminal, else lines of fields."""
    scores, gains = report.scores(), report.gains()
    like = report.likeness
    if not render.is_terminal():
        render.print_fields("paths", "hit@1", "hit@1 low", "hit@1 high", "less best", "less best low", "less best high")
        for name, one in scores.items():
            less = gains.get(name)
            changes = [f"{value:+.4f}" for value in (less.mean, less.low, less.high)] if less else [""] * 3
            render.print_fields(name, *(f"{value:.4f}" for value in (one.mean, one.low, one.high)), *changes)
        for label, value in (("cosine", like.cosine), ("cka", like.alignment), ("effective rank", like.rank)):
            render.print_fields(label, f"{value:.4f}")
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", padding=(0, 1))
    for heading in ("paths", "hit@1", "95%", "less the best path"):
        table.add_column(heading, justify="left" if heading == "paths" else "right", no_wrap=True)
    for number, (name, one) in enumerate(scores.items()):
        best = " (best)" if number == report.best else ""
        less = gains.get(name)
        table.add_row(
            Text(_WORDS.get(name, name) + best),
            f"{100 * one.mean:.1f}",
            Text(f"{100 * one.low:.1f}–{100 * one.high:.1f}", style="dim"),
            _change(less) if less else Text(""),
            end_section=number == report.paths.count - 1,
        )
    console = render.console()
    console.print(table)
    count, kind = report.paths.count, report.paths.kind
    console.print(
        Text(
            f"{count} paths of kind {kind} of {wording.shown(report.model)}: mean cosine {like.cosine:.3f}, CKA "
            f"{like.alignment:.3f}, effective rank {like.rank:.2f} of {count}. Noise is compared with side by side."
        )
    )


def _change(one: Estimate) -> Text:
    style = "" if not one.excludes_zero else "green" if one.mean > 0 else "red"
    return render.styled(f"{100 * one.mean:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})", style=style)
