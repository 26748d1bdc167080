"""Markdown: chunks follow its headings, and people and the model read words rather than markup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tsembed_search.encoding import read_text
from tsembed_search.errors import LoadError
from tsembed_search.html_pages import shown_page
from tsembed_search.indexer.chunking import Block, tiled
from tsembed_search.indexer.loaders import text as plain
from tsembed_search.indexer.loaders.html import readable
from tsembed_search.indexer.loaders.unit import Loading, Unit, text_unit
from tsembed_search.markdown_pages import Parsed, inline_text, parse

if TYPE_CHECKING:
    from markdown_it.token import Token

# Parsing keeps the whole file in memory many times over; a longer one is hardly written by hand.
_LONGEST: Final = 4 << 20
_PROSE: Final = frozenset({"paragraph_open", "heading_open", "blockquote_open"})


def load(loading: Loading) -> Iterator[Unit]:
    """Chunks of the text that is shown; `start` and `end` are offsets in it."""
    if loading.file.seek(0, os.SEEK_END) > _LONGEST:
        yield from plain.load(loading)
        return
    page = parse("".join(read_text(loading.file)))
    if page.too_deep:
        yield from plain.load(loading)
        return
    loading.alive()
    number = -1
    for number, chunk in enumerate(loading.cutter.chunks(tiled(blocks(page)))):
        yield text_unit(chunk, number, loading.cutter.with_headings(chunk.text, (page.title, *chunk.headings)))
    if number < 0:
        raise LoadError("There is no text in it.")


def blocks(page: Parsed) -> Iterator[Block]:
    """The blocks that stand by themselves, and the items of lists, in order; `start` is not yet set."""
    parts: list[Token] = []
    for token in (*page.tokens, None):
        item = token is not None and token.type == "list_item_open" and token.level == 1
        begins = token is None or item or (token.level == 0 and token.nesting >= 0)
        if begins and parts:
            yield from _block(parts)
            parts = []
        if token is not None:
            parts.append(token)


def _block(parts: list[Token]) -> Iterator[Block]:
    first = parts[0]
    text = _text(parts)
    if text.strip():
        heading = int(first.tag[1]) if first.type == "heading_open" else 0
        # Items of a list stand line by line.
        tight = first.type == "list_item_open" and parts[-1].type == "list_item_close"
        yield Block(0, text + "\n" * tight, heading, text if heading else "", lines=first.type not in _PROSE)


def _text(parts: list[Token]) -> str:
    """The text of some tokens as it is shown: paragraphs, items with their marks, cells between bars."""
    lines: list[str] = []
    mark, depth, cells, before = "", 0, list[str](), ""
    for token in parts:
        if token.type == "list_item_open":
            mark, depth = f"{token.info}{token.markup} " if token.info else "- ", depth + 1
        elif token.type == "list_item_close":
            depth -= 1
        elif token.type == "tr_close":
            lines.append(f"| {' | '.join(cells)} |")
            cells.clear()
        elif before in ("td", "th"):
            cells.append(inline_text(token))
        elif said := _said(token):
            if lines and not depth:
                lines.append("")
            first = "  " * (depth - 1) + mark if mark else "  " * depth
            lines.append(first + said.replace("\n", "\n" + "  " * depth))
            mark = ""
        before = token.tag if token.nesting > 0 else ""
    return "\n".join(lines)


def _said(token: Token) -> str:
    if token.type == "inline":
        return inline_text(token)
    if token.type in ("fence", "code_block"):
        return token.content.strip("\n")
    if token.type == "html_block":
        return "\n\n".join(block.text for block in readable(shown_page(token.content).tree.body))
    return ""
