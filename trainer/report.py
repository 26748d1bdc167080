"""The report of a run: one HTML file with plots, which needs nothing beside it and runs no script."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tsembed_search.trainer import log
from tsembed_search.trainer.plots import Line, Mark, heat_map, lines, number, text_of
from tsembed_search.wording import count_words, size_words, time_words

NAME: Final = "report.html"
_COLUMNS_OF_TIME = 60

Record = Mapping[str, Any]


def write(run_folder: Path) -> Path:
    """Writes `report.html` into a run's folder from its log, as far as the run has come. Gives the file's path.

    Raises `OSError` when there is no log, or no room.
    """
    page = html(list(log.read(run_folder / log.NAME)), run_folder.name)
    path = run_folder / NAME
    partial = path.with_name(f".{NAME}.partial")
    partial.write_text(page, "utf-8")
    os.replace(partial, path)  # noqa: PTH105 - replaces what is there, on every system
    return path


def html(records: Sequence[Record], name: str) -> str:
    """The report of these log records, as one page."""
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(str(record.get("kind")), []).append(record)
    sections = [
        ("", _facts(kinds)),
        ("Loss and validation", _loss(kinds) + _validation_plot(kinds) + _validation_table(kinds)),
        ("Experts", _experts(kinds)),
        ("Negatives", _negatives(kinds)),
        ("Rates and speed", _rates(kinds)),
        ("Data", _data(kinds)),
        ("Notes", _notes(kinds)),
        ("Recipe", _recipe(kinds)),
    ]
    body = "".join(
        (f"<h2>{text_of(title)}</h2>" if title else "") + f"<div class='row'>{content}</div>"
        for title, content in sections
        if content
    )
    return _PAGE.format(title=text_of(name), style=_STYLE, body=body)


Kinds = Mapping[str, Sequence[Record]]


def _last(kinds: Kinds, kind: str) -> Record:
    return kinds[kind][-1] if kinds.get(kind) else {}


def _facts(kinds: Kinds) -> str:
    run, step, end = _last(kinds, "run"), _last(kinds, "step"), _last(kinds, "end")
    model = run.get("model") or {}
    facts: list[tuple[str, Any]] = [
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
        ("items a second", step.get("items_per_second") and number(step["items_per_second"])),
        ("memory", step.get("memory") and size_words(step["memory"])),
        ("lambda of expert reranking", _last(kinds, "calibration").get("lambda")),
        ("best validation", _best(kinds)),
    ]
    rows = "".join(
        f"<tr><th>{text_of(what)}</th><td>{text_of(value)}</td></tr>"
        for what, value in facts
        if value not in (None, "", False)
    )
    return f"<table>{rows}</table>"


def _best(kinds: Kinds) -> str | None:
    best = _last(kinds, "end").get("best_step")
    measured = [record for record in kinds.get("validation", ()) if record.get("step") == best]
    if not measured or measured[-1].get("hit@1") is None:
        return None
    return f"hit@1 {measured[-1]['hit@1']:.3f} at step {best:,}"


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


def _marks(kinds: Kinds) -> list[Mark]:
    return [
        Mark(record["step"], f"stage {record.get('stage')}") for record in kinds.get("stage", ()) if "step" in record
    ]


def _loss(kinds: Kinds) -> str:
    parts = _last(kinds, "step").get("parts") or {}
    contrastive = [_series(kinds, "parts", "contrastive")] if "contrastive" in parts else []
    drawn = lines("Loss", [_series(kinds, "loss"), *contrastive], _marks(kinds))
    others = [_series(kinds, "parts", name) for name in parts if name != "contrastive"]
    return drawn + "".join(lines(f"Loss: {line.name}", [line], _marks(kinds)) for line in others)


def _validation_plot(kinds: Kinds) -> str:
    measured = [_series(kinds, name, kind="validation", dots=True) for name in ("hit@1", "mrr")]
    drawn = lines("Validation, mean over tasks", measured, _marks(kinds))
    names = list(_last(kinds, "validation").get("tasks") or {})
    if len(names) < 2 or len(kinds["validation"]) < 2:
        return drawn
    steps = [record for record in kinds["validation"] if record.get("step") is not None]
    values = [[((record.get("tasks") or {}).get(name) or {}).get("hit@1") for record in steps] for name in names]
    columns = [f"{record['step']:,}" for record in steps]
    return drawn + heat_map("Validation hit@1 per task, over steps", names, columns, values, low=0.0, high=1.0)


def _validation_table(kinds: Kinds) -> str:
    measured = kinds.get("validation", ())
    if not measured:
        return ""
    first, last = measured[0].get("tasks") or {}, measured[-1].get("tasks") or {}
    head = f"<tr><th>task</th><th>queries</th><th>hit@1 at step {measured[0].get('step')}</th>"
    head += f"<th>at step {measured[-1].get('step')}</th><th>change</th></tr>"
    rows = ""
    for name, figures in last.items():
        before, after = (first.get(name) or {}).get("hit@1"), figures.get("hit@1")
        change = "" if before is None or after is None else f"{after - before:+.3f}"
        cells = [name, figures.get("n", ""), _figure(before), _figure(after), change]
        rows += "<tr>" + "".join(f"<td>{text_of(cell)}</td>" for cell in cells) + "</tr>"
    return f"<table class='figures'>{head}{rows}</table>"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _experts(kinds: Kinds) -> str:
    drawn = lines("Routing entropy (1: uniform)", [_series(kinds, "routing_entropy", name="entropy")], _marks(kinds))
    drawn += _load_over_time(kinds)
    tasks = _last(kinds, "experts").get("tasks") or {}
    loads = {name: task.get("load") for name, task in tasks.items() if task.get("load")}
    if loads:
        first = next(iter(loads.values()))
        values = [[share for block in load for share in block] for load in loads.values()]
        drawn += heat_map(
            "Use of experts per task (bBeE: expert E of block B)", list(loads), _expert_names(first), values,
            low=0.0, high=max(share for row in values for share in row), groups=len(first[0]),
        )  # fmt: skip
    gradients = _last(kinds, "gradients")
    names, cosine = gradients.get("tasks") or [], gradients.get("cosine") or []
    drawn += heat_map(
        "Cosine between the tasks' gradients of shared weights (below zero: conflict)", names, names, cosine,
        low=-1.0, high=1.0, signed=True,
    )  # fmt: skip
    return drawn


def _load_over_time(kinds: Kinds) -> str:
    steps = [record for record in kinds.get("step", ()) if record.get("expert_load")]
    if not steps:
        return ""
    size = max(1, -(-len(steps) // _COLUMNS_OF_TIME))
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    flat = [[[share for block in record["expert_load"] for share in block] for record in part] for part in parts]
    names = _expert_names(steps[0]["expert_load"])
    values = [
        [_mean([row[expert] for row in part if expert < len(row)]) for part in flat] for expert in range(len(names))
    ]
    columns = [f"{part[0]['step']:,}" for part in parts]
    known = [value for row in values for value in row if value is not None]
    if not known:
        return ""
    return heat_map("Load of each expert over steps", names, columns, values, low=0.0, high=max(known))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _expert_names(load: Sequence[Sequence[Any]]) -> list[str]:
    return [f"b{block}e{expert}" for block, experts in enumerate(load) for expert in range(len(experts))]


def _negatives(kinds: Kinds) -> str:
    marks = _marks(kinds)
    drawn = lines("Cosines", [_series(kinds, "hardness", name="hardest negative"), _series(kinds, "positive")], marks)
    drawn += lines("Share of pairs masked as false negatives", [_series(kinds, "mask_rate", name="masked")], marks)
    drawn += lines(
        "Kappa among negatives",
        [
            _series(kinds, "kappa_deviation", name="deviation"),
            _series(kinds, "kappa_cosine_correlation", name="correlation with cosine"),
        ],
        marks,
    )
    curve = _last(kinds, "calibration").get("sweep") or []
    points = [(float(weight), float(value)) for weight, value in curve if value is not None]
    return drawn + lines("Expert reranking: MRR by lambda", [Line("mrr", points, dots=True)], x_label="lambda")


def _rates(kinds: Kinds) -> str:
    names = _last(kinds, "step").get("rates") or {}
    marks = _marks(kinds)
    drawn = lines("Learning rates", [_series(kinds, "rates", name) for name in names], marks)
    for key, title in (
        ("temperature", "Temperature of the loss"),
        ("gradient_norm", "Norm of the gradient"),
        ("items_per_second", "Items a second"),
    ):
        drawn += lines(title, [_series(kinds, key, name=title.lower())], marks)
    memory = _series(kinds, "memory")
    return drawn + lines("Memory at its peak, GB", [Line("GB", [(x, y / 1e9) for x, y in memory.points])], marks)


def _data(kinds: Kinds) -> str:
    data = _last(kinds, "run").get("data") or {}
    held = {task.get("name"): task.get("rows") for task in data.get("validation") or ()}
    head = "".join(f"<th>{name}</th>" for name in ("task", "meta-task", "rows", "identities", "held out", "weight"))
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{text_of('' if cell is None else cell)}</td>"
            for cell in (
                *(task.get(key) for key in ("name", "meta", "rows", "identities")),
                held.get(task.get("name"), ""),
                task.get("weight"),
            )
        )
        + "</tr>"
        for task in data.get("tasks") or ()
    )
    sources = ", ".join(map(str, data.get("sources") or ()))
    said = f"<p>From {text_of(sources)}.</p>" if sources else ""
    if data.get("problems"):
        said += f"<p>{text_of(count_words(data['problems'], 'row'))} could not be used.</p>"
    return said + (f"<table class='figures'><tr>{head}</tr>{rows}</table>" if rows else "")


def _notes(kinds: Kinds) -> str:
    said = [*_messages(kinds)]
    return "<ul>" + "".join(f"<li>{text_of(line)}</li>" for line in said) + "</ul>" if said else ""


def _messages(kinds: Kinds) -> Iterator[str]:
    for record in kinds.get("run", ()):
        if record.get("resumed_from") is not None:
            yield f"Resumed from step {record['resumed_from']:,}."
    for record in kinds.get("stage", ()):
        yield f"Stage {record.get('stage')} from step {record.get('step')}: {record.get('reason')}."
    for record in kinds.get("note", ()):
        yield str(record.get("message", ""))


def _recipe(kinds: Kinds) -> str:
    recipe = _last(kinds, "run").get("recipe")
    if not recipe:
        return ""
    return f"<details><summary>All settings</summary><pre>{_block(recipe)}</pre></details>"


def _block(value: Any) -> str:
    dumped = json.dumps(value, indent=2, ensure_ascii=False)
    return "\n".join(text_of(line) for line in dumped.split("\n"))


_STYLE: Final = """
body { font: 14px/1.45 sans-serif; color: #222; background: #fff; max-width: 1180px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; border-bottom: 1px solid #ddd; padding-bottom: .2em; margin-top: 2em }
.row { display: flex; flex-wrap: wrap; gap: 18px; align-items: flex-start } .row > * { max-width: 100% }
svg { height: auto } table { border-collapse: collapse } th, td { text-align: left; padding: 2px 12px 2px 0 }
th { font-weight: 600; color: #555 } .figures td:not(:first-child) { font-variant-numeric: tabular-nums }
.figures tr { border-bottom: 1px solid #eee } pre { white-space: pre-wrap } details { width: 100% }
"""
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><h1>{title}</h1>{body}</body></html>
"""
