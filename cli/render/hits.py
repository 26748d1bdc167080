"""A list of hits in a terminal, with thumbnails: kitty's protocol, sixel (iTerm2 knows it, too), else half blocks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from random import randint
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.padding import Padding
from rich.segment import ControlType, Segment, SegmentLines, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tsembed_search.cli.render import protocols, terminal
from tsembed_search.cli.render.text import bar, console, path_text
from tsembed_search.errors import UsageError
from tsembed_search.paths import file_path
from tsembed_search.wording import count_words, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage

    from tsembed_search.search.results import Hit

    Pixels = NDArray[np.uint8]

COLUMNS, ROWS = 16, 6
"""The most character cells that a thumbnail takes."""
_GAP = 2
_LEAST_WIDTH = 50  # of a terminal, for thumbnails
_BAR = 10
_MOST_NUMBER: Final = 1 << 23  # of the first picture for kitty: more than any other program is likely to count up to
_KIND_STYLES = {"image": "magenta", "text": "cyan", "page": "yellow"}


class Drawer(NamedTuple):
    """Draws thumbnails: `draw` turns RGB pixels `[H, W, 3]` into a renderable.

    A terminal that `overlays` draws a picture over what is already there (sixel). Rich cannot lay that out in columns,
    so the words are printed first, indented, and then the picture into the free space.
    """

    draw: Callable[[Pixels], RenderableType]
    overlays: bool = False


def print_hits(
    hits: Sequence[Hit], drawer: Drawer | None = None, on: Console | None = None, *, explain: bool = False
) -> None:
    """Print the list: rank, score, place, kind, snippet, and a thumbnail where there is one and room for it; a heading
    where good matches end and weaker ones begin. `explain`: also what each score is made of.
    """
    screen = on or console()
    headings = _headings(hits)
    if drawer is None or screen.width < _LEAST_WIDTH:
        for hit in hits:
            screen.print(headings.get(hit.rank, ""), end="")
            screen.print(hit_text(hit, len(hits), explain=explain))
            if hit is not hits[-1]:
                screen.print()
        return
    pixels = thumbnails(hits)
    for hit in hits:
        screen.print(headings.get(hit.rank, ""), end="")
        picture = drawer.draw(pixels[hit.rank]) if hit.rank in pixels else None
        if drawer.overlays:
            _print_over(screen, picture, hit_text(hit, len(hits), explain=explain))
            continue
        row = Table.grid(padding=(0, _GAP, 0, 0), expand=True)
        row.add_column(width=COLUMNS)
        row.add_column(ratio=1)
        row.add_row(picture or "", hit_text(hit, len(hits), explain=explain))
        screen.print(row)
        screen.print()


def _headings(hits: Sequence[Hit]) -> dict[int, Text]:
    """The headings above some hits, by rank: where a part of good matches or of weaker ones begins, if both are."""
    good = sum(hit.good for hit in hits)
    if good in (0, len(hits)):
        return {}
    matches = Text(count_words(good, "good match", "good matches") + "\n", style="bold green")
    weaker = Text(f"{len(hits) - good} weaker\n", style="bold")
    starts = [hit for at, hit in enumerate(hits) if at == 0 or hit.good != hits[at - 1].good]
    return {hit.rank: matches if hit.good else weaker for hit in starts}


def _print_over(screen: Console, picture: RenderableType | None, words: RenderableType) -> None:
    lines = screen.render_lines(Padding(words, (0, 0, 0, COLUMNS + _GAP)))
    screen.print(SegmentLines(lines, new_lines=True), end="")
    height = len(lines) if picture is None else max(len(lines), ROWS)
    below = height - len(lines) + 1
    screen.print("\n" * below, end="")
    if picture is not None:
        segments = list(screen.render(picture))
        drawn = sum(segment.text.count("\n") for segment in segments if not segment.control)
        screen.control(Control.move(0, -(len(lines) + below)))
        screen.print(Segments(segments), end="")
        screen.control(Control.move(0, len(lines) + below - drawn))


def hit_text(hit: Hit, of: int, *, explain: bool = False) -> RenderableType:
    """Return all words of one hit in two columns: its rank, and everything else line by line."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=len(str(of)), justify="right", no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    facts = Text.assemble((f"{hit.score:.2f} ", "bold"), (bar(hit.score, _BAR), "green on grey15"), " ", *_facts(hit))
    body = [path_text(hit.path, style="bold"), facts]
    body += [Text.assemble(*_made_of(hit), overflow="fold")] if explain else []
    body += [_snippet(hit)] if hit.snippet else []
    grid.add_row(Text(str(hit.rank), style="dim"), Group(*body))
    return grid


def _snippet(hit: Hit) -> Text:
    """The snippet with the query's words marked. Escaping may lengthen it, so it is done piece by piece."""
    text, at = Text(overflow="fold"), 0
    source = hit.snippet or ""
    for start, end in hit.marks:
        text.append(shown(source[at:start]))
        text.append(shown(source[start:end]), style="bold black on bright_yellow")
        at = end
    return text.append(shown(source[at:]))


def _facts(hit: Hit) -> Iterator[Text | tuple[str, str]]:
    yield hit.kind, _KIND_STYLES[hit.kind]
    if hit.offline:
        yield " · offline", "bold yellow"
    for part in hit.place:
        yield f" · {part}", "dim"
    if hit.also_at:
        yield " · also at ", "dim"
        yield path_text(hit.also_at[0], style="dim")
        if len(hit.also_at) > 1:
            yield f" and {count_words(len(hit.also_at) - 1, 'more place')}", "dim"


