"""Plots as SVG text, for a page that needs nothing beside it: lines over steps, bars, and heat maps.

Colours are those of Okabe and Ito, which people with any colour vision tell apart. Values can be read by pointing at
them (SVG titles), without a script.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tsembed_search.wording import shown

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c")
_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 34, 40
_MOST_POINTS = 300
_INK, _FAINT = "#222222", "#dddddd"

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


@dataclass(frozen=True)
class Bars:
    """A named value for each group, None where there is none. `spans`: what each could as well be, as whiskers."""

    name: str
    values: Sequence[float | None]
    spans: Sequence[tuple[float, float] | None] = ()


def text_of(value: object) -> str:
    """Data as text in HTML or SVG: nothing in it is markup, and no control character is left."""
    return html.escape(shown(str(value)))


def number(value: float) -> str:
    """A number as a person reads it."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    if abs(value) >= 10_000 and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def lines(title: str, series: Iterable[Line], marks: Sequence[Mark] = (), x_label: str = "step") -> str:
    """A plot of lines over steps; empty text when there is nothing to draw. Long lines are drawn as means of parts."""
    drawn = [line for line in series if line.points]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points] + [mark.x for mark in marks]
    ys = [y for line in drawn for _, y in line.points]
    frame = _Frame(*_span(xs), *_padded(*_span(ys)))
    parts = [*frame.axes(x_label)]
    for mark in marks:
        x = frame.x(mark.x)
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}" stroke="#888888" '
            f'stroke-dasharray="4 3"/>{_label(x + 4, _TOP + 10, mark.label, "start", 11)}'
        )
    for place, line in enumerate(drawn):
        parts.append(_line(frame, line, COLOURS[place % len(COLOURS)]))
    parts.append(_legend([line.name for line in drawn]))
    return _svg(title, parts, _WIDTH, _HEIGHT)


def bars(title: str, groups: Sequence[str], series: Sequence[Bars]) -> str:
    """Bars side by side in each group, from zero; empty text when there is nothing to draw."""
    known = [value for each in series for value in each.values if value is not None]
    if not known:
        return ""
    ends = [end for each in series for span in each.spans if span is not None for end in span]
    low, high = _span([0.0, *known, *ends])
    room = (high - low) * 0.05 or 1.0
    frame = _Frame(0, len(groups), low - room if low < 0 else 0, high + room if high > 0 else 0)
    width = 0.8 / len(series)
    parts = [*frame.levels()]
    for group, name in enumerate(groups):
        parts.append(_label(frame.x(group + 0.5), _HEIGHT - _BOTTOM + 16, _short(name, 22), "middle", 11))
        for place, each in enumerate(series):
            value = each.values[group]
            if value is not None:
                span = each.spans[group] if each.spans else None
                tip = f"{text_of(each.name)}, {text_of(name)}: {number(value)}"
                left = group + 0.1 + place * width
                parts.append(_bar(frame, left, width, value, span, COLOURS[place % len(COLOURS)], tip))
    parts.append(_legend([each.name for each in series]))
    return _svg(title, parts, _WIDTH, _HEIGHT)


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
    """Values `[rows][columns]` as colours, from white at `low` to dark at `high`.

    `signed`: orange below zero, blue above. `groups`: a gap after so many columns. Numbers are written into cells
    where there is room.
    """
    if not rows or not columns:
        return ""
    label_width = min(220, 14 + 7 * max(len(shown(name)) for name in rows))
    room = max(_WIDTH, 960) - label_width - 20
    gaps = (len(columns) - 1) // groups if groups else 0
    cell = max(2.0, min(46.0, (room - 4 * gaps) / len(columns)))
    height = max(4.0, min(24.0, 900 / len(rows)))
    every = math.ceil(11 / height)
    turned = any(len(name) * 7 > cell for name in columns)
    longest = max(len(shown(name)) for name in columns)
    legible = cell >= 14
    top = 28 + (min(140, 6.6 * longest) if turned and legible else 16)
    skip = math.ceil((7 * longest + 6) / (groups * cell + 4)) if groups else 1  # label the first of so many groups
    cells, parts = [], []
    for column, name in enumerate(columns):
        x = label_width + column * cell + (column // groups * 4 if groups else 0) + cell / 2
        if legible or (groups and column % (groups * skip) == 0):
            parts.append(_column_label(x, top - 6, name, turned and legible))
        for row, line in enumerate(values):
            y = top + row * height
            value = line[column]
            said = "not measured" if value is None else number(value)
            colour = "#f4f4f4" if value is None else _colour(value, low, high, signed)
            tip = f"{text_of(rows[row])}, {text_of(name)}: {said}"
            cells.append(
                f'<rect x="{x - cell / 2:.1f}" y="{y:.1f}" width="{cell:.2f}" height="{height:.1f}" '
                f'fill="{colour}"><title>{tip}</title></rect>'
            )
            if value is not None and cell >= 30 and height >= 12:
                ink = "#ffffff" if _dark(value, low, high, signed) else _INK
                parts.append(_label(x, y + height / 2 + 4, f"{round(value, 2) + 0.0:.2f}", "middle", 10, ink))
    for row, name in enumerate(rows):
        if row % every == 0:
            parts.append(_label(label_width - 6, top + row * height + height / 2 + 4, _short(name, 30), "end", 11))
    width = label_width + len(columns) * cell + 4 * gaps + 20
    whole = f'<g shape-rendering="crispEdges">{"".join(cells)}</g>'
    return _svg(title, [whole, *parts], max(width, 320), top + len(rows) * height + 14)


@dataclass(frozen=True)
class _Frame:
    """From data to places on the drawing."""

    left: float
    right: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.left) / ((self.right - self.left) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / ((self.top - self.bottom) or 1)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def levels(self) -> Iterable[str]:
        """The y axis and its lines."""
        for value in _ticks(self.bottom, self.top):
            y = self.y(value)
            yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="{_FAINT}"/>'
            yield _label(_LEFT - 6, y + 4, number(value), "end", 11)

    def axes(self, x_label: str) -> Iterable[str]:
        """Both axes."""
        yield from self.levels()
        for value in _ticks(self.left, self.right):
            yield _label(self.x(value), _HEIGHT - _BOTTOM + 16, number(value), "middle", 11)
        yield _label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label, "middle", 11)


