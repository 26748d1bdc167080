"""Task conflict: what tasks lose when one adapter serves them all, and whether they pull at it in different ways.

`drop` is in the spirit of the paper's Figure 1: test figures of one adapter per meta-task and of one for all.
`geometry` is in that of its Figure 2: which way each adapter changes the weights, how its loss falls, and along which
path. `gradients` asks the same of a trained model: do the tasks' gradients agree?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Final

import bootstrap
import paths
import plan
import runs
from deltas import Change, cosine, cosines_by_block
from runs import METRICS, Json

from tsembed_search.evaluation.results import TaskScores

JOINT: Final = {"joint": "one LoRA", "joint-experts": "one mixture of experts"}
"""Runs on all tasks, each drawn alike, which the isolated ones are compared with."""


def table(out: Path) -> Json:
    """`drop`, `geometry` {seed: ...}, `gradients` {run: ...}, `missing`."""
    found = runs.found(out, "isolated")
    seeds = sorted({seed for folders in found.values() for seed in folders})
    return {
        "drop": drop({name: runs.tests(folders) for name, folders in found.items()}),
        "geometry": {
            str(seed): geometry({name: folders[seed] for name, folders in found.items() if seed in folders})
            for seed in seeds
        },
        "gradients": gradients(out),
        "missing": runs.missing(plan.isolated(), out),
    }


def drop(tests: Mapping[str, Mapping[int, Sequence[TaskScores]]]) -> Json:
    """{meta: {isolated: {metric: mean}, joint: {...}, joint-experts: {...}, differences: {joint: {metric: ...}}}}.

    A difference is that of the joint adapter to the isolated one on the meta-task's test queries: below zero is what
    serving all tasks costs. `mean of meta-tasks` is over those where both are there.
    """
    found: Json = {}
    pairs: dict[str, list[list[bootstrap.Paired]]] = {name: [] for name in JOINT}
    for meta in (meta for meta in plan.METAS if tests.get(meta)):
        own = {seed: _of_meta(tasks, meta) for seed, tasks in tests[meta].items()}
        found[meta] = {"isolated": _means(own), "differences": {}}
        for name in (name for name in JOINT if tests.get(name)):
            joint = {seed: _of_meta(tasks, meta) for seed, tasks in tests[name].items()}
            both = bootstrap.paired(own, joint)
            if both:
                found[meta][name] = _means(joint)
                found[meta]["differences"][name] = _differences([both])
                pairs[name].append(both)
    overall = {name: _differences(groups) for name, groups in pairs.items() if groups}
    return {"metas": found, "mean of meta-tasks": overall}


def geometry(folders: Mapping[str, Path]) -> Json:
    """Of one seed's runs: layer-wise `cosines` of joint adapters with each isolated one {joint: {meta: [L]}}, `between`
    isolated adapters {names, cosine}, `loss` {run: [[step, loss]]}, `validation` {run: [[step, hit@1]]}, and `paths`
    {run: [[step, x, y]]} with the share of their variance that two directions hold.
    """
    changes = {name: Change.read(folder / "model") for name, folder in folders.items() if (folder / "model").is_dir()}
    isolated = [name for name in plan.METAS if name in changes]
    logs = {name: runs.records(folder) for name, folder in folders.items()}
    return {
        "cosines": {
            joint: {name: cosines_by_block(changes[joint], changes[name]) for name in isolated}
            for joint in JOINT
            if joint in changes
        },
        "between": {
            "names": isolated,
            "cosine": [[cosine(changes[one], changes[other]) for other in isolated] for one in isolated],
        },
        "loss": {
            name: [[record["step"], record["parts"]["contrastive"]] for record in log if record["kind"] == "step"]
            for name, log in logs.items()
        },
        "validation": {
            name: [[record["step"], record["hit@1"]] for record in log if record["kind"] == "validation"]
            for name, log in logs.items()
        },
        "paths": paths.drawn({name: found for name, folder in folders.items() if (found := paths.read(folder))}),
    }


def gradients(out: Path) -> Json:
    """{run: {tasks, metas, cosine [[...]], within, between}} of the single LoRA and of the whole method, the first
    seed of each: the mean cosine of two tasks of one meta-task, and of two meta-tasks.
    """
    found: Json = {}
    for name, seeds in runs.found(out, "variants").items():
        if name not in ("lora", plan.METHOD):
            continue
        seed, folder = next(iter(seeds.items()))
        log = runs.records(folder)
        record, start = runs.last(log, "gradients"), runs.last(log, "run")
        if record is None or start is None:
            continue
        meta = {task["name"]: task["meta"] for task in start["data"]["tasks"]}
        metas = [meta[task] for task in record["tasks"]]
        cosines: dict[bool, list[float]] = {True: [], False: []}
        for row, one in enumerate(metas):
            for column in range(row):
                cosines[one == metas[column]].append(record["cosine"][row][column])
        found[f"{name}-{seed}"] = {
            "tasks": record["tasks"],
            "metas": metas,
            "cosine": record["cosine"],
            "within": mean(cosines[True]) if cosines[True] else None,
            "between": mean(cosines[False]) if cosines[False] else None,
            "share_opposed": mean(value < 0 for pair in cosines.values() for value in pair),
        }
    return found


def _of_meta(tasks: Sequence[TaskScores], meta: str) -> list[TaskScores]:
    """The tasks of a meta-task that training saw."""
    return [task for task in tasks if task.name in plan.METAS[meta]]


def _means(tests: Mapping[int, Sequence[TaskScores]]) -> dict[str, float]:
    """The mean over seeds of the mean over tasks, per metric."""
    return {
        metric: mean(mean(float(task.values[:, column].mean()) for task in tasks) for tasks in tests.values())
        for column, metric in enumerate(METRICS)
    }


def _differences(groups: Sequence[Sequence[bootstrap.Paired]]) -> dict[str, Json]:
    return {metric: bootstrap.difference(groups, metric).to_json() for metric in METRICS}
