"""The model card of a trained checkpoint, in Markdown: what it is, what it learned from, how good it is, its limits.

Everything that comes from data (names, paths, licences) is escaped, so that it is shown and never acts as markup.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tsembed_search.model import checkpoint
from tsembed_search.model.checkpoint import Checkpoint
from tsembed_search.ranking.metrics import share_interval
from tsembed_search.trainer import log
from tsembed_search.wording import count_words, shown

_MARKUP: Final = re.compile(r"([\\`*_{}\[\]()#!|~@])")
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TASKS_FILE: Final = "tasks.json"

Record = Mapping[str, Any]


def write(folder: Path, run_folder: Path | None = None) -> Path:
    """Writes the card of the checkpoint in `folder`, with what the run's log adds. Gives the file's path.

    Raises `ModelError` for a folder that is no checkpoint, and `OSError`.
    """
    path = None if run_folder is None else run_folder / log.NAME
    records = [] if path is None or not path.is_file() else list(log.read(path))
    card = folder / checkpoint.CARD
    partial = card.with_name(f".{card.name}.partial")
    partial.write_text(text(folder, records), encoding="utf-8")
    os.replace(partial, card)  # noqa: PTH105 - replaces what is there, on every system
    return card


def text(folder: Path, records: Sequence[Record] = ()) -> str:
    """The card of the checkpoint in `folder`; `records`: the log of its run, for what was measured before training.

    Raises `ModelError` for a folder that is no checkpoint.
    """
    said = checkpoint.read(folder)
    trained = said.recipe.get("trained") is not False
    name = folder.name
    if name == "model" and (run := said.recipe.get("name")):
        name = f"{run} on {Path(said.base.name).name}"
    parts = [
        _front_matter(said),
        f"# {escaped(name)}",
        "MoE-LoRA adapters for a multimodal embedding model, made with TSEmbed. They turn texts, pictures, or both "
        "together into vectors for search.",
        "" if trained else "**These adapters are not trained.** Vectors are the base model's own.",
        _table(_facts(said)),
        "## Use\n\n    tsembed index PATH --index NEW --model FOLDER\n    tsembed search --index NEW a red bicycle\n\n"
        "FOLDER is this folder; it needs the base model, which it does not contain. PEFT's "
        "`PeftModel.from_pretrained(base, FOLDER)` gives the uniform mixture of the experts: it knows no routers.",
        _data(said),
        _results(said, records),
        _limits(said),
        _recipe(said),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(value: object) -> str:
    """Data as plain text in Markdown, also inside a table."""
    plain = shown(str(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", plain)


def _front_matter(said: Checkpoint) -> str:
    lines = ["library_name: peft", "tags: [tsembed, moe-lora, feature-extraction]"]
    if _HUB_NAME.fullmatch(said.base.name):
        lines.append(f"base_model: {json.dumps(said.base.name)}")
    return "\n".join(["---", *lines, "---"])


def _place(name: str) -> str:
    """A folder or file of this machine by its own name: where it lies is nobody's business. Hub names stay whole."""
    return Path(name).name if Path(name).is_absolute() else name


