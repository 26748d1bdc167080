"""`tsembed browse`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Argument, Exit, Option

from tsembed_search.cli import options
from tsembed_search.cli.render import text as render
from tsembed_search.errors import UsageError

if TYPE_CHECKING:
    from tsembed_search.cli.browse.source import Source, Wish

_MOST_PAST: Final = 200


@options.described(
    ("all files, the newest first", "tsembed browse"),
    ("the results of a search", "tsembed browse a red bicycle"),
    ("what looks like a picture", "tsembed browse --image photo.jpg"),
    ("pick files by hand, and copy them", "cp -t best/ $(tsembed browse sunset -w kind=image)"),
)
def browse(
    query: Annotated[list[str] | None, Argument(metavar="QUERY", help="What to look for, in words.")] = None,
    image: options.Image = None,
    where: options.Where = None,
    images: Annotated[
        str,
        Option(
            "--images",
            metavar="HOW",
            help="Pictures: auto; kitty or sixel, the terminal's own; blocks, of coloured half characters; none.",
        ),
    ] = "auto",
    index: options.IndexName = options.INDEX,
    url: options.Url = None,
    model: options.Model = None,
    device: options.Device = "auto",
) -> None:
    """Look through results in the terminal: narrow them down, open files, and pick some.

    Finds by words as you type, and by meaning once the model is loaded. `?` shows all keys. Marked paths are printed
    on stdout when you leave with `p`.
    """
    _check_terminal()
    asked = _asked(query, image, where)

    from tsembed_search.cli.browse.app import Browser
    from tsembed_search.cli.browse.easel import WAYS
    from tsembed_search.cli.browse.later import Later

    if images not in WAYS:
        raise UsageError(f"{images!r} is no way to show pictures.", f"Choose from: {', '.join(WAYS)}.")

    def opened() -> Source:
        from tsembed_search.cli.browse.in_process import InProcess

        return InProcess(options.open_index(index, url, model=model, device=device))

    source = Later(index, opened)
    images = "none" if images == "auto" and os.environ.get("NO_COLOR") else images
    browser = Browser(source, asked, images=images, past=_past())
    picked = browser.run()
    source.close()
    _keep_past(browser.past)
    if browser.failed is not None:
        raise browser.failed
    if browser.return_code:
        raise Exit(browser.return_code)
    render.print_paths(picked or (), end="\n")


def _check_terminal() -> None:
    """Raise `UsageError` unless a person sits there. Stdout may go elsewhere: the screen is drawn on stderr."""
    if not sys.stdin.isatty() or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError(
            "tsembed browse needs a terminal, for its keys and its screen.",
            "Use `tsembed search` for results as lines or as JSON.",
        )


def _asked(query: list[str] | None, image: Path | None, where: list[str] | None) -> Wish:
    from tsembed_search.cli.browse.source import Wish
    from tsembed_search.search.where import parse_where

    item = options.query_item(query, image)
    for one in where or ():
        parse_where(one)
    text = " and ".join(f"({one})" if len(where or ()) > 1 else one for one in where or ())
    if item is None:
        return Wish(where=text)
    picture = item.image.absolute() if isinstance(item.image, Path) else None
    return Wish(item.text or "", picture, where=text)


def _past_file() -> Path:
    from tsembed_search.paths import home

    return home() / "browsed"


def _past() -> list[str]:
    """The earlier queries, the oldest first."""
    with suppress(OSError, ValueError):
        return _past_file().read_text("utf-8").splitlines()[-_MOST_PAST:]
    return []


def _keep_past(past: list[str]) -> None:
    """Keep it for the owner's eyes. Where that cannot be written, nothing is lost that matters."""
    from tsembed_search import private

    with suppress(OSError, ValueError):
        lines = "".join(f"{line}\n" for line in past[-_MOST_PAST:] if line.isprintable())
        with private.open_file(_past_file(), "w") as file:
            file.write(lines)
