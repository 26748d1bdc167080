"""`tsembed eval`."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.options import described
from tsembed_search.cli.render import text as render
from tsembed_search.data.records import Instructions
from tsembed_search.errors import UsageError
from tsembed_search.paths import DEFAULT_MODEL
from tsembed_search.wording import rate_words

if TYPE_CHECKING:
    from tsembed_search.data.tasks import EvaluationData
    from tsembed_search.evaluation.evaluate import Reranking
    from tsembed_search.evaluation.results import Evaluation, TaskScores

_SECONDS_BETWEEN_LINES = 10.0
_MOST_PROBLEMS = 5


@described(
    ("a set in MMEB's layout, with the built-in model", "tsembed eval ./mini-mmeb"),
    ("a quick look: a few queries of each task", "tsembed eval ./mini-mmeb --limit 50 --candidates 200"),
    ("a model of your own, against the one that it was made of",
     "tsembed eval ./mini-mmeb --model runs/a/model --compare mini"),
    ("do experts help? find the weight on one half, report on the other",
     "tsembed eval ./mini-mmeb --model runs/a/model --rerank expert --sweep"),
    ("figures for a spreadsheet", "tsembed eval ./mini-mmeb --csv figures.csv"),
    no_args_is_help=True,
)  # fmt: skip
def evaluate(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="Files of rows, folders, or hub:owner/name.", show_default=False),
    ],
    model: options.Model = DEFAULT_MODEL,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="NAME",
            help="Another model, on the same queries: what --model is better by.",
            autocompletion=options.model_names,
        ),
    ] = None,
    rerank: Annotated[
        str, typer.Option("--rerank", metavar="none|expert", help="Reorder the first 100 by the experts they share.")
    ] = "none",
    route_weight: Annotated[
        float | None,
        typer.Option("--route-weight", metavar="W", help="With --rerank expert: how much experts count, 0 to 1."),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Choose the weight on one half of the queries, report the other half.")
    ] = False,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="NAME", help="Which split. Repeatable.", show_default="test if there is one"),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="NAME", help="Only this task. Repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="At most N queries of each task.")
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option("--candidates", metavar="N", min=1, help="At most N candidates where all are ranked (easier)."),
    ] = None,
    at: Annotated[
        list[int] | None, typer.Option("--at", metavar="K", min=1, help="Recall and nDCG at K, too. Repeatable.")
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option("--images", metavar="DIR", help="A folder to look for images in first.")
    ] = None,
    instructions: Annotated[
        str | None,
        typer.Option(
            "--instructions",
            metavar="text|field|none",
            help="Instructions of rows: before the text, where the model takes them, or nowhere.",
            show_default="as the layout has it",
        ),
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the figures to a CSV file, too.")
    ] = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say how good a model is: hit@1, recall, nDCG and MRR per task, with 95% intervals.

    Reads MMEB's layouts and plain pairs. Every candidate is ranked; a tie counts against the model.
    """
    from tsembed_search.cli.render.text import tell_left_out
    from tsembed_search.data.tasks import load
    from tsembed_search.evaluation.results import compared
    from tsembed_search.model import registry

    reranking = _reranking(rerank, route_weight, sweep)
    names = [model or DEFAULT_MODEL, *([compare] if compare else [])]
    for name in names:
        registry.resolve(name)  # better now than after the first model's work
    if csv_file is not None and not csv_file.absolute().parent.is_dir():
        raise UsageError(
            f"There is no folder {csv_file.absolute().parent}.", "Give --csv a file in an existing folder."
        )
    with render.working("Reading rows", quiet=quiet):
        found = load(
            data,
            splits=split or (),
            only=task or (),
            images=images or (),
            instructions=_instructions(instructions),
            limit=limit,
            most_candidates=candidates,
        )
    tell_left_out(found.problems, found.unread, len(found.problems), quiet=quiet)
    first = _measured(names[0], found, reranking, at or [], device, quiet)
    second = _measured(compare, found, reranking, at or [], device, quiet, where_it_can=True) if compare else None
    difference = compared(second.tasks, first.tasks) if second else []
    if csv_file is not None:
        _write_csv(csv_file, first)
    if json:
        render.print_json(document(data, found, first, second, difference))
        return
    from tsembed_search.cli.render import figures as eval_table

    eval_table.show(first, second, difference)
    if not quiet:
        render.remark(*_remarks(first, second, limit is not None or candidates is not None))