def _made_of(hit: Hit) -> Iterator[tuple[str, str]]:
    """The numbers behind the score; the experts that the query shares stand out."""
    numbers = [f"similarity {hit.similarity:.2f}"] if hit.similarity else []  # none: it was found by words alone
    numbers += [f"words {hit.words:.2f}"] if hit.words else []
    experts = list(dict.fromkeys([*hit.shared_experts, *hit.top_experts]))[:3] if hit.similarity else []
    numbers += [f"routes {hit.route_similarity:+.2f}", "experts"] if experts else []
    yield " · ".join(numbers), "dim"
    for name in experts:
        yield " " + shown(name), "bold green" if name in hit.shared_experts else "dim"


def describe_terminal() -> str:
    """Say in words how thumbnails would be shown."""
    chosen = drawer(None)
    if chosen is None:
        return "none (not a terminal, or one without colours)"
    if chosen.draw is half_blocks:
        return "half-block characters (the terminal knows neither kitty's protocol nor sixel)"
    return "sixel" if chosen.overlays else "kitty's graphics protocol"


def drawer(wanted: bool | None) -> Drawer | None:
    """Return the drawer for this terminal, or None for no thumbnails. `wanted`: `--images`, `--no-images` or neither.

    The terminal is asked what it can draw, but only one that can answer: stdin and stdout are the same terminal's and
    this process is in its foreground. Raises `UsageError` for `--images` without a terminal.
    """
    if wanted is False:
        return None
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        if wanted:
            raise UsageError("--images needs a terminal that shows colours.", "Leave it out, or do not redirect.")
        return None
    if _can_ask():
        able = terminal.ask()
        shape = _cell_size(able)
        if able.best == "sixel":
            return Drawer(partial(_sixel, cell=shape), overlays=True)
        if able.best == "kitty" and console().color_system == "truecolor":  # a colour says which picture it is
            return Drawer(partial(_placeholders, cell=shape, numbers=count(randint(1, _MOST_NUMBER))))
    if os.environ.get("NO_COLOR") and not wanted:
        return None
    return Drawer(half_blocks)


def _can_ask() -> bool:
    if not sys.stdin.isatty() or sys.__stdin__ is not sys.stdin or sys.__stdout__ is not sys.stdout:
        return False
    if os.name == "nt":
        return True
    try:
        # A terminal without a size cannot tell how large a cell is either.
        return os.tcgetpgrp(0) == os.getpgrp() and os.get_terminal_size(1).columns > 0
    except OSError:
        return False


def _cell_size(able: terminal.Abilities) -> tuple[int, int]:
    return terminal.cell_size(1) or able.cell or terminal.DEFAULT_CELL


def _placeholders(pixels: Pixels, cell: tuple[int, int], numbers: Iterator[int]) -> RenderableType:
    """Send a picture to a terminal that knows kitty's protocol; return the text in whose place it is drawn."""
    (columns, rows), picture = _fitted(pixels, cell)
    number = next(numbers)
    sys.stdout.write(protocols.kitty_picture(number, picture, columns, rows))
    sys.stdout.flush()
    style = Style(color=Color.from_rgb(*protocols.kitty_colour(number)))
    lines = "\n".join(protocols.kitty_row(row, columns) for row in range(rows))
    return Text(lines, style, no_wrap=True)


def _sixel(pixels: Pixels, cell: tuple[int, int]) -> RenderableType:
    """Sixel from the cursor on, which stays where it is."""
    _, picture = _fitted(pixels, cell)
    return Segments([Segment(f"\x1b7{protocols.sixel(picture)}\x1b8", control=[(ControlType.CURSOR_FORWARD, 0)])])


def _fitted(pixels: Pixels, cell: tuple[int, int]) -> tuple[tuple[int, int], PILImage]:
    """The columns and rows that a picture takes, and the picture in the pixels of these."""
    columns, rows = protocols.fit(pixels.shape[1], pixels.shape[0], cell[1] / cell[0], COLUMNS, ROWS)
    return (columns, rows), protocols.scaled(pixels, columns * cell[0], rows * cell[1])


def half_blocks(pixels: Pixels) -> Text:
    """RGB pixels `[H, W, 3]` as characters: what any terminal with colours can show."""
    import numpy as np
    from PIL import Image

    columns, rows = protocols.fit(pixels.shape[1], pixels.shape[0], 2.0, COLUMNS, ROWS)
    small = Image.fromarray(pixels).resize((columns, 2 * rows), Image.Resampling.LANCZOS)
    return cells(np.asarray(small))


def cells(pixels: Pixels) -> Text:
    """Draw RGB pixels `[2 · rows, columns, 3]`, two in a cell: the upper as its foreground, the lower behind it."""
    drawn = Text(no_wrap=True)
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            drawn.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        drawn.append("\n")
    drawn.right_crop(1)
    return drawn


def thumbnails(hits: Sequence[Hit]) -> dict[int, Pixels]:
    """Small pictures of hits, by rank, uint8 RGB `[H, W, 3]`: of picture files and their pages, and of pages of PDFs.

    Texts have none, nor have files that cannot be read now.
    """
    from tsembed_search.documents import decoders

    # A picture in a text has no page; a picture file is shown itself.
    places = {
        hit.rank: (file_path(hit.path), hit.page or 1)
        for hit in hits
        if hit.page is not None or (hit.kind == "image" and hit.chunk is None)
    }
    drawn = decoders.thumbnails(places.values())
    return {rank: drawn[place] for rank, place in places.items() if place in drawn}
