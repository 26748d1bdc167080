"""The panes around the results: the query line, the facets, the preview, the line at the foot."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.text import Text
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from tsembed_search.cli.browse import drawing
from tsembed_search.cli.browse.drawing import BOLD, DIM, KIND_STYLES, marked_text
from tsembed_search.cli.browse.easel import Easel, Graphics, Overlay, SixelDrawn
from tsembed_search.cli.browse.source import FACETS, Detail, Facets, Reason, Wish
from tsembed_search.cli.render.protocols import fit
from tsembed_search.cli.render.text import bar
from tsembed_search.wording import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.search.results import Hit

    Pixels = NDArray[np.uint8]

_BAR: Final = 10
_LEAD: Final = 3  # lines before the passage that was found
_SENT: Final = 16  # pictures that the terminal has
_MOST_PICTURE: Final = 0.6  # of the height, where a text follows


class LineLeft(Message):
    """The keys act on the results again, and all that was typed into a line has come."""


class QueryLine(Input):
    """The line in which one types what to look for. Up and down go through what was looked for before."""

    BINDINGS: ClassVar[list[Any]] = [
        Binding("up", "earlier(1)", show=False),
        Binding("down", "earlier(-1)", show=False),
    ]

    def __init__(self, **widget: Any) -> None:
        super().__init__(placeholder="type what to look for", **widget)
        self.past: list[str] = []
        self._back = 0

    def remember(self, text: str) -> None:
        """Keep what was looked for, once."""
        text = text.strip()
        if text and text in self.past:
            self.past.remove(text)
        if text:
            self.past.append(text)
        self._back = 0

    def action_earlier(self, steps: int) -> None:
        """Put in what was looked for before, or after that."""
        back = max(0, min(self._back + steps, len(self.past)))
        if back != self._back:
            self._back = back
            self.value = self.past[-back] if back else ""
            self.cursor_position = len(self.value)


class PromptLine(Input):
    """A line for one thing, such as a filter. `wish` makes something to ask for of what is typed."""

    class Entered(Message):
        """Ask for what was typed."""

        def __init__(self, asked: Wish) -> None:
            super().__init__()
            self.asked = asked

    wish: Callable[[str], Wish]

    def on_line_left(self, message: LineLeft) -> None:
        """Tell what was typed."""
        message.stop()
        self.post_message(self.Entered(self.wish(self.value.strip())))


class Chip(Static):
    """A filter that is on. A click takes it off."""

    class Removed(Message):
        """Ask for what it says instead."""

        def __init__(self, asked: Wish) -> None:
            super().__init__()
            self.asked = asked

    def __init__(self, name: str, without: Wish) -> None:
        super().__init__(Text(f"{name} ×", no_wrap=True, overflow="ellipsis"))
        self._without = without

    def on_click(self) -> None:
        """Take the filter off."""
        self.post_message(self.Removed(self._without))


class FacetPane(OptionList):
    """Values to narrow the results down by, with how many items have them."""

    BINDINGS: ClassVar[list[Any]] = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
        Binding("space", "select", show=False),
    ]

    class Toggled(Message):
        """A value was chosen, or is no longer."""

        def __init__(self, facet: str, value: str) -> None:
            super().__init__()
            self.facet, self.value = facet, value

    def __init__(self, **widget: Any) -> None:
        super().__init__(**widget)
        self._values: list[tuple[str, str] | None] = []

    def show(self, facets: Facets, asked: Wish) -> None:
        """Show other counts; what is highlighted stays that."""
        at = self.highlighted
        before = self._values[at] if at is not None and at < len(self._values) else None
        self._values = []
        options = []
        width = max(10, self.size.width - 4)
        for facet in (*FACETS, *(one for one in facets if one not in FACETS)):
            if not (values := facets.get(facet)):
                continue
            options.append(Option(Text(facet, style="bold dim"), disabled=True))
            self._values.append(None)
            for one in values:
                chosen = (facet, one.value) in asked.chosen
                name = Text(("● " if chosen else "  ") + one.name, style="bold" if chosen else "", no_wrap=True)
                count = f" {one.count:,}"
                name.truncate(max(4, width - len(count)), overflow="ellipsis", pad=True)
                options.append(Option(name.append(count, style="dim")))
                self._values.append((facet, one.value))
        self.clear_options()
        self.add_options(options)
        if before in self._values:
            self.highlighted = self._values.index(before)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Tell which value it was."""
        event.stop()
        if (value := self._values[event.option_index]) is not None:
            self.post_message(self.Toggled(*value))


