"""`tsembed models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsembed_search.cli import options, render
from tsembed_search.cli.options import examples
from tsembed_search.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from tsembed_search.model.registry import KnownModel

EXAMPLES = examples(
    ("what there is", "tsembed models"),
    ("index with another model", "tsembed index ~/Pictures --index big --model Qwen/Qwen3-VL-Embedding-2B"),
    ("a model of your own", "tsembed index ~/Pictures --index mine --model ./my-checkpoint"),
)


def models(json: options.Json = False) -> None:
    """List the models to choose from: built in, on this machine, and to download.

    Any folder or hub name of a supported family works too, not only those listed.
    """
    from tsembed_search.model.registry import known_models

    known = known_models()
    if json:
        rows = [{"name": model.name, "family": model.family, "where": model.where} for model in known]
        render.print_json({"models": rows, "default": DEFAULT_MODEL})
    elif render.is_terminal():
        _print_table(known)
    else:
        for model in known:
            print("\t".join(map(render.shown, (model.name, model.family, model.where))))


def _print_table(known: list[KnownModel]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "family", "where"):
        table.add_column(heading, overflow="fold")
    for model in known:
        name = Text(render.shown(model.name), style="bold" if model.where != "on the hub" else "")
        if model.name == DEFAULT_MODEL:
            name.append(" (default)", style="dim")
        table.add_row(name, Text(render.shown(model.family)), Text(model.where, style="dim"))
    render.console().print(table)
