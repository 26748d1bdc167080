"""Pictures in the protocols of terminals: sixel, and kitty's, whose placeholders scroll and are clipped as text is."""

from __future__ import annotations

import base64
import io
import re
from itertools import chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as Pictures

    Pixels = NDArray[np.uint8]

PLACEHOLDER: Final = "\U0010eeee"
"""The character in whose place kitty draws a part of a picture."""
_CHUNK: Final = 4096
_BAND: Final = 6  # rows of pixels that a character of sixel holds
_COLOURS: Final = 128
_LONG_RUN: Final = re.compile(rb"(.)\1{3,}", re.DOTALL)
# The marks that number the rows and columns of placeholders, in the order of kitty's protocol.
_MARKS: Final = (
    "305 30d-30e 310 312 33d-33f 346 34a-34c 350-352 357 35b 363-36f 483-487 592-595 597-599 59c-5a1 5a8-5a9 5ab-5ac "
    "5af 5c4 610-617 657-65b 65d-65e 6d6-6dc 6df-6e2 6e4 6e7-6e8 6eb-6ec 730 732-733 735-736 73a 73d 73f-741 743 745 "
    "747 749-74a 7eb-7f1 7f3 816-819 81b-823 825-827 829-82d 951 953-954 f82-f83 f86-f87 135d-135f 17dd 193a 1a17 "
    "1a75-1a7c 1b6b 1b6d-1b73 1cd0-1cd2 1cda-1cdb 1ce0 1dc0-1dc1 1dc3-1dc9 1dcb-1dcc 1dd1-1de6 1dfe 20d0-20d1 "
    "20d4-20d7 20db-20dc 20e1 20e7 20e9 20f0 2cef-2cf1 2de0-2dff a66f a67c-a67d a6f0-a6f1 a8e0-a8f1 aab0 aab2-aab3 "
    "aab7-aab8 aabe-aabf aac1 fe20-fe26 10a0f 10a38 1d185-1d189 1d1aa-1d1ad 1d242-1d244"
)


def _numbered(marks: str) -> str:
    ends = ([int(end, 16) for end in one.split("-")] for one in marks.split())
    return "".join(map(chr, chain.from_iterable(range(end[0], end[-1] + 1) for end in ends)))


MARKS: Final = _numbered(_MARKS)
"""The mark of each row and column, from 0. There are no more of either."""


def scaled(pixels: Pixels, width: int, height: int) -> Pictures.Image:
    """Return RGB pixels `[H, W, 3]` as a picture of that size in pixels."""
    from PIL import Image

    return Image.fromarray(pixels).resize((max(1, width), max(1, height)), Image.Resampling.LANCZOS)


def kitty_picture(number: int, picture: Pictures.Image, columns: int, rows: int) -> str:
    """Send a picture, to be drawn where placeholders of that `number` are (1 to 2^24 - 1), over so many cells."""
    packed = io.BytesIO()
    picture.save(packed, "png", compress_level=4)
    data = base64.standard_b64encode(packed.getvalue()).decode()
    keys = f"a=T,U=1,i={number},f=100,c={columns},r={rows},q=2,"
    parts = []
    for start in range(0, len(data), _CHUNK):
        more = int(start + _CHUNK < len(data))
        parts.append(f"\x1b_G{keys}m={more};{data[start : start + _CHUNK]}\x1b\\")
        keys = "q=2,"
    return "".join(parts)


def kitty_row(row: int, columns: int) -> str:
    """Return the placeholders of a row, from 0. Their colour is to be `kitty_colour` of the number."""
    return "".join(f"{PLACEHOLDER}{MARKS[row]}{MARKS[column]}" for column in range(columns))


def kitty_colour(number: int) -> tuple[int, int, int]:
    """Return the colour (red, green, blue) that tells whose placeholders they are."""
    return number >> 16 & 255, number >> 8 & 255, number & 255


def kitty_forget(number: int) -> str:
    """Take a picture off the screen, and out of the terminal's memory."""
    return f"\x1b_Ga=d,d=I,i={number},q=2\x1b\\"


def through_tmux(commands: str) -> str:
    """Wrap kitty's commands so that tmux hands them on, where its option `allow-passthrough` is on."""
    own = [one for one in commands.split("\x1b\\") if one]
    return "".join("\x1bPtmux;" + f"{one}\x1b\\".replace("\x1b", "\x1b\x1b") + "\x1b\\" for one in own)


def sixel(picture: Pictures.Image) -> str:
    """Draw a picture from the cursor on, to its right and downwards."""
    import numpy as np

    few = picture.quantize(_COLOURS)
    places = np.asarray(few)
    palette = few.getpalette() or []
    parts = [f'\x1bP0;1;0q"1;1;{few.width};{few.height}'.encode()]
    for colour in np.unique(places).tolist():
        red, green, blue = (round(part / 2.55) for part in palette[3 * colour : 3 * colour + 3])
        parts.append(f"#{colour};2;{red};{green};{blue}".encode())
    for top in range(0, few.height, _BAND):
        band = places[top : top + _BAND]
        weights = np.repeat(1 << np.arange(len(band)), few.width)
        at = band.astype(np.intp) * few.width + np.arange(few.width)  # [rows, W]: in a table of colours by columns
        bits = np.bincount(at.ravel(), weights, _COLOURS * few.width).astype(np.uint8).reshape(_COLOURS, -1)
        for colour in np.flatnonzero(bits.any(axis=1)).tolist():
            drawn = np.flatnonzero(bits[colour])
            first, behind = int(drawn[0]), int(drawn[-1]) + 1
            line = _LONG_RUN.sub(_shortened, (bits[colour, first:behind] + 63).tobytes())
            parts.append(b"#%d" % colour + (b"!%d?" % first if first else b"") + line + b"$")
        parts.append(b"-")
    return (b"".join(parts) + b"\x1b\\").decode("ascii")


def _shortened(run: re.Match[bytes]) -> bytes:
    return b"!%d%s" % (len(run[0]), run[1])


def fit(width: int, height: int, cell_shape: float, columns: int, rows: int) -> tuple[int, int]:
    """Return the columns and rows, at most so many, that a picture of that shape fills.

    `cell_shape` is a character's height over its width.
    """
    scale = min(columns / width, rows * cell_shape / height)
    return max(1, min(columns, round(width * scale))), max(1, min(rows, round(height * scale / cell_shape)))
