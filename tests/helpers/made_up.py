"""Made-up runs of the experiment, with figures that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tsembed_search.evaluation.results import TaskScores

METAS = {"clothing": "classification", "passage": "retrieval", "gloss": "retrieval", "scene_part": "grounding"}


def tests_of(hit: float, seed: int = 0, queries: int = 200) -> list[TaskScores]:
    """Every task's first `hit` share of queries are right; `seed` says which are first."""
    found = []
    for name, meta in METAS.items():
        order = np.random.default_rng(seed).permutation(queries)
        values = np.repeat((order < hit * queries).astype(float)[:, None], 2, axis=1)
        found.append(TaskScores(name, meta, "in", 0, np.arange(queries), values))
    return found


def write_test(folder: Path, tasks: list[TaskScores], unseen: bool = True) -> None:
    """A tested run's `test.json`, in all of evaluation's metrics, and what else makes it count as finished."""
    (folder / "model").mkdir(parents=True)
    said = {
        task.name: {"meta": task.meta, "seen": True, "queries": task.queries.tolist(), "values": _four(task)}
        for task in tasks
    }
    if unseen:
        said["unseen_stamps"] = {
            "meta": "retrieval",
            "seen": False,
            "queries": [0, 1],
            "values": [[0.0] * 4, [1.0] * 4],
        }
    metrics = ["hit@1", "recall@10", "ndcg@10", "mrr"]
    (folder / "test.json").write_text(json.dumps({"metrics": metrics, "tasks": said}), encoding="utf-8")


def write_log(folder: Path, hits: dict[str, float], ended: bool = True) -> None:
    """A run's log: untrained at zero, then two steps, then `hits`."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [{"name": name, "meta": METAS[name]} for name in hits]
    records: list[dict[str, Any]] = [
        {"kind": "run", "data": {"tasks": tasks}},
        _validation(0, dict.fromkeys(hits, 0.0)),
        *({"kind": "step", "step": step, "parts": {"contrastive": 2.0 - step}, **ROUTING} for step in (1, 2)),
    ]
    if ended:
        records += [_validation(2, hits), {"kind": "end", "reason": "finished"}]
        count = len(hits)
        cosine = [[1.0 if row == column else -0.5 for column in range(count)] for row in range(count)]
        records.append({"kind": "gradients", "tasks": list(hits), "cosine": cosine})
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "log.jsonl").write_text(text, encoding="utf-8")


ROUTING = {"routing_entropy": 0.5, "kappa_deviation": 0.25, "kappa_cosine_correlation": None}


def _validation(step: int, hits: dict[str, float]) -> dict[str, Any]:
    tasks = {name: {"meta": METAS[name], "hit@1": hit, "mrr": hit, "n": 100} for name, hit in hits.items()}
    return {"kind": "validation", "step": step, "tasks": tasks, "hit@1": 0.5}


def _four(task: TaskScores) -> list[list[float]]:
    return [[float(hit), float(recall), 0.0, 0.0] for hit, recall in task.values]
