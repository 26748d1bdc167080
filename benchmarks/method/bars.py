"""Bars as SVG text, in the manner of the trainer's plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from tsembed_search.trainer.plots import COLOURS, INK, SIZE, finish, short, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Bars:
    """A named value for each group, None where there is none. `spans`: what each could as well be, as whiskers."""

    name: str
    values: Sequence[float | None]
    spans: Sequence[tuple[float, float] | None] = ()


def bars(title: str, groups: Sequence[str], series: Sequence[Bars]) -> str:
    """Bars side by side in each group, from zero; empty text when there is nothing to draw."""
    series = [each for each in series if any(value is not None for value in each.values)]
    if not series:
        return ""
    width = 0.8 / len(series)

    def draw(axes: Axes) -> None:
        for place, (each, colour) in enumerate(zip(series, cycle(COLOURS), strict=False)):
            left = np.arange(len(groups)) - 0.4 + width * (place + 0.5)
            known = {x: value for x, value in zip(left, each.values, strict=True) if value is not None}
            axes.bar(list(known), list(known.values()), width * 0.95, color=colour)
            for x, span in zip(left, each.spans, strict=False):
                if span is not None:
                    axes.vlines(x, *span, color=INK, linewidth=1.2)
        axes.set_xticks(range(len(groups)), [short(name) for name in groups])
        if max(map(len, groups)) * 0.085 > SIZE[0] / len(groups):
            axes.tick_params("x", rotation=20)
        axes.axhline(0, color=INK, linewidth=0.8)
        finish(axes, [each.name for each in series], axes.containers)

    return svg(title, SIZE, draw)
