"""The progress of a training run: a live display in a terminal, plain lines elsewhere.

Both read the records that `log` writes, and show what of them there is: what was not measured is left out.

What the records of a run say, in words.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tsembed_search import wording
from tsembed_search.wording import count_words, shown, size_words

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text


_SECONDS_BETWEEN_LINES = 10.0

_LEVELS = "▁▂▃▄▅▆▇█"

_COLOURS = ("blue", "cyan", "green", "yellow", "red")

_CURVE = 40

_LABEL = 14


class Display:
    """Follows a run of `total_steps` steps on a console. Use it as a context, or call `close` at the end."""

    def __init__(self, total_steps: int, console: Console) -> None:
        self.total_steps = total_steps
        self.console = console
        self.state = State(total_steps)
        self._live: Live | None = None
        self._spinner: RenderableType = ""
        self._last_line = float("-inf")

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, record: Record) -> None:
        """Takes in one record of the log."""
        self.state.take(record)
        line = line_of(record, self.total_steps)
        if not self.console.is_terminal:
            now = time.monotonic()
            if record.get("kind") != "step":
                self._print(line)
            elif now - self._last_line >= _SECONDS_BETWEEN_LINES or record.get("step") == self.total_steps:
                self._last_line = now
                self._print(line)
            return
        if record.get("kind") in ("run", "stage", "note", "end", "calibration"):
            self._print(line)
        if record.get("kind") in ("run", "step") and self._live is None:
            self._start()

    def note(self, message: str) -> None:
        """Shows a message that stays."""
        self._print(message)

    def close(self) -> None:
        """Ends the live display; what it last showed stays."""
        if self._live is not None:
            self._spinner = ""
            self._live.stop()
            self._live = None

    def _print(self, line: str) -> None:
        from rich.text import Text

        if line:
            self.console.print(Text(shown(line)), soft_wrap=True)

    def _start(self) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self._draw, console=self.console, refresh_per_second=4)
        self._live.start()

    def _draw(self) -> RenderableType:
        return draw(self.state, self._spinner, self.console.width)


class State:
    """What is known of the run so far: the latest record of each kind, and the losses as a curve of `_CURVE` means."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self.latest: dict[str, Record] = {}
        self._losses: list[tuple[float, int]] = [(0.0, 0)] * _CURVE

    def take(self, record: Record) -> None:
        """Remembers a record."""
        self.latest[str(record.get("kind", ""))] = record
        loss, step = record.get("loss"), record.get("step")
        if record.get("kind") == "step" and isinstance(loss, float | int) and step:
            place = min(_CURVE - 1, (step - 1) * _CURVE // max(1, self.total_steps))
            total, count = self._losses[place]
            self._losses[place] = total + loss, count + 1

    def curve(self) -> list[float]:
        """Mean losses over the run so far, one for each fortieth of its steps that has any."""
        return [total / count for total, count in self._losses if count]


def draw(state: State, spinner: RenderableType = "", width: int = 80) -> RenderableType:
    """One frame for a terminal of that many columns: progress, then a line for each subject that is known."""
    from rich.console import Group

    step = state.latest.get("step", {})
    lines: list[RenderableType] = [_progress(state, spinner, width)]
    room = width - _LABEL
    for label, content in (
        ("loss", _plain(loss_words(step))),
        ("", _curve(state)),
        ("rates", _plain(rate_words(step))),
        ("experts", _experts(step, room)),
        ("negatives", _plain(negative_words(step))),
        (
            "validation",
            _plain([validation_words(state.latest["validation"])] if "validation" in state.latest else []),
        ),
        ("speed", _plain(speed_words(step) + memory_words(step))),
    ):
        if content is not None:
            lines.append(_labelled(label, content))
    return Group(*lines)


def heat(loads: Sequence[Sequence[float]], room: int) -> tuple[Text, list[int]]:
    """Each expert's load `[L][E]` as a bar whose height and colour tell it, block by block, in `room` columns.

    Half height is the mean; full height is twice that or more. Where not all blocks fit, some are shown, evenly spaced.
    Gives the drawing and the blocks shown.
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


def _progress(state: State, spinner: RenderableType, width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    step = state.latest.get("step", {})
    done = step.get("step") or 0
    bar = max(8, min(30, width // 5))
    row = Table.grid(padding=(0, 1))
    row.add_column(width=1)
    row.add_column(no_wrap=True, min_width=7)
    row.add_column(no_wrap=True, min_width=bar)
    row.add_column(no_wrap=True, overflow="ellipsis")
    facts = [f"{done:,} of {state.total_steps:,} steps", *time_words(step)]
    stage = f"stage {step['stage']}" if step.get("stage") is not None else "start"
    bar_drawn = ProgressBar(max(1, state.total_steps), done, width=bar)
    row.add_row(spinner, Text(stage, style="bold"), bar_drawn, Text(" · ".join(facts)))
    return row


def _labelled(label: str, content: Text) -> Text:
    from rich.text import Text

    return Text.assemble((f"  {label}".ljust(_LABEL), "dim"), content, no_wrap=True, overflow="ellipsis")


def _plain(words: Sequence[str]) -> Text | None:
    from rich.text import Text

    return Text(" · ".join(words)) if words else None


def _curve(state: State) -> Text | None:
    from rich.text import Text

    curve = state.curve()
    if len(curve) < 2:
        return None
    low, high = min(curve), max(curve)
    drawn = Text("".join(_level((value - low) / ((high - low) or 1.0)) for value in curve), style="cyan")
    norm = state.latest.get("step", {}).get("gradient_norm")
    return drawn if norm is None else drawn.append(f"  gradient {number(norm)}", style="default")


def _experts(step: Record, room: int) -> Text | None:
    loads = step.get("expert_load")
    if not loads or not loads[0] or any(load is None for block in loads for load in block):
        return None
    entropy = step.get("routing_entropy")
    said = "" if entropy is None else f"  entropy {entropy:.2f}"
    text, blocks = heat(loads, room - len(said))
    if len(blocks) < len(loads):
        text, blocks = heat(loads, room - len(said) - len(" · 88 of 88 blocks"))
        said += f" · {len(blocks)} of {len(loads)} blocks"
    return text.append(said)


def _level(share: float) -> str:
    return _LEVELS[min(len(_LEVELS) - 1, int(share * len(_LEVELS)))]


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
