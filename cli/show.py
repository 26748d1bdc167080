"""`tsembed show`."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final

from typer import Argument, Option

from tsembed_search import wording
from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import MissingIndexError, UsageError
from tsembed_search.paths import DEFAULT_INDEX, IndexAddress, file_path

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tsembed_search.cli.render.hits import Drawer
    from tsembed_search.search.passage import Excerpt

_TAB: Final = "    "
_PORTION: Final = 200  # lines that are laid out together
_STATES: Final = {
    "same": "",
    "changed": "It has changed since it was indexed.",
    "gone": "The file is no longer there.",
    "offline": "The file is out of reach: its disk is away, or it is on another machine.",
}
_MARKED: Final = "bold black on bright_yellow"


@options.described(
    ("the second hit of the last search", "tsembed show 2"),
    ("some lines of an indexed file", "tsembed show notes.md:40-60"),
    ("a page of a PDF", "tsembed show report.pdf --page 3"),
    ("what is known of a picture", "tsembed show ~/Pictures/cat.jpg"),
    ("for a program, with ten lines around it", "tsembed show 1 --context 10 --json"),
    no_args_is_help=True,
)
def show(
    hit: Annotated[
        str,
        Argument(
            metavar="HIT",
            help="A hit's number in the last search, an indexed path (notes.md, notes.md:40-60), or an item's id.",
            show_default=False,
        ),
    ],
    lines: Annotated[
        str | None, Option("--lines", metavar="A-B", help="Show these lines instead of the passage.")
    ] = None,
    page: Annotated[int | None, Option("--page", metavar="N", help="Show that page of a PDF.")] = None,
    context: Annotated[
        int | None,
        Option("--context", metavar="N", help="Lines to show before and after.", show_default="3 around a passage"),
    ] = None,
    open_it: Annotated[bool, Option("--open", help="Open the file with your desktop's program.")] = False,
    images: Annotated[
        bool | None, Option("--images/--no-images", help="Show a thumbnail or not.", show_default="if the terminal can")
    ] = None,
    index: Annotated[
        str | None,
        Option(
            "--index",
            metavar="NAME",
            help="Name of the index.",
            show_default="that of the last search for a number, else default",
            autocompletion=options.index_names,
            rich_help_panel="Index",
        ),
    ] = None,
    url: options.Url = None,
    wait: options.Wait = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show a hit: its passage with what stands around it.

    Reads the file as it is now, or, if that is away, what the index has of it. Needs no model. In a pipe it gives the
    text alone, unchanged.
    """
    chosen = _lines(lines)
    if context is not None and context < 0:
        raise UsageError("--context counts lines from 0.")
    if page is not None and page < 1:
        raise UsageError("--page counts pages from 1.")
    draw = _drawer(images) if not json else None
    name, wanted, query = _meant(hit, index, url)
    from tsembed_search.search.passage import UnknownItemError

    try:
        with options.open_index(name, url, wait=wait) as opened:
            found = opened.show(wanted, lines=chosen, page=page, context=context, query=query)
    except (UnknownItemError, MissingIndexError):
        if wanted == hit:
            raise
        raise UsageError(f"Hit {hit} of the last search is no longer in the index {name!r}.", "Search again.") from None
    if json:
        render.print_json(found.to_json())
    elif render.is_terminal():
        draw_passage(render.console(), found, draw)
    else:
        _print_plain(found)
    if not quiet and not json and (said := _state(found)):
        render.remark(said)
    if open_it:
        from tsembed_search.cli.desktop import open_file

        open_file(found.path)


def _lines(given: str | None) -> tuple[int, int | None] | None:
    """Read `40-60`, `40`, or `40-` (up to the end)."""
    if given is None:
        return None
    first, dash, last = given.partition("-")
    try:
        begin, end = int(first), int(last) if last else None if dash else int(first)
    except ValueError:
        begin, end = 0, 0
    if begin < 1 or (end is not None and end < begin):
        raise UsageError(f"{given!r} are no lines.", "Write --lines 40-60, --lines 40, or --lines 40- up to the end.")
    return begin, end


def _meant(hit: str, index: str | None, url: str | None) -> tuple[str, str, str]:
    """The index, the id or path, and the words that were searched for."""
    if not (hit.isascii() and hit.isdecimal()):
        return index or DEFAULT_INDEX, hit, ""
    from tsembed_search.cli.last_search import last_search

    last = last_search()
    name = index or last.index
    if str(IndexAddress(name, options.store_of(url)).folder) != last.folder:
        raise UsageError(
            f"The last search was in another index ({last.index!r}).",
            "Search in this one first, or give a path or an id. An index on a server needs its --url here, too.",
        )
    return name, last.id_of(int(hit)), last.query


