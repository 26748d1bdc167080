"""Plots as SVG text: lines over steps and heat maps, drawn by matplotlib (the extra `report`).

They need nothing beside them, look the same each time, and follow the reader's light or dark scheme. Colours of lines
are those of Okabe and Ito, which people with any colour vision tell apart. Names are data: they are made safe to show,
and are text in the drawing.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tsembed_search.wording import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888")
SIZE: Final = (4.7, 2.2)
"""Width and height of axes in inches, as all lengths here; SVG has 72 points in one."""
_MOST_POINTS = 300
INK: Final = "#010203"
"""This stands for the colour of text, which the reader's scheme decides."""
_SETTINGS: Final[Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "tsembed", "text.parse_math": False,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 14, "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "grid.color": INK, "grid.alpha": 0.15, "legend.frameon": False,
}  # fmt: skip
_STYLE = "<style>svg { color: #222 } @media (prefers-color-scheme: dark) { svg { color: #ddd } }</style>"

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A named line. `dots`: mark each point, for lines of few."""

    name: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """A labelled moment on the x axis."""

    x: float
    label: str


def installed() -> bool:
    """Is there a matplotlib to draw with? All else in this module raises `ImportError` without one."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def lines(title: str, series: Iterable[Line], marks: Sequence[Mark] = (), x_label: str = "step") -> str:
    """A plot of lines over steps; empty text when there is nothing to draw. Long lines are drawn as means of parts."""
    drawn = [line for line in series if line.points]
    if not drawn:
        return ""

    def draw(axes: Axes) -> None:
        for line, colour in zip(drawn, cycle(COLOURS), strict=False):
            points = _thinned(line.points)
            dot = "o" if line.dots or len(points) == 1 else ""
            axes.plot(*points.T, color=colour, linewidth=1.4, marker=dot, markersize=3.5)
        for mark in marks:
            axes.axvline(mark.x, color=INK, alpha=0.5, linewidth=0.8, linestyle="--")
            axes.text(mark.x, 1, short(mark.label), transform=axes.get_xaxis_transform(), va="bottom", ha="center")
        if all(y >= 0 for line in drawn for _, y in line.points):  # never negative: no room below zero
            axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
        axes.locator_params("x", integer=all(float(x).is_integer() for line in drawn for x, _ in line.points))
        axes.xaxis.set_major_formatter("{x:,.6g}")
        axes.set_xlabel(x_label)
        finish(axes, [line.name for line in drawn], axes.get_lines())

    return svg(title, SIZE, draw)


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    low: float,
    high: float,
    groups: int = 0,
    signed: bool = False,
) -> str:
    """Values `[rows][columns]` as colours, from white at `low` to dark at `high`; grey where there is none.

    `signed`: orange below zero, blue above. `groups`: a gap after so many columns. Numbers are written into cells
    where there is room.
    """
    if not rows or not columns:
        return ""
    width, height = min(0.62, 10 / len(columns)), min(0.32, 12 / len(rows))

    def draw(axes: Axes) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        ends = ("#d55e00", "#ffffff", "#0072b2") if signed else ("#ffffff", "#08306b")
        colours = LinearSegmentedColormap.from_list("values", ends, N=101).with_extremes(bad="#999999")
        cells = np.array(values, dtype=float)
        drawn = axes.pcolormesh(cells, cmap=colours, vmin=low, vmax=high if high > low else low + 1)
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, top=False)
        if groups:
            axes.vlines(range(groups, len(columns), groups), 0, len(rows), color="#ffffff", linewidth=2)
        step = math.ceil(0.17 / width)
        step = math.ceil(step / groups) * groups if groups and step > 1 else step
        turned = 90 if max(map(len, columns)) * 0.09 > width * step else 0
        shown_columns = range(0, len(columns), step)
        axes.set_xticks([x + 0.5 for x in shown_columns], [short(columns[x]) for x in shown_columns], rotation=turned)
        shown_rows = range(0, len(rows), math.ceil(0.15 / height))
        axes.set_yticks([y + 0.5 for y in shown_rows], [short(rows[y]) for y in shown_rows])
        if width >= 0.42 and height >= 0.17:
            for y, x in zip(*np.nonzero(np.isfinite(cells)), strict=True):
                value = float(cells[y, x])
                ink = "#ffffff" if sum(drawn.to_rgba(cells)[y, x, :3]) < 1.6 else "#222222"
                axes.text(x + 0.5, y + 0.5, f"{round(value, 2) + 0.0:.2f}", color=ink, ha="center", va="center")
        bar = axes.inset_axes((1 + 0.15 / (width * len(columns)), 0, 0.1 / (width * len(columns)), 1))
        scale: Any = axes.figure.colorbar(drawn, cax=bar, ticks=[low, (low + high) / 2, high], format="{x:.3g}")
        scale.solids.set_rasterized(False)  # a picture in the drawing would be a file's address, which the page forbids

    return svg(title, (width * len(columns), height * len(rows)), draw)


def svg(title: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """The drawing on axes of this size; what is around them takes the room that it needs."""
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that matplotlib's own font lacks: the reader's has them
        matplotlib.rcdefaults()  # not those of the user's file: the same everywhere
        matplotlib.rcParams.update(_SETTINGS)
        figure = Figure(figsize=size)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_title(shown(title))
        draw(axes)
        nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", bbox_inches="tight", transparent=True, metadata=nothing)
    text = re.sub(r'<g id="[^"]*">', "<g>", file.getvalue()).replace(INK, "currentColor")
    start, end = text.index("<svg ") + len("<svg "), text.index("<defs>")
    label = html.escape(shown(title))
    return f'<svg role="img" aria-label="{label}" {text[start:end]}{_STYLE}{text[end:]}'.strip()


def finish(axes: Axes, names: Sequence[str], drawn: Sequence[Any]) -> None:
    """Add numbers and lines across, and the names of what is `drawn`, if there are several."""
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.grid(axis="y")
    if len(names) > 1:
        axes.legend(drawn[: len(names)], list(map(short, names)), loc="upper left", bbox_to_anchor=(1, 1))


def short(name: str, most: int = 30) -> str:
    """Return a name as it is safe to show, cut where it is long."""
    name = shown(name)
    return name if len(name) <= most else name[: most - 1] + "…"


def _thinned(points: Sequence[Point]) -> np.ndarray[Any, Any]:
    """At most `_MOST_POINTS` points `[N, 2]`: means over runs of neighbours."""
    whole = np.array(points, dtype=float)
    if len(whole) <= _MOST_POINTS:
        return whole
    return np.array([part.mean(axis=0) for part in np.array_split(whole, _MOST_POINTS)])
