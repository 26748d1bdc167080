"""Scores that mean the same for pictures and passages, and from one search to the next.

Most multimodal models score text against text far above text against picture (the *modality gap*), so raw cosines
would let one kind drown the other in a mixed index. A calibration maps the cosine of a query of some modality with an
item of some kind to a logit; its logistic is the score that people see.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from tsembed_search.items import Kind, Modality

LOGIT_OF_WORDS: Final = 6.0
"""The evidence of the share of a query's words that an item has, times that share: 0.4 of a cosine where the slope is
mini's, 15. Chosen by `benchmarks/word_weights.py`, where 4.5 to 10 are as good.
"""
LOGIT_OF_ALL_WORDS: Final = 7.5
"""More of it for an item that has nearly all, times the sixth power: a name or a code is all there or not at all."""
TELLING_WORDS: Final = 4
"""So many words of a query, all of which a model knows, count fully; fewer count for less in texts, which the model has
read: their meaning says it already. Chosen by `benchmarks/word_weights.py`.
"""
COSINE_OF_EVIDENCE: Final = 0.4
"""The cosine that evidence of 1 is worth that a picture shows what a text means; see `benchmarks/concepts.py`."""
WITH_EVIDENCE: Final = (0.5, -1.5)
"""The factor of a logit with such evidence in it, and what is added to it. Evidence sets right pictures far apart from
others: so weighed, passages are found beside them as well as without it.
"""
SAME_PICTURE: Final = 0.98
"""The cosine from which on a picture is the one that is looked for, or a near copy of it."""
LOGIT_OF_SAME_PICTURE: Final = 20.0
"""Evidence enough for it to come before anything that is only like it, whatever its kind."""
SHARE_OF_GOOD: Final = 0.9
"""The share of a query's words that makes a good match of what is found by words alone; `examples/mini/limits.py`."""


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
    """One `Logistic` per (query modality, item kind). `source` says how it was found, for people.

    `limits`: the scores from which on hits of a pair are good matches; none where no score tells. See
    `docs/results/calibration.md`.
    """

    lines: Mapping[tuple[Modality, Kind], Logistic] = field(default_factory=dict)
    source: str = ""
    limits: Mapping[tuple[Modality, Kind], float] = field(default_factory=dict)

    def score(
        self,
        similarity: float,
        modality: Modality,
        kind: Kind,
        words: float = 0.0,
        shown: float | None = None,
        telling: float = 1.0,
    ) -> float:
        """Return the calibrated score of one hit; without a line for the pair, (1 + cosine) / 2.

        `words` is the share of the query's words that the item has, 0..1 (see `search/by_words.py`); `telling`, 0..1,
        how much that says beside its meaning; `shown` the evidence that a picture shows what the query means (see
        `ranking/concepts.py`), None where it is not known.
        """
        line = self.lines.get((modality, kind))
        if line:
            evidence = telling * (LOGIT_OF_WORDS * words + LOGIT_OF_ALL_WORDS * words**6)
            if modality == "image" and kind != "text" and similarity >= SAME_PICTURE:
                evidence += LOGIT_OF_SAME_PICTURE
            if shown is not None:
                factor, more = WITH_EVIDENCE
                line = Logistic(factor * line.slope, factor * line.offset + more)
            return line.score(similarity + COSINE_OF_EVIDENCE * (shown or 0.0), evidence)
        plain = min(1.0, max(0.0, (similarity + COSINE_OF_EVIDENCE * (shown or 0.0) + 1.0) / 2.0))
        return plain + (1.0 - plain) * telling * words / 2.0

    def good(self, score: float, similarity: float, modality: Modality, kind: Kind) -> bool:
        """Tell whether a hit is a good match: the same picture, or one whose score reaches the limit of the pair."""
        if modality == "image" and kind != "text" and similarity >= SAME_PICTURE:
            return True
        return score >= self.limits.get((modality, kind), math.inf)

    def tells(self, modality: Modality) -> bool:
        """Tell whether good matches are known for such queries."""
        return any(pair[0] == modality for pair in self.limits)

    def to_json(self) -> dict[str, object]:
        """Return a JSON form that `from_json` reads back."""
        lines = {f"{m}>{k}": [line.slope, line.offset] for (m, k), line in self.lines.items()}
        limits = {f"{m}>{k}": limit for (m, k), limit in self.limits.items()}
        return {"source": self.source, "lines": lines, "limits": limits}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Calibration:
        """Read the inverse of `to_json`."""
        lines = {pair: Logistic(float(slope), float(offset)) for pair, (slope, offset) in _pairs(data.get("lines"))}
        limits = {pair: float(limit) for pair, limit in _pairs(data.get("limits"))}
        return Calibration(lines, str(data.get("source", "")), limits)


def _pairs(raw: object) -> Iterator[tuple[Any, Any]]:
    """The values of a JSON object, each with its (query modality, item kind)."""
    for pair, said in raw.items() if isinstance(raw, Mapping) else ():
        modality, _, kind = str(pair).partition(">")
        yield (modality, kind), said


class Scored(NamedTuple):
    """A point that a search found, with its calibrated score, its cosine, and its share of the query's words.
    `channels` are the ways by which it was found: `meaning`, `words`, `concepts`.
    """

    id: str
    kind: Kind
    score: float
    similarity: float
    words: float = 0.0
    channels: tuple[str, ...] = ()


def merged(found: Iterable[Scored], most: int) -> list[Scored]:
    """Return the best of points of several kinds, at most so many, the best first."""
    return sorted(found, key=lambda one: (-one.score, -one.similarity, one.id))[:most]
