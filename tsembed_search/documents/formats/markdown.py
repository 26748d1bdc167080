"""Pages in Markdown: chunks follow the headings, and people and the model read words rather than markup.

Markdown is read as CommonMark reads it: its tokens decide what is shown, and no pattern over the source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

from tsembed_search.documents.document import Document, Figure, Format, Section, Unit
from tsembed_search.documents.formats import text as plain
from tsembed_search.documents.formats.html import below_headings, local_path, words
from tsembed_search.errors import LoadError

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.token import Token

    from tsembed_search.documents.chunking import Block, FileLines

# Parsing keeps the whole file in memory many times over; a longer one is hardly written by hand.
_LONGEST: Final = 4 << 20
_PROSE: Final = frozenset({"paragraph_open", "heading_open", "blockquote_open"})
_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\n(.*?)\n?^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
# Settings in YAML. Anything else between two rules is text.
_SETTING: Final = re.compile(r"[\"']?[\w$@][^:{}\[\]]{0,60}:(?:\s|\Z)|[ \t]|-(?:[ \t]|\Z)|#|[}\]]|\Z")
_TITLE: Final = re.compile(r"^title:[ \t]*[\"']?(.*?)[\"']?[ \t]*$", re.MULTILINE | re.IGNORECASE)
# The library's own limit leaves out what stands in the twentieth quotation of a long exchange of mails.
_DEEPEST: Final = 100
# What could be the target of a link by its place, and is an answer of one word: `[Anna]: Yes.`
_ANSWER: Final = re.compile(r"\[([^\[\]]+)\]:[ \t]*[^\W_]+(?:['’-][^\W_]+)*[.!?,;]?[ \t]*")
_LABEL: Final = re.compile(r"\[([^\[\]]+)\](?!:)")


def units(document: Document) -> Iterator[Unit]:
    """Chunks of the text that is shown; `start` and `end` are offsets in it."""
    from tsembed_search.documents.chunking import tiled
    from tsembed_search.documents.encoding import read_text

    is_long = document.file.seek(0, os.SEEK_END) > _LONGEST
    tokens, title = ([], "") if is_long else parse("".join(read_text(document.file)))
    # Quotations in quotations, lists in lists may go on beyond what is parsed.
    if is_long or any(token.level >= _DEEPEST - 1 for token in tokens):
        yield from plain.units(document)
        return
    document.alive()
    if not (yield from document.text_units(tiled(blocks(tokens)), title)):
        raise LoadError("There is no text in it.")


def sections(document: Document) -> Iterator[Section | Figure]:
    """The pictures of a page with what it says about each, then its sections."""
    from tsembed_search.documents.encoding import read_text

    tokens, _ = parse("".join(read_text(document.file)))
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


def blocks(tokens: Iterable[Token]) -> Iterator[Block]:
    """The blocks that stand by themselves, and the items of lists, in order; `start` is not yet set."""
    parts: list[Token] = []
    for token in (*tokens, None):
        item = token is not None and token.type == "list_item_open" and token.level == 1
        begins = token is None or item or (token.level == 0 and token.nesting >= 0)
        if begins and parts:
            yield from _block(parts)
            parts = []
        if token is not None:
            parts.append(token)


def _block(parts: list[Token]) -> Iterator[Block]:
    from tsembed_search.documents.chunking import Block

    first = parts[0]
    text, rows = _text(parts)
    if text.strip():
        heading = int(first.tag[1]) if first.type == "heading_open" else 0
        # Items of a list stand line by line.
        tight = first.type == "list_item_open" and parts[-1].type == "list_item_close"
        yield Block(0, text + "\n" * tight, heading, text if heading else "", first.type not in _PROSE, rows=rows)


def _text(parts: list[Token]) -> tuple[str, FileLines | None]:
    """The text of some tokens as it is shown (paragraphs, items with their marks, cells between bars), and where each
    of its lines stands in the file.
    """
    from tsembed_search.documents.chunking import FileLines

    lines: list[str] = []
    first, last = list[int](), list[int]()
    mark, depth, cells, before = "", 0, list[str](), ""
    row: Token | None = None

    def add(text: str, source: Token | None) -> None:
        """Adds one line, or several."""
        lines.append(text)
        spans = _rows(source, text) if source is not None else None
        first.extend(spans.first if spans else ())
        last.extend(spans.last if spans else ())

    for token in parts:
        if token.type == "list_item_open":
            mark, depth = f"{token.info}{token.markup} " if token.info else "- ", depth + 1
        elif token.type == "list_item_close":
            depth -= 1
        elif token.type == "tr_open":
            row = token
        elif token.type == "tr_close":
            add(f"| {' | '.join(cells)} |", row)
            cells.clear()
        elif before in ("td", "th"):
            cells.append(inline_text(token))
        elif content := _content(token):
            if lines and not depth:
                lines.append("")
                first.append(last[-1] if last else 0)
                last.append(last[-1] if last else 0)
            start = "  " * (depth - 1) + mark if mark else "  " * depth
            add(start + content.replace("\n", "\n" + "  " * depth), token)
            mark = ""
        before = token.tag if token.nesting > 0 else ""
    text = "\n".join(lines)
    known = len(first) == text.count("\n") + 1 and all(first)
    return text, FileLines(first, last) if known else None


def _rows(token: Token, text: str) -> FileLines | None:
    """The lines of the file for each line of a token's text: one each where that is sure, else all of the token's."""
    from tsembed_search.documents.chunking import FileLines

    if token.map is None:
        return None
    begin, end = token.map[0] + 1, token.map[1]
    count = text.count("\n") + 1
    if token.type in ("fence", "code_block"):
        # Lines before the code: the fence, and blank ones, which are not shown.
        begin += (token.type == "fence") + len(token.content) - len(token.content.lstrip("\n"))
        return FileLines(range(begin, begin + count), range(begin, begin + count))
    # Tags may hide lines, and make some.
    if count == end - begin + 1 and not any(child.type == "html_inline" for child in token.children or ()):
        return FileLines(range(begin, end + 1), range(begin, end + 1))
    return FileLines([begin] * count, [end] * count)


def _content(token: Token) -> str:
    if token.type == "inline":
        return inline_text(token)
    if token.type in ("fence", "code_block"):
        return token.content.strip("\n")
    if token.type == "html_block":
        from tsembed_search.documents.html_page import readable, shown_page

        return "\n\n".join(block.text for block in readable(shown_page(token.content).tree.body))
    return ""


def parse(source: str) -> tuple[list[Token], str]:
    """Return the tokens of a page, with the tables that are common beside CommonMark, and the title that its settings
    give. Front matter is no part of its text, unless there is nothing else; the lines of tokens are those of `source`.
    """
    settings, text = front_matter(source)
    if not text.strip():
        settings, text = "", settings
    found = _TITLE.search(settings)
    tokens = _parser().parse(text)
    above = source.count("\n", 0, source.rfind(text))
    for token in tokens if above else ():
        if token.map is not None:
            token.map = [token.map[0] + above, token.map[1] + above]
    return tokens, found[1] if found else ""


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"maxNesting": _DEEPEST}).enable("table")
    parser.block.ruler.at("reference", _reference)
    return parser


def _reference(state: StateBlock, first: int, after: int, silent: bool) -> bool:
    """The parser's rule for targets of links, but for footnotes of one word, and answers that nothing links to."""
    from markdown_it.rules_block import reference

    answer = _ANSWER.fullmatch(state.src, state.bMarks[first] + state.tShift[first], state.eMarks[first])
    if answer is not None:
        if "labels" not in state.env:
            state.env["labels"] = {label.casefold() for label in _LABEL.findall(state.src)}
        if answer[1].startswith("^") or answer[1].casefold() not in state.env["labels"]:
            return False
    return reference(state, first, after, silent)


def front_matter(source: str) -> tuple[str, str]:
    """The block of settings at the top of a page (or ""), and the rest."""
    found = _FRONT_MATTER.match(source)
    if found is None or not all(map(_SETTING.match, found[1].split("\n"))):
        return "", source
    return found[1], source[found.end() :]


def inline_text(token: Token) -> str:
    """The words of a paragraph, a heading or a cell, and of its pictures, without markup."""
    return "".join(map(_inline, token.children or ())).strip()


def _inline(child: Token) -> str:
    if child.type in ("text", "code_inline"):
        return child.content
    if child.type == "image":
        return "".join(map(_inline, child.children or ()))
    if child.type in ("softbreak", "hardbreak") or child.content.lower().startswith("<br"):
        return "\n"
    return ""


FORMAT = Format(
    "markdown",
    3,
    frozenset({"md", "markdown", "mdown", "mkd"}),
    units,
    sections=sections,
    is_text=True,
    text=plain.text,
)
