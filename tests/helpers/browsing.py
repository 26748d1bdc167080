"""A made-up source for the browser, which answers when a test lets it, and a way to play with the browser's keys."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from textual.pilot import Pilot

from tsembed_search.cli.browse.app import Browser
from tsembed_search.cli.browse.source import Detail, FacetCount, Facets, HitList, Passage, Reason, Wish
from tsembed_search.search.results import Hit

Play = Callable[[Browser, "Pilot[list[str]]"], Awaitable[None]]
_LONGEST = 10.0


def made_hit(number: int, query: str = "", *, kind: str = "image", path: str = "", **fields: Any) -> Hit:
    """A hit with that number, from 0: every third a text, every fifth a page."""
    kind = "text" if number % 3 == 1 or number % 5 == 4 else kind
    page = 7 if number % 5 == 4 else None
    name = f"{query or 'file'}-{number:04}." + ("pdf" if page else "txt" if kind == "text" else "png")
    snippet = f"All about {query or 'files'}, of which this is number {number}." if kind == "text" else None
    rank, score = (number + 1, 1 / (number / 8 + 1)) if query else (0, 0.0)
    given: dict[str, Any] = {
        "rank": rank, "score": score, "similarity": score / 2, "route_similarity": 0.25, "id": f"{query}:{number}",
        "kind": kind, "path": path or f"/pics/summer/{name}", "page": page, "chunk": 0 if kind == "text" else None,
        "snippet": snippet, "words": score / 3, "marks": [(10, 10 + len(query))] if snippet and query else [],
    }  # fmt: skip
    return Hit(**{**given, **fields})


class MadeUp:
    """A `Source` of `count` hits for whatever is asked. `hold` stops its searches until `let_go`."""

    title = "made up"

    def __init__(self, count: int = 12, *, warm: bool = True, hits: list[Hit] | None = None) -> None:
        self.count, self.given = count, hits
        self.loaded = threading.Event()
        self.asked: list[tuple[Wish, int, bool]] = []
        self.closed = False
        self.error: Exception | None = None
        self.stamp_error: Exception | None = None
        self.version = 0
        self.drawn: list[str] = []
        self.held: dict[str, threading.Event] = {}
        if warm:
            self.loaded.set()

    @property
    def is_warm(self) -> bool:
        return self.loaded.is_set()

    def warm(self) -> None:
        self.loaded.wait(_LONGEST)

    def wake(self) -> None:
        pass

    def search(self, asked: Wish, count: int, *, words_only: bool) -> HitList:
        self.asked.append((asked, count, words_only))
        if (gate := self.held.get(asked.text)) is not None:
            gate.wait(_LONGEST)
        if self.error is not None:
            raise self.error
        query = asked.text or ("like" if asked.like else "")
        hits = self.given if self.given is not None else [made_hit(n, query) for n in range(min(count, self.count))]
        by = "newest first" if asked.is_open else "by words" if words_only else "by meaning"
        return HitList(hits, by, 0.004, len(hits) < self.count)

    def facets(self, asked: Wish) -> Facets:
        folders = [FacetCount("/pics/summer/", "summer", 3), FacetCount("/pics/winter/", "winter", 1234)]
        return {
            "kind": [FacetCount("image", "image", 8), FacetCount("text", "text", 4)],
            "folder": folders,
            "year": [FacetCount("2026", "2026", 9), FacetCount("2025", "2025", 3)],
        }

    def detail(self, hit: Hit, query: str) -> Detail:
        if hit.kind != "text":
            return Detail(facts=[("size", "640 x 480, 12 kB"), ("changed", "2026-11-29 10:00")])
        lines = ["The line before.", hit.snippet or "", "The line after."]
        return Detail(Passage(lines, [(), hit.marks, ()], (1, 2)), [("size", "120 bytes")])

    def reason(self, asked: Wish, hit: Hit) -> Reason:
        return Reason(hit, [("b3e0", 0.12, "summer 61%"), ("b1e2", 0.03, "")])

    def picture(self, hit: Hit) -> Any:
        self.drawn.append(hit.id)
        across = np.linspace(0, 255, 48, dtype=np.uint8)
        return np.stack([np.tile(across, (36, 1))] * 3, axis=2)

    def stamp(self) -> object:
        if self.stamp_error is not None:
            raise self.stamp_error
        return self.version

    def close(self) -> None:
        self.closed = True


async def until(pilot: Pilot[Any], met: Callable[[], object]) -> None:
    """Let the browser work until a condition is met. Fails when it never is."""
    end = time.monotonic() + _LONGEST
    while not met():
        assert time.monotonic() < end, "never met:\n" + "\n".join(screen_lines(cast("Browser", pilot.app)))
        await pilot.pause(0.01)


def played(
    play: Play, source: Any = None, asked: Wish | None = None, *, size: tuple[int, int] = (120, 30), **options: Any
) -> Any:
    """What the browser returns after a test has played with it."""

    async def main() -> Any:
        app = Browser(source or MadeUp(), asked or Wish(), **options)
        async with app.run_test(size=size) as pilot:
            await play(app, pilot)
        return app.return_value

    return asyncio.run(main())


def screen_lines(app: Browser) -> list[str]:
    """The characters on the screen, line by line, without blanks at their ends."""
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def here(*parts: str) -> Path:
    """A file beside the tests of the browser."""
    return Path(__file__).parents[1].joinpath("cli", "browse", *parts)
