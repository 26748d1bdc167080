"""The experiment's report: figures, plots and tables of the runs that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cost
import pytest
import reporting
import specialisation
from bars import Bars, bars

from helpers import made_up
from tsembed_search.trainer import plots

ROW = {"experts": 1, "rank": 32, "parameters": 1000, "routers": 10, "adapter_bytes": 4040, "kept_bytes": 9}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An experiment where everything that takes time to measure has been measured."""
    rows = [ROW | {"latency": 1.0}, ROW | {"experts": 2, "latency": 1.25}]
    found = {"items": 2, "tokens": 8, "rounds": 3, "equal_total_rank": rows, "equal_rank_per_expert": rows}
    (tmp_path / cost.RESULT).write_text(json.dumps(found), encoding="utf-8")
    return tmp_path


def add(out: Path, folder: str, hit: float) -> None:
    made_up.write_log(out / folder, {"passage": 0.5, "gloss": 0.5, "clothing": 0.25})
    made_up.write_test(out / folder, made_up.tests_of(hit))
    bits = dict.fromkeys(("task_bits", "kind_bits", "task_bits_within_kind", "most_bits", "entropy"), 1.5)
    telling = ("correlation_within", "correlation_all", "auc", "cosine_auc", "hard_auc", "hard_auc_target")
    kappa = dict.fromkeys(("within", "across", *telling), 0.75)
    found = {"tasks": ["passage"], "routing": {"queries": bits | {"dead": 3}}, "kappa": kappa}
    (out / folder / specialisation.RESULT).write_text(json.dumps(found), encoding="utf-8")


def test_without_runs_the_report_says_what_is_missing(out: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    reporting.write(tmp_path / "data", out, docs, say=lambda part: None)
    page = (docs / reporting.PAGE).read_text(encoding="utf-8")
    assert "`variants/lora-0`" in page and "`isolated/joint-0`" in page and "`ablations/" in page
    assert "| 2 | 32 | 1,000 | 10 | 1.25 |" in page
    assert {path.name for path in docs.glob("*.svg")} == {"cost-latency.svg", "cost-parameters.svg", "cost-kept.svg"}
    assert json.loads((docs / "variants.json").read_text(encoding="utf-8"))["figures"] == {}


def test_tables_hold_the_figures_and_every_plot_is_there(out: Path, tmp_path: Path) -> None:
    add(out, "variants/lora-0", 0.4)
    add(out, "variants/tsembed-0", 0.6)
    docs = tmp_path / "docs"
    (docs / "gone.svg").parent.mkdir()
    (docs / "gone.svg").write_text("a plot of what is no longer known", encoding="utf-8")
    reporting.write(tmp_path / "data", out, docs, say=lambda part: None)
    page = (docs / reporting.PAGE).read_text(encoding="utf-8")
    assert "| `lora` | 1 | 40.0 | 40.0 | 40.0 | 40.0 | 50.0 |" in page
    assert "| `tsembed` | **+20.0** [" in page
    assert "| `tsembed-0` | queries | 1.50 |" in page and "| 0.75 |" in page
    assert "`variants/lora-0`" not in page and "`variants/lora-1`" in page
    files = {path.name for path in docs.iterdir()}
    assert "gone.svg" not in files and {"differences.svg", "gradients-lora.svg"} <= files
    assert all(f"({name})" in page for name in files if name.endswith(".svg"))


def test_bars_have_their_values_whiskers_and_gaps() -> None:
    series = [Bars("a <b>", [1.0, -0.5], [(0.5, 1.5), None]), Bars("other", [None, 2.0])]
    svg = bars("title", ["first", "second"], series)
    drawn = [
        svg.count(f'clip-path="url(#{clip})" style="fill: {colour}"')
        for colour in plots.COLOURS[:2]
        for clip in clips(svg)
    ]
    assert sum(drawn) == 3  # a value that is not known has no bar
    assert "a &lt;b&gt;</text>" in svg and ">first</text>" in svg and "<b>" not in svg
    without = bars("title", ["first", "second"], [Bars("a <b>", [1.0, -0.5]), series[1]])
    assert svg.count("stroke-width: 1.2") == without.count("stroke-width: 1.2") + 1
    assert bars("title", ["first"], [Bars("a", [None])]) == ""


def clips(svg: str) -> list[str]:
    return re.findall(r'<clipPath id="(\w+)"', svg)
