"""What is sent to the terminal: all that changes, and little else."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.geometry import Region
from textual.pilot import Pilot
from textual.strip import Strip

from helpers.browsing import MadeUp, made_hit, played, until
from tsembed_search.cli.browse.app import Browser
from tsembed_search.cli.browse.canvas import Canvas
from tsembed_search.cli.browse.source import Wish

PIECE = re.compile(r"\x1b\[(\d+);(\d+)H|\x1b\[([\d;]*)m|([^\x1b\n])")
NAMES = ["plain.png", "日本語の写真.png", "\u05e9\u05dc\u05d5\u05dd.png", "e\u0301te\u0301 🚲.png", "tail.png"]


class Terminal:
    """Draws what it is sent: characters with their style, by place."""

    def __init__(self) -> None:
        self.cells: dict[tuple[int, int], tuple[str, str]] = {}
        self.sent = 0

    def write(self, text: str) -> None:
        """Understands places, styles and characters, which is all that panes send."""
        self.sent += len(text)
        x = y = 0
        style = ""
        for row, column, sgr, char in PIECE.findall(text):
            if row:
                x, y = int(column), int(row)
            elif not char:
                style = sgr.removeprefix("0")
            elif (width := cell_len(char)) == 0:
                before = self.cells[x - 1, y]
                self.cells[x - 1, y] = (before[0] + char, before[1])
            else:
                for at in range(width):
                    self.cells[x + at, y] = (char if not at else "", style)
                x += width


def test_the_terminal_shows_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the keys do, with names of every width and direction; and panes that stay are not sent again."""
    source = MadeUp(hits=[made_hit(9 * n, "cat", path=f"/pics/{name}") for n, name in enumerate(NAMES)])
    terminal = Terminal()

    def display(app: Any, screen: Any, renderable: Any) -> None:
        if renderable is not None:
            terminal.write(renderable.render_segments(app.console))

    monkeypatch.setattr(App, "_display", display)

    async def play(app: Browser, pilot: Pilot[list[str]]) -> None:
        await until(pilot, lambda: app.hit is not None and app.pictures.whole(app.hit) is not None)
        keys = (
            "j j k slash x escape tab tab f w escape v j v enter right escape e e space question_mark escape G".split()
        )

        def drawn() -> Terminal:
            whole = Terminal()
            whole.write(app.screen._compositor.render_update(full=True).render_segments(app.console))
            return whole

        for key in keys:
            before = terminal.sent
            await pilot.press(key)
            await pilot.pause(0.1)
            await until(pilot, lambda: terminal.cells == drawn().cells)
            if key in ("slash", "tab"):
                assert terminal.sent - before < drawn().sent / 3, key
        await pilot.resize_terminal(90, 24)
        await pilot.pause(0.1)
        terminal.cells.clear()
        await pilot.resize_terminal(120, 30)
        await until(pilot, lambda: len(terminal.cells) == 120 * 30)

    played(play, source, asked=Wish("cat"))


def sent(canvas: Canvas, x: int, *parts: tuple[str, str]) -> list[tuple[int, str]]:
    """What is sent of a line that has these texts with their styles from a column on."""
    strip = Strip([Segment(text, Style.parse(style)) for text, style in parts])
    return [(column, part.text) for column, part in canvas.send(x, 3, strip)]


def test_only_what_differs_is_sent() -> None:
    canvas = Canvas()
    text = "one, and two, and three"
    assert sent(canvas, 5, (text, "")) == [(5, text)]
    assert sent(canvas, 5, (text, "")) == []
    assert sent(canvas, 5, ("One, and two, and threE", "")) == [(5, "O"), (27, "E")]
    assert sent(canvas, 5, ("One, and ", ""), ("two", "bold"), (", and threE", "")) == [(14, "two")]
    assert sent(canvas, 8, ("ten", "")) == [(8, "ten")]
    assert sent(canvas, 5, ("a日b", "")) == [(5, "a日b")]
    assert sent(canvas, 5, ("a日c", "")) == [(5, "a日c")], "who knows how wide that is elsewhere"
    assert sent(canvas, 5, ("a日c", "")) == []
    canvas.forget(Region(6, 3, 1, 1))
    assert sent(canvas, 5, ("a日c", "")) == [(5, "a日c")]
    canvas.forget()
    assert sent(canvas, 5, ("a", "")) == [(5, "a")]
