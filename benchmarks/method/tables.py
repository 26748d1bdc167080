"""The report's tables in Markdown. Figures are shares in percent; differences are in points, with 95% intervals."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plan
from runs import METRICS, Json
from variants import BASELINE, EXPERTS, MEAN, UNSEEN


def page(said: Mapping[str, Json], pictures: Mapping[str, str]) -> str:
    """The whole page; `pictures`: titles of plots by the names of their files, which lie beside it."""
    parts = [
        "<!-- Written by `python benchmarks/method report`. Changes by hand are lost. -->",
        "# Tables",
        f"Figures are {METRICS[0]} on test in percent unless a table says otherwise; ± is the deviation over seeds. "
        "Brackets hold 95% intervals from a bootstrap over queries and seeds. **Bold** differences exclude zero.",
        *_variants(said["variants"]),
        *_ablations(said["ablations"]),
        *_conflict(said["conflict"]),
        *_specialisation(said["specialisation"]),
        *_cost(said["cost"]),
        "## Plots",
        *(f"![{title}]({file})" for file, title in pictures.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _variants(said: Json) -> list[str]:
    parts = ["## The variants", _missing(said["missing"])]
    figures, differences = said["figures"], said["differences"]
    if not figures:
        return parts
    groups = list(dict.fromkeys(group for one in figures.values() for group in one["groups"]))
    compared = {f"`{BASELINE}`": differences, f"`{EXPERTS}`": said["over_experts"], "its control": said["over_control"]}
    for metric in METRICS:
        rows = [
            [f"`{name}`", len(one["seeds"]), *(_figure(one["groups"].get(group), metric) for group in groups)]
            for name, one in figures.items()
        ]
        parts += [f"### {metric} on test", _table(["variant", "seeds", *groups], rows)]
    parts.append("\n".join(f"- `{name}`: {about}" for name, about in said["variants"].items()))
    for metric, (baseline, found) in itertools.product(METRICS, compared.items()):
        rows = [
            [f"`{name}`", *(_difference(one.get(group, {}).get(metric)) for group in groups)]
            for name, one in found.items()
        ]
        if rows:
            parts += [
                f"### {metric}: differences to {baseline}, of the same seeds",
                _table(["variant", *groups], rows),
            ]
    rows = [
        [name, task["meta"] if task["seen"] else UNSEEN, task["queries"]]
        + [_figure(one["tasks"].get(name), METRICS[0]) for one in figures.values()]
        for name, task in said["tasks"].items()
    ]
    seeds = [[f"`{name}`", ", ".join(map(_percent, found.values()))] for name, found in said["validation"].items()]
    parts += [f"### {METRICS[0]} on validation, {MEAN}", _table(["variant", "by seed"], seeds)]
    return [*parts, "### Task by task", _table(["task", "group", "queries", *(f"`{one}`" for one in figures)], rows)]


def _ablations(said: Json) -> list[str]:
    parts = ["## What matters in the whole method", _missing(said["missing"])]
    if not said["rows"]:
        return parts
    parts.append(
        "On validation; nothing was chosen on test. One seed says little: differences below 1.4 times the standard "
        "error, which is that of the choice of queries alone, are noise."
    )
    rows = [
        [row["name"], row["seed"], f"{_percent(row['hit@1'])} ± {_percent(row['error'])}", _points(row["difference"])]
        + [_percent(row["metas"].get(meta)) for meta in plan.METAS]
        + [_plain(row[name]) for name in ("routing_entropy", "kappa_deviation", "kappa_cosine_correlation")]
        for row in said["rows"]
    ]
    heads = ["changed", "seed", f"{MEAN} ± error", "difference", *plan.METAS]
    return [*parts, _table([*heads, "routing entropy", "kappa deviation", "kappa and cosine r"], rows)]


def _conflict(said: Json) -> list[str]:
    parts = ["## Task conflict", _missing(said["missing"]), *_drop(said["drop"])]
    for seed, one in said["geometry"].items():
        for joint, cosines in one["cosines"].items():
            if not cosines:
                continue
            blocks = range(max(map(len, cosines.values())))
            heads = ["meta-task", *(f"block {block}" for block in blocks)]
            rows = [[meta, *map(_plain, own)] for meta, own in cosines.items()]
            parts += [f"### Cosine of `{joint}` and isolated adapters, seed {seed}", _table(heads, rows)]
        names, between = one["between"]["names"], one["between"]["cosine"]
        if len(names) > 1:
            rows = [[name, *map(_plain, own)] for name, own in zip(names, between, strict=True)]
            parts += [f"### Cosine between isolated adapters, seed {seed}", _table(["", *names], rows)]
    if said["gradients"]:
        rows = [
            [f"`{run}`", _plain(one["within"]), _plain(one["between"]), _percent(one["share_opposed"])]
            for run, one in said["gradients"].items()
        ]
        heads = ["run", "tasks of one meta-task", "of two meta-tasks", "pairs below zero, %"]
        parts += ["### Mean cosine of tasks' gradients of the shared weights, after training", _table(heads, rows)]
    return parts


def _drop(said: Json) -> list[str]:
    if not said["metas"]:
        return []
    joints = list(dict.fromkeys(name for one in said["metas"].values() for name in one["differences"]))
    rows = []
    for meta, one in said["metas"].items():
        row = [meta, _percent(one["isolated"][METRICS[0]])]
        for name in joints:
            difference = one["differences"].get(name, {}).get(METRICS[0])
            row += [_percent(one[name][METRICS[0]]) if name in one else "", _difference(difference)]
        rows.append(row)
    last = [MEAN, ""]
    for name in joints:
        last += ["", _difference(said[MEAN].get(name, {}).get(METRICS[0]))]
    heads = ["meta-task", "an adapter of its own", *(head for name in joints for head in (f"`{name}`", "difference"))]
    return ["### From one adapter per meta-task to one for all", _table(heads, [*rows, last])]


def _specialisation(said: Json) -> list[str]:
    parts = ["## Specialisation", "" if said else "No run with experts is there yet."]
    if not said:
        return parts
    rows, kappas = [], []
    for run, one in said.items():
        for side, own in one["routing"].items():
            bits = [_plain(own[key]) for key in ("task_bits", "kind_bits", "task_bits_within_kind")]
            rows.append([f"`{run}`", side, *bits, _plain(own["most_bits"]), _plain(own["entropy"]), own["dead"]])
        kappa = one["kappa"]
        keys = ("within", "across", "correlation_within", "correlation_all", "auc", "cosine_auc")
        keys += ("hard_auc", "hard_auc_target")
        kappas.append([f"`{run}`", *(_plain(kappa[key]) for key in keys)])
    bits = ["run", "of", "task and expert", "kind and expert", "task and expert within a kind", "at most"]
    heads = ["run", "deviation within tasks", "across tasks", "r with cosine within tasks", "r over all"]
    return [
        *parts,
        "On validation rows. Information is in bits, a mean over blocks; a kind is text, picture or both. Entropy is 1 "
        "for uniform gates. Dead experts have a mean load below a tenth of the uniform one, over all blocks.",
        _table([*bits, "entropy", "dead"], rows),
        "Kappa of queries and negatives. AUC: how often kappa, or cosine, of a query and its right candidate is above "
        "that of the query and another one of its task. AUC of hard negatives: how often a negative among the tenth "
        "nearest the query by cosine is above another one of its task, by kappa to the query, and to the target.",
        _table([*heads, "AUC of kappa", "AUC of cosine", "of hard negatives", "the same, to the target"], kappas),
    ]


def _cost(said: Json) -> list[str]:
    parts = [
        "## Cost",
        f"Mini's encoder, {said['items']} items of {said['tokens']} tokens, median of {said['rounds']} rounds. Latency "
        "is that of a forward pass over that of one LoRA of rank 32. Memory kept for the backward pass is per item.",
    ]
    for key, title in (
        ("equal_total_rank", "At equal total rank"),
        ("equal_rank_per_expert", "At equal rank per expert"),
    ):
        rows = [
            [
                *(
                    row["experts"],
                    row["rank"],
                    f"{row['parameters']:,}",
                    f"{row['routers']:,}",
                    f"{row['latency']:.2f}",
                ),
                *(f"{row[part] / 2**20:.1f}" for part in ("adapter_bytes", "kept_bytes")),
            ]
            for row in said[key]
        ]
        heads = ["E", "r", "parameters of experts", "of routers", "latency", "adapters, MiB", "kept, MiB"]
        parts += [f"### {title}", _table(heads, rows)]
    return parts


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [list(map(str, heads)), ["---"] * len(heads), *(list(map(str, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _missing(folders: Sequence[str]) -> str:
    return f"Not there yet: {', '.join(f'`{folder}`' for folder in folders)}." if folders else ""


def _figure(found: Mapping[str, Any] | None, metric: str) -> str:
    if found is None:
        return ""
    one = found[metric]
    return _percent(one["mean"]) + ("" if one["deviation"] is None else f" ± {_percent(one['deviation'])}")


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    clear = found["low"] > 0 or found["high"] < 0
    said = f"**{_points(found['mean'])}**" if clear else _points(found["mean"])
    return f"{said} [{_points(found['low'])}, {_points(found['high'])}]"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _points(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
