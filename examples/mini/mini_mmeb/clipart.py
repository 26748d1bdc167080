"""Clip art: Debian's openclipart, in the public domain, 7,945 drawings with titles and keywords in 22 folders."""

from __future__ import annotations

import collections
import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mini_mmeb.packages import Packages

UNSEEN_FOLDER: Final = "food"
"""The folder that training never sees."""
_MOST_USES: Final = 3
_LONGEST_TITLE: Final = 80
_HEADER: Final = 60_000
_DULL: Final = {
    "clip art",
    "clipart",
    "svg",
    "image",
    "media",
    "public domain",
    "png",
    "vector",
    "unsorted",
    "externalsource",
}


@dataclass(frozen=True)
class Clip:
    """A drawing. `title`: its cleaned title, or "" when that says nothing; `keywords`; `folders`: where it is filed."""

    path: Path
    name: str
    title: str
    keywords: tuple[str, ...]
    folders: tuple[str, ...]


def clips(packages: Packages) -> list[Clip]:
    """All drawings, in order of their names. A title that more than three share says nothing."""
    share = packages.debian("openclipart-svg", "openclipart-png") / "usr/share/openclipart"
    found: list[tuple[Path, str, str, list[str], tuple[str, ...]]] = []
    for svg in sorted((share / "svg").rglob("*.svg")):
        inside = svg.relative_to(share / "svg")
        png = share / "png" / inside.with_suffix(".png")
        if png.is_file():
            title, keywords = described(svg.read_bytes()[:_HEADER].decode("utf-8", "replace"))
            found.append((png, inside.with_suffix("").as_posix(), title, keywords, inside.parent.parts))
    uses = collections.Counter(title.lower() for _, _, title, _, _ in found)
    return [
        Clip(
            png,
            name,
            cleaned(title) if uses[title.lower()] <= _MOST_USES else "",
            tuple(word for word in dict.fromkeys(map(str.lower, keywords)) if telling(word)),
            folders,
        )
        for png, name, title, keywords, folders in found
    ]


def described(svg: str) -> tuple[str, list[str]]:
    """The title and the keywords that the RDF inside a drawing gives."""
    work = re.search(r"<cc:Work.*?</cc:Work>", svg, re.DOTALL)
    if not work:
        return "", []
    title = re.search(r"<dc:title[^>]*>(.*?)</dc:title>", work[0], re.DOTALL)
    subject = re.search(r"<dc:subject>.*?</dc:subject>", work[0], re.DOTALL)
    words = re.findall(r"<rdf:li[^>]*>(.*?)</rdf:li>", subject[0], re.DOTALL) if subject else []
    return (_plain(title[1]) if title else ""), [_plain(word) for word in words]


def cleaned(title: str) -> str:
    """The words of a title without its author, numbers and punctuation; "" when nothing that tells is left."""
    words = re.sub(r"^clip ?art by [^-]+ - ", "", title, flags=re.IGNORECASE)
    words = re.sub(r"[\W\d_]+", " ", words).strip()
    return words if re.search(r"[A-Za-z]{3}", words) and len(words) <= _LONGEST_TITLE else ""


def telling(keyword: str) -> bool:
    """Whether a keyword may tell what is shown."""
    return bool(re.fullmatch(r"[a-z][a-z -]{2,24}", keyword)) and keyword not in _DULL


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(text)).strip()
