"""Scores that mean the same for pictures and passages, and from one search to the next.

Most multimodal models score text against text far above text against picture (the *modality gap*), so raw cosines
would let one kind drown the other in a mixed index. A calibration maps the cosine of a query of some modality with an
item of some kind to a logit; its logistic is the score that people see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tsembed_search.items import Kind, Modality


@dataclass(frozen=True)
class Line:
    """`logit = slope · cosine + offset`."""

    slope: float
    offset: float

    def score(self, similarity: float) -> float:
        """The logistic of the logit: a number in (0, 1) that grows with the cosine."""
        logit = self.slope * similarity + self.offset
        return 1.0 / (1.0 + math.exp(-logit)) if logit > -700 else 0.0


@dataclass(frozen=True)
class Calibration:
    """One `Line` per (query modality, item kind). `source` says how it was found, for people."""

    lines: Mapping[tuple[Modality, Kind], Line] = field(default_factory=dict)
    source: str = ""

    def score(self, similarity: float, modality: Modality, kind: Kind) -> float:
        """The calibrated score of one hit. Without a line for the pair: the cosine mapped from [-1, 1] to [0, 1]."""
        line = self.lines.get((modality, kind))
        return line.score(similarity) if line else (similarity + 1.0) / 2.0

    def to_json(self) -> dict[str, object]:
        """A JSON form that `from_json` reads back."""
        lines = {f"{m}>{k}": [line.slope, line.offset] for (m, k), line in self.lines.items()}
        return {"source": self.source, "lines": lines}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Calibration:
        """The inverse of `to_json`."""
        lines: dict[tuple[Modality, Kind], Line] = {}
        raw = data.get("lines")
        if isinstance(raw, Mapping):
            for pair, (slope, offset) in raw.items():
                modality, _, kind = str(pair).partition(">")
                lines[(modality, kind)] = Line(float(slope), float(offset))  # type: ignore[index]
        return Calibration(lines, str(data.get("source", "")))
