"""Pictures among the characters of a pane: as half blocks, or, where the terminal can, by kitty's placeholders; and
sixel over the half blocks of a pane that rests.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import count
from random import randint
from typing import TYPE_CHECKING, Final

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.message import Message
from textual.timer import Timer

from tsembed_search.cli.browse.drawing import half_block_rows
from tsembed_search.cli.browse.lanes import Lane
from tsembed_search.cli.render import protocols, terminal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from textual.widget import Widget

    Pixels = NDArray[np.uint8]
    Shape = tuple[int, ...]

WAYS: Final = ("auto", "kitty", "sixel", "blocks", "none")
"""The ways to show pictures that one can ask for."""
_MOST_NUMBER: Final = 1 << 23  # of the first picture: more than any other program is likely to count up to
_STILL: Final = 0.15  # seconds without a change before sixel is drawn


class Graphics:
    """The way in which pictures are drawn now, and the way to the terminal: `write` takes what is no text, and
    `drawn_over` is told where that hides the text.

    `wanted` is one of `WAYS`. Until the terminal has said what it can, and where it cannot, pictures are half blocks.
    `is_far`: it is reached over SSH.
    """

    def __init__(
        self,
        wanted: str,
        write: Callable[[str], object],
        drawn_over: Callable[[Region], object] = lambda region: None,
    ) -> None:
        self._drawn_over = drawn_over
        self.wanted = wanted
        self.how = "none" if wanted == "none" else "blocks"
        self.is_far = over_ssh()
        self.cell: tuple[int, int] | None = None
        self.next_number = count(randint(1, _MOST_NUMBER)).__next__
        self._write = write
        self._wraps = terminal.in_multiplexer()

    @property
    def asks(self) -> bool:
        """Tell whether it matters what the terminal can do."""
        return self.wanted in ("auto", "kitty", "sixel")

    @property
    def cell_shape(self) -> float:
        """A character's height over its width."""
        return self.cell[1] / self.cell[0] if self.cell is not None else 2.0

    def choose(self, found: terminal.Abilities, *, true_colours: bool) -> None:
        """Take the best way there is; for a terminal that is far away, half blocks unless another way is asked for.

        Sharp pictures are a lot to send. kitty's need true colours, which say whose place it is.
        """
        self.measure(found.cell)
        best = ("blocks" if self.is_far else found.best) if self.wanted == "auto" else self.wanted
        self.how = "blocks" if best == "kitty" and not true_colours else best

    def measure(self, told: tuple[int, int] | None = None) -> None:
        """Find out how large a character is; `told` by the terminal where the system does not know."""
        self.cell = terminal.cell_size(2) or told or self.cell

    def send(self, commands: str) -> None:
        """Write commands of kitty's protocol."""
        self._write(protocols.through_tmux(commands) if self._wraps else commands)

    def draw_over(self, region: Region, sixel: str) -> None:
        """Write sixel into a place on the screen. The cursor stays."""
        self._drawn_over(region)
        self._write(f"\x1b7\x1b[{region.y + 1};{region.x + 1}H{sixel}\x1b8")


