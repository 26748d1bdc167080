"""HTML: what a reader of the page reads, without menus, scripts and hidden parts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import LoadError
from tsembed_search.html_pages import page_text, shown_page, walk
from tsembed_search.indexer.chunking import Block, tiled
from tsembed_search.indexer.loaders.unit import Loading, Unit, text_unit

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

# A page is parsed as a whole, into ten times its size.
_LONGEST: Final = 32 << 20
# From that many words on, and that share of all, a person should know that they were left out.
_TELLING_WORDS: Final = 50
_TELLING_SHARE: Final = 1 / 3
_HEADINGS: Final = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_PARAGRAPHS: Final = _HEADINGS | {
    "p", "div", "section", "article", "main", "header", "blockquote", "pre", "textarea", "ul", "ol", "dl", "table",
    "figure", "hr", "figcaption", "address", "details", "summary", "fieldset", "body", "caption",
}  # fmt: skip
_LINES: Final = frozenset({"li", "tr", "dt", "dd", "br", "option", "legend", "text", "math", "button", "label"})
_VERBATIM: Final = frozenset({"pre", "textarea"})
_CELLS: Final = frozenset({"td", "th"})
_BLANKS: Final = re.compile(r"[ \t\n\r\f\u00a0]+")


def load(loading: Loading) -> Iterator[Unit]:
    """Chunks of the readable text; `start` and `end` are offsets in that text."""
    if loading.file.seek(0, os.SEEK_END) > _LONGEST:
        raise LoadError(f"The page has more than {_LONGEST >> 20} MB.", "Save its text as a .txt file.")
    source = page_text(loading.file)
    page = shown_page(source)
    loading.alive()
    number = -1
    for number, chunk in enumerate(loading.cutter.chunks(tiled(readable(page.tree.body)))):
        yield text_unit(chunk, number, loading.cutter.with_headings(chunk.text, (page.title, *chunk.headings)))
    if number < 0 and page.tree.css_first("frameset") is not None:
        raise LoadError("There is no text to read in it.", "It is a set of frames: index the pages that it shows.")
    if number < 0:
        raise LoadError("There is no text to read in it.", "It may be a page that only a browser's scripts fill.")
    if page.hidden >= max(_TELLING_WORDS, _TELLING_SHARE * page.words):
        loading.note(f"Hidden parts of the page were left out: about {page.hidden:,} of {page.words:,} words.")


def readable(root: LexborNode | None) -> Iterator[Block]:
    """The text of the blocks in order; `start` is not yet set."""
    parts: list[str] = []
    heading, lines, in_pre = 0, False, 0

    def flushed() -> Iterator[Block]:
        text = re.sub(r" *\n *", "\n", "".join(parts)).strip() if not in_pre else "".join(parts).strip("\n")
        parts.clear()
        if text.strip():
            yield Block(0, text, heading, text if heading else "", lines)

    for node, entering in walk(root):
        tag = node.tag or ""
        if tag == "-text":
            text = node.text_content or ""
            text = text if in_pre else _BLANKS.sub(" ", text)
            # A blank after a blank or at a line's start is not shown.
            parts.append(text.lstrip(" ") if not in_pre and (not parts or parts[-1].endswith((" ", "\n"))) else text)
        elif tag in _PARAGRAPHS:
            yield from flushed()
            heading = int(tag[1]) if tag in _HEADINGS and entering else 0
            in_pre += (1 if entering else -1) if tag in _VERBATIM else 0
            lines = entering and tag in ("ul", "ol", "dl", "table", *_VERBATIM)
        elif tag in _LINES:
            lines = True
            if parts and entering:
                parts.append("\n")
        elif tag in _CELLS and not entering:
            parts.append(" ")
    yield from flushed()
