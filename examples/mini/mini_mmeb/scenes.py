"""Scenes: a few drawings laid out on one sheet, to ask about and to point into."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL import Image

SIDE: Final = 320
CROP_SIDE: Final = 128
PLACES: Final = (
    "top left", "top middle", "top right", "middle left", "middle", "middle right", "bottom left", "bottom middle",
    "bottom right",
)  # fmt: skip
"""The nine cells of a sheet, row by row."""
_CELL: Final = SIDE // 3
_INKED: Final = [0] * 12 + [255] * 244
_PAPERS: Final = ((255, 255, 255), (252, 247, 236), (238, 246, 252), (240, 250, 238), (252, 240, 244))


@dataclass(frozen=True)
class Thing:
    """A drawing on a sheet. `name`: what it is called; `picture`: its place in the pictures given; `cell`: 0 to 8.
    `box`: left, top, right, bottom in pixels of the sheet: at most so much of it is the drawing.
    """

    name: str
    picture: int
    cell: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A sheet's colour and its things, in order of their cells."""

    paper: tuple[int, int, int]
    things: tuple[Thing, ...]


def planned(names: Sequence[str], draw: random.Random, least: int = 3, most: int = 5) -> Scene:
    """A scene of some of the things named, no name twice. `names[i]` is what picture i shows; at least `most` names."""
    wanted = draw.randint(least, most)
    chosen: dict[str, int] = {}
    for picture in draw.sample(range(len(names)), min(len(names), 4 * wanted)):
        if len(chosen) < wanted:
            chosen.setdefault(names[picture].lower(), picture)
    cells = sorted(draw.sample(range(9), len(chosen)))
    things = []
    for cell, picture in zip(cells, chosen.values(), strict=True):
        size = draw.randint(round(_CELL * 0.78), round(_CELL * 0.96))
        left = cell % 3 * _CELL + draw.randint(0, _CELL - size)
        top = cell // 3 * _CELL + draw.randint(0, _CELL - size)
        things.append(Thing(names[picture], picture, cell, (left, top, left + size, top + size)))
    return Scene(draw.choice(_PAPERS), tuple(things))


def composed(scene: Scene, pictures: Sequence[Image.Image]) -> Image.Image:
    """The sheet `[320, 320]`. `pictures`: those of its things, in their order, in RGB on white."""
    from PIL import Image, ImageChops

    sheet = Image.new("RGB", (SIDE, SIDE), scene.paper)
    for thing, picture in zip(scene.things, pictures, strict=True):
        left, top, right, bottom = thing.box
        # Margins of white would leave some things as specks.
        picture = picture.crop(ImageChops.invert(picture.convert("L")).point(_INKED).getbbox())
        scale = min((right - left) / picture.width, (bottom - top) / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        small = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        at = (left + (right - left - size[0]) // 2, top + (bottom - top - size[1]) // 2)
        below = sheet.crop((*at, at[0] + size[0], at[1] + size[1]))
        # Multiplied, white paper around a drawing becomes the sheet's.
        sheet.paste(ImageChops.multiply(below, small), at)
    return sheet


def crop(sheet: Image.Image, thing: Thing) -> Image.Image:
    """The part of a sheet that shows a thing."""
    return sheet.crop(thing.box)
