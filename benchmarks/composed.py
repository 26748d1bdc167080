"""Joint queries from emoji: a picture and a word whose answer needs both.

Where two labels differ in one word ("green apple", "red apple"), the picture of one with the word of the other asks for
the other: [green apple] + "red". Looked for among the labels of all emoji, and among their pictures.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from datasets import Picture


@dataclass(frozen=True)
class Composed:
    """A query of `picture` and `word`; the answer is `pictures[answer]`, its label or its picture."""

    picture: Picture
    word: str
    answer: int


def composed_queries(pictures: list[Picture], most_per_frame: int = 6) -> list[Composed]:
    """All such pairs. A frame ("_ apple") filled by many words gives at most `most_per_frame` queries."""
    frames: dict[tuple[str, ...], list[tuple[int, str]]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        words = re.findall(r"[a-z]+", picture.title.lower())
        if ":" in picture.title or not 2 <= len(words) <= 3:
            continue
        for place, word in enumerate(words):
            if len(word) > 2:
                frames[(*words[:place], "_", *words[place + 1 :])].append((index, word))
    queries = []
    for fillers in frames.values():
        pairs = [(a, b) for a in fillers for b in fillers if a[0] != b[0]]
        step = max(1, len(pairs) // most_per_frame)
        for (index, _), (answer, word) in pairs[::step][:most_per_frame]:
            queries.append(Composed(pictures[index], word, answer))
    return queries