def _line(frame: _Frame, line: Line, colour: str) -> str:
    points = [(frame.x(x), frame.y(y)) for x, y in _bucketed(line.points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    name = text_of(line.name)
    drawn = (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"><title>{name}</title></polyline>'
    )
    if line.dots or len(points) == 1:
        for (x, y), (step, value) in zip(points, _bucketed(line.points), strict=True):
            tip = f"{name} at {number(step)}: {number(value)}"
            drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{tip}</title></circle>'
    return drawn


def _bar(
    frame: _Frame, left: float, width: float, value: float, span: tuple[float, float] | None, colour: str, tip: str
) -> str:
    x, right, y, zero = frame.x(left), frame.x(left + width), frame.y(value), frame.y(0)
    if span is not None:
        tip += f" ({number(span[0])} to {number(span[1])})"
    drawn = (
        f'<rect x="{x:.1f}" y="{min(y, zero):.1f}" width="{right - x - 1:.1f}" height="{abs(zero - y):.1f}" '
        f'fill="{colour}"><title>{tip}</title></rect>'
    )
    if span is not None:
        middle = (x + right - 1) / 2
        drawn += (
            f'<line x1="{middle:.1f}" y1="{frame.y(span[0]):.1f}" x2="{middle:.1f}" y2="{frame.y(span[1]):.1f}" '
            f'stroke="{_INK}" stroke-width="1.2"/>'
        )
    return drawn


def _legend(names: Sequence[str]) -> str:
    widths = [28 + 6.4 * len(shown(name)) for name in names]
    whole = sum(widths) <= _WIDTH - _LEFT
    parts, x, squeeze = [], float(_LEFT if whole else 4), 1.0 if whole else min(1.0, (_WIDTH - 8) / sum(widths))
    for place, (name, width) in enumerate(zip(names, widths, strict=True)):
        parts.append(f'<rect x="{x:.1f}" y="20" width="10" height="4" fill="{COLOURS[place % len(COLOURS)]}"/>')
        parts.append(_label(x + 14, 26, name, "start", 11))
        x += width * squeeze
    return "".join(parts)


def _svg(title: str, parts: Iterable[str], width: float, height: float) -> str:
    head = f'<text x="2" y="13" font-size="13" font-weight="bold" fill="{_INK}">{text_of(title)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{text_of(title)}" font-family="sans-serif" '
        f'style="background:#ffffff">'
        f"{head}{''.join(parts)}</svg>"
    )


def _label(x: float, y: float, text: str, anchor: str, size: int, ink: str = _INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{ink}">{text_of(text)}</text>'
    )


def _column_label(x: float, y: float, name: str, turned: bool) -> str:
    if not turned:
        return _label(x, y, name, "middle", 11)
    return (
        f'<text transform="translate({x + 4:.1f},{y:.1f}) rotate(-90)" font-size="11" fill="{_INK}">'
        f"{text_of(_short(name, 22))}</text>"
    )


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    # a quantity that is never negative should not be given a negative axis
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high`."""
    if high <= low:
        return [low]
    raw = (high - low) / 5
    size = 10 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _bucketed(points: Sequence[Point]) -> list[Point]:
    """At most `_MOST_POINTS` points: means over runs of neighbours."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    bounds = [round(place * len(points) / _MOST_POINTS) for place in range(_MOST_POINTS + 1)]
    parts = [points[start:stop] for start, stop in pairwise(bounds)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _share(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / ((high - low) or 1.0)))


def _colour(value: float, low: float, high: float, signed: bool) -> str:
    if signed:
        dark = (213, 94, 0) if value < 0 else (0, 114, 178)
        share = min(1.0, abs(value) / max(abs(low), abs(high), 1e-9))
    else:
        dark, share = (8, 48, 107), _share(value, low, high)
    red, green, blue = (round(255 + (end - 255) * share) for end in dark)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _dark(value: float, low: float, high: float, signed: bool) -> bool:
    return abs(value) / max(abs(low), abs(high), 1e-9) > 0.7 if signed else _share(value, low, high) > 0.5
