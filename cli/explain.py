"""`tsembed explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from typer import Argument

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tsembed_search.ranking.routes import Agreement
    from tsembed_search.search.results import Explanation, Hit

_LESS: Final = (58, 110, 235)
_USUAL: Final = (72, 72, 72)
_MORE: Final = (250, 150, 30)
_BLOCK, _NUMBER = 5, 7  # columns


@options.described(
    ("the best hit of a search", "tsembed explain a red bicycle in the snow 1"),
    ("a file of the index", "tsembed explain a red bicycle ~/Pictures/bike.jpg"),
    ("a search by picture", "tsembed explain --image photo.jpg 1"),
    no_args_is_help=True,
)
def explain(
    words: Annotated[
        list[str],
        Argument(
            metavar="[QUERY] HIT",
            help="The words of the search. Then the hit: its number in that search, its path, or its id.",
            show_default=False,
        ),
    ],
    image: options.Image = None,
    index: options.IndexName = options.INDEX,
    url: options.Url = None,
    wait: options.Wait = False,
    model: options.Model = None,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show which words and which experts a query and a hit share.

    For models with experts. Each line is a block of the model and what it adds to the similarity of the routes, which
    is the sum of all lines. A hit without a vector shows its words.
    """
    *query, hit = words
    asked = options.query_item(query, image)
    if asked is None:
        raise UsageError("The query is missing.", "Give the words, then the hit: tsembed explain a red bicycle 1")
    with (
        options.open_index(index, url, model=model, device=device, wait=wait) as opened,
        render.working("Comparing", quiet=quiet),
    ):
        found = opened.explain(asked, hit)
    if json:
        render.print_json(found.to_json())
    else:
        _print(found)


def _print(found: Explanation) -> None:
    """Print where the routes of a query and a hit agree: drawn in a terminal with colours, else in words."""
    screen = render.console()
    hit, agreement = found.hit, found.agreement
    if agreement and render.is_terminal() and screen.color_system is not None and not screen.no_color:
        draw(screen, found, agreement)
        return
    if agreement is None:
        print("  ".join([wording.shown(render.shortened(hit.path)), *hit.place]))
        for line in ("found by its words alone: it has no vector, or the query has none", *_words(found)):
            print(line)
        return
    print("  ".join([wording.shown(render.shortened(hit.path)), *hit.place]))
    print(f"similarity {hit.similarity:.3f}  routes {agreement.similarity:+.3f}")
    for block, total in enumerate(agreement.blocks.tolist()):
        print(f"block {block:>3}  {total:+.3f}  {_both_use(agreement, block)}".rstrip())
    for line in (*_strongest(agreement), *_words(found), *_shows(hit), _legend(agreement)):
        print(line)


def draw(screen: Console, found: Explanation, agreement: Agreement) -> None:
    """Draw each block: what it adds, as a bar, and a cell per expert with the query above and the hit below."""
    hit = found.hit
    if found.query.text:
        screen.print(render.styled(wording.shown(found.query.text), style="italic", overflow="fold"))
    screen.print(render.path_text(hit.path, style="bold"))
    numbers = f" · similarity {hit.similarity:.2f} · routes {agreement.similarity:+.2f}"
    screen.print(render.styled((" · ".join([hit.kind, *hit.place]), "dim"), numbers), end="\n\n")
    experts = agreement.query.shape[1]
    bar, cell = _widths(screen.width, experts)
    if cell >= 2:
        header = "block".ljust(_BLOCK + 2 * bar + 1 + _NUMBER + 1)
        header += "".join(f"e{place}"[:cell].ljust(cell) for place in range(experts))
        screen.print(render.styled(header, style="dim"))
    most = float(abs(agreement.blocks).max()) or 1.0
    largest = float(max(abs(agreement.query).max(), abs(agreement.item).max())) or 1.0
    for block, total in enumerate(agreement.blocks.tolist()):
        line = render.styled((f"{block:>{_BLOCK - 1}} ", "dim"), _signed_bar(total / most, bar))
        line.append(f"{total:+.3f}".rjust(_NUMBER) + "  ")
        for a, b in zip(agreement.query[block].tolist(), agreement.item[block].tolist(), strict=True) if cell else ():
            line.append("▀" * max(1, cell - 1), style=f"{_colour(a / largest)} on {_colour(b / largest)}")
            line.append(" " if cell > 1 else "")
        screen.print(line if cell else line.append(_both_use(agreement, block)))
    screen.print()
    if cell:
        legend = render.styled("Upper half: the query. Lower half: the hit. ", style="dim")
        legend.append("■", style=_colour(1)).append(" used more than usual ", style="dim")
        screen.print(legend.append("■", style=_colour(-1)).append(" less", style="dim"))
    for words in (*_strongest(agreement), *_shows(hit)):
        screen.print(render.styled(words))
    screen.print(render.styled(_legend(agreement), style="dim"))


def _words(found: Explanation) -> list[str]:
    """The share of the query's words that the hit has, and the part of each; nothing for a query without words."""
    parts = [
        f"{wording.shown(one.word)} {one.share:.2f}" + (f" (for {wording.shown(one.as_asked)})" if one.as_asked else "")
        for one in found.why.words
    ]
    less = f"  (they count for {found.why.telling:.0%}: their meaning says it already)" if found.why.telling < 1 else ""
    return [f"words {found.hit.words:.2f}: " + "  ".join(parts) + less] if parts else []


def _widths(width: int, experts: int) -> tuple[int, int]:
    """Half a bar's length and a cell's width that fit in a line; a cell of 0 where not even small ones do."""
    for bar, cell in ((10, 4), (10, 3), (6, 3), (6, 2), (4, 2), (4, 1), (2, 1)):
        if _BLOCK + 2 * bar + _NUMBER + 2 + experts * cell <= width:
            return bar, cell
    return 4, 0


def _signed_bar(value: float, half: int) -> Text:
    """A bar for -1 to 1: to the left of the middle when negative, `half` characters long at most on either side."""
    if value < 0:
        full, part = divmod(round(min(1.0, -value) * half * 2), 2)
        return render.styled((("▐" if part else "") + "█" * full).rjust(half) + " " * half, style=_colour(-1))
    return render.styled(" " * half + render.bar(value, half), style=_colour(1))


def _colour(value: float) -> str:
    """For -1 (less than usual) to 1 (more than usual)."""
    return render.blended(_USUAL, _MORE if value > 0 else _LESS, abs(value))


def _both_use(agreement: Agreement, block: int) -> str:
    """The experts of a block that both use more than usual: the first three."""
    query, item = agreement.query[block], agreement.item[block]
    both = [place for place in (-(query * item)).argsort().tolist() if query[place] > 0 and item[place] > 0]
    return "both use " + " ".join(f"e{place}" for place in both[:3]) if both else ""


def _legend(agreement: Agreement) -> str:
    """The meaning of the names of experts."""
    return render.expert_legend(name for name, _ in (*agreement.shared(1), *agreement.opposed(1)))


def _shows(hit: Hit) -> list[str]:
    """The classes that a picture most likely shows."""
    seen = "  ".join(f"{one['name']} {one['probability']:.0%}" for one in hit.concepts)
    return [f"{'shows':<7}{seen}"] if seen else []


def _strongest(agreement: Agreement) -> list[str]:
    """The experts that count most for and against the similarity."""
    return [
        f"{label:<7}" + "  ".join(f"{name} {value:+.3f}" for name, value in named)
        for label, named in (("shared", agreement.shared(5)), ("apart", agreement.opposed(5)))
        if named
    ]
