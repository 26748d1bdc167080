"""Pages in Markdown: chunks follow the headings, and people and the model read words rather than markup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tsembed_search.documents.document import Document, Figure, Format, Section, Unit
from tsembed_search.documents.formats import text as plain
from tsembed_search.documents.formats.html import below_headings, local_path, words
from tsembed_search.errors import LoadError

if TYPE_CHECKING:
    from markdown_it.token import Token

# Parsing keeps the whole file in memory many times over; a longer one is hardly written by hand.
_LONGEST: Final = 4 << 20


def units(document: Document) -> Iterator[Unit]:
    """Chunks of the text that is shown; `start` and `end` are offsets in it."""
    from tsembed_search.documents.chunking import tiled
    from tsembed_search.documents.encoding import read_text
    from tsembed_search.documents.markdown_page import blocks, parse

    page = None
    if document.file.seek(0, os.SEEK_END) <= _LONGEST:
        page = parse("".join(read_text(document.file)))
    if page is None or page.too_deep:
        yield from plain.units(document)
        return
    document.alive()
    if not (yield from document.text_units(tiled(blocks(page)), page.title)):
        raise LoadError("There is no text in it.")


def sections(document: Document) -> Iterator[Section | Figure]:
    """The pictures of a page with what it says about each, then its sections."""
    from tsembed_search.documents.encoding import read_text
    from tsembed_search.documents.markdown_page import parse

    tokens = parse("".join(read_text(document.file))).tokens
    for child in (child for token in tokens for child in token.children or () if child.type == "image"):
        place = local_path(str(child.attrs.get("src") or ""))
        text = words(child.content) or words(str(child.attrs.get("title") or ""))
        if place and text:
            yield Figure(place, text)
    yield from below_headings(
        (tokens[place - 1].tag if place else "", _without_pictures(token))
        for place, token in enumerate(tokens)
        if token.type == "inline"
    )


def _without_pictures(token: Token) -> str:
    """The words of a line, without its pictures and markup."""
    return words(
        "".join(
            child.content if child.type in ("text", "code_inline") else " " if child.type.endswith("break") else ""
            for child in token.children or ()
        )
    )


FORMAT = Format("markdown", 2, frozenset({"md", "markdown", "mdown", "mkd"}), units, sections=sections, is_text=True)
