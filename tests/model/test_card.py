"""The model card of a trained checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from helpers.run_records import EVIL, records, write_log
from tsembed_search.errors import ModelError
from tsembed_search.model.checkpoint import MARKER, describe, share_interval
from tsembed_search.trainer.log import untrained


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a `tsembed.json` as a run writes it; the card needs no weights."""
    source = tmp_path / "data"
    source.mkdir()
    told = {"tasks": {"colours": {"licences": ["MIT", "CC0-1.0"]}}}
    (source / "tasks.json").write_text(json.dumps(told))
    folder = tmp_path / "run/model"
    folder.mkdir(parents=True)
    said: dict[str, Any] = {
        "format": 1,
        "base": {"name": "owner/some-model", "family": "mini", "fingerprint": "f", "revision": "abc"},
        "method": {
            "router": {"experts": 3, "level": "sequence", "temperature": 0.3, "top_k": None},
            "rank": 4,
            "alpha": 8.0,
            "shared": False,
        },
        "routing_mean": [0.3] * 6,
        "lambda": 0.0,
        "calibration": None,
        "data": {
            "sources": [str(source)],
            "tasks": [{"name": "colours", "meta": "vqa", "rows": 1200}, {"name": EVIL, "rows": 3}],
        },
        "recipe": {"name": "tsembed", "about": "The whole method.", "note": EVIL},
        "metrics": next(one for one in reversed(records()) if one["kind"] == "validation"),
    }
    assert said["metrics"]["hit@1"] == 0.625
    (folder / MARKER).write_text(json.dumps(said))
    return folder


def tables(text: str) -> list[list[str]]:
    """The cells of a card's table rows, as a Markdown reader sees them."""
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2]):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows and token.level > 3:
            rows[-1].append("".join(child.content for child in token.children or []))
    return rows


def test_card_tells_base_data_figures_and_limits(checkpoint: Path) -> None:
    write_log(checkpoint.parent, records())
    text = describe(checkpoint, untrained(checkpoint.parent)).read_text("utf-8")
    assert text.startswith("---\nlibrary_name: peft\n") and 'base_model: "owner/some-model"' in text
    assert "# tsembed on some-model" in text.replace("\\", "")
    rows = {row[0]: row[1:] for row in tables(text) if row}
    assert rows["adapted blocks"] == ["2"]
    assert ["vqa", "1,200", "MIT, CC0-1.0"] in [row[1:] for row in tables(text) if row[0] == "colours"]
    low, high = share_interval(0.5, 20)
    figures = next(row for row in tables(text) if row[0] == "colours" and len(row) == 6)
    assert figures[1:] == ["20", "0.500", f"{low:.3f} to {high:.3f}", "0.250", "0.400"]
    assert rows["mean over tasks"][1] == "0.625" and rows["mean over tasks"][3] == "0.375"
    assert "did not help" in text and "does not name its licence" in text
    assert str(checkpoint.parent.parent) not in text  # where data lies on this machine is nobody's business


def test_data_is_shown_and_is_not_markup(checkpoint: Path) -> None:
    text = describe(checkpoint).read_text("utf-8")
    assert "\x1b" not in text and "\u202e" not in text
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])
    assert "<script>" not in html
    shown = "evil<script>alert(1)</script>|`x`\\x1b[31m\\u202e"
    assert [row[0] for row in tables(text) if row[0].startswith("evil")] == [shown, shown]


def test_an_untrained_checkpoint_says_so(checkpoint: Path) -> None:
    said = json.loads((checkpoint / MARKER).read_text())
    said |= {
        "recipe": {"trained": False},
        "metrics": {},
        "data": {},
        "lambda": None,
        "base": said["base"] | {"name": "/home/me/base"},
    }
    (checkpoint / MARKER).write_text(json.dumps(said))
    text = describe(checkpoint).read_text("utf-8")
    assert "not trained" in text and "not calibrated" in text
    assert "Validation" not in text and "## Data" not in text
    assert "/home/me" not in text and "base_model" not in text


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        describe(tmp_path)


@pytest.mark.parametrize(("share", "count"), [(0.0, 5), (1.0, 5), (0.3, 1000)])
def test_intervals_of_shares_stay_in_bounds(share: float, count: int) -> None:
    low, high = share_interval(share, count)
    assert 0 <= low <= share <= high <= 1
    assert (high - low) < (0.06 if count == 1000 else 1)
