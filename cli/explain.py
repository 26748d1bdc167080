"""`tsembed explain`: where the routing of a query and of a hit agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.options import INDEX, described
from tsembed_search.cli.render import text as render

if TYPE_CHECKING:
    from rich.console import Console

    from tsembed_search.items import Item
    from tsembed_search.ranking.routes import Agreement
    from tsembed_search.search.results import Explanation

_FEW = 3
_LABEL, _NUMBER = 5, 7


@described(
    ("the best hit of a search", "tsembed explain a red bicycle in the snow 1"),
    ("an item of the index, by its path or id", "tsembed explain a red bicycle ~/Pictures/bike.jpg"),
    ("for a picture", "tsembed explain --image photo.jpg 1"),
    ("as data", "tsembed explain a red bicycle 1 --json"),
    no_args_is_help=True,
)
def explain(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[QUERY] HIT",
            help="What was looked for, in words; last an id, an indexed path, or a hit's number in the plain search.",
        ),
    ],
    image: Annotated[
        Path | None, typer.Option("--image", "-i", metavar="FILE", help="A picture; with words: one query.")
    ] = None,
    wait: options.Wait = False,
    index: options.IndexName = INDEX,
    url: options.Url = None,
    model: options.Model = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show where a query and a hit use the same experts, block by block.

    Needs an index made by a model with experts. What the blocks add sums to the routes' similarity.
    """
    from tsembed_search.index import Index

    *query, hit = words
    asked = _asked(query, image)
    with (
        Index.open(index, store=options.store_of(url), model=model, device=device, wait=wait) as opened,
        render.working("Comparing", quiet=quiet),
    ):
        found = opened.explain(asked, hit)
    if json:
        render.print_json(found.to_json())
        return
    screen = render.console()
    from tsembed_search.cli.render.experts import draws

    if draws(screen):
        print_drawing(screen, asked, found)
    else:
        for line in plain_lines(found):
            print(line)


def _asked(words: Sequence[str] | None, image: Path | None) -> Item:
    """The query as one item. Raises `UsageError` when there is none."""
    from tsembed_search.cli.search import query_item
    from tsembed_search.errors import UsageError

    asked = query_item(words, image)
    if asked is None:
        raise UsageError("The query is missing.", "Give the words, then the hit: tsembed explain a red bicycle 1")
    return asked


def plain_lines(found: Explanation) -> list[str]:
    """What the drawing says, in words: a line for the hit, one per block, one for the experts that count most."""
    hit, agreement = found.hit, found.agreement
    page = f"  page {hit.page}" if hit.page is not None else ""
    lines = [
        f"{wording.shown(render.shortened(hit.path, render.here()))}{page}",
        f"similarity {hit.similarity:.3f}  routes {agreement.similarity:+.3f}",
    ]
    for block, total in enumerate(agreement.blocks.tolist()):
        lines.append(f"block {block:>3}  {total:+.3f}  {_words(agreement, block)}".rstrip())
    return [*lines, *_summary(agreement)]


def print_drawing(screen: Console, asked: Item, found: Explanation) -> None:
    """Per block: what it adds, as a bar, and a cell per expert with the query above and the hit below."""
    from rich.text import Text

    from tsembed_search.cli.render.experts import LESS, MORE, pair_cell, signed_bar

    hit, agreement = found.hit, found.agreement
    facts = Text.assemble((hit.kind, "dim"), (f" · page {hit.page}" if hit.page is not None else "", "dim"))
    facts.append(f" · similarity {hit.similarity:.2f} · routes {agreement.similarity:+.2f}")
    if asked.text:
        screen.print(Text(wording.shown(asked.text), style="italic", overflow="fold"))
    screen.print(render.path_text(hit.path, relative_to=render.here(), style="bold"))
    screen.print(facts, end="\n\n")
    experts = agreement.query.shape[1]
    bar, cell = _widths(screen.width, experts)
    if cell >= 2:
        header = Text("block".ljust(_LABEL + 2 * bar + 1 + _NUMBER + 1), style="dim")
        for place in range(experts):
            header.append(f"e{place}"[:cell].ljust(cell), style="dim")
        screen.print(header)
    most = float(abs(agreement.blocks).max()) or 1.0
    largest = float(max(abs(agreement.query).max(), abs(agreement.item).max())) or 1.0
    for block, total in enumerate(agreement.blocks.tolist()):
        line = Text.assemble((f"{block:>{_LABEL - 1}} ", "dim"), signed_bar(total / most, bar))
        line.append(f"{total:+.3f}".rjust(_NUMBER) + "  ")
        for a, b in zip(agreement.query[block].tolist(), agreement.item[block].tolist(), strict=True) if cell else ():
            line.append_text(pair_cell(a / largest, b / largest, max(1, cell - 1)))
            line.append(" " if cell > 1 else "")
        if not cell:
            line.append(_words(agreement, block))
        screen.print(line)
    screen.print()
    if cell:
        legend = Text("Upper half: the query. Lower half: the hit. ", style="dim")
        legend.append("■", style="rgb({},{},{})".format(*MORE)).append(" used more than usual ", style="dim")
        legend.append("■", style="rgb({},{},{})".format(*LESS)).append(" less", style="dim")
        screen.print(legend)
    for line_of_words in _summary(agreement):
        screen.print(Text(line_of_words))


def _widths(width: int, experts: int) -> tuple[int, int]:
    """Half a bar's length and a cell's width that fit in a line; a cell of 0 where not even small ones do."""
    for bar, cell in ((10, 4), (10, 3), (6, 3), (6, 2), (4, 2), (4, 1), (2, 1)):
        if _LABEL + 2 * bar + _NUMBER + 2 + experts * cell <= width:
            return bar, cell
    return 4, 0


def _words(agreement: Agreement, block: int) -> str:
    """Which experts of a block both use more than usual."""
    query, item = agreement.query[block], agreement.item[block]
    both = [place for place in (-(query * item)).argsort().tolist() if query[place] > 0 and item[place] > 0]
    return "both use " + " ".join(f"e{place}" for place in both[:_FEW]) if both else ""


def _summary(agreement: Agreement) -> list[str]:
    lines = []
    for label, named in (("shared", agreement.shared(5)), ("apart", agreement.opposed(5))):
        if named:
            lines.append(f"{label:<7}" + "  ".join(f"{name} {value:+.3f}" for name, value in named))
    return lines
