"""What evaluation ranks: queries, candidates, and which candidates are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tsembed_search.items import Item

Distribution = Literal["in", "out", ""]
"""Whether models are usually trained on data like the task's (`in`) or not (`out`), where the benchmark says so."""


@dataclass(frozen=True)
class RankingTask:
    """Q queries over C candidates. `meta`: the meta-task that this one belongs to, or "".

    `choices`: for each query the places in `candidates` that are ranked for it; None when all are, for every query.
    `correct`: for each query the places of its right candidates, at least one. `left_out`: for each query the places
    that are not ranked for it: the query itself, among what other rows bring. None: there are none.
    """

    name: str
    meta: str
    queries: Sequence[Item]
    candidates: Sequence[Item]
    correct: Sequence[frozenset[int]]
    choices: Sequence[Sequence[int]] | None = None
    distribution: Distribution = ""
    left_out: Sequence[frozenset[int]] | None = None
