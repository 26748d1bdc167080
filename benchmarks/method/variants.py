"""The six variants on test: figures per task and meta-task over seeds, and their differences to the single LoRA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Final

import ablations
import bootstrap
import plan
import runs
from runs import METRICS, Json

from tsembed_search.evaluation.results import TaskScores

BASELINE: Final = "lora"
EXPERTS: Final = "moe"
"""Experts with ordinary negatives, which tells what the negatives bring."""
MEAN: Final = "mean of meta-tasks"
UNSEEN: Final = "unseen kinds"

Tests = Mapping[int, Sequence[TaskScores]]
"""The test of each seed."""


def table(out: Path) -> Json:
    """Everything about the variants that were tested so far.

    `figures` {variant: {tasks, groups: {name: {metric: {mean, deviation, seeds}}}}}, groups being the meta-tasks, their
    mean, and the tasks whose kind of picture training never saw; `differences` {variant: {group: {metric: {mean, low,
    high, seeds}}}} to the single LoRA of the same seeds, `over_experts` to experts with ordinary negatives, and
    `over_control` to the same with kappa shuffled; `validation` {variant: {seed: hit@1, the mean of meta-tasks}};
    `tasks` {name: {meta, seen, queries}}; `missing`.
    """
    tests = {name: found for name, seeds in _folders(out).items() if (found := runs.tests(seeds))}
    return {
        "metrics": list(METRICS),
        "variants": {name: plan.VARIANTS[name] for name in tests},
        "tasks": _tasks(tests.values()),
        "figures": {name: figures(found) for name, found in tests.items()},
        "differences": _against(BASELINE, tests),
        "over_experts": _against(EXPERTS, {name: found for name, found in tests.items() if name != BASELINE}),
        "over_control": {
            name: differences(tests[control], tests[name])
            for name, control in plan.CONTROLS.items()
            if name in tests and control in tests
        },
        "validation": {
            name: {str(seed): row["hit@1"] for seed, folder in seeds.items() if (row := ablations.row(folder))}
            for name, seeds in _folders(out).items()
        },
        "missing": runs.missing(plan.variants(), out),
    }


def figures(tests: Tests) -> Json:
    """Means of each seed, their mean and their deviation (None for one seed), per task and group."""
    seeds = sorted(tests)
    named = [{task.name: task for task in tests[seed]} for seed in seeds]
    common = {name: task for name, task in named[0].items() if all(name in each for each in named)}
    means = {name: [each[name].values.mean(axis=0).tolist() for each in named] for name in common}
    groups = groups_of({name: (task.meta, task.distribution != "out") for name, task in common.items()})
    return {
        "seeds": seeds,
        "tasks": {name: _summed(found) for name, found in means.items()},
        "groups": {
            group: _summed(_over([_over([means[name] for name in part]) for part in parts]))
            for group, parts in groups.items()
        },
    }


def differences(first: Tests, second: Tests) -> Json:
    """The second's figures less the first's, per group and metric, on seeds and queries of both."""
    pairs = {one.name: one for one in bootstrap.paired(first, second)}
    groups = groups_of({one.name: (one.meta, one.seen) for one in pairs.values()})
    return {
        group: {
            metric: bootstrap.difference([[pairs[name] for name in part] for part in parts], metric).to_json()
            for metric in METRICS
        }
        for group, parts in groups.items()
    }


def groups_of(tasks: Mapping[str, tuple[str, bool]]) -> dict[str, list[list[str]]]:
    """Groups of tasks, given each one's meta-task and whether its kind was seen in training.

    A group is a mean over parts, and each part a mean over tasks.
    """
    metas = runs.by_meta({name: meta for name, (meta, seen) in tasks.items() if seen})
    unseen = [name for name, (_, seen) in tasks.items() if not seen]
    found = {MEAN: list(metas.values())} if metas else {}
    return found | {meta: [names] for meta, names in metas.items()} | ({UNSEEN: [unseen]} if unseen else {})


def _against(baseline: str, tests: Mapping[str, Tests]) -> Json:
    others = (name for name in tests if name != baseline and baseline in tests)
    return {name: differences(tests[baseline], tests[name]) for name in others}


def _folders(out: Path) -> dict[str, dict[int, Path]]:
    there = runs.found(out, "variants")
    return {name: there[name] for name in plan.VARIANTS if name in there}


def _tasks(found: Iterable[Tests]) -> Json:
    return {
        task.name: {"meta": task.meta, "seen": task.distribution != "out", "queries": len(task.queries)}
        for tests in found
        for seed in tests.values()
        for task in seed
    }


def _over(parts: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """The mean over parts of `[parts][seeds][metrics]`."""
    return [[mean(column) for column in zip(*seed, strict=True)] for seed in zip(*parts, strict=True)]


def _summed(seeds: Sequence[Sequence[float]]) -> Json:
    """`[seeds][metrics]` as one figure per metric."""
    return {
        metric: {"mean": mean(each), "deviation": stdev(each) if len(each) > 1 else None, "seeds": list(each)}
        for metric, each in zip(METRICS, zip(*seeds, strict=True), strict=True)
    }
