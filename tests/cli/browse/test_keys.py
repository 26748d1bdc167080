"""Every key of the browser, pressed in a terminal that Textual simulates, on a made-up source."""

from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path

import pytest
from rich.color import ColorSystem
from textual import events
from textual.pilot import Pilot

from helpers.browsing import MadeUp, made_hit, played, screen_lines, until
from tsembed_search.cli import desktop
from tsembed_search.cli.browse.app import Browser
from tsembed_search.cli.browse.keys import HELP, bindings
from tsembed_search.cli.browse.source import Wish
from tsembed_search.errors import IndexBusyError, LoadError, StoreError

P = Pilot[list[str]]
CAT = Wish("cat")


async def answered(app: Browser, pilot: P, query: str = "cat") -> None:
    await until(pilot, lambda: app.hit is not None and app.hit.id.startswith(f"{query}:"))


def last(source: MadeUp) -> Wish:
    return source.asked[-1][0]


def test_arrows_letters_and_pages_move() -> None:
    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        at = []
        for key in ("j", "down", "k", "up", "G", "g", "end", "home", "pagedown", "pageup"):
            await pilot.press(key)
            at.append(app.desk.results.cursor)
        lines = app.desk.results.size.height // 4 - 1
        assert at == [1, 2, 1, 0, 11, 0, 11, 0, lines, 0]
        await pilot.press("v", "right", "right", "down")
        across = app.desk.results.size.width // 20
        assert across > 1 and app.desk.results.cursor == 2 + across
        await pilot.press("left", "v")
        assert app.desk.results.cursor == 1 + across and app.desk.results.laid_out == "list"

    played(play, asked=CAT)


def test_typing_searches_at_once_and_keeps_what_was_typed() -> None:
    source = MadeUp()

    async def play(app: Browser, pilot: P) -> None:
        await until(pilot, lambda: app.found.by == "newest first")
        await pilot.press(*"dog")
        await answered(app, pilot, "dog")
        await pilot.press("enter")
        assert app.focused is app.desk.results
        await pilot.press("slash", "backspace", "backspace", "backspace", *"hen")
        await pilot.press("escape")
        await answered(app, pilot, "hen")
        await pilot.press("slash", "up")
        assert app.desk.typed.value == "hen"
        await pilot.press("up")
        assert app.desk.typed.value == "dog"
        await pilot.press("down", "down")
        assert app.desk.typed.value == ""
        assert app.past[-2:] == ["dog", "hen"]

    played(play, source, past=["older"])
    assert all(count == 60 and not words for _, count, words in source.asked)


def test_the_key_after_one_that_opens_a_line_is_typed_there() -> None:
    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("slash", "e", "x")
        assert app.desk.typed.value == "catex" and not app.current.is_explained
        await pilot.press("escape", "w", "a", "f")
        assert app.desk.prompt.value == "af"

    played(play, asked=CAT)


def test_the_key_after_one_that_leaves_the_query_line_is_for_the_results() -> None:
    """They come in one piece over a slow line."""

    async def play(app: Browser, pilot: P) -> None:
        for leave in ("enter", "escape"):
            await pilot.press("slash")
            before = app.desk.typed.value
            for key in ("d", "o", "g", leave, "j"):
                app.post_message(events.Key(key, key if len(key) == 1 else None))
            await until(pilot, lambda: app.desk.results.has_focus)
            await answered(app, pilot, before + "dog")
            await until(pilot, lambda: app.past[-1:] == [app.desk.typed.value])
            assert app.desk.typed.value == before + "dog"

    played(play, asked=CAT)


def test_the_key_after_one_that_leaves_the_prompt_is_for_the_results() -> None:
    source = MadeUp(8)

    async def play(app: Browser, pilot: P) -> None:
        def piece(*keys: str) -> None:
            for key in keys:
                app.post_message(events.Key(key, "=" if key == "equals_sign" else key if len(key) == 1 else None))

        await answered(app, pilot)
        before = app.found
        piece("w", *"ext", "equals_sign", *"png", "enter", "e")
        await until(pilot, lambda: last(source).where == "ext=png" and app.found is not before)
        await until(pilot, lambda: app.current.is_explained)
        assert not app.desk.prompt.display and app.desk.results.has_focus
        piece("a", *"red", "escape", "j")
        await until(pilot, lambda: app.desk.results.cursor == 1)
        assert not app.desk.prompt.display and last(source).image is None
        await pilot.press("k")
        piece("a", *"red", "enter", "j")
        await until(pilot, lambda: last(source).image is not None)
        assert last(source).text == "catred" and str(last(source).image) == "/pics/summer/cat-0000.png"

    played(play, source, asked=CAT)


