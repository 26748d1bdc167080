"""The figures of `benchmarks/train_variants.py`, from vectors and runs that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import train_variants as variants
from typer.testing import CliRunner

from tsembed_search.data.rows import RankingTask, Row, content
from tsembed_search.evaluation.diversity import unit
from tsembed_search.evaluation.evaluate import Embedded, EmbeddedTasks
from tsembed_search.items import Item

QUERIES = 12


def tasks() -> list[RankingTask]:
    return [
        RankingTask(
            name,
            "retrieval",
            [Item(f"{name} {at}") for at in range(QUERIES)],
            [Item(f"{name} is {at}") for at in range(QUERIES)],
            [frozenset([at]) for at in range(QUERIES)],
        )
        for name in variants.TASKS
    ]


def vectors(count: int, alike: bool = False, noise: float = 1.5) -> EmbeddedTasks:
    """Queries that are their targets with noise, by `count` paths; `alike`: all paths are the same."""
    chance = np.random.default_rng(count)
    rows = 2 * QUERIES
    targets = chance.standard_normal((rows, 1 if alike else count, 16))
    asked = targets + noise * chance.standard_normal(targets.shape)
    sides = []
    for side in (asked, targets):
        paths = unit(np.broadcast_to(side, (rows, count, 16)).astype(np.float32))
        sides.append(Embedded(unit(paths.reshape(rows, -1)), np.zeros((rows, 0), np.float32), {}))
    return EmbeddedTasks(*sides, variants.places(tasks()))


def test_paths_that_are_the_same_are_worth_no_more_than_one() -> None:
    found = variants.figures(tasks(), vectors(3, alike=True), 3)
    assert 0 < variants.mean_of(found["path 0"]["hit@1"]) < 1
    assert all(one == found["path 0"] for one in found.values())


def test_paths_that_differ() -> None:
    found = variants.figures(tasks(), vectors(3), 3)
    best = max(variants.mean_of(found[f"path {path}"]["mrr"]) for path in range(3))
    assert variants.mean_of(found["oracle"]["mrr"]) > best
    assert variants.mean_of(found["concat"]["mrr"]) > best  # noise that is independent
    assert found["first hits again, weight 1"] == found["maxsim"]  # all candidates are among the first hundred


def test_what_is_right_after_all() -> None:
    rows = [
        Row(Item("arrow"), Item("a thin arrow"), "1", group="arrows"),
        Row(Item("bow"), Item("a bow"), "2", group="bows"),
        Row(Item("Arrow"), Item("a thick arrow"), "3", group="other"),
        Row(Item("dart"), Item("a dart"), "4", group="arrows"),
    ]
    thing = [content(row.positive) for row in rows]
    assert variants.right_after_all(rows, [(0, thing[1]), (1, thing[0])]) == 0
    assert variants.right_after_all(rows, [(0, thing[3]), (0, thing[2]), (0, thing[1]), (2, thing[0])]) == 0.75


def test_the_report_compares_runs_of_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "parts", lambda data: ([], tasks()))
    for seed, (lora, paths) in enumerate([(4, 6), (6, 9)]):
        for name, right in (("lora", lora), ("vclub", paths)):
            hits = [[1.0] * right + [0.0] * (QUERIES - right)] * 2
            own = {"hit@1": hits, "mrr": hits}
            labels = ["path 0"] if name == "lora" else ["path 0", "path 1", "oracle", "mean"]
            like = {"cosine": 0.5, "cka": 0.25, "rank": 2.0} if name == "vclub" else None
            folder = tmp_path / "paths" / f"{name}-{seed}"
            folder.mkdir(parents=True)
            said = {"values": dict.fromkeys(labels, own), "likeness": like}
            (folder / "values.json").write_text(json.dumps(said))
            none = {"hit@1": [[0.0] * QUERIES] * 2, "mrr": [[0.5] * QUERIES] * 2}
            (folder / "values-test.json").write_text(json.dumps(said | {"values": dict.fromkeys(labels, none)}))
            side = vectors(1)
            np.savez(folder / "vectors.npz", queries=side.queries.vectors, documents=side.documents.vectors)
    asked = ["report", "paths", "--data", str(tmp_path), "--out", str(tmp_path)]
    done = CliRunner().invoke(variants.app, asked, catch_exceptions=False)
    first, _, last = done.output.split("\n\n")[:3]
    rows = [[cell.strip() for cell in line.split("|")] for line in first.splitlines()]
    cells = {row[1]: row for row in rows}
    assert cells["lora"][2:4] == ["2", "41.7"] and not cells["lora"][6]
    assert cells["vclub"][2:4] == ["2", "62.5"]
    gain = cells["vclub"][6]
    assert gain.startswith("+20.8 (") and "; +16.7, +25.0; MRR +20.8" in gain
    assert cells["vclub, mean"][-2].startswith("+0.0")
    assert cells["ensemble of seeds"][2] == "1"
    assert "| vclub | 2 | 0.0 | 0.0 | 50.0 |" in done.output and last == "The test split"
    assert "| vclub | 0.500 | 0.250 | 2.000 | +0.0 |" in done.output