def over_ssh(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the terminal is on another machine."""
    return any(environment.get(name) for name in ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"))


class Easel:
    """Draws the pictures of one pane, and keeps at most so many of them in the terminal."""

    def __init__(self, graphics: Graphics, most: int) -> None:
        self.graphics = graphics
        self._most = most
        self._sent: OrderedDict[tuple[str, Shape], int] = OrderedDict()
        self._newest: dict[str, tuple[str, Shape]] = {}

    def rows(self, key: str, pixels: Pixels, columns: int, rows: int) -> list[list[Segment]]:
        """Draw RGB pixels `[H, W, 3]`, known by a key, into at most so many cells; the shape stays.

        Every row is `columns` wide, and the picture is at its left.
        """
        shape = self.graphics.cell_shape
        if self.graphics.how != "kitty":
            return half_block_rows(pixels, columns, rows, shape)
        most = len(protocols.MARKS)
        across, down = protocols.fit(pixels.shape[1], pixels.shape[0], shape, min(columns, most), min(rows, most))
        number = self._number(key, pixels, across, down)
        style = Style(color=Color.from_rgb(*protocols.kitty_colour(number)))
        rest = [Segment(" " * (columns - across))] if across < columns else []
        return [[Segment(protocols.kitty_row(row, across), style), *rest] for row in range(down)]

    def has(self, key: str) -> bool:
        """Tell whether what was drawn last under a key can still be shown."""
        if self.graphics.how != "kitty" or key not in self._newest:
            return self.graphics.how != "kitty"
        self._sent.move_to_end(self._newest[key])
        return True

    def clear(self) -> None:
        """Take all pictures out of the terminal."""
        if self._sent:
            self.graphics.send("".join(map(protocols.kitty_forget, self._sent.values())))
        self._sent.clear()
        self._newest.clear()

    def _number(self, key: str, pixels: Pixels, across: int, down: int) -> int:
        """The number under which the terminal has the picture; it is sent if it is not there."""
        name = key, (across, down, *pixels.shape)
        if name not in self._sent:
            width, height = self.graphics.cell or terminal.DEFAULT_CELL
            wide, high = min(across * width, pixels.shape[1]), min(down * height, pixels.shape[0])
            self._sent[name] = number = self.graphics.next_number()
            self.graphics.send(protocols.kitty_picture(number, protocols.scaled(pixels, wide, high), across, down))
            while len(self._sent) > self._most:
                old, gone = self._sent.popitem(last=False)
                self.graphics.send(protocols.kitty_forget(gone))
                if self._newest.get(old[0]) == old:
                    del self._newest[old[0]]
        self._newest[key] = name
        self._sent.move_to_end(name)
        return self._sent[name]


class SixelDrawn(Message):
    """Sixel for a place on the screen is ready."""

    def __init__(self, number: int, region: Region, sixel: str) -> None:
        super().__init__()
        self.number, self.region, self.sixel = number, region, sixel


class Overlay:
    """Draws sixel over a pane's picture when nothing has been drawn there for a moment.

    Whatever is drawn there then takes the sixel away, as any character does; so nothing is left of it. `placed` gives
    the pixels and their place on the screen, if the whole of it can be seen.
    """

    def __init__(self, pane: Widget, graphics: Graphics, placed: Callable[[], tuple[Pixels, Region] | None]) -> None:
        self._pane, self._graphics, self._placed = pane, graphics, placed
        self._timer: Timer | None = None
        self._kept: tuple[Pixels, Region, str] | None = None
        self._lane: Lane[SixelDrawn] = Lane("sixel", lambda number, answer: self._tell(answer))
        self._number = 0

    def touched(self) -> None:
        """Wait anew: the pane is being drawn."""
        if self._graphics.how == "sixel":
            self._number += 1
            if self._timer is not None:
                self._timer.stop()
            self._timer = self._pane.set_timer(_STILL, self._begin)

    def _begin(self) -> None:
        placed = self._placed()
        if placed is None:
            return
        pixels, region = placed
        number, (width, height) = self._number, self._graphics.cell or terminal.DEFAULT_CELL
        if self._kept is not None and self._kept[0] is pixels and self._kept[1] == region:
            self.take(SixelDrawn(number, region, self._kept[2]))
            return

        def drawn() -> SixelDrawn:
            picture = protocols.scaled(pixels, region.width * width, region.height * height)
            found = SixelDrawn(number, region, protocols.sixel(picture))
            self._kept = pixels, region, found.sixel
            return found

        self._lane.ask(drawn)

    def _tell(self, answer: SixelDrawn | Exception) -> None:
        if isinstance(answer, SixelDrawn):
            self._pane.post_message(answer)

    def take(self, drawn: SixelDrawn) -> None:
        """Write what is ready, unless the pane has been drawn since."""
        if drawn.number == self._number and self._pane.screen.is_active:
            self._graphics.draw_over(drawn.region, drawn.sixel)

    def close(self) -> None:
        """End the thread."""
        self._number += 1
        self._lane.close()
