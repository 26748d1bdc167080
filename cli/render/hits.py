"""A list of hits: for people in a terminal, as plain lines elsewhere, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tsembed_search.cli.render.text import bar, console, here, path_text, shortened
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
        where = shown(shortened(hit.path, here())) + page + ("  offline" if hit.offline else "")
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
            screen.print(hit_text(hit, len(hits)), end="\n\n" if hit.rank < len(hits) else "\n")
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
    facts = Text.assemble((f"{hit.score:.2f} ", "bold"), score_bar(hit.score), " ")
    body: list[Text] = [path_text(hit.path, relative_to=here(), style="bold"), facts.append_text(_facts(hit))]
    if hit.snippet:
        body.append(snippet_text(hit))
    grid.add_row(Text(str(hit.rank), style="dim"), Group(*body))
    return grid


def score_bar(score: float) -> Text:
    """Return a bar for a score between 0 and 1."""
    from rich.text import Text

    return Text(bar(score, _BAR), style="green on grey15")


def snippet_text(hit: Hit) -> Text:
    """Return the snippet with the query's words marked. Escaping may lengthen it, so it is done piece by piece."""
    from rich.text import Text

    text, at = Text(overflow="fold"), 0
    source = hit.snippet or ""
    for start, end in hit.marks:
        text.append(shown(source[at:start]))
        text.append(shown(source[start:end]), style="bold black on bright_yellow")
        at = end
    text.append(shown(source[at:]))
    return text


def _facts(hit: Hit) -> Text:
    from rich.text import Text

    facts = Text(hit.kind, style=_KIND_STYLES[hit.kind])
    if hit.offline:
        facts.append(" · offline", style="bold yellow")
    if hit.page is not None:
        facts.append(f" · page {hit.page}", style="dim")
    if hit.top_experts:
        facts.append(f" · similarity {hit.similarity:.2f} · routes {hit.route_similarity:+.2f} · experts", style="dim")
        for name in [*hit.shared_experts, *(name for name in hit.top_experts if name not in hit.shared_experts)][:3]:
            facts.append(" " + shown(name), style="bold green" if name in hit.shared_experts else "dim")
    if hit.also_at:
        facts.append(" · also at ", style="dim")
        facts.append_text(path_text(hit.also_at[0], relative_to=here(), style="dim"))
        if len(hit.also_at) > 1:
            facts.append(f" and {count_words(len(hit.also_at) - 1, 'more place')}", style="dim")
    return facts