def test_enter_shows_a_hit_whole() -> None:
    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("enter")
        assert app.desk.is_whole and not app.desk.results.display and app.desk.preview.size.width > 100
        await pilot.press("right")
        assert app.hit is not None and app.hit.id == "cat:1" and app.desk.preview.hit is app.hit
        await pilot.press("left", "escape")
        assert not app.desk.is_whole and app.focused is app.desk.results and app.hit.id == "cat:0"
        await pilot.press("enter", "enter")
        assert not app.desk.is_whole

    played(play, asked=CAT)


def test_likeness_words_for_a_picture_and_undo() -> None:
    source = MadeUp()

    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("l")
        await answered(app, pilot, "like")
        assert last(source) == Wish(like="cat:0", like_name="cat-0000.png")
        await pilot.press("u")
        await answered(app, pilot)
        assert app.desk.typed.value == "cat"
        await pilot.press("j", "a")
        assert "picture file only" in app.desk.foot.error
        await pilot.press("k", "a", "escape", "a", " ", *"red", "enter")
        await answered(app, pilot, "cat red")
        assert last(source) == Wish("cat red", Path("/pics/summer/cat-0000.png"))
        assert [name for name, _ in last(source).chips()] == ["picture cat-0000.png"]
        await pilot.press("u")
        await answered(app, pilot)
        await pilot.press("u")
        assert app.session.asked == CAT, "there is nothing before the first"

    played(play, source, CAT)


def test_filters_by_facet_by_text_and_off_again() -> None:
    source = MadeUp()

    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await until(pilot, lambda: app.desk.facets.option_count)
        await pilot.press("f", "down", "enter")
        await until(pilot, lambda: last(source).chosen)
        assert last(source).chosen in ((("kind", "image"),), (("kind", "text"),))
        await pilot.press("f")
        assert not app.desk.shows_facets and app.focused is app.desk.results
        await pilot.press("w", *"nonsense", "enter")
        assert "not a field" in app.desk.foot.error and app.desk.prompt.has_focus
        await pilot.press(*["backspace"] * 8, *"ext=pdf", "enter")
        await until(pilot, lambda: last(source).where == "ext=pdf")
        assert len(app.desk._chips.children) == 2
        await pilot.press("x")
        await until(pilot, lambda: last(source).where == "" and len(app.desk._chips.children) == 1)
        assert await pilot.click("Chip")
        await until(pilot, lambda: last(source).chosen == ())
        for _ in range(4):
            await pilot.press("u")
        assert app.session.asked == CAT

    played(play, source, CAT)


def test_why_a_hit_was_found() -> None:
    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("e")
        await until(pilot, lambda: any("expert 0 of block 3: summer 61%" in line for line in screen_lines(app)))
        for words in ("score 1.00", "meaning 0.50", "words 0.33", "routes +0.25"):
            assert any(words in line for line in screen_lines(app))
        await pilot.press("j")
        await until(pilot, lambda: any("score 0.89" in line for line in screen_lines(app)))
        await pilot.press("e")
        assert not any("score 0.89" in line for line in screen_lines(app))

    played(play, asked=CAT)


