"""The characters that the terminal shows by now: only those that become others are sent.

Textual draws whole panes again when they get the keys or lose them, and the whole screen with them. Over a slow line,
that takes longer than to go to another hit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from unicodedata import bidirectional

from rich.cells import cell_len
from rich.segment import Segment
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.strip import Strip

from tsembed_search.cli.render.protocols import PLACEHOLDER

if TYPE_CHECKING:
    from rich.console import Console
    from textual.geometry import Region

_Cell = tuple[object, object] | None
_GAP: Final = 8  # equal characters between two others: to leave them out would cost as much


class Canvas:
    """The characters that were sent, by line and column. None: what is there is not known."""

    def __init__(self) -> None:
        self._lines: dict[int, dict[int, _Cell]] = {}

    def forget(self, region: Region | None = None) -> None:
        """Take note that something else may be there now: in a region, or everywhere."""
        if region is None:
            self._lines.clear()
            return
        for y in region.line_range:
            for x in region.column_range:
                self._lines.get(y, {}).pop(x, None)

    def changed(self, update: object) -> Any:
        """Return as much of an update of the screen as is needed when it is written; anything else as it is."""
        return _Changes(self, update) if isinstance(update, ChopsUpdate | LayoutUpdate) else update

    def send(self, x: int, y: int, strip: Strip) -> Iterator[tuple[int, Strip]]:
        """Yield (column, characters) of a part of a line that must be sent. They are taken to be there afterwards."""
        line = self._lines.setdefault(y, {})
        cells = _cells(strip)
        others = [at for at, cell in enumerate(cells) if line.get(x + at) != cell]
        if not others:
            return
        old = (line.get(x + at) for at in range(len(cells)))
        # Terminals do not agree on how wide some characters are, and where they stand among others.
        is_plain = all(cell is None or isinstance(cell[0], str) for cell in (*cells, *old))
        line.update(enumerate(cells, x))
        if not is_plain:
            yield x, strip
            return
        first = last = others[0]
        for at in (*others[1:], None):
            if at is not None and at - last <= _GAP:
                last = at
                continue
            yield x + first, strip.crop(first, last + 1)
            first = last = at or 0


class _Changes(CompositorUpdate):
    """The part of an update that changes a canvas. Nothing is taken to be sent before it is."""

    def __init__(self, canvas: Canvas, update: ChopsUpdate | LayoutUpdate) -> None:
        self._canvas, self._update = canvas, update

    def render_segments(self, console: Console) -> str:
        """Return what to write to the terminal."""
        return "".join(
            f"\x1b[{y + 1};{column + 1}H{part.render(console)}"
            for x, y, strip in _parts(self._update)
            for column, part in self._canvas.send(x, y, strip)
        )


def _parts(update: ChopsUpdate | LayoutUpdate) -> Iterator[tuple[int, int, Strip]]:
    """The parts of lines that an update draws, each with its column and line."""
    if isinstance(update, LayoutUpdate):
        for y, strips in enumerate(update.strips, update.region.y):
            x = update.region.x
            for strip in strips:
                yield x, y, strip
                x += strip.cell_length
        return
    for y, left, right in update.spans:
        for end, (x, part) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if part is not None and x < right and end > left:
                yield x, y, part


def _cells(strip: Strip) -> list[_Cell]:
    """The content of each column: a character and its style, or a place in a text whose width is in doubt."""
    segments = [one for one in strip if not one.control]
    if all(map(_is_plain, {char for one in segments for char in one.text})):
        return [(char, one.style) for one in segments for char in one.text]
    whole: tuple[Segment, ...] = tuple(segments)
    return [(whole, at) for at in range(strip.cell_length)]


@lru_cache(maxsize=4096)
def _is_plain(char: str) -> bool:
    return char != PLACEHOLDER and cell_len(char) == 1 and bidirectional(char) not in ("R", "AL", "AN")
