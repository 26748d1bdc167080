"""`tsembed status --experts`: heat maps of how the experts are used.

Colours and cells for drawings of experts: how alike two routes are, how much experts are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tsembed_search import wording
from tsembed_search.cli.render import text as render
from tsembed_search.cli.render.text import is_terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tsembed_search.ranking.routes import Usage


_LABEL = 4

_GAP = 3

_MOST_FOLDERS = 8

_NAMED = 8


def usage_json(shape: tuple[int, int], groups: Sequence[Usage]) -> dict[str, Any]:
    """The value of `experts` in `status --experts --json`."""
    return {"blocks": shape[0], "experts": shape[1], "groups": [group.to_json() for group in groups]}


def print_usage(groups: Sequence[Usage]) -> None:
    """Heat maps in a terminal where they fit, else a line of words for each group."""
    shown, left = _shown(groups)
    if not groups:
        render.remark("The index is empty: no experts are used.")
    screen = render.console()
    cell = _cell(screen.width, groups[0].share.shape[1]) if groups and render.is_terminal() else 0
    if cell and (cell > 2 or not screen.no_color):
        _draw(screen, shown, cell)
    else:
        for group in shown:
            print(f"{_title(group)}: {_favourites(group)}")
    if left:
        render.remark(f"And {wording.count_words(left, 'more folder')}; --json has them all.")


def _shown(groups: Sequence[Usage]) -> tuple[list[Usage], int]:
    """What is drawn: everything but folders beyond the fullest, and how many those are."""
    folders = [group for group in groups if group.of == "folder"]
    return [group for group in groups if group not in folders[_MOST_FOLDERS:]], max(0, len(folders) - _MOST_FOLDERS)


def _cell(width: int, experts: int) -> int:
    """The width of a cell: 3 with a number in it, else 2 or 1; 0 when not even that fits."""
    return next((cell for cell in (3, 2, 1) if _LABEL + experts * cell <= width), 0)


def _title(group: Usage) -> str:
    name = wording.shown(render.shortened(group.name, render.here())) if group.of == "folder" else group.name
    return f"{name or 'all'} ({wording.count_words(group.items, 'item')})"


def _favourites(group: Usage) -> str:
    """The experts that most of a group's items have among their top ones."""
    experts = group.share.shape[1]
    flat = group.share.reshape(-1)
    order = [place for place in (-flat).argsort(kind="stable").tolist()[:_NAMED] if flat[place] > 0]
    return "  ".join(f"b{place // experts}e{place % experts} {flat[place]:.0%}" for place in order)


def _draw(screen: Console, groups: Sequence[Usage], cell: int) -> None:
    """Maps side by side, as many as fit in a row."""
    from rich.text import Text

    width = _LABEL + groups[0].share.shape[1] * cell
    row = max(1, (screen.width + _GAP) // (width + _GAP))
    for start in range(0, len(groups), row):
        maps = [_map(group, cell, width) for group in groups[start : start + row]]
        for lines in zip(*maps, strict=True):
            screen.print(Text(" " * _GAP).join(lines))
        screen.print()
    screen.print(Text("How many of the items have the expert among their top experts, in percent.", style="dim"))


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
            line.append(words.rjust(cell), style="not dim " + on(share_colour(share)))
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


Colour = tuple[int, int, int]

LESS: Colour = (58, 110, 235)

USUAL: Colour = (72, 72, 72)

MORE: Colour = (250, 150, 30)

_LADDER: tuple[Colour, ...] = ((38, 38, 52), (60, 52, 110), (140, 60, 120), (220, 95, 75), (252, 190, 90))

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def draws(screen: Console) -> bool:
    """Whether colours can say anything there: not through a pipe, with NO_COLOR or on a dumb terminal."""
    return is_terminal() and screen.color_system is not None and not screen.no_color


def between(first: Colour, second: Colour, share: float) -> Colour:
    """The colour that is `share` (0 to 1) of the way from one to the other."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def signed_colour(value: float) -> Colour:
    """For -1 (less than usual) to 1 (more than usual)."""
    return between(USUAL, MORE if value > 0 else LESS, min(1.0, abs(value)))


def share_colour(value: float) -> Colour:
    """For 0 (dark) to 1 (bright)."""
    place = max(0.0, min(1.0, value)) * (len(_LADDER) - 1)
    step = min(int(place), len(_LADDER) - 2)
    return between(_LADDER[step], _LADDER[step + 1], place - step)


def on(colour: Colour) -> str:
    """The style of readable words on that colour."""
    red, green, blue = colour
    words = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"
    return f"{words} on rgb({red},{green},{blue})"


def pair_cell(upper: float, lower: float, width: int) -> Text:
    """Two values of -1 to 1 in one cell, one above the other."""
    from rich.text import Text

    top, bottom = ("rgb({},{},{})".format(*signed_colour(value)) for value in (upper, lower))
    return Text("▀" * width, style=f"{top} on {bottom}")


def signed_bar(value: float, half: int) -> Text:
    """A bar for -1 to 1: to the left of the middle when negative, `half` characters long at most on either side."""
    from rich.text import Text

    if value < 0:
        halves = round(min(1.0, -value) * half * 2)
        full, part = divmod(halves, 2)
        drawn = (("▐" if part else "") + "█" * full).rjust(half)
        return Text(drawn + " " * half, style="rgb({},{},{})".format(*LESS))
    eighths = round(min(1.0, value) * half * 8)
    full, part = divmod(eighths, 8)
    drawn = ("█" * full + (_EIGHTHS[part] if part else "")).ljust(half)
    return Text(" " * half + drawn, style="rgb({},{},{})".format(*MORE))
