"""The log of a made-up run: two tasks, four steps, two blocks of three experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsembed_search.trainer.log import NAME, Log

EVIL = "evil<script>alert(1)</script>|`x`\x1b[31m\u202e"


def records() -> list[dict[str, Any]]:
    """Every kind of record that a run writes."""
    tasks = [{"name": name, "meta": "vqa", "rows": 10, "identities": 9, "weight": 1.0} for name in ("colours", EVIL)]
    load = [[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]]
    steps = [
        {
            "kind": "step",
            "step": step,
            "stage": 1 + (step > 2),
            "loss": 3.0 / step,
            "parts": {"contrastive": 2.9 / step, "balance": 1.1, "z": None},
            "rates": {"experts": 1e-4, "router": 2e-4},
            "temperature": 0.02,
            "gradient_norm": 0.5,
            "rows": 8,
            "items": 16,
            "tokens": 100,
            "tasks": {"colours": 8},
            "seconds": float(step),
            "items_per_second": 16.0,
            "seconds_left": 4.0 - step,
            "expert_load": load,
            "routing_entropy": 0.8,
            "mask_rate": 0.01,
            "hardness": 0.6,
            "positive": 0.7,
            "kappa_deviation": 0.3,
            "kappa_cosine_correlation": -0.2,
            "memory": 2_000_000_000,
        }
        for step in range(1, 5)
    ]
    measured = {
        "colours": {"meta": "vqa", "hit@1": 0.25, "mrr": 0.4, "n": 20},
        EVIL: {"meta": "", "hit@1": 0.5, "mrr": 0.6, "n": 10},
    }
    better = {name: figures | {"hit@1": figures["hit@1"] + 0.25} for name, figures in measured.items()}
    return [
        {
            "kind": "run",
            "version": "0",
            "started": "2026-01-01T00:00:00+00:00",
            "name": "tsembed",
            "recipe": {"a": {"b": EVIL}},
            "seed": 0,
            "steps": 4,
            "device": "cpu",
            "precision": "float32",
            "ranks": 1,
            "resumed_from": None,
            "rows_skipped": 0,
            "model": {"name": "tiny", "dim": 8, "parameters": 1000, "trainable": 200, "routes": [2, 3]},
            "data": {
                "sources": [EVIL],
                "tasks": tasks,
                "validation": [{"name": "colours", "meta": "vqa", "rows": 20}],
                "problems": 3,
            },
        },
        {"kind": "validation", "step": 0, "tasks": measured, "hit@1": 0.375, "mrr": 0.5, "best": 0.375, "seconds": 1.0},
        *steps[:2],
        {"kind": "stage", "step": 3, "stage": 2, "reason": "routing entropy has settled"},
        *steps[2:],
        {"kind": "validation", "step": 4, "tasks": better, "hit@1": 0.625, "mrr": 0.5, "best": 0.625, "seconds": 1.0},
        {"kind": "checkpoint", "step": 4, "path": "x"},
        {
            "kind": "calibration",
            "lambda": 0.1,
            "sweep": [[0.0, 0.5], [0.1, 0.55], [0.2, None]],
            "items": 5,
            "queries": 5,
        },
        {"kind": "experts", "tasks": {name: {"meta": "", "load": load} for name in measured}},
        {"kind": "gradients", "tasks": list(measured), "cosine": [[1.0, -0.3], [-0.3, None]]},
        {"kind": "note", "message": EVIL},
        {
            "kind": "end",
            "reason": "finished",
            "steps": 4,
            "seconds": 4.0,
            "items_per_second": 16.0,
            "best_step": 4,
            "checkpoint": "x",
        },
    ]


def write_log(folder: Path, said: list[dict[str, Any]]) -> Path:
    """A run's folder with these records as its log."""
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(folder / NAME)
    for record in said:
        log.write(**record)
    log.close()
    return folder
