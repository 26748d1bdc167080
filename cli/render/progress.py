"""The progress of long work on stderr: drawn live in a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from tsembed_search import wording
from tsembed_search.cli.render import text as render
from tsembed_search.indexer.report import Progress, Skipped

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_SECONDS_BETWEEN_LINES: Final = 10.0
_BAR_WIDTH: Final = 30


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
            render.tell(wording.shown(line))

    def note(self, message: str, style: str = "yellow") -> None:
        """Show a message that stays, above the frame."""
        if self._quiet or not message:
            return
        if self._console is None:
            render.tell(wording.shown(message))
            return
        from rich.text import Text

        self._console.print(Text(wording.shown(message), style=style), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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


def progress_line(
    spinner: RenderableType, stage: str, done: int, total: int | None, facts: Sequence[str], width: int
) -> RenderableType:
    """The line that every frame begins with: stage, a bar where the total is known, and what there is to say."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1))
    row.add_column(width=1)
    row.add_column(no_wrap=True, overflow="ellipsis", min_width=min(len(stage), width // 2))
    cells: list[RenderableType] = [spinner, Text(stage, style="bold")]
    if total:
        bar = max(8, min(_BAR_WIDTH, width // 5))
        row.add_column(no_wrap=True, min_width=bar)
        cells.append(ProgressBar(total, done, width=bar))
    row.add_column(no_wrap=True, overflow="ellipsis")
    row.add_row(*cells, Text(" · ".join(facts)))
    return row


def time_left(seconds: float | None) -> list[str]:
    """The time that is left, in words, where it is known."""
    return [] if seconds is None else [f"about {wording.time_words(max(1.0, seconds))} left"]


class IndexDisplay(Display):
    """A run of the indexer: stage, bar, rate and time left; below, the file at hand. It is a `ProgressSink`."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        super().__init__(quiet=quiet, console=console)
        self._progress = Progress("checking")

    def update(self, progress: Progress) -> None:
        """Take in how far the run is."""
        entered = progress.stage != self._progress.stage
        self._progress = progress
        self.show(", ".join([progress.stage, *facts(progress)]), now=entered)

    def skipped(self, skipped: Skipped) -> None:
        """Say in a log what is left out and why. In a terminal it is counted, and listed in the summary."""
        if self._console is None:
            self.note(f"skipped {wording.shown(skipped.path)}: {wording.shown(skipped.reason)}")

    def draw(self, spinner: RenderableType, width: int) -> RenderableType:
        """Return the two lines."""
        from rich.console import Group
        from rich.text import Text

        said = self._progress
        first = progress_line(spinner, said.stage, said.files, said.files_total, facts(said), width)
        name = render.shortened(said.current, render.here())
        return Group(first, Text("  " + wording.shown(name), style="dim", no_wrap=True, overflow="ellipsis"))


def facts(progress: Progress) -> list[str]:
    """Say how far a run of the indexer is, how fast, how long it will take, and what was left out."""
    said = []
    if progress.files_total is not None:
        said.append(f"{progress.files:,} of {wording.count_words(progress.files_total, 'file')}")
    elif progress.found:
        said.append(f"{wording.count_words(progress.found, 'file')} found")
    if progress.items_per_second:
        said.append(f"{wording.rate_words(progress.items_per_second)} items/s")
    said += time_left(progress.seconds_left)
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
        return progress_line(spinner, wording.shown(self._what), self._done, self._total, self._facts(), width)

    def _facts(self) -> list[str]:
        rate = self._done / max(1e-6, time.monotonic() - self._started)
        said = [f"{self._done:,} of {self._total:,} items", f"{wording.rate_words(rate)} items/s"]
        return said + (time_left((self._total - self._done) / rate) if rate else [])
