"""Scores that mean the same for pictures and passages, and from one search to the next.

Most multimodal models score text against text far above text against picture (the *modality gap*), so raw cosines
would let one kind drown the other in a mixed index. A calibration maps the cosine of a query of some modality with an
item of some kind to a logit; its logistic is the score that people see.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from tsembed_search.items import Kind, Modality

LOGIT_OF_WORDS: Final = 7.5
"""The evidence of an item that has all of the query's words: as much as half a cosine with mini's slope of 15. Chosen
by `benchmarks/words.py` on pages of a manual; from 6 to 10 is as good.
"""


@dataclass(frozen=True)
class Logistic:
    """The score of a cosine: the logistic of `slope · cosine + offset`."""

    slope: float
    offset: float

    @classmethod
    def at(cls, cosine: float, slope: float) -> Self:
        """Return the one that scores 0.5 at `cosine`, where a typical hit of the kind lies, and is so steep."""
        return cls(slope, -slope * cosine)

    @classmethod
    def through(cls, low: tuple[float, float], high: tuple[float, float]) -> Self:
        """Return the one through two (cosine, score), of a typical wrong and a typical right answer."""
        logits = [math.log(score / (1 - score)) for _, score in (low, high)]
        slope = (logits[1] - logits[0]) / (high[0] - low[0])
        return cls(slope, logits[1] - slope * high[0])

    def stretched(self, factor: float, shift: float) -> Self:
        """Return the one for a kind that competes with this one's as `factor · cosine + shift`."""
        return type(self)(self.slope * factor, self.slope * shift + self.offset)

    def score(self, similarity: float, more: float = 0.0) -> float:
        """Return the logistic of the logit, to which other evidence adds `more`: a number in (0, 1) that grows with the
        cosine.
        """
        logit = self.slope * similarity + self.offset + more
        return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0


@dataclass(frozen=True)
class Calibration:
    """One `Logistic` per (query modality, item kind). `source` says how it was found, for people."""

    lines: Mapping[tuple[Modality, Kind], Logistic] = field(default_factory=dict)
    source: str = ""

    def score(self, similarity: float, modality: Modality, kind: Kind, words: float = 0.0) -> float:
        """Return the calibrated score of one hit; without a line for the pair, (1 + cosine) / 2.

        `words` is the share of the query's words that the item has, 0..1 (see `search/by_words.py`).
        """
        line = self.lines.get((modality, kind))
        if line:
            return line.score(similarity, LOGIT_OF_WORDS * words)
        plain = (similarity + 1.0) / 2.0
        return plain + (1.0 - plain) * words / 2.0

    def to_json(self) -> dict[str, object]:
        """Return a JSON form that `from_json` reads back."""
        lines = {f"{m}>{k}": [line.slope, line.offset] for (m, k), line in self.lines.items()}
        return {"source": self.source, "lines": lines}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Calibration:
        """Read the inverse of `to_json`."""
        raw = data.get("lines")
        lines: dict[Any, Logistic] = {}
        for pair, (slope, offset) in raw.items() if isinstance(raw, Mapping) else ():
            modality, _, kind = str(pair).partition(">")
            lines[modality, kind] = Logistic(float(slope), float(offset))
        return Calibration(lines, str(data.get("source", "")))


class Scored(NamedTuple):
    """A point that a search found, with its calibrated score, its cosine, and its share of the query's words."""

    id: str
    kind: Kind
    score: float
    similarity: float
    words: float = 0.0


def merged(found: Iterable[Scored], most: int) -> list[Scored]:
    """Return the best of points of several kinds, at most so many, the best first."""
    return sorted(found, key=lambda one: (-one.score, -one.similarity, one.id))[:most]
