"""Pictures in the browser as a terminal gets them: kitty's placeholders, and sixel over a preview that rests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from helpers.browsing import MadeUp, played, screen_lines, until
from tsembed_search.cli.browse.app import Browser
from tsembed_search.cli.browse.driver import TerminalAnswered
from tsembed_search.cli.browse.easel import Graphics
from tsembed_search.cli.browse.source import Wish
from tsembed_search.cli.render.protocols import MARKS, PLACEHOLDER
from tsembed_search.cli.render.terminal import Abilities

P = Pilot[list[str]]
CAT = Wish("cat")
KITTY, SIXEL = Abilities(kitty=True, cell=(10, 20)), Abilities(sixel=True, cell=(10, 20))
SENT = re.compile(r"\x1b_Ga=T,U=1,i=(\d+),f=100,c=(\d+),r=(\d+)")
FORGOTTEN = re.compile(r"\x1b_Ga=d,d=I,i=(\d+),")


@pytest.fixture(autouse=True)
def _near(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY", "TMUX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.setenv("COLORTERM", "truecolor")


def listened(app: Browser) -> list[str]:
    """All pictures that are written from now on, and what takes them away."""
    written: list[str] = []

    def write(text: str) -> None:
        if "\x1b_G" in text or "\x1bP" in text:
            written.append(text)

    app._driver.write = write  # type: ignore[union-attr,method-assign]
    return written


def in_terminal(written: list[str]) -> dict[int, tuple[int, int]]:
    """The pictures that a terminal has: columns and rows by number."""
    there: dict[int, tuple[int, int]] = {}
    for text in written:
        for sent in SENT.finditer(text):
            there[int(sent[1])] = int(sent[2]), int(sent[3])
        for gone in FORGOTTEN.finditer(text):
            there.pop(int(gone[1]))
    return there


def cells(app: Browser) -> dict[tuple[int, int], tuple[int, int, int]]:
    """What kitty draws: (x, y) on the screen to (number, row, column) of a picture."""
    found = {}
    for y, strip in enumerate(app.screen._compositor.render_strips()):
        x = 0
        for text, style, _ in strip:
            if PLACEHOLDER not in text:
                x += len(text)
                continue
            assert style is not None and style.color is not None and style.color.triplet is not None
            red, green, blue = style.color.triplet
            for at, (_, row, column) in enumerate(zip(*[iter(text)] * 3, strict=True)):
                found[x + at, y] = (red << 16 | green << 8 | blue, MARKS.index(row), MARKS.index(column))
            x += len(text) // 3
    return found


async def shown(app: Browser, pilot: P, found: Abilities) -> list[str]:
    await until(
        pilot, lambda: app.hit is not None and app.hit.id == "cat:0" and app.pictures.whole(app.hit) is not None
    )
    written = listened(app)
    app.post_message(TerminalAnswered(found))
    await until(pilot, lambda: written)
    return written


def test_placeholders_stand_where_the_pictures_are_and_go_with_them() -> None:
    async def play(app: Browser, pilot: P) -> None:
        written = await shown(app, pilot, KITTY)

        def check(pane: Any) -> set[int]:
            inside, there = pane.scrollable_content_region, in_terminal(written)
            drawn = {at: cell for at, cell in cells(app).items() if inside.contains(*at)}
            corners = {cell[0]: (x - cell[2], y - cell[1]) for (x, y), cell in drawn.items()}
            for (x, y), (number, row, column) in drawn.items():
                assert (x - column, y - row) == corners[number], "no part is out of its place"
                assert column < there[number][0] and row < there[number][1]
            return set(corners)

        preview, results = app.desk.preview, app.desk.results
        await until(pilot, lambda: len(check(preview)) == 1 and len(check(results)) > 2)
        first = check(preview)
        columns, rows = in_terminal(written)[first.copy().pop()]
        assert columns / rows == pytest.approx(4 / 3 * 2, rel=0.15), "a picture keeps its shape"
        assert len(check(preview) | check(results)) == len(in_terminal(written))

        await pilot.press("G")
        await until(pilot, lambda: app.hit is not None and app.hit.id == "cat:11")
        await until(pilot, lambda: check(results) and not check(preview) & first)
        await pilot.press("g", "question_mark")
        numbers = {cell[0] for cell in cells(app).values()}
        assert not numbers & set(in_terminal(written)), "behind the help, no picture shines through"
        await pilot.press("escape")
        await until(pilot, lambda: len(check(preview)) == 1)
        await pilot.press("enter")
        await until(pilot, lambda: max(cell[2] for cell in cells(app).values()) > columns)
        await pilot.resize_terminal(50, 20)
        await until(pilot, lambda: len(check(preview)) == 1 and all(x < 50 for x, _ in cells(app)))
        await pilot.press("escape", "v")
        await until(pilot, lambda: len(check(results)) > 1)
        app.action_print()
        assert in_terminal(written) == {}, "nothing of ours stays in the terminal"

    played(play, asked=CAT, images="auto")


def test_a_terminal_keeps_a_bounded_number_of_pictures() -> None:
    async def play(app: Browser, pilot: P) -> None:
        written = await shown(app, pilot, KITTY)
        app.desk.results.easel._most = 20
        there = []
        for _ in range(12):
            await pilot.press("pagedown")
            await pilot.pause(0.02)
            there.append(len(in_terminal(written)))
        await pilot.press("home")
        top = (0, app.desk.results.scrollable_content_region.y)
        await until(pilot, lambda: [number for (x, y), (number, *_) in cells(app).items() if y == top[1]])
        await until(pilot, lambda: {cell[0] for cell in cells(app).values()} <= set(in_terminal(written)))
        assert max(there) <= 20 + 16

    played(play, MadeUp(300), CAT, images="auto")


def test_sixel_is_drawn_over_a_preview_that_rests_and_nowhere_else() -> None:
    async def play(app: Browser, pilot: P) -> None:
        written = await shown(app, pilot, SIXEL)
        preview = app.desk.preview
        inside = preview.scrollable_content_region
        size = re.search(r'q"1;1;(\d+);(\d+)', written[-1])
        assert written[-1].startswith(f"\x1b7\x1b[{inside.y + 1};{inside.x + 1}H\x1bP") and written[-1].endswith(
            "\x1b8"
        )
        assert size is not None and int(size[1]) / int(size[2]) == pytest.approx(4 / 3, rel=0.15)
        assert int(size[1]) <= inside.width * 10 and int(size[2]) <= inside.height * 20
        assert not cells(app) and any("▀" in strip.text for strip in app.screen._compositor.render_strips())

        count = len(written)
        await pilot.press("question_mark")
        await pilot.pause(0.5)
        assert len(written) == count, "not over what covers it"
        await pilot.press("escape")
        await until(pilot, lambda: len(written) == count + 1)
        await pilot.press("j")
        await pilot.pause(0.5)
        assert len(written) == count + 1, "a text has no picture"
        await pilot.resize_terminal(58, 20)
        await pilot.press("k")
        await pilot.pause(0.5)
        assert len(written) == count + 1, "there is no preview in so narrow a terminal"
        await pilot.press("enter")
        await until(pilot, lambda: len(written) == count + 2)
        preview.scroll_to(y=3, animate=False)
        await pilot.pause(0.5)
        assert len(written) == count + 2, "not where a part is out of sight"

    played(play, asked=CAT, images="auto")


@pytest.mark.parametrize(
    ("wanted", "found", "true_colours", "far", "how"),
    [
        ("auto", KITTY, True, False, "kitty"),
        ("auto", KITTY, False, False, "blocks"),
        ("auto", KITTY, True, True, "blocks"),
        ("auto", SIXEL, False, False, "sixel"),
        ("auto", Abilities(), True, False, "blocks"),
        ("kitty", Abilities(), True, True, "kitty"),
        ("sixel", KITTY, True, True, "sixel"),
        ("blocks", KITTY, True, False, "blocks"),
    ],
)
def test_the_way_is_what_is_asked_for_else_what_the_terminal_can(
    wanted: str, found: Abilities, true_colours: bool, far: bool, how: str
) -> None:
    nothing: Callable[[str], object] = lambda text: None  # noqa: E731
    graphics = Graphics(wanted, nothing)
    graphics.is_far = far
    assert graphics.how == "blocks" and graphics.asks == (wanted != "blocks")
    graphics.choose(found, true_colours=true_colours)
    assert graphics.how == how
    assert Graphics("none", nothing).how == "none" and not Graphics("none", nothing).asks


def test_what_cannot_be_drawn_says_why() -> None:
    class Refusing(MadeUp):
        def picture(self, hit: Any) -> Any:
            return "The picture would take 6.7 GB." if hit.id == "cat:0" else super().picture(hit)

    async def play(app: Browser, pilot: P) -> None:
        await until(pilot, lambda: "no picture The picture would take 6.7 GB." in "\n".join(screen_lines(app)))
        await pilot.press("j", "j")
        await until(pilot, lambda: app.hit is not None and app.pictures.whole(app.hit) is not None)
        await until(pilot, lambda: "no picture" not in "\n".join(screen_lines(app)))

    played(play, Refusing(), CAT, size=(160, 30))
