"""Draws `browse.svg`, the picture of the browser in README.md: `.venv/bin/python docs/images/make_browse_picture.py`.

Needs the index that `make demo` made. It runs the program itself, without a terminal, and saves what its screen shows.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from tsembed_search.cli.browse.app import Browser
from tsembed_search.cli.browse.in_process import InProcess
from tsembed_search.cli.browse.source import Wish
from tsembed_search.index import Index

ROOT = Path(__file__).resolve().parents[2]
SIZE = (120, 30)
QUERY = "my bike has a flat tyre"


async def drawn() -> str:
    """The screen after a search by meaning, as SVG."""
    source = InProcess(Index.open())
    source.warm()
    app = Browser(source, Wish(QUERY))
    async with app.run_test(size=SIZE) as pilot:
        for _ in range(300):
            if app.found.hits and app.desk.preview.more and app.desk.facets.option_count:
                break
            await pilot.pause(0.1)
        await pilot.press("j")
        for _ in range(100):
            hit = app.hit
            if hit is not None and app.pictures.whole(hit) is not None and not app.pictures._wanted:
                break
            await pilot.pause(0.1)
        await pilot.pause(1)
        picture = app.export_screenshot(title="tsembed browse")
    source.close()
    return picture


def main() -> None:
    """Saves the picture, beside this file."""
    os.environ["TSEMBED_HOME"] = os.environ.get("TSEMBED_HOME") or str(ROOT / ".cache" / "demo")
    os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}  # whatever the terminal of whoever runs this
    os.chdir(ROOT / "examples")
    svg = asyncio.run(drawn())
    # A page that shows the picture must not have to fetch a font from anywhere.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")
    Path(__file__).with_name("browse.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