class Preview(ScrollView, can_focus=True):
    """The current hit: its picture, facts about it, its text in its context, and on request why it was found."""

    BINDINGS: ClassVar[list[Any]] = [
        Binding("down,j", "scroll_down", show=False),
        Binding("up,k", "scroll_up", show=False),
        Binding("pagedown,ctrl+d", "page_down", show=False),
        Binding("pageup,ctrl+u", "page_up", show=False),
        Binding("home,g", "scroll_home", show=False),
        Binding("end,G", "scroll_end", show=False),
        Binding("right", "app.beside(1)", show=False),
        Binding("left", "app.beside(-1)", show=False),
    ]

    def __init__(self, graphics: Graphics, **widget: Any) -> None:
        super().__init__(**widget)
        self.easel = Easel(graphics, _SENT)
        self.overlay = Overlay(self, graphics, self._placed)
        self._picture: tuple[Pixels, Region] | None = None
        self.hit: Hit | None = None
        self.pixels: Pixels | None = None
        self.more: Detail | None = None
        self.reason: Reason | str | None = None
        self._lines: list[Strip] = []
        self._own_line = 0

    def show(self, hit: Hit | None, pixels: Pixels | None = None, more: Detail | None = None,
             reason: Reason | str | None = None) -> None:  # fmt: skip
        """Show a hit with all that is known of it by now."""
        other = hit is None or self.hit is None or hit.id != self.hit.id
        fresh = self.more is None and more is not None
        self.hit, self.pixels, self.more, self.reason = hit, pixels, more, reason
        self._lay_out()
        if other:
            self.scroll_home(animate=False, immediate=True)
        if fresh and self._own_line > self.size.height // 2:
            self.scroll_to(y=self._own_line - _LEAD, animate=False, immediate=True)

    def on_resize(self) -> None:
        """Lay out anew; the characters may have another size, too."""
        self.easel.graphics.measure()
        self._lay_out()

    def on_sixel_drawn(self, message: SixelDrawn) -> None:
        """Draw the picture sharply."""
        self.overlay.take(message)

    def on_unmount(self) -> None:
        """End the thread."""
        self.overlay.close()

    def render_lines(self, crop: Region) -> list[Strip]:
        """Draw some lines, and the picture sharply once they rest."""
        self.overlay.touched()
        return super().render_lines(crop)

    def _placed(self) -> tuple[Pixels, Region] | None:
        """The whole picture's pixels, and where it is on the screen, if all of it can be seen."""
        if self._picture is None or not self.is_on_screen:
            return None
        pixels, lines = self._picture
        inside = self.scrollable_content_region
        region = lines.translate(inside.offset - self.scroll_offset)
        return (pixels, region) if inside.contains_region(region) else None

    def render_line(self, y: int) -> Strip:
        """Draw one line of the screen."""
        at = y + self.scroll_offset.y
        line = self._lines[at] if at < len(self._lines) else Strip.blank(self.size.width)
        return line.adjust_cell_length(self.size.width).apply_style(self.rich_style)

    def _lay_out(self) -> None:
        """Draw the lines that differ from those before, and no others: a picture is much to send over a slow line."""
        before, width = self._lines, max(1, self.size.width - 1)
        self._lines = [] if self.hit is None else list(self._drawn(self.hit, width))
        self.virtual_size = Size(self.size.width, len(self._lines))
        pairs = zip_longest(before, self._lines)
        self.refresh(*(self._on_screen(at) for at, (old, new) in enumerate(pairs) if old != new))

    def _on_screen(self, line: int) -> Region:
        return Region(0, line - self.scroll_offset.y, self.size.width, 1)

    def _drawn(self, hit: Hit, width: int) -> list[Strip]:
        lines: list[Strip] = []
        self._own_line = 0
        self._picture = None
        more = self.more or Detail()
        if self.reason is not None:
            lines += self._wrapped(_reason_text(hit, self.reason), width)
            lines.append(Strip([]))
        graphics = self.easel.graphics
        if graphics.how != "none" and self.pixels is not None:
            height = max(4, self.size.height - 5)
            rows = int(height * _MOST_PICTURE) if more.passage.lines or self.reason is not None else height
            drawn = self.easel.rows(hit.id, self.pixels, width, rows)
            across = fit(self.pixels.shape[1], self.pixels.shape[0], graphics.cell_shape, width, rows)[0]
            self._picture = self.pixels, Region(0, len(lines), across, len(drawn))
            lines += map(Strip, drawn)
            lines.append(Strip([]))
        name, folder = drawing.name_and_folder(hit.path)
        head = Text().append(name + "\n", style=BOLD).append(hit.kind + " ", style=KIND_STYLES[hit.kind])
        lines += self._wrapped(head.append(folder, style=DIM), width)
        for what, value in more.facts:
            lines += self._wrapped(Text(f"{what} ", style=DIM).append(value, style=""), width)
        if more.passage.lines:
            lines.append(Strip([]))
            first, behind = more.passage.own
            for number, (line, marks) in enumerate(zip(more.passage.lines, more.passage.marks, strict=True)):
                self._own_line = len(lines) if number == first else self._own_line
                own = first <= number < behind or len(more.passage.lines) == behind - first
                lines += self._wrapped(marked_text(line, marks, "" if own else DIM), width)
        return lines

    def _wrapped(self, text: Text, width: int) -> list[Strip]:
        console = self.app.console
        text.overflow = "fold"
        found = []
        for line in text.wrap(console, width) or [Text()]:
            found.append(Strip([one for one in line.render(console) if one.text != "\n"]))
        return found


