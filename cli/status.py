"""`tsembed status`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

from typer import Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import TsembedError
from tsembed_search.paths import absence

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tsembed_search.ranking.routes import Usage
    from tsembed_search.search.results import IndexStatus

_TELLING: Final = ("mini", "mini-base")
_MOST_FOLDERS: Final = 10
_MOST_MAPS: Final = 8  # of folders
_MOST_NAMED: Final = 8
_LABEL, _GAP = 4, 3  # columns of a heat map
_LADDER: Final = ((38, 38, 52), (60, 52, 110), (140, 60, 120), (220, 95, 75), (252, 190, 90))


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
    options.only_one(skipped=skipped, experts=experts)
    with options.open_index(index, url, wait=wait) as opened:
        shape = opened.routes() if experts else None
        usage = opened.usage() if experts else []
        known = opened.status()
    if json:
        document = known.to_json() | {"computed_by": _computed_by(known.metadata.model)}
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


def _computed_by(model: str) -> str | None:
    """Say which engine computes a model of this machine, and how precisely; None for one that has to be looked for."""
    from tsembed_search.model import loading, registry

    if model not in registry.MODELS and not os.path.isdir(model):  # noqa: PTH112 - `Path.is_dir` raises where it may not look
        return None
    try:
        return loading.computed_by(registry.resolve(model, known=True))
    except TsembedError:
        return None


def _rows(known: IndexStatus, url: str | None) -> list[tuple[str, str]]:
    """Return what is told to people, as (label, words)."""
    metadata, store = known.metadata, known.store
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(metadata.created_at))
    rows = [("index", known.name), ("model", f"{metadata.model} ({metadata.dim} dimensions)")]
    if by := _computed_by(metadata.model):
        rows.append(("computed by", by))
    rows.append(("made", made))
    if store is not None:
        counts = [wording.count_words(count, kind) for kind, count in sorted((known.items or {}).items())]
        rows.append(("items", f"{store.points:,}" + (f" ({', '.join(counts)})" if counts else "")))
        if share := render.share_words(known.with_vectors, store.points):
            rows.append(("searchable", share))
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
        if (
            known.metadata.model in _TELLING
            and store.details.get("concepts") == "no"
            and (known.items or {}).get("image")
        ):
            rows.append(
                ("concepts", "not kept: to search by what pictures show, index the files again with --index NEW")
            )
    if known.busy:
        rows.append(("busy", known.busy))
    return rows


def _print(rows: list[tuple[str, str]]) -> None:
    if render.is_terminal():
        render.print_table(["", ""], (((label, "bold"), wording.shown(words)) for label, words in rows))
        return
    width = max(len(label) for label, _ in rows)
    for label, words in rows:
        print(f"{label:<{width}}  {wording.shown(words)}".rstrip())


def _print_skipped(skipped: list[tuple[str, str]]) -> None:
    """One line each, so that it can be searched; the reason last, for it may be long."""
    if not skipped:
        render.remark("No file was skipped.")
    for path, reason in skipped:
        render.print_fields(path, reason)


def print_usage(groups: Sequence[Usage]) -> None:
    """Print how experts are used: heat maps in a terminal where they fit, else a line of words for each group."""
    if not groups:
        render.remark("The index is empty: no experts are used.")
        return
    left = [group for group in groups if group.of == "folder"][_MOST_MAPS:]
    shown = [group for group in groups if group not in left]
    screen = render.console()
    experts = groups[0].share.shape[1]
    # With three columns a cell has a number in it.
    cell = next((cell for cell in (3, 2, 1) if _LABEL + experts * cell <= screen.width), 0)
    if render.is_terminal() and cell and (cell > 2 or not screen.no_color):
        _draw_usage(screen, shown, cell)
    else:
        for group in shown:
            print(f"{_title(group)}: {_favourites(group)}")
        render.remark(render.expert_legend(["b0e1"]))
    if left:
        render.remark(f"And {wording.count_words(len(left), 'more folder')}; --json has them all.")


def _title(group: Usage) -> str:
    name = wording.shown(render.shortened(group.name)) if group.of == "folder" else group.name
    return f"{name or 'all'} ({wording.count_words(group.items, 'item')})"


def _favourites(group: Usage) -> str:
    """The experts that most of a group's items have among their top ones."""
    experts = group.share.shape[1]
    flat = group.share.reshape(-1)
    order = [place for place in (-flat).argsort(kind="stable").tolist()[:_MOST_NAMED] if flat[place] > 0]
    return "  ".join(f"b{place // experts}e{place % experts} {flat[place]:.0%}" for place in order)


def _draw_usage(screen: Console, groups: Sequence[Usage], cell: int) -> None:
    """Maps side by side, as many as fit in a row."""
    width = _LABEL + groups[0].share.shape[1] * cell
    row = max(1, (screen.width + _GAP) // (width + _GAP))
    for start in range(0, len(groups), row):
        maps = [_map(group, cell, width) for group in groups[start : start + row]]
        for lines in zip(*maps, strict=True):
            screen.print(render.styled(" " * _GAP).join(lines))
        screen.print()
    told = "Percent of the items that have the expert among their top experts."
    screen.print(render.styled(f"{told} A row is a block, a column one of its experts.", style="dim"))


def _map(group: Usage, cell: int, width: int) -> list[Text]:
    """The lines of one heat map: title, names of the experts, one line per block."""
    title = render.styled(_ending(_title(group), width), style="bold")
    title.pad_right(width - title.cell_len)
    header = render.styled(" " * _LABEL, style="dim")
    for place in range(group.share.shape[1]):
        header.append((f"e{place}" if cell > 2 else str(place))[-cell:].rjust(cell) if cell > 1 else " ")
    lines = [title, header]
    for block, shares in enumerate(group.share.tolist()):
        line = render.styled(f"b{block}".ljust(_LABEL), style="dim")
        for share in shares:
            line.append((f"{share * 100:.0f}" if cell > 2 else "").rjust(cell), style=_style(share))
        lines.append(line)
    return lines


def _ending(words: str, width: int) -> str:
    """`words`, or what of their end fits: the end of a path says more than its beginning."""
    from rich.cells import cell_len

    if cell_len(words) <= width:
        return words
    while cell_len(words) >= width:
        words = words[1:]
    return "…" + words


def _style(share: float) -> str:
    """The colour of a cell, for 0 (dark) to 1 (bright), with a number that can be read on it."""
    place = max(0.0, min(1.0, share)) * (len(_LADDER) - 1)
    step = min(int(place), len(_LADDER) - 2)
    words = "black" if share >= 0.74 else "white"
    return f"not dim {words} on {render.blended(_LADDER[step], _LADDER[step + 1], place - step)}"
