"""The list of hits, or the grid of their pictures. It draws the lines that are seen, however many there are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tsembed_search.cli.browse import drawing
from tsembed_search.cli.browse.drawing import BOLD, DIM, KIND_STYLES, fitted
from tsembed_search.cli.browse.easel import Easel, Graphics
from tsembed_search.cli.browse.source import has_picture
from tsembed_search.cli.render.protocols import PLACEHOLDER
from tsembed_search.cli.render.text import bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.text import Text
    from textual import events

    from tsembed_search.search.results import Hit

    Pixels = NDArray[np.uint8]

Layout = Literal["list", "grid"]

LINES: Final = 4
"""Lines of a hit in the list."""
_THUMBS: Final = ((46, 12), (28, 8))
"""Columns of a picture in the list, for lists that are at least so wide."""
_CELL, _CELL_LINES = 20, 8  # of the grid
_BAR: Final = 6
_KEPT: Final = 400  # drawn hits
_SENT: Final = 240  # of their pictures that the terminal has: more than are seen at once
_SOON: Final = 2  # screens before the end, more hits are wanted


class Results(ScrollView, can_focus=True):
    """Hits in order, one of them the current one. `picture` gives the small picture of a hit, if it is there."""

    BINDINGS: ClassVar[list[Any]] = [
        Binding("down,j", "move(1)", "next", show=False),
        Binding("up,k", "move(-1)", "previous", show=False),
        Binding("right", "aside(1)", "right", show=False),
        Binding("left", "aside(-1)", "left", show=False),
        Binding("pagedown,ctrl+d", "page(1)", "page down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "page up", show=False),
        Binding("home,g", "jump(0)", "first", show=False),
        Binding("end,G", "jump(-1)", "last", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"results--current", "results--name", "results--bar"}

    class Moved(Message):
        """Another hit is the current one, or none."""

    class Sighted(Message):
        """Other hits can be seen: `hits`, those in sight first. `near_end`: more would be of use."""

        def __init__(self, hits: Sequence[Hit], near_end: bool) -> None:
            super().__init__()
            self.hits, self.near_end = hits, near_end

    def __init__(self, picture: Callable[[Hit], Pixels | None], graphics: Graphics, **widget: Any) -> None:
        super().__init__(**widget)
        self.easel = Easel(graphics, _SENT)
        self._picture = picture
        self.hits: Sequence[Hit] = ()
        self.marked: Collection[str] = ()
        self.cursor = 0
        self.laid_out: Layout = "list"
        self.empty = ""
        self._drawn: OrderedDict[int, list[Strip]] = OrderedDict()

    @property
    def current(self) -> Hit | None:
        """The hit that the keys act on."""
        return self.hits[self.cursor] if self.cursor < len(self.hits) else None

    def show(self, hits: Sequence[Hit], *, keep: bool) -> None:
        """Show other hits. With `keep`, the current one stays that if it is among them; else the first is it."""
        before, offset = self.current, self.scroll_offset.y
        self.hits = hits
        at = next((row for row, hit in enumerate(hits) if before and hit.id == before.id), None) if keep else 0
        self.cursor = min(self.cursor, max(0, len(hits) - 1)) if at is None else at
        self._measure()
        if keep:
            self.scroll_to(y=offset, animate=False, immediate=True)
        else:
            self.scroll_home(animate=False, immediate=True)
        self.post_message(self.Moved())

    def lay_out(self, layout: Layout) -> None:
        """Show a list, or a grid."""
        self.laid_out = layout
        self._measure()
        self._reveal()

    def redraw(self, id: str | None = None) -> None:
        """Draw anew what has changed: the hit with that id, or all."""
        if id is None:
            self._drawn.clear()
            self.refresh()
            return
        first, last = self._seen()
        for row in range(first, last):
            if self.hits[row].id == id:
                self._drawn.pop(row, None)
                self._refresh_row(row)

    def draw_anew(self) -> None:
        """Draw everything anew, with pictures that are to be made anew, too."""
        self.redraw()
        self._tell_shown()

    # Where things are

    @property
    def _across(self) -> int:
        return max(1, self.size.width // _CELL) if self.laid_out == "grid" else 1

    @property
    def _height(self) -> int:
        return _CELL_LINES if self.laid_out == "grid" else LINES

    def _measure(self) -> None:
        self._drawn.clear()
        rows = -(-len(self.hits) // self._across)
        self.virtual_size = Size(self.size.width, max(1, rows * self._height))
        self.refresh()
        self.call_after_refresh(self._tell_shown)

    def _seen(self) -> tuple[int, int]:
        """The first hit that can be seen, and the one behind the last."""
        top, height = self.scroll_offset.y, self.size.height
        first = top // self._height * self._across
        last = -(-(top + height) // self._height) * self._across
        return min(first, len(self.hits)), min(last, len(self.hits))

    def _tell_shown(self) -> None:
        first, last = self._seen()
        size = max(1, last - first)
        hits = [*self.hits[first:last], *self.hits[last : last + size], *self.hits[max(0, first - size) : first]]
        self.post_message(self.Sighted(hits, last + _SOON * size >= len(self.hits)))

    def _refresh_row(self, row: int) -> None:
        y = row // self._across * self._height - self.scroll_offset.y
        self.refresh(Region(0, y, self.size.width, self._height))

    def _reveal(self) -> None:
        y = self.cursor // self._across * self._height
        self.scroll_to_region(Region(0, y, 1, self._height), animate=False, force=True, immediate=True)

    # What happens

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Tell what is seen now."""
        super().watch_scroll_y(old_value, new_value)
        self._tell_shown()

    def on_resize(self, event: events.Resize) -> None:
        """Lay out anew, with the current hit in sight."""
        self._measure()
        self._reveal()

    def on_focus(self) -> None:
        """Show that the keys act here."""
        self.redraw()

    def on_blur(self) -> None:
        """Show that they do not."""
        self.redraw()

    def move_to(self, row: int) -> None:
        """Make a hit the current one, as far as there are hits."""
        row = max(0, min(row, len(self.hits) - 1))
        if not self.hits or row == self.cursor:
            return
        for one in (self.cursor, row):
            self._drawn.pop(one, None)
            self._refresh_row(one)
        self.cursor = row
        self._reveal()
        self.post_message(self.Moved())

    def action_move(self, lines: int) -> None:
        """Go to the next line, or the one before."""
        if 0 <= self.cursor + lines * self._across < len(self.hits):
            self.move_to(self.cursor + lines * self._across)
        elif lines > 0 and self.cursor // self._across < (len(self.hits) - 1) // self._across:
            self.move_to(len(self.hits) - 1)

    def action_aside(self, columns: int) -> None:
        """Go to the next hit, or the one before."""
        self.move_to(self.cursor + columns)

    def action_page(self, pages: int) -> None:
        """Go as far as is seen at once."""
        lines = max(1, self.size.height // self._height - 1)
        self.move_to(self.cursor + pages * lines * self._across)

    def action_jump(self, row: int) -> None:
        """Go to the first or the last hit."""
        self.move_to(row if row >= 0 else len(self.hits) - 1)

    async def on_click(self, event: events.Click) -> None:
        """Make the clicked hit the current one; if it was, show it whole."""
        line = (event.y + self.scroll_offset.y) // self._height
        row = line * self._across + (min(event.x // _CELL, self._across - 1) if self.laid_out == "grid" else 0)
        if row >= len(self.hits):
            return
        if row == self.cursor:
            await self.run_action("app.whole")
        self.move_to(row)

    # Drawing

    def render_line(self, y: int) -> Strip:
        """Draw one line of the screen."""
        width, base = self.size.width, self.rich_style
        if not self.hits:
            words = self.empty.split("\n")
            line = [Segment(" "), *fitted(words[y], width - 1, DIM)] if y < len(words) else [Segment(" " * width)]
            return Strip(line, width).apply_style(base)
        line_of, inside = divmod(y + self.scroll_offset.y, self._height)
        strips = [self._lines(row)[inside] for row in self._row(line_of)]
        strip = Strip.join(strips).adjust_cell_length(width, base) if strips else Strip.blank(width, base)
        return strip.apply_style(base)

    def _row(self, line: int) -> range:
        first = line * self._across
        return range(first, min(first + self._across, len(self.hits)))

    def _lines(self, row: int) -> list[Strip]:
        hit = self.hits[row]
        if row in self._drawn and self.easel.has(hit.id):
            self._drawn.move_to_end(row)
            return self._drawn[row]
        drawn = self._cell(hit, row) if self.laid_out == "grid" else self._entry(hit, row)
        if row == self.cursor:
            drawn = [Strip(_over(list(strip), self._ground), strip.cell_length) for strip in drawn]
        self._drawn[row] = drawn
        while len(self._drawn) > _KEPT:
            self._drawn.popitem(last=False)
        return drawn

    def _sign(self, hit: Hit, row: int) -> Segment:
        marked = hit.path in self.marked
        return Segment("●" if marked else "▌" if row == self.cursor else " ", self._accent)

    @property
    def _ground(self) -> Style:
        """The style that shows which hit is the current one."""
        if self.app.console.color_system in ("standard", "windows"):
            # Of so few colours, the nearest may be that of the text.
            return Style(reverse=self.has_focus)
        style = self.get_component_rich_style("results--current", partial=True)
        return style if self.has_focus else Style(bgcolor=style.bgcolor)

    @property
    def _accent(self) -> Style:
        return self.get_component_rich_style("results--name", partial=True)

    def _entry(self, hit: Hit, row: int) -> list[Strip]:
        """A hit of the list: its picture, its name and score, its folder and kind, and its passage."""
        width = self.size.width
        name, folder = drawing.name_and_folder(hit.path)
        sizes = (columns for least, columns in _THUMBS if width >= least)
        thumb = next(sizes, 0) if self.easel.graphics.how != "none" and has_picture(hit) else 0
        room = max(4, width - (thumb + 1 if thumb else 0) - 2)
        score = f"{hit.score:.2f} " if hit.rank else ""
        bar_width = _BAR if hit.rank and width >= _THUMBS[0][0] else 0
        first = [*fitted(name, room - len(score) - bar_width - 1, BOLD), Segment(" ")]
        first += [Segment(score, BOLD if hit.good or hit.score >= 0.5 else DIM)]
        first += [Segment(bar(hit.score, bar_width), self.get_component_rich_style("results--bar", partial=True))]
        kind = " ".join([hit.kind, *hit.place, *["offline"] * hit.offline])[: room - 2]
        second = [Segment(kind + " ", KIND_STYLES[hit.kind]), *fitted(folder, room - len(kind) - 1, DIM)]
        texts = [first, second, *self._passage(hit, room, LINES - 2 - bool(thumb))]
        picture = self._thumb(hit, thumb, LINES - 1) if thumb else []
        lines = []
        for number in range(LINES):
            line = [self._sign(hit, row) if number < LINES - 1 else Segment(" ")]
            if thumb:
                line += [*(picture[number] if number < len(picture) else [Segment(" " * thumb)]), Segment(" ")]
            line += texts[number] if number < len(texts) else [Segment(" " * room)]
            lines.append(Strip(line).adjust_cell_length(width))
        return lines

    def _passage(self, hit: Hit, room: int, most: int) -> list[list[Segment]]:
        """The passage in a few lines. What comes before the first of the query's words is cut where it takes them."""
        if not hit.snippet:
            return []
        text, marks = hit.snippet, list(hit.marks)
        if marks and marks[0][0] > room * most // 2:
            cut = marks[0][0] - room // 4
            cut = text.rfind(" ", 0, cut) + 1 or cut
            text = "… " + text[cut:]
            marks = [(start - cut + 2, end - cut + 2) for start, end in marks]
        return self._wrapped(drawing.marked_text(text, marks), room, most)

    def _wrapped(self, text: Text, room: int, most: int) -> list[list[Segment]]:
        """A text in at most so many lines; the last of them ends in `…` where something is cut."""
        lines = text.wrap(self.app.console, room)
        rows = list(lines[:most])
        if len(lines) > most:
            rows[-1].append(" …")
        for line in rows:
            line.truncate(room, overflow="ellipsis", pad=True)
        return [[one for one in line.render(self.app.console) if one.text != "\n"] for line in rows]

    def _cell(self, hit: Hit, row: int) -> list[Strip]:
        """A hit of the grid: its picture, or the beginning of its text, above its name."""
        width = min(_CELL, self.size.width)
        inner = width - 2
        picture = self._thumb(hit, inner, _CELL_LINES - 2)
        if not picture and hit.snippet:
            picture = self._wrapped(drawing.marked_text(hit.snippet, hit.marks), inner, _CELL_LINES - 2)
        name = drawing.name_and_folder(hit.path)[0] + (f" p. {hit.page}" if hit.page is not None else "")
        lines = [
            Strip([self._sign(hit, row), *(picture[number] if number < len(picture) else [])]).adjust_cell_length(width)
            for number in range(_CELL_LINES - 2)
        ]
        lines.append(Strip([Segment(" "), *fitted(name, inner, BOLD)]).adjust_cell_length(width))
        return [*lines, Strip.blank(width)]

    def _thumb(self, hit: Hit, columns: int, rows: int) -> list[list[Segment]]:
        pixels = self._picture(hit) if self.easel.graphics.how != "none" else None
        return [] if pixels is None else self.easel.rows(hit.id, pixels, columns, rows)


def _over(line: list[Segment], style: Style) -> list[Segment]:
    """A line on another ground; pictures keep their own, and the colour that says which one it is."""
    return [
        one
        if one.text[:1] == PLACEHOLDER or (one.style is not None and one.style.bgcolor is not None)
        else Segment(one.text, (one.style or Style()) + style)
        for one in line
    ]
