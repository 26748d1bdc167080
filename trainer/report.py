"""The report of a run: one HTML file with tables and plots, which needs nothing beside it and runs no script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from tsembed_search.trainer import log, plots
from tsembed_search.trainer.log import Record
from tsembed_search.trainer.plots import Line, Mark, heat_map, lines
from tsembed_search.wording import count_words, rate_words, shown, size_words, time_words

NAME: Final = "report.html"
_TEMPLATE: Final = Path(__file__).parent / "data" / NAME
_COLUMNS_OF_TIME = 60

Kinds = Mapping[str, Sequence[Record]]


def write(run_folder: Path) -> Path:
    """Write `report.html` into a run's folder from its log, as far as the run has come. Return the file's path.

    Without matplotlib it has the tables only, and says so. Raises `OSError` when there is no log, or no room.
    """
    kinds: dict[str, list[Record]] = {}
    for record in log.read(run_folder / log.NAME):
        kinds.setdefault(str(record.get("kind")), []).append(record)
    recipe, data = _last(kinds, "run").get("recipe"), _last(kinds, "run").get("data") or {}
    page = _template().render(
        name=run_folder.name,
        facts=_facts(kinds),
        plots=_plots(kinds) if plots.installed() else None,
        validation=_validation_table(kinds),
        data=data,
        held={task.get("name"): task.get("rows") for task in data.get("validation") or ()},
        kinds=kinds,
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False).split("\n") if recipe else (),
    )
    path = run_folder / NAME
    partial = path.with_name(f".{NAME}.partial")
    partial.write_text(page, "utf-8")
    return partial.replace(path)


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, finalize=_said)
    environment.filters["words"] = count_words
    return environment.from_string(_TEMPLATE.read_text("utf-8"))


def _said(value: object) -> object:
    """A value as it is safe to show; what is markup already stays."""
    return value if hasattr(value, "__html__") else "" if value is None else shown(str(value))


def _last(kinds: Kinds, kind: str) -> Record:
    return kinds[kind][-1] if kinds.get(kind) else {}


def _facts(kinds: Kinds) -> list[tuple[str, Any]]:
    run, step, end = _last(kinds, "run"), _last(kinds, "step"), _last(kinds, "end")
    model = run.get("model") or {}
    return [
        ("state", end.get("reason") or "not finished"),
        ("recipe", run.get("name")),
        ("model", model.get("name")),
        ("parameters", model.get("parameters") and f"{model['parameters']:,}"),
        ("of them trained", model.get("trainable") and f"{model['trainable']:,}"),
        ("started", run.get("started")),
        ("device", run.get("device")),
        ("precision", run.get("precision")),
        ("processes", run.get("ranks")),
        ("seed", run.get("seed")),
        ("steps", f"{step.get('step', 0):,} of {run.get('steps') or 0:,}"),
        ("time", step.get("seconds") is not None and time_words(step["seconds"])),
        ("items a second", step.get("items_per_second") and rate_words(step["items_per_second"])),
        ("memory", step.get("memory") and size_words(step["memory"])),
        ("lambda of expert reranking", _last(kinds, "calibration").get("lambda")),
        ("best validation", _best(kinds)),
    ]


def _best(kinds: Kinds) -> str | None:
    best = _last(kinds, "end").get("best_step")
    measured = [record for record in kinds.get("validation", ()) if record.get("step") == best]
    if not measured or measured[-1].get("hit@1") is None:
        return None
    return f"hit@1 {measured[-1]['hit@1']:.3f} at step {best:,}"


def _validation_table(kinds: Kinds) -> tuple[list[str], list[list[Any]]]:
    """The head and the rows: each task at the first and at the last validation."""
    measured = kinds.get("validation") or [{}]
    first, last = measured[0].get("tasks") or {}, measured[-1].get("tasks") or {}
    rows = []
    for name, figures in last.items():
        before, after = (first.get(name) or {}).get("hit@1"), figures.get("hit@1")
        change = "" if before is None or after is None else f"{after - before:+.3f}"
        rows.append([name, figures.get("n"), *("" if x is None else f"{x:.3f}" for x in (before, after)), change])
    steps = (f"hit@1 at step {measured[0].get('step')}", f"at step {measured[-1].get('step')}")
    return ["task", "queries", *steps, "change"], rows


def _plots(kinds: Kinds) -> dict[str, list[str]]:
    """The plots of each section; those that nothing was measured for are left out."""
    marks = [Mark(one["step"], f"stage {one.get('stage')}") for one in kinds.get("stage", ()) if "step" in one]
    sections = {
        "loss": [*_loss(kinds, marks), *_validation(kinds, marks)],
        "experts": _experts(kinds, marks),
        "negatives": _negatives(kinds, marks),
        "rates": _rates(kinds, marks),
    }
    return {name: [svg for svg in drawn if svg] for name, drawn in sections.items()}


def _series(kinds: Kinds, *path: str, name: str = "", kind: str = "step", dots: bool = False) -> Line:
    """A value of the records of a kind, over their steps; those without it are left out."""
    points = []
    for record in kinds.get(kind, ()):
        value: Any = record
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and record.get("step") is not None:
            points.append((float(record["step"]), float(value)))
    return Line(name or path[-1], points, dots)


def _loss(kinds: Kinds, marks: Sequence[Mark]) -> Iterator[str]:
    parts = {name: _series(kinds, "parts", name) for name in _last(kinds, "step").get("parts") or {}}
    contrastive = [parts.pop("contrastive")] if "contrastive" in parts else []
    yield lines("Loss", [_series(kinds, "loss"), *contrastive], marks)
    yield from (lines(f"Loss: {name}", [line], marks) for name, line in parts.items())


def _validation(kinds: Kinds, marks: Sequence[Mark]) -> Iterator[str]:
    measured = [_series(kinds, name, kind="validation", dots=True) for name in ("hit@1", "mrr")]
    yield lines("Validation, mean over tasks", measured, marks)
    names = list(_last(kinds, "validation").get("tasks") or {})
    steps = [record for record in kinds.get("validation", ()) if record.get("step") is not None]
    if len(names) > 1 and len(steps) > 1:
        values = [[((record.get("tasks") or {}).get(name) or {}).get("hit@1") for record in steps] for name in names]
        columns = [f"{record['step']:,}" for record in steps]
        yield heat_map("Validation hit@1 per task, over steps", names, columns, values, low=0.0, high=1.0)


def _experts(kinds: Kinds, marks: Sequence[Mark]) -> Iterator[str]:
    yield lines("Routing entropy (1: uniform)", [_series(kinds, "routing_entropy")], marks)
    yield _load_over_time([record for record in kinds.get("step", ()) if record.get("expert_load")])
    tasks = _last(kinds, "experts").get("tasks") or {}
    loads = {name: task["load"] for name, task in tasks.items() if task.get("load")}
    if loads:
        first, values = next(iter(loads.values())), [_flat(load) for load in loads.values()]
        title = "Use of experts per task (bBeE: expert E of block B)"
        most = max(share for row in values for share in row)
        yield heat_map(title, list(loads), _expert_names(first), values, low=0.0, high=most, groups=len(first[0]))
    gradients = _last(kinds, "gradients")
    title = "Cosine between the tasks' gradients of shared weights (below zero: conflict)"
    names, cosine = gradients.get("tasks") or [], gradients.get("cosine") or []
    yield heat_map(title, names, names, cosine, low=-1.0, high=1.0, signed=True)


def _load_over_time(steps: Sequence[Record]) -> str:
    if not steps:
        return ""
    size = -(-len(steps) // _COLUMNS_OF_TIME)
    starts = range(0, len(steps), size)
    loads = np.array([_flat(step["expert_load"]) for step in steps], dtype=float)
    means = np.ma.masked_invalid(loads)
    values = np.array([means[start : start + size].mean(axis=0).filled(np.nan) for start in starts]).T
    if np.isnan(values).all():
        return ""
    columns = [f"{steps[start]['step']:,}" for start in starts]
    names = _expert_names(steps[0]["expert_load"])
    high = float(np.nanmax(values))
    return heat_map("Load of each expert over steps", names, columns, values.tolist(), low=0.0, high=high)


def _flat(load: Sequence[Sequence[Any]]) -> list[Any]:
    return [share for block in load for share in block]


def _expert_names(load: Sequence[Sequence[Any]]) -> list[str]:
    return [f"b{block}e{expert}" for block, experts in enumerate(load) for expert in range(len(experts))]


def _negatives(kinds: Kinds, marks: Sequence[Mark]) -> Iterator[str]:
    cosines = [_series(kinds, "hardness", name="hardest negative"), _series(kinds, "positive")]
    yield lines("Cosines", cosines, marks)
    yield lines("Share of pairs masked as false negatives", [_series(kinds, "mask_rate")], marks)
    kappa = [
        _series(kinds, "kappa_deviation", name="deviation"),
        _series(kinds, "kappa_cosine_correlation", name="correlation with cosine"),
    ]
    yield lines("Kappa among negatives", kappa, marks)
    curve = _last(kinds, "calibration").get("sweep") or []
    points = [(float(weight), float(value)) for weight, value in curve if value is not None]
    yield lines("Expert reranking: MRR by lambda", [Line("mrr", points, dots=True)], x_label="lambda")


def _rates(kinds: Kinds, marks: Sequence[Mark]) -> Iterator[str]:
    yield lines(
        "Learning rates", [_series(kinds, "rates", name) for name in _last(kinds, "step").get("rates") or {}], marks
    )
    yield lines("Temperature of the loss", [_series(kinds, "temperature")], marks)
    yield lines("Norm of the gradient", [_series(kinds, "gradient_norm")], marks)
    yield lines("Items a second", [_series(kinds, "items_per_second")], marks)
    memory = [(step, size / 1e9) for step, size in _series(kinds, "memory").points]
    yield lines("Memory at its peak, GB", [Line("GB", memory)], marks)
