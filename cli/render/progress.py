"""The progress of long work on stderr: drawn live in a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from tsembed_search.cli.render import text as render
from tsembed_search.indexer.report import Progress, Skipped
from tsembed_search.wording import count_words, rate_words, shown, size_words, time_words

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

Record = Mapping[str, Any]

_SECONDS_BETWEEN_LINES: Final = 10.0
_BAR_WIDTH: Final = 30
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_COLOURS: Final = ("blue", "cyan", "green", "yellow", "red")
_CURVE: Final = 40
_LABEL: Final = 14

# The fields of a training run's record, and the words for each.
_NEGATIVES: Final = {
    "hardness": "hardest {:.2f}", "positive": "positive {:.2f}", "mask_rate": "masked {:.1%}",
    "kappa_deviation": "kappa ±{:.2f}", "kappa_cosine_correlation": "r {:+.2f}",
}  # fmt: skip
_VALIDATION: Final = {"hit@1": "hit@1 {:.3f}", "mrr": "mrr {:.3f}", "best": "best {:.3f}"}


class Display(ABC):
    """Follows long work. Use it as a context. Drawing begins with the first `show`; a frame that `stays` is left there
    at the end. `console`: a terminal to draw on; by default stderr, where that is one.
    """

    stays = False

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._quiet = quiet
        if console is None and not quiet and render.is_terminal(stderr=True):
            console = render.console(stderr=True)
        self._console = console
        self._spinner: RenderableType = ""
        self._live: Live | None = None
        self._last_line = float("-inf")

    @abstractmethod
    def draw(self, spinner: RenderableType, width: int) -> RenderableType:
        """Return one frame for a terminal of that many columns."""

    def show(self, line: str, *, now: bool = False) -> None:
        """Show how far the work is: as a frame, or as `line`, every ten seconds and when it must be `now`."""
        if self._quiet:
            return
        if self._console is not None:
            self._start(self._console)
        elif now or time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            render.tell(shown(line))

    def note(self, message: str, style: str = "yellow") -> None:
        """Show a message that stays, above the frame."""
        if self._quiet or not message:
            return
        if self._console is None:
            render.tell(shown(message))
            return
        self._console.print(render.styled(shown(message), style=style), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._spinner = ""
            self._live.stop()
            self._live = None

    def _start(self, console: Console) -> None:
        if self._live is not None:
            return
        from rich.live import Live
        from rich.spinner import Spinner

        self._spinner = Spinner("dots")
        self._live = Live(
            get_renderable=lambda: self.draw(self._spinner, console.width),
            console=console,
            refresh_per_second=8,
            transient=not self.stays,
        )
        self._live.start()


class IndexDisplay(Display):
    """A run of the indexer: stage, bar, rate and time left; below, the file at hand. It is a `ProgressSink`."""

    _progress = Progress("checking")

    def update(self, progress: Progress) -> None:
        """Take in how far the run is."""
        entered = progress.stage != self._progress.stage
        self._progress = progress
        self.show(", ".join([progress.stage, *facts(progress)]), now=entered)

    def skipped(self, skipped: Skipped) -> None:
        """Say in a log what is left out and why. In a terminal it is counted, and listed in the summary."""
        if self._console is None:
            self.note(f"skipped {shown(skipped.path)}: {shown(skipped.reason)}")

    def draw(self, spinner: RenderableType, width: int) -> RenderableType:
        """Return the two lines."""
        from rich.console import Group

        said = self._progress
        first = _progress_line(spinner, said.stage, said.files, said.files_total, facts(said), width)
        current = "  " + shown(render.shortened(said.current))
        return Group(first, render.styled(current, style="dim", no_wrap=True, overflow="ellipsis"))


def facts(progress: Progress) -> list[str]:
    """Say how far a run of the indexer is, how fast, how long it will take, and what was left out."""
    said = []
    if progress.files_total is not None:
        said.append(f"{progress.files:,} of {count_words(progress.files_total, 'file')}")
    elif progress.found:
        said.append(f"{count_words(progress.found, 'file')} found")
    if progress.items_per_second:
        said.append(f"{rate_words(progress.items_per_second)} items/s")
    said += _time_left(progress.seconds_left)
    return [*said, f"{progress.skipped:,} skipped"] if progress.skipped else said


class CountDisplay(Display):
    """Work on a known number of items, such as embedding those of an evaluation."""

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._what, self._done, self._total = what, 0, 0
        self._started = self._last_line = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Take in how many items are done."""
        self._done, self._total = done, total
        self.show(f"{self._what}: " + ", ".join(self._facts()[:2]), now=done == total)

    def draw(self, spinner: RenderableType, width: int) -> RenderableType:
        """Return the one line."""
        return _progress_line(spinner, shown(self._what), self._done, self._total, self._facts(), width)

    def _facts(self) -> list[str]:
        rate = self._done / max(1e-6, time.monotonic() - self._started)
        left = _time_left((self._total - self._done) / rate) if rate else []
        return [f"{self._done:,} of {self._total:,} items", f"{rate_words(rate)} items/s", *left]


