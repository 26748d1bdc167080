"""Draws `search.svg`, the picture of a search in README.md: `.venv/bin/python docs/images/make_search_picture.py`.

Needs the index that `make demo` made. The hits go through the code that shows them in a terminal.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from tsembed_search.cli.render.hits import Drawer, half_blocks, print_hits
from tsembed_search.index import Index
from tsembed_search.items import Item

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 100


def main() -> None:
    """Searches the example corpus three times and saves what a terminal would show."""
    os.environ["TSEMBED_HOME"] = str(ROOT / ".cache" / "demo")
    os.chdir(ROOT / "examples")
    screen = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    guitar = Path("queries/guitar.png")
    pictures = "kind=image"
    searches = (
        ("'fast food' -k 2", Item("fast food"), None, 2),
        ("'my bike has a flat tyre' -k 2", Item("my bike has a flat tyre"), None, 2),
        (
            f"electric --image {guitar} -w {pictures} -k 1",
            Item("electric", guitar),
            pictures,
            1,
        ),
    )
    with Index.open() as index:
        for words, item, where, count in searches:
            screen.print(f"[bold green]$[/] [bold]tsembed search {words}[/]", highlight=False)
            print_hits(index.search(item, k=count, where=where).hits, Drawer(half_blocks), on=screen)
    svg = screen.export_svg(title="tsembed", theme=MONOKAI)
    # A page that shows the picture must not have to fetch a font from anywhere.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")
    Path(__file__).with_name("search.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
