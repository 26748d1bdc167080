"""`tsembed rm`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.options import INDEX, described
from tsembed_search.cli.render import text as render
from tsembed_search.errors import UsageError

if TYPE_CHECKING:
    from tsembed_search.indexer.report import Amount


@described(
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before most of an index goes.")] = False,
    wait: options.Wait = False,
    index: options.IndexName = INDEX,
    url: options.Url = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Take files out of the index. Nothing on the disk is touched.

    Files that are still there come back with the next `tsembed index` of their folder; to keep them out, exclude them.
    Asks before more than half of an index goes.
    Exits with 1 when nothing matches.
    """
    from tsembed_search.index import Index
    from tsembed_search.indexer.report import Amount
    from tsembed_search.search.where import selection

    if everything == bool(paths or where):
        raise UsageError("Say what to remove.", "Give paths, --where EXPR, or --all for the whole index.")
    wanted = selection(where=where or ())
    with Index.open(index, store=options.store_of(url), wait=wait) as opened:
        removed = (
            Amount(len(opened.files()), opened.store.count())
            if everything
            else opened.remove(paths, wanted, dry_run=True)
        )
        items = opened.store.count()
        # Where this machine does not know the files of an index, they are as many as its items.
        whole = Amount(opened.status().files or items, items)
        if not dry_run:
            # Nobody else has to wait for the answer.
            opened.close()
            if everything or 2 * removed.files > whole.files or 2 * removed.items > whole.items:
                _confirm(index, removed, whole, everything=everything, yes=yes)
            if everything:
                opened.delete()
            elif removed.files:
                removed = opened.remove(paths, wanted)
    if json:
        render.print_json({"files": removed.files, "items": removed.items, "dry_run": dry_run})
    elif not quiet:
        print(_told(removed, index, everything=everything, dry_run=dry_run))
    if not removed.files and not everything:
        if not quiet:
            render.remark(f"Nothing indexed matches {selection(paths or (), where or ())}.")
        raise typer.Exit(1)


def _told(removed: Amount, index: str, *, everything: bool, dry_run: bool) -> str:
    files_, items = wording.count_words(removed.files, "file"), wording.count_words(removed.items, "item")
    verb = "Would remove" if dry_run else "Removed"
    if everything:
        return f"{verb} the index {index}: {files_}, {items}."
    return f"{verb} {files_} ({items}) from the index {index}."


def _confirm(index: str, removed: Amount, whole: Amount, *, everything: bool, yes: bool) -> None:
    """Asks before more than half of an index goes; refuses where nobody can answer."""
    if yes or not removed.files + removed.items + everything:
        return
    part = f"{removed.files:,} of {whole.files:,} files ({removed.items:,} of {whole.items:,} items)"
    what = f"the whole index {index}: {part}" if everything else f"{part} of the index {index}"
    if not sys.stdin.isatty():
        raise UsageError(f"This would remove {what}.", "Add --yes if that is meant.")
    typer.confirm(f"Remove {wording.shown(what)}?", abort=True, err=True)
