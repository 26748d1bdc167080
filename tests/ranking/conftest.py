"""Queries and candidates to rank, in blocks far smaller than they are."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.ranked import units
from tsembed_search.ranking import similarity as ranking


@pytest.fixture(params=[1, 3])
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple:
    """Queries, candidates and right ones (up to `param` each), ranked in blocks far smaller than they are."""
    monkeypatch.setattr(ranking, "_QUERIES", 4)
    monkeypatch.setattr(ranking, "_CANDIDATES", 7)
    random = np.random.default_rng(request.param)
    queries, candidates = units(random, 23), units(random, 60)
    sizes = random.integers(1, request.param + 1, size=23)
    correct = [frozenset(random.choice(60, size=size, replace=False).tolist()) for size in sizes]
    return queries, candidates, correct
