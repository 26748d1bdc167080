"""`tsembed index`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.options import INDEX, described, same_index
from tsembed_search.cli.render import text as render
from tsembed_search.cli.render.progress import progress_sink
from tsembed_search.errors import UsageError
from tsembed_search.indexer.report import PageMode
from tsembed_search.store.base import Quantize, StoreSettings
from tsembed_search.wording import rate_words

if TYPE_CHECKING:
    from tsembed_search.indexer.report import IndexReport, ItemCounts, Offline, Skipped

_MOST_REASONS = 8
_EXAMPLES_PER_REASON = 2


@described(
    ("a folder and everything below it", "tsembed index ~/Pictures"),
    ("several, and look first what would happen", "tsembed index ~/Pictures ~/Documents --dry-run"),
    ("only some files", "tsembed index ~/Documents --include '*.pdf' --exclude 'old/**'"),
    ("another index, with another model", "tsembed index ~/Papers --index papers --model Qwen/Qwen3-VL-Embedding-2B"),
    ("on a Qdrant server", "tsembed index ~/Pictures --url http://localhost:6333"),
    no_args_is_help=True,
)
def index(
    paths: Annotated[
        list[Path],
        # What cannot be read is for the run to tell: other folders go on, and what is known of this one is kept.
        typer.Argument(metavar="PATH...", help="Files and folders.", show_default=False, readable=False),
    ],
    name: options.IndexName = INDEX,
    url: options.Url = None,
    model: options.Model = None,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="auto|cpu|cuda[:i]|mps",
            help="Where the model runs; several, with commas, share the work.",
        ),
    ] = "auto",
    pages: Annotated[
        PageMode, typer.Option("--pages", help="Document pages as pictures too; auto: if the model reads them by eye.")
    ] = "auto",
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only files that match, of any extension.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="No files that match (also: .tsembedignore).")
    ] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Hidden files and folders too.")] = False,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Enter folders that are links.")] = False,
    no_prune: Annotated[bool, typer.Option("--no-prune", help="Keep what has vanished from the disk.")] = False,
    prune_empty: Annotated[
        bool,
        typer.Option("--prune-empty", help="Remove what has vanished even where a whole folder has, or most of it."),
    ] = False,
    retry_skipped: Annotated[
        bool, typer.Option("--retry-skipped", help="Read unchanged files again that could not be read before.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    wait: options.Wait = False,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Decoding processes.", show_default="by cores")
    ] = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", metavar="S", min=1, help="Seconds that one file may take.")
    ] = 60.0,
    quantize: Annotated[
        Quantize, typer.Option("--quantize", help="For a new index: compress vectors for speed.")
    ] = "none",
    shards: Annotated[int, typer.Option("--shards", min=1, help="For a new index on a server.")] = 1,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="For a new index on a server.")] = 1,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Index pictures and documents, or bring an index up to date.

    Running it again reads only what has changed. Files that cannot be read are skipped and listed at the end.
    """
    from tsembed_search.index import Index
    from tsembed_search.indexer.report import IndexOptions, Interrupted

    if no_prune and prune_empty:
        raise UsageError("--no-prune and --prune-empty exclude each other.", "Choose one of them.")
    chosen = IndexOptions(
        pages=pages,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        hidden=hidden,
        follow_links=follow_links,
        prune=not no_prune,
        prune_empty=prune_empty,
        retry_skipped=retry_skipped,
        dry_run=dry_run,
        workers=workers,
        time_limit=time_limit,
    )
    sink, display = progress_sink(quiet=quiet)
    opened = Index.open(
        name,
        store=options.store_of(url),
        model=model,
        device=device,
        wait=wait,
        create=StoreSettings(0, quantize, shards, replicas),
    )
    try:
        with opened, display, options.Interrupts(attentive=1.0) as stop:
            report = opened.add(paths, chosen, progress=sink, stop=stop)
    except Interrupted as stopped:
        if json:
            render.print_json(stopped.report.to_json())
        raise
    if json:
        render.print_json(report.to_json())
        if not quiet:
            render.remark(*_offline(report.offline, name, url))
    elif not quiet:
        print_summary(report, paths, name, url, dry_run=dry_run)


