"""`tsembed ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render

if TYPE_CHECKING:
    from tsembed_search.search.results import File


@options.described(
    ("everything", "tsembed ls"),
    ("one folder", "tsembed ls ~/Pictures/2024"),
    ("only what a filter lets through", "tsembed ls --where 'ext=pdf and modified>=30d'"),
    ("how many pictures there are", "tsembed ls --where kind=image --paths | wc -l"),
)
def ls(
    paths_in: Annotated[
        list[str] | None, Argument(metavar="PATH", help="Only these files, and the files in these folders.")
    ] = None,
    where: options.Where = None,
    paths: options.Paths = False,
    nul: options.Null = False,
    index: options.IndexName = options.INDEX,
    url: options.Url = None,
    wait: options.Wait = False,
    json: options.Json = False,
) -> None:
    """List the files in the index, with the number of their items.

    Exits with 1 when nothing matches.
    """
    from tsembed_search.search.where import selection

    wanted = selection(where=where or ())
    with options.open_index(index, url, wait=wait) as opened:
        found = opened.files(paths_in, wanted)
    if json:
        render.print_json({"files": [file.to_json() for file in found]})
    elif paths or nul:
        render.print_paths((file.path for file in found), end="\0" if nul else "\n")
    elif render.is_terminal():
        rows = ((render.path_text(file.path), (wording.size_words(file.bytes), "dim"), _items(file)) for file in found)
        render.print_table(["file", "size", "items"], rows, right=["size"], whole=["items"])
    else:
        for file in found:
            render.print_fields(file.path, file.bytes, _kinds(file), *(["offline"] if file.offline else []))
    if not found:
        chosen = selection(paths_in or (), where or ())
        render.remark("Nothing is indexed." if chosen is None else f"Nothing indexed matches {chosen}.")
        raise typer.Exit(1)


def _items(file: File) -> render.Cell:
    return render.styled((_kinds(file), "dim"), (" · offline" if file.offline else "", "yellow"))


def _kinds(file: File) -> str:
    return ", ".join(wording.count_words(count, kind) for kind, count in sorted(file.items.items()))
