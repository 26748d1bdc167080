"""The progress of an index run: a live display in a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from tsembed_search import wording
from tsembed_search.cli.render import text as render
from tsembed_search.indexer.report import Progress, ProgressSink, Silent, Skipped
from tsembed_search.wording import rate_words

if TYPE_CHECKING:
    from rich.console import RenderableType

_SECONDS_BETWEEN_LINES = 10.0
_BAR_WIDTH = 30


def progress_sink(*, quiet: bool) -> tuple[ProgressSink, AbstractContextManager[object]]:
    """Where a run tells of its progress, and a context to run it in. Everything goes to stderr."""
    if quiet:
        return Silent(), nullcontext()
    if not render.is_terminal(stderr=True):
        return PlainLines(), nullcontext()
    display = LiveDisplay()
    return display, display.live


class PlainLines:
    """For logs: a line when the stage changes and every ten seconds, and one for each thing that is skipped."""

    def __init__(self) -> None:
        self._stage = ""
        self._last = 0.0

    def update(self, progress: Progress) -> None:
        """Prints a line if it is time for one."""
        now = time.monotonic()
        if progress.stage != self._stage or now - self._last >= _SECONDS_BETWEEN_LINES:
            self._stage, self._last = progress.stage, now
            render.tell(", ".join([progress.stage, *facts(progress)]))

    def skipped(self, skipped: Skipped) -> None:
        """Prints what is left out and why."""
        render.tell(f"skipped {wording.shown(skipped.path)}: {wording.shown(skipped.reason)}")

    def note(self, message: str) -> None:
        """Prints the message."""
        render.tell(wording.shown(message))


class LiveDisplay:
    """Two lines that follow the run: stage, bar, rate and time left; below, the file at hand."""

    def __init__(self) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        self._progress = Progress("checking")
        self._spinner = Spinner("dots")
        self._console = render.console(stderr=True)
        self.live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=8, transient=True)

    def update(self, progress: Progress) -> None:
        """Remembers the snapshot; the display redraws by itself."""
        self._progress = progress

    def skipped(self, skipped: Skipped) -> None:
        """Counted by the snapshots and listed in the summary."""

    def note(self, message: str) -> None:
        """Prints the message above the display."""
        from rich.text import Text

        self._console.print(Text(wording.shown(message), style="yellow"))

    def _draw(self) -> RenderableType:
        return draw(self._progress, self._spinner, self._console.width)


def draw(progress: Progress, spinner: RenderableType = "", width: int = 80) -> RenderableType:
    """One frame for a terminal of that many columns."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    first = Table.grid(padding=(0, 1))
    first.add_column(width=1)
    first.add_column(no_wrap=True, min_width=len(progress.stage))
    cells: list[RenderableType] = [spinner, Text(progress.stage, style="bold")]
    if progress.files_total:
        bar = min(_BAR_WIDTH, width // 5)
        first.add_column(no_wrap=True, min_width=bar)
        cells.append(ProgressBar(progress.files_total, progress.files, width=bar))
    first.add_column(overflow="ellipsis", no_wrap=True)
    first.add_row(*cells, Text(" · ".join(facts(progress))))
    name = render.shortened(progress.current, render.here())
    current = Text("  " + wording.shown(name), style="dim", no_wrap=True, overflow="ellipsis")
    return Group(first, current)


def facts(progress: Progress) -> list[str]:
    """What there is to say in words: how far, how fast, how long still, what was left out."""
    said = []
    if progress.files_total is not None:
        said.append(f"{progress.files:,} of {wording.count_words(progress.files_total, 'file')}")
    elif progress.found:
        said.append(f"{wording.count_words(progress.found, 'file')} found")
    if progress.items_per_second:
        said.append(f"{rate_words(progress.items_per_second)} items/s")
    if progress.seconds_left is not None:
        said.append(f"about {wording.time_words(max(1.0, progress.seconds_left))} left")
    if progress.skipped:
        said.append(f"{progress.skipped:,} skipped")
    return said
