"""Pages in HTML: chunks of what a reader of the page reads; headings, and pictures with what is said about them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from tsembed_search.documents.document import Document, Figure, Format, Section, Unit
from tsembed_search.errors import LoadError

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

# A page is parsed as a whole, into ten times its size.
_LONGEST: Final = 32 << 20
# From that many words on, and that share of all, a person should know that they were left out.
_TELLING_WORDS: Final = 50
_SECTION_HEADINGS: Final = ("h1", "h2", "h3", "h4")
_SECTION_BLOCKS: Final = "h1, h2, h3, h4, p, li, dd, td, pre, blockquote"
_TELLING_SHARE: Final = 1 / 3


def units(document: Document) -> Iterator[Unit]:
    """Chunks of the readable text; `start` and `end` are offsets in that text."""
    from tsembed_search.documents.chunking import tiled
    from tsembed_search.documents.html_page import page_text, readable, shown_page

    if document.file.seek(0, os.SEEK_END) > _LONGEST:
        raise LoadError(f"The page has more than {_LONGEST >> 20} MB.", "Save its text as a .txt file.")
    page = shown_page(page_text(document.file))
    document.alive()
    given = yield from document.text_units(tiled(readable(page.tree.body)), page.title)
    if not given:
        hint = "It may be a page that only a browser's scripts fill."
        if page.tree.css_first("frameset") is not None:
            hint = "It is a set of frames: index the pages that it shows."
        raise LoadError("There is no text to read in it.", hint)
    if page.hidden >= max(_TELLING_WORDS, _TELLING_SHARE * page.words):
        document.note(f"Hidden parts of the page were left out: about {page.hidden:,} of {page.words:,} words.")


def sections(document: Document) -> Iterator[Section | Figure]:
    """The pictures of a page with what it says about each, then its sections."""
    from tsembed_search.documents.html_page import page_text, shown_page

    tree = shown_page(page_text(document.file)).tree
    for image in tree.css("img"):
        place = local_path(image.attributes.get("src"))
        text = _caption(image) or words(image.attributes.get("alt")) or words(image.attributes.get("title"))
        if place and text:
            yield Figure(place, text)
    yield from below_headings((node.tag or "", words(node.text(separator=" "))) for node in tree.css(_SECTION_BLOCKS))


def below_headings(blocks: Iterable[tuple[str, str]]) -> Iterator[Section]:
    """Each heading with the text up to the next one, from the (tag, text) of a page's blocks."""
    heading, texts = "", list[str]()
    for tag, text in (*blocks, ("h1", "")):
        if tag in _SECTION_HEADINGS:
            yield Section((heading,), " ".join(texts))
            heading, texts = text, []
        elif not texts or text != texts[-1]:
            texts.append(text)


def _caption(image: LexborNode) -> str:
    """The caption of the figure that an image is in, if it is its only image."""
    above = image.parent
    for _ in range(3):
        if above is not None and above.tag != "figure":
            above = above.parent
    if above is None or above.tag != "figure" or len(above.css("img")) != 1:
        return ""
    caption = above.css_first("figcaption")
    return words(caption.text()) if caption is not None else ""


def local_path(source: str | None) -> str:
    """The path of a picture on this machine, relative to its page, or ""."""
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit((source or "").strip())
    except ValueError:
        return ""
    path = unquote(parts.path)
    return "" if parts.scheme or parts.netloc or path.startswith("/") or "\0" in path else path


def words(text: str | None) -> str:
    """A text in one line, with single blanks."""
    return " ".join((text or "").split())


FORMAT = Format(
    "html",
    2,
    frozenset({"html", "htm", "xhtml"}),
    units,
    (b"<!doctype html", b"<html"),
    sections=sections,
    is_text=True,
)
