"""The report: every figure as JSON, plots, and one page of tables, from the runs that are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import ablations
import conflict
import cost
import specialisation
import tables
import variants
from bars import Bars, bars
from runs import METRICS, Json

from tsembed_search.trainer import plots
from tsembed_search.trainer.plots import Line

PAGE = "tables.md"


def write(data: Path, out: Path, docs: Path, say: Callable[[str], None] = print) -> None:
    """Writes the report into `docs`. Plots that nothing is known for are taken away."""
    docs.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], Json]] = {
        "variants": lambda: variants.table(out),
        "ablations": lambda: ablations.table(out),
        "conflict": lambda: conflict.table(out),
        "specialisation": lambda: specialisation.table(out, data),
        "cost": lambda: cost.table(out),
    }
    said: dict[str, Json] = {}
    for name, make in parts.items():
        say(name)
        said[name] = make()
        text = json.dumps(said[name], indent=1, allow_nan=False)
        (docs / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    drawn = {f"{name}.svg": picture for name, picture in pictures(said).items() if picture[1]}
    for old in docs.glob("*.svg"):
        if old.name not in drawn:
            old.unlink()
    for file, (_, svg) in drawn.items():
        (docs / file).write_text(svg + "\n", encoding="utf-8")
    page = tables.page(said, {file: title for file, (title, _) in drawn.items()})
    (docs / PAGE).write_text(page, encoding="utf-8")


def pictures(said: Mapping[str, Json]) -> dict[str, tuple[str, str]]:
    """Title and SVG of each plot by its name; empty SVG where nothing is known."""
    found: dict[str, tuple[str, str]] = {}
    found["differences"] = _differences(said["variants"])
    found["drop"] = _drop(said["conflict"]["drop"])
    geometry = said["conflict"]["geometry"]
    if geometry:
        found |= _geometry(next(iter(geometry.values())))
    for run, one in said["conflict"]["gradients"].items():
        title = f"Cosine of tasks' gradients of shared weights, {run}"
        labels = one["tasks"]
        svg = plots.heat_map(title, labels, labels, one["cosine"], low=-0.5, high=0.5, signed=True)
        found[f"gradients-{run.rpartition('-')[0]}"] = title, svg
    found |= _cost(said["cost"])
    return found


def _differences(said: Json) -> tuple[str, str]:
    title = f"{METRICS[0]} less that of the single LoRA, with 95% intervals"
    groups = list(dict.fromkeys(group for one in said["differences"].values() for group in one))
    series = []
    for name, one in said["differences"].items():
        figures = [one[group][METRICS[0]] if group in one else None for group in groups]
        series.append(
            Bars(
                name,
                [figure and figure["mean"] for figure in figures],
                [figure and (figure["low"], figure["high"]) for figure in figures],
            )
        )
    return title, bars(title, groups, series)


def _drop(said: Json) -> tuple[str, str]:
    title = f"{METRICS[0]} on test: an adapter per meta-task, and one for all"
    names = ("isolated", *conflict.JOINT)
    metas = list(said["metas"])
    series = [
        Bars(name, [said["metas"][meta][name][METRICS[0]] if name in said["metas"][meta] else None for meta in metas])
        for name in names
    ]
    return title, bars(title, metas, series)


def _geometry(said: Json) -> dict[str, tuple[str, str]]:
    """The plots of one seed."""
    found: dict[str, tuple[str, str]] = {}
    for joint, cosines in said["cosines"].items():
        title = f"Cosine of the weight changes of {joint} and of isolated adapters, by block"
        values = list(cosines.values())
        columns = [f"block {block}" for block in range(len(values[0]))] if values else []
        svg = plots.heat_map(title, list(cosines), columns, values, low=-1, high=1, signed=True)
        found[f"cosines-{joint}"] = title, svg
    title = "Loss of isolated and joint adapters"
    found["convergence"] = title, plots.lines(title, [Line(name, _smooth(own)) for name, own in said["loss"].items()])
    if said["paths"]:
        share = said["paths"]["share"] or 0.0
        title = f"Paths of adapters while trained, on two directions that hold {share:.0%} of how they differ"
        lines = [Line(name, [(x, y) for _, x, y in own], dots=True) for name, own in said["paths"]["paths"].items()]
        found["paths"] = title, plots.lines(title, lines, x_label="first direction")
    return found


def _cost(said: Json) -> dict[str, tuple[str, str]]:
    rows = {"equal total rank": said["equal_total_rank"], "equal rank per expert": said["equal_rank_per_expert"]}
    titles = {
        "latency": ("Forward pass over that of one LoRA of rank 32", 1.0),
        "parameters": ("Parameters of experts, millions", 1e6),
        "kept_bytes": ("Kept for the backward pass per item, MiB", 2.0**20),
    }
    found = {}
    for key, (title, unit) in titles.items():
        lines = [
            Line(name, [(row["experts"], row[key] / unit) for row in each], dots=True) for name, each in rows.items()
        ]
        found[f"cost-{key.partition('_')[0]}"] = title, plots.lines(title, lines, x_label="experts")
    return found


def _smooth(points: list[list[float]]) -> list[tuple[float, float]]:
    """A moving mean, since the loss of a batch depends on its tasks."""
    weight, level, found = 0.9, None, []
    for step, value in points:
        level = value if level is None else weight * level + (1 - weight) * value
        found.append((step, level))
    return found
