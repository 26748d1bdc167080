"""The model card of a checkpoint and of its exports, in Markdown: one template, filled from `tsembed.json`.

Everything that comes from data (names, paths, licences) is escaped, so that it is shown and never acts as markup.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tsembed_search.wording import count_words, shown

NAME: Final = "README.md"
_TEMPLATE: Final = Path(__file__).parent / "data" / "card.md"
_MARKUP: Final = re.compile(r"([\\`*_{}\[\]()#!|~@])")
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Said = Mapping[str, Any]
"""The content of a checkpoint's `tsembed.json`."""


def text(name: str, said: Said, *, before: Mapping[str, Any] | None = None, exported: str = "") -> str:
    """Return the card of the checkpoint in a folder called `name`.

    `before`: what validation measured before training, by task. `exported`: what was made of the checkpoint, for the
    card of an export.
    """
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
    environment.filters |= {"md": escaped, "json": lambda value: json.dumps(value, indent=2), "place": _place}
    base, method, recipe = said["base"], said["method"], said["recipe"]
    if name == "model" and recipe.get("name"):  # the folder of a run
        name = f"{recipe['name']} on {Path(base['name']).name}"
    return environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        name=name,
        base=base,
        published=json.dumps(base["name"]) if _HUB_NAME.fullmatch(base["name"]) else "",
        method=method,
        router=method["router"],
        blocks=len(said["routing_mean"]) // max(1, method["router"]["experts"]),
        weight=said["lambda"],
        recipe=recipe,
        data=_data(said["data"]),
        results=_results(said["metrics"], before or {}),
        metrics=said["metrics"],
        exported=exported,
    )


def escaped(value: object) -> str:
    """Return data as plain text in Markdown, also inside a table."""
    plain = shown(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", plain)


def _place(name: str) -> str:
    """A folder or file of this machine by its own name: where it lies is nobody's business. Hub names stay whole."""
    return Path(name).name if Path(name).is_absolute() else name


def _data(data: Mapping[str, Any]) -> dict[str, Any] | None:
    tasks = [task for task in data.get("tasks") or () if isinstance(task, Mapping)]
    sources = [str(source) for source in data.get("sources") or ()]
    if not tasks and not sources:
        return None
    licences = _licences(sources)
    total = sum(task.get("rows") or 0 for task in tasks)
    return {
        "amount": f"{count_words(total, 'row')} of {count_words(len(tasks), 'task')}",
        "sources": sources,
        "tasks": [
            (task.get("name", ""), task.get("meta") or "", f"{task.get('rows', 0):,}", licences.get(task.get("name")))
            for task in tasks
        ],
        "unknown": any(task.get("name") not in licences for task in tasks),
    }


def _licences(sources: Iterable[str]) -> dict[Any, str]:
    """Licences by task, where a source that is still there names them in its `tasks.json`."""
    found: dict[Any, str] = {}
    for source in sources:
        try:
            tasks = json.loads((Path(source) / "tasks.json").read_text("utf-8"))["tasks"]
            told = {name: task.get("licences") for name, task in tasks.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # the card says that it does not know
        found |= {name: ", ".join(map(str, names)) for name, names in told.items() if isinstance(names, list) and names}
    return found


def _results(metrics: Mapping[str, Any], before: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows of the table of validation: per task, then the mean over tasks."""
    tasks = metrics.get("tasks")
    if not isinstance(tasks, Mapping):
        return []
    rows: list[tuple[str, ...]] = []
    spread = 0.0
    for name, task in tasks.items():
        share, count = task.get("hit@1"), task.get("n") or 0
        bounds = share_interval(share, count) if share is not None and count else (math.nan, math.nan)
        spread += share * (1 - share) / count if share is not None and count else 0.0
        was = (before.get(name) or {}).get("hit@1")
        rows.append((name, str(count), _figure(share), _interval(*bounds), _figure(was), _figure(task.get("mrr"))))
    hit = metrics.get("hit@1")
    if hit is not None and len(tasks) > 1:
        half = 1.96 * math.sqrt(spread) / len(tasks)
        known = [task["hit@1"] for task in before.values() if task.get("hit@1") is not None]
        was = sum(known) / len(known) if known else None
        bounds = (max(0.0, hit - half), min(1.0, hit + half))
        figures = (_figure(hit), _interval(*bounds), _figure(was), _figure(metrics.get("mrr")))
        rows.append(("mean over tasks", "", *figures))
    return rows


def _figure(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _interval(low: float, high: float) -> str:
    return f"{_figure(low)} to {_figure(high)}"


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share among `count` (Wilson, *Probable inference*, JASA 1927)."""
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
