"""The progress of a training run, from the records that its log gets. What was not measured is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tsembed_search import wording
from tsembed_search.cli.render.progress import Display, progress_line, time_left
from tsembed_search.wording import count_words

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

Record = Mapping[str, Any]

_LEVELS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = ("blue", "cyan", "green", "yellow", "red")
_CURVE: Final = 40
_LABEL: Final = 14

# The fields of a record, and the words for each.
_NEGATIVES: Final = {
    "hardness": "hardest {:.2f}", "positive": "positive {:.2f}", "mask_rate": "masked {:.1%}",
    "kappa_deviation": "kappa ±{:.2f}", "kappa_cosine_correlation": "r {:+.2f}",
}  # fmt: skip
_LOSS: Final = {"loss": "{:.4g}"}
_TEMPERATURE: Final = {"temperature": "temperature {:.4g}"}
_VALIDATION: Final = {"hit@1": "hit@1 {:.3f}", "mrr": "mrr {:.3f}", "best": "best {:.3f}"}


class TrainingDisplay(Display):
    """Follows a run of `total_steps` steps: a frame with a line for each subject, which stays; and remarks above it."""

    stays = True

    def __init__(self, total_steps: int, *, quiet: bool = False, console: Console | None = None) -> None:
        super().__init__(quiet=quiet, console=console)
        self.total_steps = total_steps
        self.latest: dict[str, Record] = {}
        self._losses: list[tuple[float, int]] = [(0.0, 0)] * _CURVE

    def update(self, record: Record) -> None:
        """Take in one record of the log."""
        kind = str(record.get("kind", ""))
        self.latest[kind] = record
        if kind == "step":
            self._count(record)
            self.show(line_of(record, self.total_steps), now=record.get("step") == self.total_steps)
        elif kind != "validation" or self._console is None:
            self.note(line_of(record, self.total_steps), style="")
        if kind == "run" and self._console is not None:
            self.show("")

    def curve(self) -> list[float]:
        """Return mean losses over the run so far, one for each fortieth of its steps that has any."""
        return [total / count for total, count in self._losses if count]

    def draw(self, spinner: RenderableType, width: int) -> RenderableType:
        """Return the frame: how far the run is, then a line for each subject that is known."""
        from rich.console import Group
        from rich.text import Text

        step = self.latest.get("step", {})
        validation = self.latest.get("validation")
        stage = f"stage {step['stage']}" if step.get("stage") is not None else "start"
        done = step.get("step") or 0
        told = [f"{done:,} of {self.total_steps:,} steps", *time_left(step.get("seconds_left"))]
        lines = [progress_line(spinner, stage, done, max(1, self.total_steps), told, width)]
        for label, content in (
            ("loss", _loss(step)),
            ("", self._drawn_curve()),
            ("learning rate", _rates(step)),
            ("experts", _experts(step, width - _LABEL)),
            ("negatives", _said(step, _NEGATIVES)),
            ("validation", _figures(validation) if validation else []),
            ("speed", _speed(step)),
        ):
            drawn = Text(" · ".join(content)) if isinstance(content, list) else content
            if drawn:
                named = (label.ljust(_LABEL), "dim")
                lines.append(Text.assemble(named, drawn, no_wrap=True, overflow="ellipsis"))
        return Group(*lines)

    def _count(self, record: Record) -> None:
        loss, step = record.get("loss"), record.get("step")
        if isinstance(loss, float | int) and step:
            place = min(_CURVE - 1, (step - 1) * _CURVE // max(1, self.total_steps))
            total, count = self._losses[place]
            self._losses[place] = total + loss, count + 1

    def _drawn_curve(self) -> Text | None:
        from rich.text import Text

        curve = self.curve()
        if len(curve) < 2:
            return None
        low, high = min(curve), max(curve)
        drawn = Text("".join(_level((value - low) / ((high - low) or 1.0)) for value in curve), style="cyan")
        norm = self.latest.get("step", {}).get("gradient_norm")
        return drawn if norm is None else drawn.append(f"  gradient {norm:.4g}", style="default")


def heat(loads: Sequence[Sequence[float]], room: int) -> tuple[Text, list[int]]:
    """Draw each expert's load `[L][E]` as a bar whose height and colour tell it, block by block, in `room` columns.

    Half height is the mean; full height is twice that or more. Where not all blocks fit, some are shown, evenly spaced.
    Returns the drawing and the blocks shown.
    """
    from rich.text import Text

    experts = max(1, len(loads[0]))
    fit = max(1, min(len(loads), (room + 1) // (experts + 1)))
    blocks = [round(place * (len(loads) - 1) / max(1, fit - 1)) for place in range(fit)]
    text = Text(no_wrap=True, overflow="ellipsis")
    for place, block in enumerate(blocks):
        text.append(" " if place else "")
        mean = sum(loads[block]) / experts or 1.0
        for load in loads[block]:
            share = min(1.0, max(0.0, load / mean / 2))
            text.append(_level(share), style=_COLOURS[min(len(_COLOURS) - 1, int(share * len(_COLOURS)))])
    return text, blocks


def line_of(record: Record, total_steps: int) -> str:
    """Return what a record says, as one line; empty for kinds that are not for people."""
    kind = record.get("kind")
    if kind == "step":
        return f"step {record['step']:,} of {total_steps:,}: " + ", ".join(_step_words(record))
    if kind == "run":
        return _run_line(record)
    if kind == "stage":
        return f"stage {record.get('stage')} from step {record.get('step'):,}: {record.get('reason')}"
    if kind == "validation":
        return f"validation at step {record.get('step'):,}: {' · '.join(_figures(record))}"
    if kind == "calibration":
        return "re-ranking weight: " + (_said(record, {"lambda": "{:.4g}"}) or ["unknown"])[0]
    if kind == "note":
        return str(record.get("message", ""))
    if kind == "end":
        said = f"{record.get('reason')} after {count_words(record.get('steps') or 0, 'step')}"
        return said + (f" in {wording.time_words(record['seconds'])}" if record.get("seconds") is not None else "")
    return ""


def _said(record: Record, words: Mapping[str, str]) -> list[str]:
    """The fields of a record that were measured, in these words."""
    return [form.format(record[name]) for name, form in words.items() if record.get(name) is not None]


def _named(values: Mapping[str, float | None] | None, form: str) -> list[str]:
    return [f"{name} {value:{form}}" for name, value in (values or {}).items() if value is not None]


def _loss(step: Record) -> list[str]:
    return _said(step, _LOSS) + _named(step.get("parts"), ".4g")


def _rates(step: Record) -> list[str]:
    return _named(step.get("rates"), ".1e") + _said(step, _TEMPERATURE)


def _speed(step: Record) -> list[str]:
    said = [f"{wording.rate_words(step['items_per_second'])} items/s"] if step.get("items_per_second") else []
    return said + ([f"memory {wording.size_words(step['memory'])}"] if step.get("memory") else [])


def _figures(record: Record) -> list[str]:
    tasks = len(record.get("tasks") or {})
    return _said(record, _VALIDATION) + ([f"mean over {count_words(tasks, 'task')}"] if tasks > 1 else [])


def _step_words(step: Record) -> list[str]:
    loss = [f"loss {' · '.join(_loss(step))}"] if _loss(step) else []
    left = time_left(step.get("seconds_left"))
    return [*_said(step, {"stage": "stage {}"}), *loss, *_said(step, _NEGATIVES), *_speed(step), *left]


def _run_line(record: Record) -> str:
    model, tasks = record.get("model") or {}, (record.get("data") or {}).get("tasks")
    said = [f"training {model['name']}" if model.get("name") else "training"]
    if model.get("trainable"):
        said.append(f"{model['trainable']:,} trained parameters")
    if tasks:
        rows = sum(task.get("rows") or 0 for task in tasks)
        said.append(f"{count_words(rows, 'row')} of {count_words(len(tasks), 'task')}")
    return ", ".join(said + _said(record, {"device": "on {}", "resumed_from": "resumed from step {:,}"}))


def _experts(step: Record, room: int) -> Text | None:
    loads = step.get("expert_load")
    if not loads or not loads[0] or any(load is None for block in loads for load in block):
        return None
    said = "".join(_said(step, {"routing_entropy": "  entropy {:.2f}"}))
    text, blocks = heat(loads, room - len(said))
    if len(blocks) < len(loads):
        text, blocks = heat(loads, room - len(said) - len(" · 88 of 88 blocks"))
        said += f" · {len(blocks)} of {len(loads)} blocks"
    return text.append(said)


def _level(share: float) -> str:
    return _LEVELS[min(len(_LEVELS) - 1, int(share * len(_LEVELS)))]
