"""Lines of a terminal: text that fits, pictures as half blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len, set_cell_size
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from tsembed_search.cli.render.protocols import fit
from tsembed_search.cli.render.text import shortened
from tsembed_search.wording import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.search.snippet import Span

    Pixels = NDArray[np.uint8]

MARKED: Final = Style.parse("bold black on bright_yellow")
DIM: Final = Style.parse("dim")
BOLD: Final = Style.parse("bold")
KIND_STYLES: Final = {"image": Style.parse("magenta"), "text": Style.parse("cyan"), "page": Style.parse("yellow")}
_LONGEST: Final = 2000  # characters of a line that are looked at


def half_block_rows(pixels: Pixels, columns: int, rows: int, cell_shape: float = 2.0) -> list[list[Segment]]:
    """Draw RGB pixels `[H, W, 3]` into at most so many cells, two pixels in each; the shape stays.

    Every row is `columns` wide, and the picture is at its left. `cell_shape` is a cell's height over its width.
    """
    import numpy as np
    from PIL import Image

    across, down = fit(pixels.shape[1], pixels.shape[0], cell_shape, columns, rows)
    small = np.asarray(Image.fromarray(pixels).resize((across, 2 * down), Image.Resampling.BOX))
    rest = [Segment(" " * (columns - across))] if across < columns else []
    return [
        [*(_cell(*above, *below) for above, below in zip(upper, lower, strict=True)), *rest]
        for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True)
    ]


def _cell(red: int, green: int, blue: int, red2: int, green2: int, blue2: int) -> Segment:
    style = Style(color=Color.from_rgb(red, green, blue), bgcolor=Color.from_rgb(red2, green2, blue2))
    return Segment("▀", style)


def fitted(text: str, width: int, style: Style | None = None) -> list[Segment]:
    """Return a text, safe to show already, as exactly `width` cells: cut with `…`, or filled up."""
    text = text[:_LONGEST]
    if cell_len(text) > width:
        text = set_cell_size(text, max(0, width - 1)) + "…" if width else ""
    return [Segment(set_cell_size(text, width), style)]


def marked_text(source: str, marks: Sequence[Span], style: Style | str = "") -> Text:
    """Return a text, made safe piece by piece, with the query's words marked."""
    text, at = Text(style=style), 0
    for start, end in marks:
        text.append(shown(source[at:start]))
        text.append(shown(source[start:end]), style=MARKED)
        at = end
    return text.append(shown(source[at:]))


def name_and_folder(path: str) -> tuple[str, str]:
    """Return a file's name and its folder, both safe to show; the folder is shortened below the current one."""
    folder, _, name = path.rpartition("/")
    near = shortened(path).rpartition("/")[0]
    return shown(name or path), shown(near or ("." if shortened(path) != path else folder or "/"))
