"""`tsembed ls`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.options import INDEX, described
from tsembed_search.cli.render import text as render

if TYPE_CHECKING:
    from tsembed_search.search.results import File


@described(
    ("everything", "tsembed ls"),
    ("one folder", "tsembed ls ~/Pictures/2024"),
    ("what matches a filter", "tsembed ls --where 'ext=pdf and modified>=30d'"),
    ("how many pictures", "tsembed ls --where kind=image --paths | wc -l"),
)
def ls(
    paths_in: Annotated[
        list[str] | None, typer.Argument(metavar="PATH", help="Only these files and what lies in these folders.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", metavar="EXPR", help="Only matches.", autocompletion=options.where_fields),
    ] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Paths only, one per line.")] = False,
    nul: Annotated[bool, typer.Option("-0", "--null", help="Paths only, each ended by NUL.")] = False,
    wait: options.Wait = False,
    index: options.IndexName = INDEX,
    url: options.Url = None,
    json: options.Json = False,
) -> None:
    """List what is indexed: each file with the kinds and the number of its items.

    Exits with 1 when nothing matches.
    """
    from tsembed_search.index import Index
    from tsembed_search.search.where import selection

    wanted = selection(where=where or ())
    with Index.open(index, store=options.store_of(url), wait=wait) as opened:
        found = opened.files(paths_in, wanted)
    if json:
        render.print_json({"files": [file.to_json() for file in found]})
    elif paths or nul:
        render.print_paths((file.path for file in found), end="\0" if nul else "\n")
    else:
        _print(found)
    if not found:
        chosen = selection(paths_in or (), where or ())
        render.remark("Nothing is indexed." if chosen is None else f"Nothing indexed matches {chosen}.")
        raise typer.Exit(1)


def _print(found: Sequence[File]) -> None:
    if not render.is_terminal():
        for file in found:
            print(f"{wording.shown(file.path)}\t{file.bytes}\t{_kinds(file)}" + ("\toffline" if file.offline else ""))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("file", overflow="fold", ratio=1)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("items", no_wrap=True)
    for file in found:
        table.add_row(
            render.path_text(file.path, relative_to=render.here()),
            Text(wording.size_words(file.bytes), style="dim"),
            Text.assemble((_kinds(file), "dim"), (" · offline", "yellow") if file.offline else ""),
        )
    render.console().print(table)


def _kinds(file: File) -> str:
    return ", ".join(wording.count_words(count, kind) for kind, count in sorted(file.items.items()))
