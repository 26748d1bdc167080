"""Joint queries from emoji: a picture and a word whose answer needs both.

Where two labels differ in one word ("green apple", "red apple"), the picture of one with the word of the other asks for
the other: [green apple] + "red". Looked for among the labels of all emoji, and among their pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

from mini_mmeb.emoji import composed
from public_data import Picture


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