def test_marked_paths_are_returned_else_the_current_one() -> None:
    async def marking(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("space", "space", "k", "space", "G", "space")
        assert "2 marked" in app.desk.foot.status
        await pilot.press("p")

    assert played(marking, asked=CAT) == ["/pics/summer/cat-0000.png", "/pics/summer/cat-0011.png"]

    async def none(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("j", "p")

    assert played(none, asked=CAT) == ["/pics/summer/cat-0001.txt"]

    async def leaving(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("space", "q")

    assert played(leaving, asked=CAT) == []


def test_files_are_opened_shown_and_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    monkeypatch.setattr(desktop, "open_file", lambda path: done.append(("open", path)))

    def refused(path: str) -> None:
        raise LoadError(f"{path} is no longer there.", "Index its folder.")

    monkeypatch.setattr(desktop, "reveal", refused)

    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("o")
        await until(pilot, lambda: done)
        await pilot.press("O")
        await until(pilot, lambda: "no longer there" in app.desk.foot.error)
        written: list[str] = []
        monkeypatch.setattr(app._driver, "write", written.append)
        await pilot.press("y")
        assert "Copied" in app.desk.foot.status and not app.desk.foot.error
        (sequence,) = (one for one in written if one.startswith("\x1b]52;c;"))
        assert base64.b64decode(sequence[7:-1]).decode() == "/pics/summer/cat-0000.png"

    played(play, asked=CAT)
    assert done == [("open", "/pics/summer/cat-0000.png")]


def test_help_names_every_key_and_any_of_its_keys_closes_it() -> None:
    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("question_mark")
        assert any("why a hit was found" in line for line in screen_lines(app))
        await pilot.press("w", "slash", "escape")
        assert app.screen is app.desk and not app.desk.prompt.has_class("open") and app.focused is app.desk.results

    played(play, asked=CAT)
    named = " ".join(key for key, _ in HELP)
    spelled = {"slash": "/", "enter": "Enter", "escape": "Esc", "space": "Space", "question_mark": "?"}
    for binding in bindings():
        assert isinstance(binding, type(bindings()[0]))
        key = binding.key  # type: ignore[union-attr]
        assert spelled.get(key, key) in (named + " Esc ? Ctrl+C").replace("Ctrl+C", "ctrl+c")


def test_the_mouse_chooses_and_shows_whole() -> None:
    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.click("Results", offset=(5, 9))
        assert app.desk.results.cursor == 2 and not app.desk.is_whole
        await pilot.click("Results", offset=(5, 9))
        await until(pilot, lambda: app.desk.is_whole)

    played(play, asked=CAT)


def test_an_old_answer_never_replaces_a_newer_one() -> None:
    source = MadeUp()
    source.held["cat"] = threading.Event()

    async def play(app: Browser, pilot: P) -> None:
        await until(pilot, lambda: source.asked)
        await pilot.press("slash", "s")
        await asyncio.sleep(0.2)
        assert app.hit is None, "the first is still being looked for"
        source.held["cat"].set()
        await answered(app, pilot, "cats")
        for _ in range(10):
            await pilot.pause(0.01)
            assert app.hit is not None and app.hit.id.startswith("cats:")

    played(play, source, CAT)
    assert [asked.text for asked, _, _ in source.asked] == ["cat", "cats"]


def test_words_come_before_the_model_and_meaning_after_it() -> None:
    source = MadeUp(warm=False)

    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        assert "by words" in app.desk.foot.status and "model loading…" in app.desk.foot.status
        await pilot.press("j", "j")
        source.loaded.set()
        await until(pilot, lambda: "by meaning" in app.desk.foot.status)
        assert app.hit is not None and app.hit.id == "cat:2", "whoever looks at a hit goes on looking at it"
        assert "loading" not in app.desk.foot.status

    played(play, source, CAT)
    waiting = MadeUp(warm=False)

    async def with_a_picture(app: Browser, pilot: P) -> None:
        await pilot.pause(0.1)
        assert not waiting.asked and "once the model is loaded" in app.desk.foot.status
        waiting.loaded.set()
        await answered(app, pilot)

    played(with_a_picture, waiting, Wish("cat", Path("/pics/cat.png")))


def test_errors_are_said_and_nothing_is_lost() -> None:
    source = MadeUp()

    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        source.error = IndexBusyError("The index 'x' is in use by process 7.", "Wait ({wait} does).")
        await pilot.press("l")
        await until(pilot, lambda: "in use by process 7. Wait (--wait does)" in app.desk.foot.error)
        assert app.hit is not None and app.hit.id == "cat:0"
        source.error = None
        await until(pilot, lambda: app.hit is not None and app.hit.id == "like:0" and not app.desk.foot.error)
        source.error = StoreError("The engine\x1b[2J failed.")
        await pilot.press("u")
        await until(pilot, lambda: "The engine\\x1b[2J failed." in app.desk.foot.error)

    played(play, source, CAT)


def test_a_long_error_takes_the_line_of_the_keys() -> None:
    source = MadeUp()

    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("w", *"wid", "equals_sign", "3", "enter")
        await until(pilot, lambda: app.desk.foot.error)
        await until(pilot, lambda: "Cannot read the filter" in screen_lines(app)[-2])
        assert "'wid' is not a field" in "".join(screen_lines(app)[-2:]) and "Esc" not in screen_lines(app)[-1]
        await pilot.press("escape")
        await until(pilot, lambda: "made up" in screen_lines(app)[-2])
        assert screen_lines(app)[-1].startswith(" ? keys")

    played(play, source, CAT, size=(60, 20))


def test_a_changed_index_is_looked_through_again_and_a_lost_one_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsembed_search.cli.browse.app._LOOKING", 0.05)
    source = MadeUp()

    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        await pilot.press("j")
        await until(pilot, lambda: app._stamp == 0)
        asked = len(source.asked)
        source.version, source.count = 1, 13
        await until(pilot, lambda: len(app.desk.results.hits) == 13)
        assert len(source.asked) == asked + 1 and app.desk.results.cursor == 1
        source.stamp_error = StoreError("The index is gone.")
        await until(pilot, lambda: "gone" in app.desk.foot.error)
        assert len(app.desk.results.hits) == 13
        source.stamp_error = None
        await until(pilot, lambda: not app.desk.foot.error)

    played(play, source, CAT)


def test_ten_thousand_hits_come_as_they_are_scrolled_to() -> None:
    source = MadeUp(10_000)

    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        results = app.desk.results
        while (count := len(results.hits)) < 10_000:
            await pilot.press("G")
            await until(pilot, lambda count=count: len(results.hits) > count)  # type: ignore[misc]
        assert len(results.hits) == 10_000
        await pilot.press("G")
        assert app.hit is not None and app.hit.id == "cat:9999"
        assert any("cat-9999.pdf" in line or "cat-9999.png" in line for line in screen_lines(app))
        assert len(results._drawn) <= 400 and len(app.pictures._small) <= 1000
        await until(pilot, lambda: not app.pictures._wanted)
        assert len(source.drawn) < 400, "what was scrolled past is not drawn"

    played(play, source, CAT)


def test_hostile_names_and_texts_cannot_act_on_the_terminal() -> None:
    bad = "\x1b[31mred\x07\u202egnp.\n[bold]x[/bold]" + "long" * 600
    hits = [
        made_hit(0, "cat", path=f"/pics/{bad}.png", also_at=[f"/{bad}"]),
        made_hit(1, "cat", path=f"/pics/{bad}", snippet=bad, marks=[(0, 9)]),
        made_hit(3, "cat", path="/"),
    ]

    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)
        for layout in ("list", "grid"):
            for key in ("e", "enter", "right", "escape", "e", "l", "u", "v"):
                await pilot.press(key)
                text = "\n".join(screen_lines(app))
                assert not any(sign in text for sign in ("\x1b", "\x07", "\u202e")), (layout, key)
        assert "\\x1b[31mred\\x07" in text and "[bold]" not in app.desk.foot.error

    played(play, MadeUp(hits=hits), CAT)


@pytest.mark.parametrize("system", [ColorSystem.TRUECOLOR, ColorSystem.EIGHT_BIT, ColorSystem.STANDARD])
def test_the_current_hit_can_be_read_in_few_colours(system: ColorSystem) -> None:
    async def play(app: Browser, pilot: P) -> None:
        app.console._color_system = system
        await answered(app, pilot)
        app.desk.results.redraw()
        await pilot.pause()
        segments = [one for one in app.desk.results.render_line(0) if "cat-0000" in one.text]
        assert segments and app.desk.results.has_focus
        for _, style, _ in segments:
            assert style is not None and style.color is not None and style.bgcolor is not None
            assert style.color.downgrade(system) != style.bgcolor.downgrade(system)

    played(play, asked=CAT)


def test_sizes_choose_the_panes() -> None:
    async def play(app: Browser, pilot: P) -> None:
        await answered(app, pilot)

        def seen() -> str:
            desk = app.desk
            return "".join(name[0] for name in ("facets", "results", "preview") if getattr(desk, name).display)

        assert seen() == "frp"
        await pilot.resize_terminal(80, 24)
        assert seen() == "rp"
        await pilot.press("f")
        assert seen() == "fr"
        await pilot.press("escape")
        assert seen() == "rp"
        await pilot.resize_terminal(40, 20)
        assert seen() == "r"
        await pilot.press("f")
        assert seen() == "f"
        await pilot.press("escape", "enter")
        assert seen() == "p"
        await pilot.press("escape", "e")
        assert seen() == "p"

    played(play, asked=CAT)