def _reason_text(hit: Hit, reason: Reason | str) -> Text:
    """Why a hit was found, for people."""
    text = Text().append("Why it was found\n", style=BOLD)
    own = hit if isinstance(reason, str) else reason.hit
    if own.rank:
        text.append(f"score {own.score:.2f} ", style="").append(bar(own.score, _BAR), style="green")
        text.append("  0 to 1, of what follows\n", style=DIM)
        if own.similarity:
            text.append(f"meaning {own.similarity:.2f}").append("  cosine with the query\n", style=DIM)
        text.append(f"words {own.words:.2f}").append("  share of the query's words\n", style=DIM)
        if own.route_similarity:
            text.append(f"routes {own.route_similarity:+.2f}")
            text.append("  likeness in use of experts\n", style=DIM)
    if isinstance(reason, str):
        return text.append(reason, style=DIM)
    if reason.experts:
        text.append("Experts that both use much\n", style=BOLD)
        for name, part, meaning in reason.experts:
            block, _, expert = name[1:].partition("e")
            text.append(f"{shown(name)} {part:+.2f}")
            text.append(f"  expert {expert} of block {block}" + (f": {meaning}" if meaning else "") + "\n", style=DIM)
        text.append("The percentage says how many of these use it most.", style=DIM)
    return text.append(reason.remark, style=DIM)


class Foot(Static):
    """The lines at the foot: how things are, and the keys of the pane that has them."""

    def __init__(self, **widget: Any) -> None:
        super().__init__(**widget)
        self.status, self.error, self.keys = "", "", ""

    def tell(self, status: str | None = None, error: str | None = None, keys: str | None = None) -> None:
        """Show other words, safe to show; None leaves the old ones."""
        self.status = self.status if status is None else status
        self.error = self.error if error is None else error
        self.keys = self.keys if keys is None else keys
        first = Text(self.error, style="bold red") if self.error else Text(self.status)
        last = Text(self.keys, style="dim")
        width = max(10, self.size.width - 2)
        if self.error and first.cell_len > width:
            # What went wrong matters more than the keys.
            first = first.wrap(self.app.console, width)[0]
            last = Text(self.error[len(first) :].strip(), style="bold red")
        for line in (first, last):
            line.truncate(width, overflow="ellipsis")
        self.update(first.append("\n").append(last), layout=False)

    def on_resize(self) -> None:
        """Cut the words anew."""
        self.tell()