def _facts(said: Checkpoint) -> list[Sequence[object]]:
    method, router = said.method, said.method["router"]
    experts = router["experts"]
    used = f"the best {router['top_k']}" if router.get("top_k") else "all"
    shared = ", and a shared one" if method.get("shared") else ""
    weight = "not calibrated" if said.route_weight is None else f"{said.route_weight:g}"
    base = _place(said.base.name) + (f" at {said.base.revision}" if said.base.revision else "")
    return [
        ("", ""),
        ("base model", base),
        ("adapted blocks", len(said.mean) // max(1, experts)),
        ("experts per block", f"{experts}, {used} of them used{shared}"),
        ("rank per expert, alpha", f"{method['rank']}, {method['alpha']:g}"),
        ("routing", f"per {router['level']}, temperature {router['temperature']:g}"),
        ("lambda of expert reranking", weight),
    ]


def _data(said: Checkpoint) -> str:
    tasks = [task for task in said.data.get("tasks") or () if isinstance(task, Mapping)]
    sources = [str(source) for source in said.data.get("sources") or ()]
    if not tasks and not sources:
        return ""
    licences = _licences(sources)
    rows: list[Sequence[object]] = [("task", "meta-task", "rows", "licences of the data")]
    rows += [
        (task.get("name", ""), task.get("meta") or "", f"{task.get('rows', 0):,}", licences.get(task.get("name"), "?"))
        for task in tasks
    ]
    total = sum(task.get("rows") or 0 for task in tasks)
    head = f"## Data\n\n{count_words(total, 'row')} of {count_words(len(tasks), 'task')}"
    head += f", from {', '.join(escaped(_place(source)) for source in sources)}." if sources else "."
    unknown = (
        ""
        if all(task.get("name") in licences for task in tasks)
        else ("\n\n**?** The data does not name its licence. Find it out before you pass this model on.")
    )
    return f"{head}\n\n{_table(rows)}{unknown}"


def _licences(sources: Iterable[str]) -> dict[Any, str]:
    """Licences by task, where a source that is still there names them in its `tasks.json`."""
    found: dict[Any, str] = {}
    for source in sources:
        file = Path(source) / _TASKS_FILE
        if not file.is_file():
            continue
        try:
            tasks = json.loads(file.read_text("utf-8"))["tasks"]
            told = {name: task.get("licences") for name, task in tasks.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # the card says that it does not know
        found |= {name: ", ".join(map(str, names)) for name, names in told.items() if isinstance(names, list) and names}
    return found


def _results(said: Checkpoint, records: Sequence[Record]) -> str:
    tasks = said.metrics.get("tasks")
    if not isinstance(tasks, Mapping) or not tasks:
        return ""
    before = next((record.get("tasks") or {} for record in records if _untrained(record)), {})
    rows: list[Sequence[object]] = [("task", "queries", "hit@1", "95%", "before training", "mrr")]
    spread = 0.0
    for name, task in tasks.items():
        share, count = task.get("hit@1"), task.get("n") or 0
        low, high = share_interval(share, count) if share is not None and count else (math.nan, math.nan)
        spread += share * (1 - share) / count if share is not None and count else 0.0
        was = (before.get(name) or {}).get("hit@1")
        rows.append(
            (name, count, _figure(share), f"{_figure(low)} to {_figure(high)}", _figure(was), _figure(task.get("mrr")))
        )
    hit, half = said.metrics.get("hit@1"), 1.96 * math.sqrt(spread) / len(tasks)
    if hit is not None and len(tasks) > 1:
        known = [task["hit@1"] for task in before.values() if task.get("hit@1") is not None]
        was = sum(known) / len(known) if known else None
        bounds = f"{_figure(max(0.0, hit - half))} to {_figure(min(1.0, hit + half))}"
        rows.append(("mean over tasks", "", _figure(hit), bounds, _figure(was), _figure(said.metrics.get("mrr"))))
    return (
        f"## Validation\n\n{_table(rows)}\n\nRows held out of training, each query against the targets of its task's "
        "other rows. Intervals are of the choice of queries (Wilson for a task, normal for the mean). The best of "
        "several checkpoints was kept by these figures, which flatters them a little; `tsembed eval` on data of its "
        "own tells more."
    )


def _untrained(record: Record) -> bool:
    return record.get("kind") == "validation" and record.get("step") == 0


def _figure(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _limits(said: Checkpoint) -> str:
    limits = [
        "It was measured on data like what it was trained on. How it does on other data is not known.",
        "What the base model cannot see or read, or has learned wrongly, it cannot, either.",
        "Experts are found by training, not named: none of them stands for a subject.",
    ]
    if said.route_weight == 0:
        limits.append("Expert reranking did not help on validation data, so its weight is 0.")
    elif said.route_weight is None:
        limits.append("The weight of expert reranking was not calibrated: `--rerank expert` needs `--route-weight`.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _recipe(said: Checkpoint) -> str:
    if not said.recipe:
        return ""
    about = f"{escaped(said.recipe['about'])}\n\n" if said.recipe.get("about") else ""
    return f"## Recipe\n\n{about}```json\n{json.dumps(said.recipe, indent=2)}\n```"


def _table(rows: Sequence[Sequence[object]]) -> str:
    """The first row is the heading, ours and without markup."""
    head = " | ".join(map(str, rows[0]))
    others = [" | ".join(escaped(cell) for cell in row) for row in rows[1:]]
    return "\n".join([f"| {head} |", "|" + "---|" * len(rows[0]), *(f"| {row} |" for row in others)])
