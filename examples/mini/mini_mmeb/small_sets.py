"""Small labelled sets that need little more than reading: easy-VQA, Fashion-MNIST, GIMP's manual, Tux Paint stamps."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mini_mmeb.packages import Packages
from tsembed_search.errors import LoadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLOTHES: Final = (
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
"""Fashion-MNIST's classes, by number."""
_SMALLEST_FIGURE: Final = 2_000
_IDX_IMAGES: Final = 2051
_IDX_LABELS: Final = 2049


@dataclass(frozen=True)
class Question:
    """A question about a picture. `held_out`: the set's authors keep it for testing."""

    picture: Path
    text: str
    answer: str
    held_out: bool


def shape_questions(packages: Packages) -> list[Question]:
    """easy-VQA's questions about coloured shapes (MIT), in its order."""
    folder = packages.wheel("easy-vqa==1.0") / "easy_vqa/data"
    return [
        Question(folder / part / "images" / f"{number}.png", text, answer, part == "test")
        for part in ("train", "test")
        for text, answer, number in json.loads((folder / part / "questions.json").read_text("utf-8"))
    ]


@dataclass(frozen=True)
class Clothes:
    """Fashion-MNIST (MIT): grey pictures `[N, 28, 28]` uint8, white on black, and their classes `[N]`."""

    pictures: NDArray[np.uint8]
    classes: NDArray[np.uint8]


def clothes(packages: Packages, part: str) -> Clothes:
    """The part `train` (60,000) or `t10k` (10,000)."""
    folder = packages.debian("dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"
    pictures = idx(folder / f"{part}-images-idx3-ubyte.gz", _IDX_IMAGES)
    return Clothes(pictures, idx(folder / f"{part}-labels-idx1-ubyte.gz", _IDX_LABELS))


def idx(file: Path, magic: int) -> NDArray[np.uint8]:
    """The array of bytes in a packed IDX file: a magic number, one size per dimension, the bytes."""
    import numpy as np

    data = gzip.decompress(file.read_bytes())
    if int.from_bytes(data[:4], "big") != magic:
        raise LoadError(f"{file} is not the kind of IDX file it should be.")
    dimensions = data[3]
    shape = [int.from_bytes(data[4 + 4 * place : 8 + 4 * place], "big") for place in range(dimensions)]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


@dataclass(frozen=True)
class Figure:
    """A picture in a manual, and the words below it. `name`: where the manual has it."""

    picture: Path
    caption: str
    name: str


def manual_figures(packages: Packages) -> list[Figure]:
    """The figures of GIMP's manual (GFDL) that have a caption of their own, each picture once."""
    # The packages depend on each other; `gimp-help-common` holds no more than the licence.
    folder = packages.debian("gimp-help-en", "gimp-help-common") / "usr/share/gimp/2.0/help/en"
    seen: set[Path] = set()
    captions: set[str] = set()
    found = []
    for page in sorted(folder.glob("*.html")):
        for figure in figures(page.read_text("utf-8", "replace"), folder):
            if figure.picture in seen or figure.caption.lower() in captions or not figure.picture.is_file():
                continue
            if figure.picture.stat().st_size >= _SMALLEST_FIGURE:
                seen.add(figure.picture)
                captions.add(figure.caption.lower())
                found.append(figure)
    return found


def figures(page: str, folder: Path) -> Iterator[Figure]:
    """The pictures of a page's figures: the figure's title, and the caption of the picture if it has one."""
    from selectolax.lexbor import LexborHTMLParser

    for figure in LexborHTMLParser(page).css("div.figure"):
        node = figure.css_first("p.title")
        title = re.sub(r"^Figure [\d.]+\s*", "", _words(node.text())) if node is not None else ""
        for media in figure.css("div.mediaobject"):
            image, caption = media.css_first("img"), media.css_first("div.caption")
            source = image.attributes.get("src") if image is not None else None
            text = ". ".join(part for part in (title, _words(caption.text()) if caption is not None else "") if part)
            if source and len(text.split()) >= 2:
                name = re.sub(r"^images/|\.\w+$", "", source)
                yield Figure(folder / source, text[:200], name)


@dataclass(frozen=True)
class Stamp:
    """A cut-out picture with a sentence that says what it shows."""

    picture: Path
    caption: str
    name: str


def stamps(packages: Packages) -> list[Stamp]:
    """Tux Paint's stamps (GPL-2): mostly photographs. No letters, numbers and coins; a caption serves once."""
    folder = packages.debian("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    found: dict[str, Stamp] = {}
    for picture in sorted(folder.rglob("*.png")):
        name = picture.relative_to(folder).with_suffix("")
        words = picture.with_suffix(".txt")
        if name.parts[0] == "symbols" or picture.stem.endswith("_mirror") or not words.is_file():
            continue
        caption = _words(words.read_text("utf-8", "replace").split("\n", 1)[0])
        if len(caption) >= 3:
            found.setdefault(caption.lower(), Stamp(picture, caption, name.as_posix()))
    return list(found.values())


def _words(text: str) -> str:
    return " ".join(text.split())
