"""Emoji in three drawing styles with one set of labels, which their code points join.

Fluent 3D (npm, MIT), labels and subgroups of emojibase (npm, MIT), OpenMoji in colour and in black outlines (npm,
CC-BY-SA-4.0). Variants by skin tone are left out: one label differs from the next by its tone alone.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mini_mmeb.packages import Packages
from tsembed_search.errors import LoadError


@dataclass(frozen=True)
class Emoji:
    """An emoji. `code`: its code points, without variation selectors; `picture`: its file in one style."""

    code: str
    label: str
    tags: tuple[str, ...]
    subgroup: str
    picture: Path


def fluent(packages: Packages) -> list[Emoji]:
    """The emoji in Fluent's 3D style, by code."""
    folder = packages.npm("@lobehub/fluent-emoji-3d@1.1.0")
    files = {code(file.stem): file for file in sorted(folder.rglob("*.webp"))}
    return [Emoji(*words, files[words[0]]) for words in labels(packages) if words[0] in files and words[3]]


def openmoji(packages: Packages, style: str) -> list[Emoji]:
    """The emoji in OpenMoji's style: `color` or `black`. The files are SVG."""
    folder = packages.npm("openmoji@17.0.0") / style / "svg"
    files = {code(file.stem): file for file in sorted(folder.glob("*.svg"))}
    return [Emoji(*words, files[words[0]]) for words in labels(packages) if words[0] in files and words[3]]


def labels(packages: Packages) -> list[tuple[str, str, tuple[str, ...], str]]:
    """(code, label, tags, subgroup) of every emoji; what is only part of others has no subgroup."""
    folder = packages.npm("emojibase-data@17.0.0")
    groups: dict[str, str] = json.loads((folder / "meta/groups.json").read_text("utf-8"))["subgroups"]
    entries: list[dict[str, Any]] = json.loads((folder / "en/data.json").read_text("utf-8"))
    return sorted(
        (
            code(entry["hexcode"]),
            entry["label"],
            tuple(entry.get("tags", ())),
            groups[str(entry["subgroup"])] if "subgroup" in entry else "",
        )
        for entry in entries
    )


def code(name: str) -> str:
    """A hexcode in lower case without its variation selectors: how the packages' names meet."""
    return name.lower().replace("-fe0f", "")


def render_svg(file: Path, size: int = 256) -> bytes:
    """A drawing as the bytes of a PNG of that many pixels. Raises `LoadError` when `resvg_py` is not installed."""
    try:
        import resvg_py
    except ImportError:
        raise LoadError("Drawings in SVG need resvg_py.", "Install it with `pip install resvg_py`.") from None
    return bytes(resvg_py.svg_to_bytes(svg_path=str(file), width=size, height=size))


@dataclass(frozen=True)
class Composed:
    """A picture and a word that ask for another: both are places in the labels given."""

    picture: int
    word: str
    answer: int


def composed(titles: Sequence[str], most_per_frame: int = 6) -> list[Composed]:
    """Joint queries: where two labels differ in one word ("green apple", "red apple"), the picture of one with the word
    of the other asks for the other. A frame ("_ apple") that many words fill gives at most `most_per_frame` queries.
    """
    frames: dict[tuple[str, ...], list[tuple[int, str]]] = defaultdict(list)
    for index, title in enumerate(titles):
        words = re.findall(r"[a-z]+", title.lower())
        if ":" in title or not 2 <= len(words) <= 3:
            continue
        for place, word in enumerate(words):
            if len(word) > 2:
                frames[(*words[:place], "_", *words[place + 1 :])].append((index, word))
    queries = []
    for fillers in frames.values():
        pairs = [(a, b) for a in fillers for b in fillers if a[0] != b[0]]
        step = max(1, len(pairs) // most_per_frame)
        for (index, _), (answer, word) in pairs[::step][:most_per_frame]:
            queries.append(Composed(index, word, answer))
    return queries
