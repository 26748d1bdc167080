"""`tsembed rm`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tsembed_search.cli import options, render
from tsembed_search.cli.listing import FIELDS, files, selection
from tsembed_search.cli.options import INDEX, examples
from tsembed_search.config import index_folder
from tsembed_search.errors import UsageError

if TYPE_CHECKING:
    from tsembed_search.indexer.removal import Removed

EXAMPLES = examples(
    ("a file, or a folder with everything in it", "tsembed rm ~/Pictures/2009"),
    ("look first", "tsembed rm --where 'ext=gif' --dry-run"),
    ("a whole index", "tsembed rm --all --index old"),
)


def rm(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", help="Files and folders.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", metavar="EXPR", help="Only matches.", autocompletion=options.where_fields),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole index.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a whole index goes.")] = False,
    wait: options.Wait = False,
    index: options.IndexName = INDEX,
    url: options.Url = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Take files out of the index. Nothing on the disk is touched.

    Files that are still there come back with the next `tsembed index` of their folder; to keep them out, exclude them.
    Exits with 1 when nothing matches.
    """
    from tsembed_search.index import Index
    from tsembed_search.indexer.removal import Removed, remove_files
    from tsembed_search.paths import file_path

    if everything == bool(paths or where):
        raise UsageError("Say what to remove.", "Give paths, --where EXPR, or --all for the whole index.")
    chosen = selection(paths, where)
    patience = None if wait else 0.0
    with Index.open(index, url, wait=wait) as opened:
        found = files(opened.store.scroll(chosen, fields=FIELDS), chosen)
        removed = Removed(len(found), sum(file.items.total() for file in found))
        if not everything and not dry_run:
            names = [str(file_path(file.path)) for file in found]
            removed = remove_files(index_folder(index, url), opened.store, names, wait=patience)
    if everything and not dry_run:
        _confirm(index, removed.files, yes=yes)
        _remove_index(index, url, patience)
    if json:
        render.print_json({"files": removed.files, "items": removed.items, "dry_run": dry_run})
    elif not quiet:
        print(_told(removed, index, everything=everything, dry_run=dry_run))
    if not found and not everything:
        if not quiet:
            render.remark(f"Nothing indexed matches {chosen}.")
        raise typer.Exit(1)


def _told(removed: Removed, index: str, *, everything: bool, dry_run: bool) -> str:
    files_, items = render.count_words(removed.files, "file"), render.count_words(removed.items, "item")
    verb = "Would remove" if dry_run else "Removed"
    if everything:
        return f"{verb} the index {index}: {files_}, {items}."
    return f"{verb} {files_} ({items}) from the index {index}."


def _remove_index(index: str, url: str | None, wait: float | None) -> None:
    from tsembed_search.indexer.removal import remove_index
    from tsembed_search.store.opening import delete_store

    folder = index_folder(index, url)
    remove_index(folder, lambda: delete_store(folder, url=url, name=index), wait=wait)


def _confirm(index: str, count: int, *, yes: bool) -> None:
    """Asks before a whole index goes; refuses where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"This would remove the whole index {index!r}.", "Add --yes if that is meant.")
    typer.confirm(f"Remove the index {index} with {render.count_words(count, 'file')}?", abort=True, err=True)
