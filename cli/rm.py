"""`tsembed rm`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import UsageError

if TYPE_CHECKING:
    from tsembed_search.indexer.report import Amount


@options.described(
    ("a folder and everything in it", "tsembed rm ~/Pictures/2009"),
    ("see first what would go", "tsembed rm --where 'ext=gif' --dry-run"),
    ("a whole index", "tsembed rm --all --index old"),
)
def rm(
    paths: Annotated[
        list[str] | None, Argument(metavar="PATH", help="Remove these files, and the files in these folders.")
    ] = None,
    where: options.Where = None,
    everything: Annotated[bool, Option("--all", help="Remove the whole index.")] = False,
    dry_run: options.DryRun = False,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask, even when most of the index goes.")] = False,
    index: options.IndexName = options.INDEX,
    url: options.Url = None,
    wait: options.Wait = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove files from the index. The files themselves stay on the disk.

    The next `tsembed index` of their folder brings them back; a `tsembed watch` of it does so at once. To keep them
    out, use --exclude there, or a file called .tsembedignore. Asks before more than half of an index goes. Exits with 1
    when nothing matches.
    """
    from tsembed_search.indexer.report import Amount
    from tsembed_search.search.where import selection

    if everything == bool(paths or where):
        raise UsageError("Say what to remove.", "Give paths, --where FILTER, or --all for the whole index.")
    wanted = selection(where=where or ())
    with options.open_index(index, url, wait=wait) as opened:
        items = opened.store.count()
        # Where this machine does not know the files of an index, they are as many as its items.
        whole = Amount(opened.status().files or items, items)
        removed = Amount(len(opened.files()), items) if everything else opened.remove(paths, wanted, dry_run=True)
        if not dry_run:
            opened.close()  # nobody else has to wait for the answer
            if everything or 2 * removed.files > whole.files or 2 * removed.items > whole.items:
                _confirm(index, removed, whole, everything=everything, yes=yes)
            if everything:
                opened.delete()
            elif removed.files:
                removed = opened.remove(paths, wanted)
    if json:
        render.print_json({"files": removed.files, "items": removed.items, "dry_run": dry_run})
    elif not quiet:
        files, count = wording.count_words(removed.files, "file"), wording.count_words(removed.items, "item")
        told = f"the index {index}: {files}, {count}." if everything else f"{files} ({count}) from the index {index}."
        print(f"{'Would remove' if dry_run else 'Removed'} {told}")
    if not removed.files and not everything:
        if not quiet:
            render.remark(f"Nothing indexed matches {selection(paths or (), where or ())}.")
        raise typer.Exit(1)


def _confirm(index: str, removed: Amount, whole: Amount, *, everything: bool, yes: bool) -> None:
    """Ask before more than half of an index goes. Raises `UsageError` where nobody can answer."""
    if yes or not removed.files + removed.items + everything:
        return
    part = f"{removed.files:,} of {whole.files:,} files ({removed.items:,} of {whole.items:,} items)"
    what = f"the whole index {index}: {part}" if everything else f"{part} of the index {index}"
    if not sys.stdin.isatty():
        raise UsageError(f"This would remove {what}.", "If you mean that, add --yes.")
    typer.confirm(f"Remove {wording.shown(what)}?", abort=True, err=True)
