"""The browser's screens as text, compared with files: what they look like changes only on purpose.

`TSEMBED_SNAPSHOTS=write .venv/bin/python -m pytest tests/cli/browse/test_snapshots.py` writes them anew; look at them.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from textual.pilot import Pilot

from helpers.browsing import here, made_hit, played, screen_lines, until
from tsembed_search.cli.browse.app import Browser
from tsembed_search.cli.browse.remarks import status_words
from tsembed_search.cli.browse.source import HitList, Wish

SCREENS = {
    "list": (), "grid": ("v",), "text": ("j",), "whole": ("enter",), "why": ("e",), "facets": ("f",),
    "filters": ("l", "w", *"kind=text", "enter"), "help": ("question_mark",),
}  # fmt: skip
"""The keys that lead to each."""


@pytest.mark.parametrize("size", [(36, 20), (60, 20), (100, 30), (200, 50)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_screens_look_as_they_did(size: tuple[int, int]) -> None:
    found: dict[str, str] = {}

    async def play(app: Browser, pilot: Pilot[list[str]]) -> None:
        for name, keys in SCREENS.items():
            if size[0] > 100 and name not in ("list", "grid"):
                continue
            await until(pilot, lambda: app.hit is not None and app.hit.id == "cat:0")
            await pilot.press(*keys)
            await until(pilot, lambda name=name: is_complete(app, name))  # type: ignore[misc]
            strips: Any = app.screen._compositor.render_strips()
            assert {strip.cell_length for strip in strips} == {size[0]} and len(strips) == size[1]
            found[name] = "\n".join(screen_lines(app)) + "\n"
            await pilot.press("escape", *{"grid": "v", "text": "k", "why": "e", "filters": "uu"}.get(name, ""))

    played(play, asked=Wish("cat"), size=size)
    for name, screen in found.items():
        file = here("snapshots", f"{name}-{size[0]}x{size[1]}.txt")
        if os.environ.get("TSEMBED_SNAPSHOTS") == "write":
            file.write_text(screen, "utf-8")
        assert screen == file.read_text("utf-8"), f"{file.name} differs"


def is_complete(app: Browser, name: str) -> Any:
    """All that the source was asked for is on the screen."""
    hit, desk = app.hit, app.desk
    if hit is None or desk.preview.more is None or app.pictures._wanted or not app.pictures._small:
        return False
    if name == "why" and not hasattr(desk.preview.reason, "experts"):
        return False
    if desk.shows_facets and not desk.facets.option_count:
        return False
    wanted = {"text": "cat:1", "filters": "like:0"}.get(name, "cat:0")
    pictures = hit.kind == "text" or app.pictures.whole(hit) is not None
    return hit.id == wanted and pictures and (name != "filters" or app.session.asked.where)


def test_good_matches_are_counted() -> None:
    found = [HitList([made_hit(n, "cat", good=n < good) for n in range(5)], "by meaning") for good in (2, 0)]
    said = [status_words("made up", Wish("cat"), own, 0, is_warm=True, model="") for own in found]
    assert "5 hits, 2 good" in said[0] and "good" not in said[1]
    many = HitList([made_hit(0, "cat", good=True)] * 1200, "by words")
    assert "1,200 hits, 1,200 good" in status_words("made up", Wish("cat"), many, 0, is_warm=True, model="")
