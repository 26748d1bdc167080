"""The progress of a training run: a live display in a terminal, plain lines elsewhere.

It reads the records that `log` writes, and shows what of them it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


class Display:
    """Follows a run of `total_steps` steps on a console. Use it as a context, or call `close` at the end."""

    def __init__(self, total_steps: int, console: Console) -> None:
        self.total_steps = total_steps
        self.console = console

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, record: Mapping[str, Any]) -> None:
        """Takes in one record of the log."""

    def note(self, message: str) -> None:
        """Shows a message that stays."""
        self.console.print(message, markup=False)

    def close(self) -> None:
        """Ends the live display; what it last showed stays."""
