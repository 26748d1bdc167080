"""The figures of `benchmarks/queries.py`, from times that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import queries


def test_ratios_are_taken_within_a_round() -> None:
    """A round in which the machine was twice as slow for all changes no ratio."""
    one = {"cold, import torch": 2.0, "cold, ours": 0.5, "warm k=10, ours": 0.004, "warm k=10, peer": 0.04}
    slow = {name: 2 * seconds for name, seconds in one.items()}
    figures = queries.summary([one, slow, one])
    assert figures["cold, import torch"] == {"seconds": 2.0, "ours_over_it": 0.25, "least": 0.25, "most": 0.25}
    assert figures["warm k=10, peer"]["ours_over_it"] == pytest.approx(0.1)
    assert figures["cold, ours"]["ours_over_it"] == 1.0


def test_the_same_leads_are_written_each_time(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "data").mkdir(parents=True)
    entries = {str(n): {"extract": f"Lead {n}.", "description": f"about {n}" if n % 2 else ""} for n in range(20)}
    (package / "data/summaries_en-us.json").write_text(json.dumps(entries))
    asked = queries.write_leads(tmp_path / "leads", package, 6, 3)
    assert len(asked) == 3 and len(list((tmp_path / "leads").iterdir())) == 6
    assert asked == queries.write_leads(tmp_path / "leads", package, 6, 3)


def test_time_is_counted_where_it_was_spent() -> None:
    spent = {"engine": 0.0}
    assert queries.timed(lambda value: value + 1, spent, "engine")(1) == 2
    assert spent["engine"] > 0
