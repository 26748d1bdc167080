"""`tsembed status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from typer import Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.paths import absence

if TYPE_CHECKING:
    from tsembed_search.search.results import IndexStatus


_MOST_FOLDERS = 10


@options.described(
    ("its size, its model, its age", "tsembed status"),
    ("the files that could not be read, and why", "tsembed status --skipped"),
    ("how the experts of the model are used", "tsembed status --experts"),
    ("another index, as JSON", "tsembed status --json --index papers"),
)
def status(
    skipped: Annotated[bool, Option("--skipped", help="List the files that could not be read, and why.")] = False,
    experts: Annotated[bool, Option("--experts", help="Show how experts are used, by kind and folder.")] = False,
    index: options.IndexName = options.INDEX,
    url: options.Url = None,
    wait: options.Wait = False,
    json: options.Json = False,
) -> None:
    """Show what is in the index: files, folders, model, size, and what was skipped."""
    from tsembed_search.cli.render.experts import print_usage

    options.only_one(skipped=skipped, experts=experts)
    with options.open_index(index, url, wait=wait) as opened:
        shape = opened.routes() if experts else None
        usage = opened.usage() if experts else []
        known = opened.status()
    if json:
        document = known.to_json()
        if shape is not None:
            groups = [group.to_json() for group in usage]
            document["experts"] = {"blocks": shape[0], "experts": shape[1], "groups": groups}
        render.print_json(document)
    elif shape is not None:
        print_usage(usage)
    elif skipped:
        _print_skipped(known.skipped)
    else:
        _print(_rows(known, url))


def _rows(known: IndexStatus, url: str | None) -> list[tuple[str, str]]:
    """Return what is told to people, as (label, words)."""
    metadata, store = known.metadata, known.store
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(metadata.created_at))
    rows = [("index", known.name), ("model", f"{metadata.model} ({metadata.dim} dimensions)"), ("made", made)]
    if store is not None:
        counts = [wording.count_words(count, kind) for kind, count in sorted((known.items or {}).items())]
        rows.append(("items", f"{store.points:,}" + (f" ({', '.join(counts)})" if counts else "")))
    if known.files or known.folders or url is None:
        rows.append(("files", f"{known.files:,}"))
    rows += [("folder", root) for root in known.folders[:_MOST_FOLDERS]]
    if len(known.folders) > _MOST_FOLDERS:
        rows.append(("", f"and {wording.count_words(len(known.folders) - _MOST_FOLDERS, 'more folder')}"))
    for folder in known.offline[:_MOST_FOLDERS]:
        rows.append(("offline", folder if absence(folder) else f"{folder} (when the index was last updated)"))
    if known.skipped:
        count = wording.count_words(len(known.skipped), "file")
        rows.append(("skipped", f"{count}; see: tsembed status --skipped{options.same_index(known.name, url)}"))
    if store is not None:
        size = store.details.get("disk_bytes")
        rows.append(("engine", store.engine))
        rows.append(("place", f"{known.place}" + (f", {wording.size_words(float(size))}" if size else "")))
        quantize = store.details.get("quantize", "none")
        rows.append(("search graph", f"{store.indexed:,} items" if store.indexed else "not needed yet"))
        rows += [("compressed", quantize)] if quantize != "none" else []
    if known.busy:
        rows.append(("busy", known.busy))
    return rows


def _print(rows: list[tuple[str, str]]) -> None:
    width = max(len(label) for label, _ in rows)
    if not render.is_terminal():
        for label, words in rows:
            print(f"{label:<{width}}  {wording.shown(words)}".rstrip())
        return
    from rich.text import Text

    table = render.grid(2)
    for label, words in rows:
        table.add_row(Text(label, style="bold"), Text(wording.shown(words)))
    render.console().print(table)


def _print_skipped(skipped: list[tuple[str, str]]) -> None:
    """One line each, so that it can be searched; the reason last, for it may be long."""
    if not skipped:
        render.remark("No file was skipped.")
    for path, reason in skipped:
        render.print_fields(path, reason)
