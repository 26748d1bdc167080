"""What pages in HTML and Markdown say: their pictures with alternative texts and captions, and headings with text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from tsembed_search.html_pages import shown_page
from tsembed_search.markdown_pages import parse
from tsembed_search.trainer.data_names import telling_words

if TYPE_CHECKING:
    from markdown_it.token import Token
    from selectolax.lexbor import LexborNode

_HEADINGS: Final = ("h1", "h2", "h3", "h4")
_BLOCKS: Final = "h1, h2, h3, h4, p, li, dd, td, pre, blockquote"
_FEWEST_WORDS: Final = 12
_MOST_WORDS: Final = 120


@dataclass(frozen=True)
class Shown:
    """A picture on a page: where it is, relative to the page, and what the page says about it."""

    source: str
    text: str


@dataclass(frozen=True)
class Passage:
    """A heading, and the beginning of the text below it."""

    heading: str
    text: str


def passage(heading: str, text: str) -> Passage | None:
    """A passage of at most 120 words; None where the heading says nothing or the text is too short to be one."""
    words = text.split()
    if len(words) < _FEWEST_WORDS or not telling_words(heading):
        return None
    return Passage(" ".join(heading.split()), " ".join(words[:_MOST_WORDS]))


def html_pairs(source: str) -> Iterator[Shown | Passage]:
    """The pictures and passages of a page in HTML, in order of their kinds."""
    tree = shown_page(source).tree
    for image in tree.css("img"):
        place = _local(image.attributes.get("src"))
        text = _caption(image) or _words(image.attributes.get("alt")) or _words(image.attributes.get("title"))
        if place and text:
            yield Shown(place, text)
    yield from _sections((node.tag or "", _words(node.text(separator=" "))) for node in tree.css(_BLOCKS))


def _caption(image: LexborNode) -> str:
    """The caption of the figure that an image is in, if it is its only image."""
    above = image.parent
    for _ in range(4):
        if above is None:
            return ""
        if above.tag == "figure":
            caption = above.css_first("figcaption")
            return _words(caption.text()) if caption is not None and len(above.css("img")) == 1 else ""
        above = above.parent
    return ""


def markdown_pairs(source: str) -> Iterator[Shown | Passage]:
    """The pictures and passages of a page in Markdown, in order of their kinds."""
    tokens = parse(source).tokens
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                place = _local(str(child.attrs.get("src") or ""))
                text = _words(child.content) or _words(str(child.attrs.get("title") or ""))
                if place and text:
                    yield Shown(place, text)
    blocks = (
        (tokens[place - 1].tag if place else "", _spoken(token))
        for place, token in enumerate(tokens)
        if token.type == "inline"
    )
    yield from _sections(blocks)


def _spoken(token: Token) -> str:
    """The words of a line, without its pictures and markup."""
    parts = [
        child.content if child.type in ("text", "code_inline") else " " if child.type.endswith("break") else ""
        for child in token.children or ()
    ]
    return _words("".join(parts))


def _sections(blocks: Iterator[tuple[str, str]]) -> Iterator[Passage]:
    """Headings and the text up to the next one, from the (tag, text) of a page's blocks."""
    heading, texts = "", list[str]()
    for tag, text in (*blocks, ("h1", "")):
        if tag not in _HEADINGS:
            if not texts or text != texts[-1]:
                texts.append(text)
            continue
        found = passage(heading, " ".join(texts))
        if found is not None:
            yield found
        heading, texts = text, []


def _local(source: str | None) -> str:
    """The path of a picture on this machine, relative to its page, or ""."""
    try:
        parts = urlsplit((source or "").strip())
    except ValueError:
        return ""
    path = unquote(parts.path)
    return "" if parts.scheme or parts.netloc or path.startswith("/") or "\0" in path else path


def _words(text: str | None) -> str:
    return " ".join((text or "").split())