class TrainingDisplay(Display):
    """A training run of `total_steps` steps, from the records of its log: a frame with a line for each subject, which
    stays, and remarks above it. What was not measured is left out.
    """

    stays = True

    def __init__(self, total_steps: int, *, quiet: bool = False, console: Console | None = None) -> None:
        super().__init__(quiet=quiet, console=console)
        self.total_steps = total_steps
        self._latest: dict[str, Record] = {}
        self._losses: list[tuple[float, int]] = [(0.0, 0)] * _CURVE

    def update(self, record: Record) -> None:
        """Take in one record of the log."""
        kind = str(record.get("kind", ""))
        self._latest[kind] = record
        if kind == "step":
            self._count(record)
            self.show(_line_of(record, self.total_steps), now=record.get("step") == self.total_steps)
        elif kind != "validation" or self._console is None:
            self.note(_line_of(record, self.total_steps), style="")
        if kind == "run" and self._console is not None:
            self.show("")

    def curve(self) -> list[float]:
        """Return mean losses over the run so far, one for each fortieth of its steps that has any."""
        return [total / count for total, count in self._losses if count]

    def draw(self, spinner: RenderableType, width: int) -> RenderableType:
        """Return the frame: how far the run is, then a line for each subject that is known."""
        from rich.console import Group

        step = self._latest.get("step", {})
        stage = f"stage {step['stage']}" if step.get("stage") is not None else "start"
        done = step.get("step") or 0
        told = [f"{done:,} of {self.total_steps:,} steps", *_time_left(step.get("seconds_left"))]
        lines = [_progress_line(spinner, stage, done, max(1, self.total_steps), told, width)]
        for label, content in (
            ("loss", _loss(step)),
            ("", self._drawn_curve(step)),
            ("learning rate", [*_named(step.get("rates"), ".1e"), *_said(step, {"temperature": "temperature {:.4g}"})]),
            ("experts", _experts(step, width - _LABEL)),
            ("negatives", _said(step, _NEGATIVES)),
            ("validation", _figures(self._latest.get("validation", {}))),
            ("speed", _speed(step)),
        ):
            drawn = render.styled(" · ".join(content)) if isinstance(content, list) else content
            if drawn:
                named = (label.ljust(_LABEL), "dim")
                lines.append(render.styled(named, drawn, no_wrap=True, overflow="ellipsis"))
        return Group(*lines)

    def _count(self, record: Record) -> None:
        loss, step = record.get("loss"), record.get("step")
        if isinstance(loss, float | int) and step:
            place = min(_CURVE - 1, (step - 1) * _CURVE // max(1, self.total_steps))
            total, count = self._losses[place]
            self._losses[place] = total + loss, count + 1

    def _drawn_curve(self, step: Record) -> Text | None:
        curve = self.curve()
        if len(curve) < 2:
            return None
        low, high = min(curve), max(curve)
        drawn = render.styled("".join(_level((value - low) / ((high - low) or 1.0)) for value in curve), style="cyan")
        return drawn.append("".join(_said(step, {"gradient_norm": "  gradient {:.4g}"})), style="default")


def _progress_line(
    spinner: RenderableType, stage: str, done: int, total: int | None, told: Sequence[str], width: int
) -> RenderableType:
    """The line that every frame begins with: stage, a bar where the total is known, and what there is to say."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    row = Table.grid(padding=(0, 1))
    row.add_column(width=1)
    row.add_column(no_wrap=True, overflow="ellipsis", min_width=min(len(stage), width // 2))
    cells: list[RenderableType] = [spinner, render.styled(stage, style="bold")]
    if total:
        bar = max(8, min(_BAR_WIDTH, width // 5))
        row.add_column(no_wrap=True, min_width=bar)
        cells.append(ProgressBar(total, done, width=bar))
    row.add_column(no_wrap=True, overflow="ellipsis")
    row.add_row(*cells, render.styled(" · ".join(told)))
    return row


def _time_left(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"about {time_words(max(1.0, seconds))} left"]


def heat(loads: Sequence[Sequence[float]], room: int) -> tuple[Text, list[int]]:
    """Draw each expert's load `[L][E]` as a bar whose height and colour tell it, block by block, in `room` columns.

    Half height is the mean; full height is twice that or more. Where not all blocks fit, some are shown, evenly spaced.
    Returns the drawing and the blocks shown.
    """
    experts = max(1, len(loads[0]))
    fit = max(1, min(len(loads), (room + 1) // (experts + 1)))
    blocks = [round(place * (len(loads) - 1) / max(1, fit - 1)) for place in range(fit)]
    text = render.styled(no_wrap=True, overflow="ellipsis")
    for place, block in enumerate(blocks):
        text.append(" " if place else "")
        mean = sum(loads[block]) / experts or 1.0
        for load in loads[block]:
            share = min(1.0, max(0.0, load / mean / 2))
            text.append(_level(share), style=_COLOURS[min(len(_COLOURS) - 1, int(share * len(_COLOURS)))])
    return text, blocks


def _level(share: float) -> str:
    return _LEVELS[min(len(_LEVELS) - 1, int(share * len(_LEVELS)))]


def _line_of(record: Record, total_steps: int) -> str:
    """Return what a record says, as one line; empty for kinds that are not for people."""
    kind = record.get("kind")
    if kind == "step":
        loss = [f"loss {' · '.join(_loss(record))}"] if _loss(record) else []
        said = [*_said(record, {"stage": "stage {}"}), *loss, *_said(record, _NEGATIVES), *_speed(record)]
        said += _time_left(record.get("seconds_left"))
        return f"step {record['step']:,} of {total_steps:,}: " + ", ".join(said)
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
        said = [f"{record.get('reason')} after {count_words(record.get('steps') or 0, 'step')}"]
        return " in ".join(said + ([time_words(record["seconds"])] if record.get("seconds") is not None else []))
    return ""


def _run_line(record: Record) -> str:
    model, tasks = record.get("model") or {}, (record.get("data") or {}).get("tasks")
    said = [f"training {model['name']}" if model.get("name") else "training"]
    if model.get("trainable"):
        said.append(f"{model['trainable']:,} trained parameters")
    if tasks:
        rows = sum(task.get("rows") or 0 for task in tasks)
        said.append(f"{count_words(rows, 'row')} of {count_words(len(tasks), 'task')}")
    return ", ".join(said + _said(record, {"device": "on {}", "resumed_from": "resumed from step {:,}"}))


def _said(record: Record, words: Mapping[str, str]) -> list[str]:
    """The fields of a record that were measured, in these words."""
    return [form.format(record[name]) for name, form in words.items() if record.get(name) is not None]


def _named(values: Mapping[str, float | None] | None, form: str) -> list[str]:
    return [f"{name} {value:{form}}" for name, value in (values or {}).items() if value is not None]


def _loss(step: Record) -> list[str]:
    return _said(step, {"loss": "{:.4g}"}) + _named(step.get("parts"), ".4g")


def _speed(step: Record) -> list[str]:
    said = [f"{rate_words(step['items_per_second'])} items/s"] if step.get("items_per_second") else []
    return said + ([f"memory {size_words(step['memory'])}"] if step.get("memory") else [])


def _figures(validation: Record) -> list[str]:
    tasks = len(validation.get("tasks") or {})
    return _said(validation, _VALIDATION) + ([f"mean over {count_words(tasks, 'task')}"] if tasks > 1 else [])


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
