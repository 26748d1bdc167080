"""What was not taken of rows, as every command that reads rows tells it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tsembed_search.cli import render

if TYPE_CHECKING:
    from tsembed_search.evaluation.layouts import Unread
    from tsembed_search.evaluation.records import Problem

_MOST_SHOWN = 5


def tell_left_out(problems: Sequence[Problem], unread: Sequence[Unread], count: int, *, quiet: bool) -> None:
    """Names rows that were left out, `count` in all, and fields that nothing reads; the first of them even when quiet
    is asked for: they change what is learned and what is measured.
    """
    most = 1 if quiet else _MOST_SHOWN
    said = []
    if count:
        what = "row" if any(problem.line for problem in problems) else "file"
        said = [f"{render.count_words(count, what)} left out:", *(f"  {problem}" for problem in problems[:most])]
        if count > most:
            said.append(f"  ... and {count - most:,} more. All of them: tsembed data check DATA --json")
    said += map(str, unread[:most])
    if len(unread) > most:
        said.append(f"... and {render.count_words(len(unread) - most, 'more file')} with fields that nothing reads.")
    if said:
        render.remark(*said)
