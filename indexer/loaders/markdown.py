"""Markdown: chunks follow its headings, and the model reads words rather than markup."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import LoadError
from tsembed_search.indexer.chunking import LONGEST_BLOCK, Block, paragraphs
from tsembed_search.encoding import read_text
from tsembed_search.indexer.loaders import text as plain
from tsembed_search.indexer.loaders.unit import Loading, Unit, text_unit

if TYPE_CHECKING:
    from markdown_it.token import Token

# Parsing keeps the whole file in memory many times over; a longer one is hardly written by hand.
_LONGEST: Final = 4 << 20
_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE: Final = re.compile(r"^title:[ \t]*[\"']?(.*?)[\"']?[ \t]*$", re.MULTILINE)
_PROSE: Final = frozenset({"paragraph_open", "heading_open", "blockquote_open"})
# Markup that a reader does not see: comments, link targets and picture addresses, tags, emphasis, heading marks.
_HIDDEN: Final = (
    (re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL), ""),
    (re.compile(r"!?\[([^\][]*)\]\([^()\s]*(?:[ \t]+(?:\"[^\"]*\"|'[^']*'))?\)"), r"\1"),
    (re.compile(r"!?\[([^\][]+)\]\[[^\][]*\]"), r"\1"),
    (re.compile(r"^[ ]{0,3}\[[^\][]+\]:[ \t]*\S+.*$", re.MULTILINE), ""),
    (re.compile(r"</?[a-zA-Z][^<>]{0,500}>"), ""),
    (re.compile(r"(\*{1,3}|(?<!\w)_{1,3})(?=\S)([^*_\n]+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"^[ ]{0,3}#{1,6}[ \t]+|[ \t]+#+[ \t]*$", re.MULTILINE), ""),
    (re.compile(r"^[ ]{0,3}(?:```|~~~).*$", re.MULTILINE), ""),
)


def load(loading: Loading) -> Iterator[Unit]:
    """Chunks of the source; `start` and `end` are offsets in it."""
    if loading.file.seek(0, os.SEEK_END) > _LONGEST:
        yield from plain.load(loading)
        return
    source = "".join(read_text(loading.file))
    title, begin = _front_matter(source)
    number = -1
    for chunk in loading.cutter.chunks(blocks(source, begin)):
        text = readable(chunk.text)
        if not text:
            continue
        number += 1
        yield text_unit(chunk, number, loading.cutter.with_headings(text, (title, *chunk.headings)))
    if number < 0:
        raise LoadError("There is no text in it.")


def readable(source: str) -> str:
    """Markdown without what a reader does not see. Never longer than the source."""
    for pattern, replacement in _HIDDEN:
        source = pattern.sub(replacement, source)
    return source.strip()


def _front_matter(source: str) -> tuple[str, int]:
    """The title that a block of settings at the top gives (or none), and where the text begins."""
    found = _FRONT_MATTER.match(source)
    if not found:
        return "", 0
    title = _TITLE.search(found[1])
    return (title[1] if title else ""), found.end()


def blocks(source: str, begin: int) -> Iterator[Block]:
    """The blocks of `source` from character `begin` on, without gaps."""
    from markdown_it import MarkdownIt

    # Only line feeds count: `splitlines` would also split at form feeds and the like, which the parser does not.
    offsets = list(accumulate((len(line) + 1 for line in source[begin:].split("\n")), initial=begin))
    tokens = MarkdownIt("commonmark").enable("table").parse(source[begin:])
    starts = list(_block_starts(tokens))
    at = begin
    for place, (line, token, title) in enumerate(starts):
        first = at if place == 0 else offsets[line]
        after = offsets[starts[place + 1][0]] if place + 1 < len(starts) else len(source)
        at = after
        heading = int(token.tag[1]) if token.type == "heading_open" else 0
        text = source[first:after]
        if len(text) <= LONGEST_BLOCK or heading:
            yield Block(first, text, heading, title, lines=token.type not in _PROSE)
        else:
            for part in paragraphs([text]):
                yield Block(first + part.start, part.text, lines=token.type not in _PROSE, glued=part.glued)


def _block_starts(tokens: list[Token]) -> Iterator[tuple[int, Token, str]]:
    """(first line, token, title of a heading) of the blocks that stand by themselves, and of the items of lists."""
    last = -1
    for place, token in enumerate(tokens):
        wanted = token.level == 0 or (token.type == "list_item_open" and token.level == 1)
        if not wanted or token.map is None or token.nesting < 0 or token.map[0] <= last:
            continue
        last = token.map[0]
        title = readable(tokens[place + 1].content) if token.type == "heading_open" else ""
        yield last, token, title
