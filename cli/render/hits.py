"""A list of hits: for people in a terminal, as plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tsembed_search.cli.render.text import bar, console, path_text, shortened
from tsembed_search.wording import count_words, shown

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from tsembed_search.cli.render.thumbnails import Drawer
    from tsembed_search.search.results import Hit

_BAR = 10
_KIND_STYLES = {"image": "magenta", "text": "cyan", "page": "yellow"}


def plain_lines(hits: Sequence[Hit]) -> list[str]:
    """Return one line per hit and one for its snippet; no control codes, whatever the file names hold."""
    lines = []
    for hit in hits:
        page = f"  page {hit.page}" if hit.page is not None else ""
        where = shown(shortened(hit.path)) + page + ("  offline" if hit.offline else "")
        lines.append(f"{hit.rank:>3}  {hit.score:.3f}  {hit.kind:<5}  {where}")
        if hit.top_experts:
            both = f"similarity {hit.similarity:.3f}  routes {hit.route_similarity:+.3f}"
            shared = f"  shared experts {shown(' '.join(hit.shared_experts[:3]))}" if hit.shared_experts else ""
            lines.append(f"            {both}{shared}")
        if hit.snippet:
            lines.append(f"            {shown(hit.snippet)}")
    return lines


def print_hits(hits: Sequence[Hit], drawer: Drawer | None = None, on: Console | None = None) -> None:
    """Print the list for a terminal: rank, score, path, kind, snippet, and a thumbnail where there is one."""
    screen = on or console()
    if drawer is None or screen.width < drawer.least_width:
        for hit in hits:
            screen.print(hit_text(hit, len(hits)))
            if hit is not hits[-1]:
                screen.print()
        return
    from tsembed_search.cli.render.thumbnails import thumbnails

    pictures = thumbnails(hits)
    for hit in hits:
        drawer.print_beside(screen, pictures.get(hit.rank), hit_text(hit, len(hits)))


def hit_text(hit: Hit, of: int) -> RenderableType:
    """Return all words of one hit in two columns: its rank, and everything else line by line."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=len(str(of)), justify="right", no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    facts = Text.assemble((f"{hit.score:.2f} ", "bold"), (bar(hit.score, _BAR), "green on grey15"), " ", *_facts(hit))
    body = [path_text(hit.path, style="bold"), facts, *([_snippet(hit)] if hit.snippet else [])]
    grid.add_row(Text(str(hit.rank), style="dim"), Group(*body))
    return grid


def _snippet(hit: Hit) -> Text:
    """The snippet with the query's words marked. Escaping may lengthen it, so it is done piece by piece."""
    from rich.text import Text

    text, at = Text(overflow="fold"), 0
    source = hit.snippet or ""
    for start, end in hit.marks:
        text.append(shown(source[at:start]))
        text.append(shown(source[start:end]), style="bold black on bright_yellow")
        at = end
    return text.append(shown(source[at:]))


def _facts(hit: Hit) -> Iterator[Text | tuple[str, str]]:
    yield hit.kind, _KIND_STYLES[hit.kind]
    if hit.offline:
        yield " · offline", "bold yellow"
    if hit.page is not None:
        yield f" · page {hit.page}", "dim"
    if hit.top_experts:
        yield f" · similarity {hit.similarity:.2f} · routes {hit.route_similarity:+.2f} · experts", "dim"
        for name in list(dict.fromkeys([*hit.shared_experts, *hit.top_experts]))[:3]:
            yield " " + shown(name), "bold green" if name in hit.shared_experts else "dim"
    if hit.also_at:
        yield " · also at ", "dim"
        yield path_text(hit.also_at[0], style="dim")
        if len(hit.also_at) > 1:
            yield f" and {count_words(len(hit.also_at) - 1, 'more place')}", "dim"
