"""HTML: what a reader of the page reads, without navigation, scripts and hidden parts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import LoadError
from tsembed_search.indexer.chunking import LONGEST_BLOCK, Block, paragraphs
from tsembed_search.indexer.encoding import find_encoding, read_text
from tsembed_search.indexer.loaders.unit import Loading, Unit, text_unit

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

# A page is parsed as a whole, into ten times its size.
_LONGEST: Final = 32 << 20
_UNREAD: Final = ", ".join((
    "script", "style", "noscript", "template", "iframe", "object", "embed", "svg", "canvas", "audio", "video", "head",
    "nav", "aside", "footer", "form", "button", "select", "textarea", "input", "dialog", "menu", "[hidden]",
    "[aria-hidden=true]", "[role=navigation]", "[role=banner]", "[role=contentinfo]", "[role=search]", "[role=dialog]",
    "[style*='display:none']", "[style*='display: none']", "[style*='visibility:hidden']",
    "[style*='visibility: hidden']",
))  # fmt: skip
_HEADINGS: Final = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_PARAGRAPHS: Final = _HEADINGS | {
    "p", "div", "section", "article", "main", "header", "blockquote", "pre", "ul", "ol", "dl", "table", "figure", "hr",
    "figcaption", "address", "details", "summary", "fieldset", "body", "caption",
}  # fmt: skip
_LINES: Final = frozenset({"li", "tr", "dt", "dd", "br", "option", "legend"})
_CELLS: Final = frozenset({"td", "th"})
# The main part stands for the page when it has at least this share of its words.
_MAIN_SHARE: Final = 0.4
_DECLARED: Final = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)
_BLANKS: Final = re.compile(r"[ \t\n\r\f\u00a0]+")


def load(loading: Loading) -> Iterator[Unit]:
    """Chunks of the readable text; `start` and `end` are offsets in that text."""
    if loading.file.seek(0, os.SEEK_END) > _LONGEST:
        raise LoadError(f"The page has more than {_LONGEST >> 20} MB.", "Save its text as a .txt file.")
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(_source(loading))
    loading.alive()
    title_node = tree.css_first("title")
    title = _BLANKS.sub(" ", title_node.text()).strip() if title_node is not None else ""
    number = -1
    for number, chunk in enumerate(loading.cutter.chunks(_tiled(_readable(_main_part(tree))))):
        yield text_unit(chunk, number, loading.cutter.with_headings(chunk.text, (title, *chunk.headings)))
    if number < 0:
        raise LoadError("There is no text to read in it.", "It may be a page that only a browser's scripts fill.")


def _source(loading: Loading) -> str:
    """The page's text, in the encoding that it declares if that fits, else in the one found."""
    encoding = find_encoding(loading.file)
    loading.file.seek(0)
    if encoding.startswith("utf"):
        return "".join(read_text(loading.file))
    data = loading.file.read()
    declared = _DECLARED.search(data[:4096])
    if declared:
        try:
            return data.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeDecodeError):
            pass
    return data.decode(encoding, "replace")


def _main_part(tree: LexborHTMLParser) -> LexborNode | None:
    """The element to read: the page's main part if it says so and has most of the words, else its body."""
    for node in tree.css(_UNREAD):
        node.decompose()
    body = tree.body
    if body is None:
        return tree.root
    for selector in ("main", "[role=main]", "article"):
        found = tree.css(selector)
        if len(found) == 1 and len(found[0].text()) >= _MAIN_SHARE * len(body.text()):
            return found[0]
    return body


def _readable(root: LexborNode | None) -> Iterator[Block]:
    """The text of the blocks in order; `start` is not yet set. Walks without recursion: pages may be nested deeply."""
    parts: list[str] = []
    heading, lines, in_pre = 0, False, 0

    def flushed() -> Iterator[Block]:
        text = re.sub(r" *\n *", "\n", "".join(parts)).strip() if not in_pre else "".join(parts).strip("\n")
        parts.clear()
        if text.strip():
            yield Block(0, text, heading, text if heading else "", lines)

    for node, entering in _walk(root):
        tag = node.tag or ""
        if tag == "-text":
            text = node.text_content or ""
            text = text if in_pre else _BLANKS.sub(" ", text)
            # A blank after a blank or at a line's start is not shown.
            parts.append(text.lstrip(" ") if not in_pre and (not parts or parts[-1].endswith((" ", "\n"))) else text)
        elif tag in _PARAGRAPHS:
            yield from flushed()
            heading = int(tag[1]) if tag in _HEADINGS and entering else 0
            in_pre += (1 if entering else -1) if tag == "pre" else 0
            lines = entering and tag in ("ul", "ol", "dl", "table", "pre")
        elif tag in _LINES:
            lines = True
            if parts and entering:
                parts.append("\n")
        elif tag in _CELLS and not entering:
            parts.append(" ")
    yield from flushed()


def _walk(root: LexborNode | None) -> Iterator[tuple[LexborNode, bool]]:
    """Every node below `root` twice: when it is entered and when it is left. Texts only once."""
    node = root.child if root is not None else None
    ancestors: list[LexborNode] = []
    while node is not None:
        yield node, True
        if node.child is not None:
            ancestors.append(node)
            node = node.child
            continue
        if node.tag != "-text":
            yield node, False
        while node is not None and node.next is None:
            node = ancestors.pop() if ancestors else None
            if node is not None:
                yield node, False
        node = node.next if node is not None else None


def _tiled(blocks: Iterator[Block]) -> Iterator[Block]:
    """The blocks one after the other, a blank line between them, as offsets in the text that they make together."""
    at = 0
    for block in blocks:
        text = block.text + "\n\n"
        if len(text) <= LONGEST_BLOCK or block.heading:
            yield Block(at, text, block.heading, block.title, block.lines)
        else:
            for part in paragraphs([text]):
                yield Block(at + part.start, part.text, lines=block.lines, glued=part.glued)
        at += len(text)