def _drawer(images: bool | None) -> Drawer | None:
    if images is None and not render.is_terminal():
        return None
    from tsembed_search.cli.render.hits import drawer

    return drawer(images)


def _state(found: Excerpt) -> str:
    """Say what has become of the file, and where the text comes from."""
    said = [_STATES[found.state]]
    if found.source == "index":
        said.append("This is the text that the index has.")
    if found.state in ("changed", "gone"):
        said.append("To update the index, run `tsembed index` on its folder.")
    return " ".join(filter(None, said))


def _facts(found: Excerpt) -> Iterator[str]:
    """The known facts of a picture."""
    if found.width and found.height:
        yield f"{found.width} × {found.height} pixels"
    if found.bytes is not None:
        yield wording.size_words(found.bytes)
    if isinstance(found.taken, int | float):
        yield f"taken {time.strftime('%Y-%m-%d %H:%M', time.localtime(found.taken))}"
    elif found.taken:
        yield f"taken {wording.shown(str(found.taken))}"
    if found.concepts:
        yield "may show " + ", ".join(wording.shown(one["name"]) for one in found.concepts[:3])
    if found.modified:
        yield f"changed {time.strftime('%Y-%m-%d %H:%M', time.localtime(found.modified))}"
    if found.title:
        yield wording.shown(found.title)


def _print_plain(found: Excerpt) -> None:
    """The text as it is, for a pipe; of what has none, what is known of it."""
    text = found.before + found.text + found.after
    if not text:
        for line in (wording.shown(render.shortened(found.path)), *found.place, *_facts(found)):
            print(line)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()


def draw_passage(screen: Console, found: Excerpt, drawer: Drawer | None = None) -> None:
    """Draw a title, then numbered lines with the query's words marked, those around the passage dimmed; or a thumbnail,
    and what is known of a picture.
    """
    title = render.path_text(found.path, style="bold")
    screen.print(title)
    facts = [] if found.text else list(_facts(found))
    if about := " · ".join([*found.place, *facts]):
        screen.print(render.styled(about, style="dim"))
    for other in found.also_at[:1]:
        more = f" and {wording.count_words(len(found.also_at) - 1, 'more place')}" if len(found.also_at) > 1 else ""
        screen.print(render.styled("also at ", render.path_text(other), more, style="dim"))
    if drawer is not None and found.kind != "text":
        _draw_picture(screen, found, drawer)
    rows = list(_rows(found))
    if not rows:
        return
    screen.print()
    from rich.table import Table

    width = max((len(number) for number, _ in rows), default=0)
    for start in range(0, len(rows), _PORTION):
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=width, justify="right", no_wrap=True, style="dim")
        grid.add_column(overflow="fold")
        for number, words in rows[start : start + _PORTION]:
            grid.add_row(number, words)
        screen.print(grid)


def _draw_picture(screen: Console, found: Excerpt, drawer: Drawer) -> None:
    from tsembed_search.documents import decoders

    place = file_path(found.path), found.page or 1
    if (pixels := decoders.thumbnails([place]).get(place)) is not None:
        screen.print(drawer.draw(pixels))


def _rows(found: Excerpt) -> Iterator[tuple[str, Text]]:
    """The lines, each with its number, if that is known."""
    before, own, after = (_split(text) for text in (found.before, found.text, found.after))
    number = found.lines[0] - len(before) if found.lines is not None and found.source == "file" else None
    at, marks = 0, deque(found.marks)
    for lines, is_own in ((before, False), (own, True), (after, False)):
        for line in lines:
            here = []
            while is_own and marks and marks[0][0] < at + len(line):
                here.append(marks.popleft())
            yield (
                ("" if number is None else f"{number}"),
                (_line(line, here, at) if is_own else render.styled(_safe(line), style="dim")),
            )
            at += (len(line) + 1) * is_own
            number = None if number is None else number + 1


def _split(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def _line(line: str, marks: Sequence[tuple[int, int]], start: int) -> Text:
    """A line that begins at `start` of a text with these marks. Escaping may lengthen it, so it is done in pieces."""
    words, at = render.styled(), 0
    for begin, end in marks:
        left, right = max(begin - start, at), min(end - start, len(line))
        if left < right:
            words.append(_safe(line[at:left])).append(_safe(line[left:right]), style=_MARKED)
            at = right
    return words.append(_safe(line[at:]))


def _safe(text: str) -> str:
    return wording.shown(text.replace("\t", _TAB))
