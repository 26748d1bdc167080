"""Drawings of experts: which of them a query and a hit share, and how all items use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tsembed_search import wording
from tsembed_search.cli.render import text as render

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tsembed_search.ranking.routes import Agreement, Usage
    from tsembed_search.search.results import Explanation

Colour = tuple[int, int, int]

_LESS: Final[Colour] = (58, 110, 235)
_USUAL: Final[Colour] = (72, 72, 72)
_MORE: Final[Colour] = (250, 150, 30)
_LADDER: Final[Sequence[Colour]] = ((38, 38, 52), (60, 52, 110), (140, 60, 120), (220, 95, 75), (252, 190, 90))

_BLOCK, _NUMBER = 5, 7  # columns of an explanation
_LABEL, _GAP = 4, 3  # columns of a heat map
_MOST_FOLDERS: Final = 8
_MOST_NAMED: Final = 8


def print_explanation(found: Explanation) -> None:
    """Print where the routes of a query and a hit agree: drawn in a terminal with colours, else in words."""
    screen = render.console()
    if render.is_terminal() and screen.color_system is not None and not screen.no_color:
        draw_explanation(screen, found)
        return
    hit, agreement = found.hit, found.agreement
    page = f"  page {hit.page}" if hit.page is not None else ""
    print(f"{wording.shown(render.shortened(hit.path, render.here()))}{page}")
    print(f"similarity {hit.similarity:.3f}  routes {agreement.similarity:+.3f}")
    for block, total in enumerate(agreement.blocks.tolist()):
        print(f"block {block:>3}  {total:+.3f}  {_both_use(agreement, block)}".rstrip())
    for line in _strongest(agreement):
        print(line)


def draw_explanation(screen: Console, found: Explanation) -> None:
    """Draw each block: what it adds, as a bar, and a cell per expert with the query above and the hit below."""
    from rich.text import Text

    hit, agreement = found.hit, found.agreement
    page = f" · page {hit.page}" if hit.page is not None else ""
    facts = Text.assemble((hit.kind + page, "dim"))
    facts.append(f" · similarity {hit.similarity:.2f} · routes {agreement.similarity:+.2f}")
    if found.query.text:
        screen.print(Text(wording.shown(found.query.text), style="italic", overflow="fold"))
    screen.print(render.path_text(hit.path, relative_to=render.here(), style="bold"))
    screen.print(facts, end="\n\n")
    experts = agreement.query.shape[1]
    bar, cell = _widths(screen.width, experts)
    if cell >= 2:
        header = "block".ljust(_BLOCK + 2 * bar + 1 + _NUMBER + 1)
        screen.print(Text(header + "".join(f"e{place}"[:cell].ljust(cell) for place in range(experts)), style="dim"))
    most = float(abs(agreement.blocks).max()) or 1.0
    largest = float(max(abs(agreement.query).max(), abs(agreement.item).max())) or 1.0
    for block, total in enumerate(agreement.blocks.tolist()):
        line = Text.assemble((f"{block:>{_BLOCK - 1}} ", "dim"), _signed_bar(total / most, bar))
        line.append(f"{total:+.3f}".rjust(_NUMBER) + "  ")
        for a, b in zip(agreement.query[block].tolist(), agreement.item[block].tolist(), strict=True) if cell else ():
            line.append("▀" * max(1, cell - 1), style=f"{_rgb(_signed(a / largest))} on {_rgb(_signed(b / largest))}")
            line.append(" " if cell > 1 else "")
        screen.print(line if cell else line.append(_both_use(agreement, block)))
    screen.print()
    if cell:
        legend = Text("Upper half: the query. Lower half: the hit. ", style="dim")
        legend.append("■", style=_rgb(_MORE)).append(" used more than usual ", style="dim")
        screen.print(legend.append("■", style=_rgb(_LESS)).append(" less", style="dim"))
    for words in _strongest(agreement):
        screen.print(Text(words))


def _widths(width: int, experts: int) -> tuple[int, int]:
    """Half a bar's length and a cell's width that fit in a line; a cell of 0 where not even small ones do."""
    for bar, cell in ((10, 4), (10, 3), (6, 3), (6, 2), (4, 2), (4, 1), (2, 1)):
        if _BLOCK + 2 * bar + _NUMBER + 2 + experts * cell <= width:
            return bar, cell
    return 4, 0


def _both_use(agreement: Agreement, block: int) -> str:
    """The experts of a block that both use more than usual: the first three."""
    query, item = agreement.query[block], agreement.item[block]
    both = [place for place in (-(query * item)).argsort().tolist() if query[place] > 0 and item[place] > 0]
    return "both use " + " ".join(f"e{place}" for place in both[:3]) if both else ""


def _strongest(agreement: Agreement) -> list[str]:
    """The experts that count most for and against the similarity."""
    return [
        f"{label:<7}" + "  ".join(f"{name} {value:+.3f}" for name, value in named)
        for label, named in (("shared", agreement.shared(5)), ("apart", agreement.opposed(5)))
        if named
    ]


def print_usage(groups: Sequence[Usage]) -> None:
    """Print how experts are used: heat maps in a terminal where they fit, else a line of words for each group."""
    folders = [group for group in groups if group.of == "folder"]
    left = folders[_MOST_FOLDERS:]
    shown = [group for group in groups if group not in left]
    if not groups:
        render.remark("The index is empty: no experts are used.")
    screen = render.console()
    experts = groups[0].share.shape[1] if groups else 0
    # With three columns a cell has a number in it.
    cell = next((cell for cell in (3, 2, 1) if _LABEL + experts * cell <= screen.width), 0)
    if groups and render.is_terminal() and cell and (cell > 2 or not screen.no_color):
        _draw_usage(screen, shown, cell)
    else:
        for group in shown:
            print(f"{_title(group)}: {_favourites(group)}")
    if left:
        render.remark(f"And {wording.count_words(len(left), 'more folder')}; --json has them all.")


def _title(group: Usage) -> str:
    name = wording.shown(render.shortened(group.name, render.here())) if group.of == "folder" else group.name
    return f"{name or 'all'} ({wording.count_words(group.items, 'item')})"


def _favourites(group: Usage) -> str:
    """The experts that most of a group's items have among their top ones."""
    experts = group.share.shape[1]
    flat = group.share.reshape(-1)
    order = [place for place in (-flat).argsort(kind="stable").tolist()[:_MOST_NAMED] if flat[place] > 0]
    return "  ".join(f"b{place // experts}e{place % experts} {flat[place]:.0%}" for place in order)


