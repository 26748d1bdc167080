"""What matters in the whole method: validation figures of runs with one thing changed, beside the method's own."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean

import plan
import runs
from runs import Json

BASE = plan.METHOD
_LAST = 20
"""Steps at the end of a run over which routing figures are averaged."""


def table(out: Path) -> Json:
    """`rows`: {name, changes, seed, hit@1, mrr (means of meta-tasks), metas {meta: hit@1}, error, difference,
    routing_entropy, kappa_deviation, kappa_cosine_correlation}, the whole method first for each seed; `missing`.

    `error` is one standard error of hit@1 from the choice of queries; a difference to the method has at most 1.4 times
    that, less as far as both fail on the same queries. `difference` is None while the method's run of that seed is not
    there.
    """
    rows, missing = [], []
    for seed in sorted({run.seed for run in plan.ablations()}):
        folder = f"variants/{BASE}-{seed}"
        base = row(out / folder)
        if base is None:
            missing.append(folder)
        else:
            rows.append({"name": "the whole method", "changes": [], "seed": seed, "difference": 0.0, **base})
        for run, (name, changes) in zip(plan.ablations((seed,)), plan.ABLATIONS.items(), strict=True):
            found = row(out / run.folder)
            if found is None:
                missing.append(run.folder)
                continue
            difference = None if base is None else found["hit@1"] - base["hit@1"]
            rows.append({"name": name, "changes": list(changes), "seed": seed, "difference": difference, **found})
    return {"rows": rows, "missing": missing}


def row(folder: Path) -> Json | None:
    """The figures of one run from its log; None when it has not ended."""
    log = runs.records(folder)
    found = runs.validated(log)
    if found is None:
        return None
    tasks = found["tasks"]
    metas = runs.by_meta({name: task["meta"] for name, task in tasks.items()})
    steps = [record for record in log if record["kind"] == "step"][-_LAST:]

    def over_metas(metric: str) -> float:
        return float(mean(mean(tasks[name][metric] for name in names) for names in metas.values()))

    variance = 0.0
    for names in metas.values():
        for name in names:
            hit, count = tasks[name]["hit@1"], tasks[name]["n"]
            variance += hit * (1 - hit) / count / (len(names) * len(metas)) ** 2
    return {
        "hit@1": over_metas("hit@1"),
        "mrr": over_metas("mrr"),
        "error": math.sqrt(variance),
        "metas": {meta: mean(tasks[name]["hit@1"] for name in names) for meta, names in metas.items()},
        **{name: _mean_of(steps, name) for name in ("routing_entropy", "kappa_deviation", "kappa_cosine_correlation")},
    }


def _mean_of(steps: list[Json], name: str) -> float | None:
    """The mean of a figure over steps that have it."""
    known = [record[name] for record in steps if record.get(name) is not None]
    return mean(known) if known else None
