"""`tsembed eval`."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

from typer import Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.data.records import Instructions
from tsembed_search.errors import UsageError
from tsembed_search.paths import DEFAULT_MODEL

if TYPE_CHECKING:
    from tsembed_search.data.tasks import EvaluationData
    from tsembed_search.evaluation.evaluate import Reranking
    from tsembed_search.evaluation.results import Evaluation, TaskScores


@options.described(
    ("the built-in model, on a data set in MMEB's layout", "tsembed eval ./mini-mmeb"),
    ("a quick look: a few queries of each task", "tsembed eval ./mini-mmeb --limit 50 --candidates 200"),
    ("your own model, compared with the one it was made from",
     "tsembed eval ./mini-mmeb --model runs/a/model --compare mini"),
    ("do experts help?", "tsembed eval ./mini-mmeb --model runs/a/model --rerank expert --sweep"),
    ("a table for a spreadsheet", "tsembed eval ./mini-mmeb --csv figures.csv"),
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
    from tsembed_search.cli.render import figures
    from tsembed_search.data.tasks import load
    from tsembed_search.evaluation.results import compared
    from tsembed_search.model import registry

    reranking = _reranking(rerank, route_weight, sweep)
    names = [model or DEFAULT_MODEL, *([compare] if compare else [])]
    for name in names:
        registry.resolve(name)  # better now than after the first model's work
    if csv_file is not None and not csv_file.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {csv_file.absolute().parent}.", "Give --csv a file in a folder.")
    if instructions is not None and instructions not in get_args(Instructions):
        known = ", ".join(get_args(Instructions))
        raise UsageError(f"Instructions cannot go to {instructions!r}.", f"Use one of: {known}.")
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
    render.tell_left_out(found.problems, found.unread, len(found.problems), quiet=quiet)
    first = _measured(names[0], found, reranking, at or [], device, quiet)
    second = _measured(compare, found, reranking, at or [], device, quiet, where_it_can=True) if compare else None
    difference = compared(second.tasks, first.tasks) if second else []
    if csv_file is not None:
        _write_csv(csv_file, first)
    if json:
        render.print_json(document(data, found, first, second, difference))
        return
    figures.show(first, second, difference)
    if not quiet:
        render.remark(*_remarks(first, second, limit is not None or candidates is not None))


def document(
    sources: Sequence[str],
    found: EvaluationData,
    first: Evaluation,
    second: Evaluation | None,
    difference: Sequence[TaskScores],
) -> dict[str, Any]:
    """Return what `--json` prints. `compare.difference`: the model's figures less the other's, on the same queries."""
    from tsembed_search.evaluation.results import groups_json

    compare = second and second.to_json() | {"difference": groups_json(difference, first.metrics)}
    return first.to_json() | {"data": {"sources": list(sources)} | found.to_json(), "compare": compare}


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
    found: EvaluationData,
    reranking: Reranking | None,
    at: Sequence[int],
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
    from tsembed_search.ranking.metrics import METRICS

    started = time.perf_counter()
    with render.working(f"Loading {name}", quiet=quiet):
        embedder = Embedder.load(name, device)
    load_seconds = time.perf_counter() - started
    if where_it_can and reranking is not None and not reranking.possible(embedder.info):
        reranking = None
    metrics = list(dict.fromkeys([*METRICS, *(f"{kind}@{k}" for k in at for kind in ("recall", "ndcg"))]))
    with CountDisplay(f"Embedding with {name}", quiet=quiet) as display:
        result = measure(embedder, found.tasks, metrics=metrics, reranking=reranking, progress=display.update)
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


def _write_csv(path: Path, result: Evaluation) -> None:
    from tsembed_search.evaluation.results import csv_rows

    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(csv_rows(result.tasks, result.metrics))
    except OSError as error:
        raise UsageError(f"Cannot write {path}: {error.strerror or error}.", "Give --csv another file.") from error