def _draw_usage(screen: Console, groups: Sequence[Usage], cell: int) -> None:
    """Maps side by side, as many as fit in a row."""
    from rich.text import Text

    width = _LABEL + groups[0].share.shape[1] * cell
    row = max(1, (screen.width + _GAP) // (width + _GAP))
    for start in range(0, len(groups), row):
        maps = [_map(group, cell, width) for group in groups[start : start + row]]
        for lines in zip(*maps, strict=True):
            screen.print(Text(" " * _GAP).join(lines))
        screen.print()
    screen.print(Text("Percent of the items that have the expert among their top experts.", style="dim"))


def _map(group: Usage, cell: int, width: int) -> list[Text]:
    """The lines of one heat map: title, names of the experts, one line per block."""
    from rich.text import Text

    title = Text(_ending(_title(group), width), style="bold")
    title.pad_right(width - title.cell_len)
    header = Text(" " * _LABEL, style="dim")
    for place in range(group.share.shape[1]):
        header.append((f"e{place}" if cell > 2 else str(place))[-cell:].rjust(cell) if cell > 1 else " ")
    lines = [title, header]
    for block, shares in enumerate(group.share.tolist()):
        line = Text(f"b{block}".ljust(_LABEL), style="dim")
        for share in shares:
            words = f"{share * 100:.0f}" if cell > 2 else ""
            line.append(words.rjust(cell), style="not dim " + _readable_on(_share_colour(share)))
        lines.append(line)
    return lines


def _ending(words: str, width: int) -> str:
    """`words`, or what of their end fits: the end of a path says more than its beginning."""
    from rich.cells import cell_len

    if cell_len(words) <= width:
        return words
    start, room = len(words), width - 1
    while start and (room := room - cell_len(words[start - 1])) >= 0:
        start -= 1
    return "…" + words[start:]


def _rgb(colour: Colour) -> str:
    return "rgb({},{},{})".format(*colour)


def _between(first: Colour, second: Colour, share: float) -> Colour:
    """The colour that is `share` (0 to 1) of the way from one to the other."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _signed(value: float) -> Colour:
    """For -1 (less than usual) to 1 (more than usual)."""
    return _between(_USUAL, _MORE if value > 0 else _LESS, min(1.0, abs(value)))


def _share_colour(value: float) -> Colour:
    """For 0 (dark) to 1 (bright)."""
    place = max(0.0, min(1.0, value)) * (len(_LADDER) - 1)
    step = min(int(place), len(_LADDER) - 2)
    return _between(_LADDER[step], _LADDER[step + 1], place - step)


def _readable_on(colour: Colour) -> str:
    """The style of readable words on that colour."""
    red, green, blue = colour
    words = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"
    return f"{words} on {_rgb(colour)}"


def _signed_bar(value: float, half: int) -> Text:
    """A bar for -1 to 1: to the left of the middle when negative, `half` characters long at most on either side."""
    from rich.text import Text

    if value < 0:
        full, part = divmod(round(min(1.0, -value) * half * 2), 2)
        return Text((("▐" if part else "") + "█" * full).rjust(half) + " " * half, style=_rgb(_LESS))
    return Text(" " * half + render.bar(value, half), style=_rgb(_MORE))
