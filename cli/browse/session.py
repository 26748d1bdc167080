"""The steps of a person through an index, and the files that are marked."""

from __future__ import annotations

from tsembed_search.cli.browse.source import Wish


class Session:
    """The way of a person through an index. `asked` is what is wanted now; typing changes it without a step."""

    def __init__(self, asked: Wish) -> None:
        self.asked = asked
        self.marked: dict[str, None] = {}
        self._settled = asked
        self._before: list[Wish] = []

    def settle(self) -> None:
        """Make what is asked now a step that one can come back to."""
        if self.asked != self._settled:
            self._before.append(self._settled)
            self._settled = self.asked

    def step(self, asked: Wish) -> None:
        """Ask for something else."""
        self.settle()
        self.asked = asked
        self.settle()

    def back(self) -> bool:
        """Ask for what was asked before the last step; False when there was none."""
        self.settle()
        if not self._before:
            return False
        self.asked = self._settled = self._before.pop()
        return True

    def mark(self, path: str) -> None:
        """Mark a file, or no longer."""
        if path in self.marked:
            del self.marked[path]
        else:
            self.marked[path] = None
