"""The experiment: what each part of the method brings. `python benchmarks/method --help`.

    python examples/mini/data.py --out mini-mmeb
    python benchmarks/method train --data mini-mmeb --out runs          # resumable; every table, or --table NAME
    python benchmarks/method report --data mini-mmeb --out runs --docs docs/results/method
    python benchmarks/method follow isolated/vqa-0 --data mini-mmeb --out runs   # one run, with its adapters' path

`report` may be asked at any time: it shows the runs that are there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import plan
import running
import typer

app = typer.Typer(add_completion=False, no_args_is_help=True)
Data = Annotated[Path, typer.Option("--data", help="The folder of `python examples/mini/data.py`.")]
Out = Annotated[Path, typer.Option("--out", help="Where the runs are.")]
Docs = Annotated[Path, typer.Option("--docs", help="Where tables, figures and plots go.")]


@app.command()
def train(
    data: Data,
    out: Out,
    table: Annotated[list[str] | None, typer.Option("--table", help=f"{', '.join(plan.TABLES)}; all.")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Runs side by side.")] = 1,
) -> None:
    """Makes the runs that are missing."""
    runs = [run for name in table or plan.TABLES for run in plan.TABLES[name]()]
    failed = running.make(runs, data, out, workers)
    raise typer.Exit(1 if failed else 0)


@app.command()
def test(folder: Path, data: Data) -> None:
    """Measures one run, or any model, on test."""
    found = running.test(folder, data)
    (folder / running.RESULT).write_text(json.dumps(found), encoding="utf-8")


@app.command()
def follow(
    folder: Annotated[str, typer.Argument(help="A run of the plan, by its folder.")], data: Data, out: Out
) -> None:
    """Makes one run and notes the path of its adapters at every checkpoint: `run.checkpoint_every` says how often."""
    import paths

    planned = {run.folder: run for name in plan.TABLES for run in plan.TABLES[name]()}
    if folder not in planned:
        raise typer.BadParameter(f"The plan has no run {folder}.")
    paths.make(planned[folder], data, out)


@app.command()
def report(data: Data, out: Out, docs: Docs) -> None:
    """Writes tables, figures and plots from the runs that are there; what has to be measured is measured once."""
    import reporting

    reporting.write(data, out, docs)


if __name__ == "__main__":
    app()