def document(
    sources: Sequence[str],
    found: EvaluationData,
    first: Evaluation,
    second: Evaluation | None,
    difference: Sequence[TaskScores],
) -> dict[str, Any]:
    """What `--json` prints. `compare.difference` is the model's figures less the other's, on the same queries."""
    from tsembed_search.evaluation.results import groups_json

    compare = None
    if second is not None:
        compare = second.to_json() | {"difference": groups_json(difference, first.metrics)}
    left_out = {"rows": len(found.problems), "examples": [str(one) for one in found.problems[:_MOST_PROBLEMS]]}
    unread = [{"file": str(one.path), "fields": dict(one.fields)} for one in found.unread]
    data = {"sources": list(sources), "splits": list(found.splits), "rows": found.rows, "left_out": left_out}
    data |= {"unread_fields": unread}
    return first.to_json() | {"data": data, "compare": compare}


def _instructions(given: str | None) -> Instructions | None:
    if given is None:
        return None
    if given not in get_args(Instructions):
        raise UsageError(f"Instructions cannot go to {given!r}.", f"Use one of: {', '.join(get_args(Instructions))}.")
    return cast(Instructions, given)


def _reranking(rerank: str, weight: float | None, sweep: bool) -> Reranking | None:
    from tsembed_search.evaluation.evaluate import Reranking

    if rerank not in ("none", "expert"):
        raise UsageError(f"Evaluation knows no reranking called {rerank!r}.", "Use none or expert.")
    if rerank == "expert":
        return Reranking(weight, sweep)
    if weight is not None or sweep:
        raise UsageError("Without reranking, routes have no weight.", "Add: --rerank expert")
    return None


def _measured(
    name: str,
    found: EvaluationData,
    reranking: Reranking | None,
    at: Sequence[int],
    device: str,
    quiet: bool,
    where_it_can: bool = False,
) -> Evaluation:
    """Loads a model and evaluates it; it is let go of before the next one is loaded. `where_it_can`: a model that
    cannot be reranked like this is not.
    """
    from tsembed_search.evaluation.evaluate import evaluate as measure
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.ranking.metrics import METRICS

    started = time.perf_counter()
    with render.working(f"Loading {name}", quiet=quiet):
        embedder = Embedder.load(name, device)
    load_seconds = time.perf_counter() - started
    if where_it_can and reranking is not None and not reranking.possible(embedder.info):
        reranking = None
    metrics = list(dict.fromkeys([*METRICS, *(f"{kind}@{k}" for k in at for kind in ("recall", "ndcg"))]))
    with _progress(f"Embedding with {name}", quiet) as progress:
        result = measure(embedder, found.tasks, metrics=metrics, reranking=reranking, progress=progress)
    return replace(result, seconds={"load": load_seconds, **result.seconds})


@contextmanager
def _progress(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr, a line every ten seconds elsewhere."""
    if quiet:
        yield lambda done, total: None
        return
    if not render.is_terminal(stderr=True):
        yield _Lines(what).tell
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(30),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} items", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=render.console(stderr=True), transient=True) as bar:
        number = bar.add_task(wording.shown(what), total=1, visible=False)
        yield lambda done, total: bar.update(number, completed=done, total=total, visible=True)


class _Lines:
    """Progress for logs."""

    def __init__(self, what: str) -> None:
        self._what = wording.shown(what)
        self._started = self._last = time.monotonic()

    def tell(self, done: int, total: int) -> None:
        """Prints a line if it is time for one."""
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES or done == total:
            self._last = now
            rate = rate_words(done / max(1e-6, now - self._started))
            render.tell(f"{self._what}: {done:,} of {total:,} items, {rate} items/s")


def _remarks(first: Evaluation, second: Evaluation | None, fewer: bool) -> list[str]:
    said = []
    for one in (first, *([second] if second else [])):
        if one.unread.items:
            what = f"{wording.count_words(one.unread.items, 'item')} could not be read"
            lost = f"{wording.count_words(one.unread.queries, 'query', 'queries')} left out"
            said.append(f"{what}, {lost}: {one.unread.examples[0]}")
            break
    if fewer:
        said.append("Not all queries or candidates were used: such figures compare with none but themselves.")
    queries = sum(len(task.queries) for task in first.tasks)
    spent = ", ".join(f"{what} {wording.time_words(seconds)}" for what, seconds in first.seconds.items())
    return [*said, f"{wording.count_words(queries, 'query', 'queries')}, in percent, with 95% intervals ({spent})"]


def _write_csv(path: Path, result: Evaluation) -> None:
    from tsembed_search.evaluation.results import csv_rows

    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(csv_rows(result.tasks, result.metrics))
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror or error}.", "Give --csv another file.") from error
