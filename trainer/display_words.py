"""What the records of a run say, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsembed_search import wording
from tsembed_search.wording import count_words, size_words

Record = Mapping[str, Any]


def line_of(record: Record, total_steps: int) -> str:
    """What a record says, as one line; empty for kinds that are not for people."""
    kind = record.get("kind")
    if kind == "step":
        return f"step {record['step']:,} of {total_steps:,}: " + ", ".join(_step_words(record))
    if kind == "run":
        return _run_line(record)
    if kind == "stage":
        return f"stage {record.get('stage')} from step {record.get('step'):,}: {record.get('reason')}"
    if kind == "validation":
        return f"validation at step {record.get('step'):,}: {validation_words(record)}"
    if kind == "calibration":
        return f"lambda of expert reranking: {number(record.get('lambda'))}"
    if kind == "note":
        return str(record.get("message", ""))
    if kind == "end":
        said = f"{record.get('reason')} after {count_words(record.get('steps') or 0, 'step')}"
        return said + (f" in {wording.time_words(record['seconds'])}" if record.get("seconds") is not None else "")
    return ""


def _step_words(record: Record) -> list[str]:
    stage = [f"stage {record['stage']}"] if record.get("stage") is not None else []
    loss = " · ".join(loss_words(record))
    return [
        *stage,
        *([f"loss {loss}"] if loss else []),
        *negative_words(record),
        *speed_words(record),
        *memory_words(record),
        *time_words(record),
    ]


def loss_words(step: Record) -> list[str]:
    """The loss and its parts."""
    said = [number(step["loss"])] if step.get("loss") is not None else []
    said += [f"{name} {number(value)}" for name, value in (step.get("parts") or {}).items() if value is not None]
    return said


def rate_words(step: Record) -> list[str]:
    """Learning rates and the temperature."""
    said = [f"{name} {value:.1e}" for name, value in (step.get("rates") or {}).items() if value is not None]
    if step.get("temperature") is not None:
        said.append(f"temperature {number(step['temperature'])}")
    return said


def negative_words(step: Record) -> list[str]:
    """How hard negatives are, and how many are left out."""
    said = []
    for key, name in (("hardness", "hardest"), ("positive", "positive")):
        if step.get(key) is not None:
            said.append(f"{name} {step[key]:.2f}")
    if step.get("mask_rate") is not None:
        said.append(f"masked {step['mask_rate']:.1%}")
    if step.get("kappa_deviation") is not None:
        said.append(f"kappa ±{step['kappa_deviation']:.2f}")
    if step.get("kappa_cosine_correlation") is not None:
        said.append(f"r {step['kappa_cosine_correlation']:+.2f}")
    return said


def speed_words(step: Record) -> list[str]:
    """Items a second."""
    return [f"{wording.rate_words(step['items_per_second'])} items/s"] if step.get("items_per_second") else []


def time_words(step: Record) -> list[str]:
    """How long still."""
    left = step.get("seconds_left")
    return [] if left is None else [f"about {wording.time_words(max(1.0, left))} left"]


def memory_words(step: Record) -> list[str]:
    """Memory at its peak."""
    return [f"memory {size_words(step['memory'])}"] if step.get("memory") else []


def validation_words(record: Record) -> str:
    """Figures of a validation, or of several tasks their mean."""
    said = [f"{name} {record[name]:.3f}" for name in ("hit@1", "mrr") if record.get(name) is not None]
    if record.get("best") is not None:
        said.append(f"best {record['best']:.3f}")
    tasks = len(record.get("tasks") or {})
    return " · ".join([*said, *([f"mean over {count_words(tasks, 'task')}"] if tasks > 1 else [])])


def _run_line(record: Record) -> str:
    model, data = record.get("model") or {}, record.get("data") or {}
    said = [f"training {model['name']}" if model.get("name") else "training"]
    if model.get("trainable"):
        said.append(f"{model['trainable']:,} trained parameters")
    if tasks := data.get("tasks"):
        rows = sum(task.get("rows") or 0 for task in tasks)
        said.append(f"{count_words(rows, 'row')} of {count_words(len(tasks), 'task')}")
    if record.get("device"):
        said.append(f"on {record['device']}")
    if record.get("resumed_from") is not None:
        said.append(f"resumed from step {record['resumed_from']:,}")
    return ", ".join(said)


def number(value: Any) -> str:
    """A number with up to four digits."""
    return "unknown" if value is None else f"{value:.4g}"