def print_summary(
    report: IndexReport, paths: Sequence[Path], name: str, url: str | None, *, dry_run: bool = False
) -> None:
    """Print what the run did, for people: counts, then what was skipped, grouped by reason."""
    for line in summary_lines(report, paths, name, url, dry_run=dry_run):
        print(line)


def summary_lines(
    report: IndexReport, paths: Sequence[Path], name: str, url: str | None = None, *, dry_run: bool = False
) -> list[str]:
    """The lines of the summary, safe to show."""
    files, items = report.files, report.items
    away = _offline(report.offline, name, url)
    if not files.seen and not files.removed:
        if away:
            return away
        folders = ", ".join(wording.shown(str(path)) for path in paths)
        return [
            f"There is nothing to index in {folders}: no pictures, texts or PDFs.",
            "Hidden files and what ignore files exclude are left out; see --hidden and --include.",
        ]
    spaced = ["", *away] if away else []
    counts = {
        "added": files.added, "updated": files.updated, "renamed": files.renamed, "removed": files.removed,
        "unchanged": files.unchanged, "skipped": files.skipped,
    }  # fmt: skip
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    if dry_run:
        return [f"Nothing was changed. A run would find: {told}.", *_skips(report.skipped), *spaced]
    speed = f", {rate_words(report.items_per_second)} items/s" if items.embedded else ""
    lines = [
        f"{wording.count_words(files.seen, 'file')} in {wording.time_words(report.seconds)}{speed}: {told}.",
        f"{_changes(items)}The index {name} has {wording.count_words(items.total, 'item')}.",
        *_skips(report.skipped),
    ]
    if files.skipped:
        lines.append(f"All of them: tsembed status --skipped{same_index(name, url)}")
    if files.skipped and files.skipped == files.seen:
        lines.append("Nothing could be read: see the reasons above.")
    return lines + spaced


def _offline(offline: Sequence[Offline], name: str, url: str | None) -> list[str]:
    """Lines that say which folders are offline, why, and what to do, safe to show."""
    if not offline:
        return []
    kept = wording.count_words(sum(one.files for one in offline), "file")
    lines = [f"Offline. Kept in the index, though not there now: {kept}."]
    for one in offline:
        lines.append(f"        {wording.shown(one.path)}: {wording.shown(one.reason)}")
    which = shlex.quote(offline[0].path) if len(offline) == 1 else "FOLDER"
    lines.append("Is a disk not connected? Connect it and run the same command again; nothing is embedded twice.")
    lines.append(
        f"To remove them from the index: tsembed index {wording.shown(which)} --prune-empty{same_index(name, url)}"
    )
    return lines


def _changes(items: ItemCounts) -> str:
    told = {"embedded": items.embedded, "reused": items.reused, "removed": items.removed}
    said = ", ".join(f"{count:,} {what}" for what, count in told.items() if count)
    return f"Items: {said}. " if said else ""


def _skips(skipped: Sequence[Skipped]) -> list[str]:
    """The skipped files grouped by reason, the commonest first, each with examples."""
    if not skipped:
        return []
    groups: dict[str, list[str]] = {}
    for one in skipped:
        groups.setdefault(one.reason, []).append(one.path)
    lines = ["", "Skipped:"]
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    for reason, paths in ordered[:_MOST_REASONS]:
        named = ", ".join(wording.shown(render.shortened(path, render.here())) for path in paths[:_EXAMPLES_PER_REASON])
        more = f" and {len(paths) - _EXAMPLES_PER_REASON:,} more" if len(paths) > _EXAMPLES_PER_REASON else ""
        lines.append(f"{len(paths):>6,}  {wording.shown(reason)}")
        lines.append(f"        {named}{more}")
    if len(ordered) > _MOST_REASONS:
        lines.append(f"        and {wording.count_words(len(ordered) - _MOST_REASONS, 'more reason')}")
    return lines
