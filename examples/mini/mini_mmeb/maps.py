"""Maps: Debian's kgeography-data (GPL-2+), 154 pictures whose colours key regions, drawn anew with some marked."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mini_mmeb.packages import Packages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

COLOURS: Final = {
    "red": (214, 39, 40), "blue": (31, 80, 200), "green": (44, 150, 60), "yellow": (245, 215, 40),
    "purple": (130, 60, 180), "orange": (255, 140, 0), "pink": (245, 130, 190), "brown": (120, 75, 35),
}  # fmt: skip
"""What regions are marked with."""
_LAND: Final = (236, 232, 218)
_ELSEWHERE: Final = (205, 205, 205)
_WATER: Final = (222, 238, 250)
_BORDER: Final = (90, 90, 90)
_SMALLEST_SHARE: Final = 0.002
_LARGEST_SHARE: Final = 0.35


@dataclass(frozen=True)
class Region:
    """A named region. `box`: left, top, right, bottom in pixels. `pixels`: how many it has."""

    name: str
    capital: str
    colour: int
    box: tuple[int, int, int, int]
    centre: tuple[float, float]
    pixels: int


@dataclass(frozen=True)
class Map:
    """A map: each pixel's key `[H, W]` (its colour as one number), the keys of what is no region, and the regions."""

    key: str
    country: str
    keys: NDArray[np.int32]
    water: frozenset[int]
    elsewhere: frozenset[int]
    border: frozenset[int]
    regions: tuple[Region, ...]

    @cached_property
    def plain(self) -> NDArray[np.uint8]:
        """The map `[H, W, 3]` with nothing marked."""
        import numpy as np

        picture = np.empty((*self.keys.shape, 3), np.uint8)
        picture[:] = _LAND
        for keys, colour in ((self.water, _WATER), (self.elsewhere, _ELSEWHERE), (self.border, _BORDER)):
            if keys:
                picture[np.isin(self.keys, list(keys))] = colour
        return picture


def map_files(packages: Packages) -> list[Path]:
    """The descriptions of the maps."""
    return sorted((packages.debian("kgeography-data") / "usr/share/kgeography").glob("*.kgm"))


def country(file: Path) -> str:
    """What files of the same country share of their names: one side of the split for all of them."""
    return re.split(r"[_-]|(?<=[a-z])districts", file.stem)[0]


def read(file: Path) -> Map:
    """The map of a description, with the regions that are neither specks nor most of it."""
    import numpy as np
    from PIL import Image

    root = ET.parse(file).getroot()
    with Image.open(file.parent / (root.findtext("mapFile") or "").strip()) as picture:
        pixels = np.asarray(picture.convert("RGB"), np.int32)
    keys = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    water, elsewhere, border, regions = set(), set(), set(), []
    for division in root.iter("division"):
        name = " ".join((division.findtext("name") or "").split())
        key = _key(division)
        if (division.findtext("ignore") or "").strip() in ("", "no"):
            region = _region(name, " ".join((division.findtext("capital") or "").split()), key, keys)
            if region is not None:
                regions.append(region)
        elif re.search(r"water|sea|ocean|lake", name, re.IGNORECASE):
            water.add(key)
        elif re.search(r"frontier|border|coast", name, re.IGNORECASE):
            border.add(key)
        else:
            elsewhere.add(key)
    title = " ".join((root.findtext("name") or file.stem).split())
    return Map(file.stem, title, keys, frozenset(water), frozenset(elsewhere), frozenset(border), tuple(regions))


def _key(division: ET.Element) -> int:
    red, green, blue = (int(division.findtext(f"color/{part}") or 0) for part in ("red", "green", "blue"))
    return red << 16 | green << 8 | blue


def _region(name: str, capital: str, key: int, keys: NDArray[np.int32]) -> Region | None:
    import numpy as np

    rows, columns = np.nonzero(keys == key)
    if not name or not _SMALLEST_SHARE <= len(rows) / keys.size <= _LARGEST_SHARE:
        return None
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return Region(name, capital, key, box, (float(columns.mean()), float(rows.mean())), len(rows))


def drawn(drawing: Map, marks: Mapping[int, str]) -> Image.Image:
    """The map with some regions in colours (by their key) and all others plain."""
    from PIL import Image

    picture = drawing.plain.copy()
    for key, name in marks.items():
        picture[drawing.keys == key] = COLOURS[name]
    return Image.fromarray(picture)


def cut(drawing: Map, region: Region, colour: str, margin: float = 0.15) -> Image.Image:
    """The part of the map around a region, which is marked in it."""
    left, top, right, bottom = region.box
    wide, high = max(8, round((right - left) * margin)), max(8, round((bottom - top) * margin))
    height, width = drawing.keys.shape
    box = (max(0, left - wide), max(0, top - high), min(width, right + wide), min(height, bottom + high))
    return drawn(drawing, {region.colour: colour}).crop(box)


def place(region: Region, others: tuple[Region, ...]) -> str:
    """Where a region lies among all of a map's: `north-west`, `centre`, ..."""
    x, y = (_third(region.centre[axis], [one.centre[axis] for one in others]) for axis in (0, 1))
    return "-".join(part for part in (("north", "", "south")[y], ("west", "", "east")[x]) if part) or "centre"


def _third(at: float, everyone: list[float]) -> int:
    low, high = min(everyone), max(everyone)
    share = (at - low) / (high - low) if high > low else 0.5
    return 0 if share < 1 / 3 else 2 if share > 2 / 3 else 1
