"""`tsembed index`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.cli.surroundings import Interrupts
from tsembed_search.store.base import Quantize, StoreSettings

if TYPE_CHECKING:
    from tsembed_search.indexer.report import IndexReport, Offline, Skipped

_MOST_REASONS = 8
_EXAMPLES_PER_REASON = 2


@options.described(
    ("a folder and everything below it", "tsembed index ~/Pictures"),
    ("see first what would happen", "tsembed index ~/Pictures ~/Documents --dry-run"),
    ("only some files", "tsembed index ~/Documents --include '*.pdf' --exclude 'old/**'"),
    ("another index, with another model", "tsembed index ~/Papers --index papers --model Qwen/Qwen3-VL-Embedding-2B"),
    ("on a Qdrant server", "tsembed index ~/Pictures --url http://localhost:6333"),
    no_args_is_help=True,
)
def index(
    paths: Annotated[
        list[Path],
        # What cannot be read is for the run to tell: other folders go on, and what is known of this one is kept.
        Argument(metavar="PATH...", help="Files and folders to index.", show_default=False, readable=False),
    ],
    name: options.IndexName = options.INDEX,
    url: options.Url = None,
    model: options.Model = None,
    dim: options.Dimensions = None,
    depth: options.Depth = None,
    device: Annotated[
        str,
        options.of_model(
            "--device",
            metavar="DEVICE",
            help="Where the model runs: auto, cpu, cuda, cuda:0, or mps. Several, as in cuda:0,cuda:1, share the work.",
        ),
    ] = "auto",
    pages: options.Pages = "auto",
    include: options.Include = None,
    exclude: options.Exclude = None,
    hidden: options.Hidden = False,
    follow_links: options.FollowLinks = False,
    no_prune: options.NoPrune = False,
    prune_empty: Annotated[
        bool,
        Option(
            "--prune-empty",
            help="Remove missing files even when a whole folder is missing. By default they stay: a disk may be away.",
        ),
    ] = False,
    retry_skipped: Annotated[
        bool, Option("--retry-skipped", help="Try again to read files that could not be read before.")
    ] = False,
    words: options.WordsOnly = False,
    dry_run: options.DryRun = False,
    wait: options.Wait = False,
    workers: options.Workers = None,
    time_limit: options.TimeLimit = 60.0,
    quantize: Annotated[Quantize, Option("--quantize", help="New index: compress vectors for speed.")] = "none",
    shards: Annotated[int, Option("--shards", metavar="N", min=1, help="New index on a server: its shards.")] = 1,
    replicas: Annotated[
        int, Option("--replicas", metavar="N", min=1, help="New index on a server: copies of a shard.")
    ] = 1,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Read pictures and documents, so that they can be searched.

    Run it again when files have changed: only those are read. Files that cannot be read are skipped and listed.
    """
    from tsembed_search.cli.render.progress import IndexDisplay
    from tsembed_search.indexer.report import IndexOptions, Interrupted

    options.only_one(no_prune=no_prune, prune_empty=prune_empty)
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
        words_only=words,
        workers=workers,
        time_limit=time_limit,
    )
    settings = StoreSettings(0, quantize, shards, replicas)
    cut = {"dim": dim, "depth": depth}
    opened = options.open_index(name, url, model=model, device=device, wait=wait, create=settings, **cut)
    try:
        with opened, IndexDisplay(quiet=quiet) as display, Interrupts(attentive=1.0) as stop:
            report = opened.add(paths, chosen, progress=display, stop=stop)
    except Interrupted as stopped:
        if json:
            render.print_json(stopped.report.to_json())
        raise
    if json:
        render.print_json(report.to_json())
        if not quiet:
            render.remark(*offline_lines(report.offline, name, url))
    elif not quiet:
        for line in summary_lines(report, paths, name, url, dry_run=dry_run, words=words):
            print(line)


def summary_lines(
    report: IndexReport,
    paths: Sequence[Path],
    name: str,
    url: str | None = None,
    *,
    dry_run: bool = False,
    words: bool = False,
) -> list[str]:
    """Return what the run did, for people, safe to show: counts, then what was skipped, grouped by reason."""
    files, items = report.files, report.items
    away = offline_lines(report.offline, name, url)
    if not files.seen and not files.removed:
        if away:
            return away
        folders = ", ".join(wording.shown(str(path)) for path in paths)
        return [
            f"There is nothing to index in {folders}: no pictures, texts or PDFs.",
            "Hidden files and what ignore files exclude are left out; see --hidden and --include.",
        ]
    spaced = ["", *away] if away else []
    told = counted(vars(files), "added", "updated", "renamed", "removed", "unchanged", "skipped")
    if dry_run:
        return [f"Nothing was changed. A run would find: {told}.", *_skips(report.skipped), *spaced]
    speed = f", {wording.rate_words(report.items_per_second)} items/s" if items.embedded or items.stored else ""
    changes = counted(vars(items), "embedded" if items.embedded else "stored", "reused", "removed")
    lines = [
        f"{wording.count_words(files.seen, 'file')} in {wording.time_words(report.seconds)}{speed}: {told}.",
        f"{f'Items: {changes}. ' if changes else ''}The index {name} has {wording.count_words(items.total, 'item')}.",
        *_skips(report.skipped),
    ]
    if words and items.stored:
        lines.append("New items are found by their words. The same command without --words adds their vectors.")
    if files.skipped:
        lines.append(f"All of them: tsembed status --skipped{options.same_index(name, url)}")
    if files.skipped and files.skipped == files.seen:
        lines.append("Nothing could be read: see the reasons above.")
    return lines + spaced


def counted(counts: dict[str, int], *names: str) -> str:
    """Say how many of each there are, of those that there are any of."""
    return ", ".join(f"{counts[name]:,} {name}" for name in names if counts[name])


def offline_lines(
    offline: Sequence[Offline], name: str, url: str | None, then: str = "run the same command again"
) -> list[str]:
    """Lines that say which folders are offline, why, and what to do, safe to show."""
    if not offline:
        return []
    kept = wording.count_words(sum(one.files for one in offline), "file")
    which = wording.shown(shlex.quote(offline[0].path)) if len(offline) == 1 else "FOLDER"
    return [
        f"Offline. Kept in the index, though not there now: {kept}.",
        *(f"        {wording.shown(one.path)}: {wording.shown(one.reason)}" for one in offline),
        f"Is a disk not connected? Connect it and {then}; nothing is embedded twice.",
        f"To remove them from the index: tsembed index {which} --prune-empty{options.same_index(name, url)}",
    ]


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
        named = ", ".join(wording.shown(render.shortened(path)) for path in paths[:_EXAMPLES_PER_REASON])
        more = f" and {len(paths) - _EXAMPLES_PER_REASON:,} more" if len(paths) > _EXAMPLES_PER_REASON else ""
        lines.append(f"{len(paths):>6,}  {wording.shown(reason)}")
        lines.append(f"        {named}{more}")
    if len(ordered) > _MOST_REASONS:
        lines.append(f"        and {wording.count_words(len(ordered) - _MOST_REASONS, 'more reason')}")
    return lines
