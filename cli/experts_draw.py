"""Colours and cells for drawings of experts: how alike two routes are, how much experts are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsembed_search.cli.render import is_terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

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
