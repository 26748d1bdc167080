"""Markdown as CommonMark reads it: its tokens decide what is shown, and no pattern over the source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from markdown_it.rules_block import StateBlock
    from markdown_it.token import Token

_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\n(.*?)\n?^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
# Settings in YAML. Anything else between two rules is text.
_SETTING: Final = re.compile(r"[\"']?[\w$@][^:{}\[\]]{0,60}:(?:\s|\Z)|[ \t]|-(?:[ \t]|\Z)|#|[}\]]|\Z")
_TITLE: Final = re.compile(r"^title:[ \t]*[\"']?(.*?)[\"']?[ \t]*$", re.MULTILINE | re.IGNORECASE)
# The library's own limit leaves out what stands in the twentieth quotation of a long exchange of mails.
_DEEPEST: Final = 100
# What could be the target of a link by its place, and is an answer of one word: `[Anna]: Yes.`
_ANSWER: Final = re.compile(r"\[([^\[\]]+)\]:[ \t]*[^\W_]+(?:['’-][^\W_]+)*[.!?,;]?[ \t]*")
_LABEL: Final = re.compile(r"\[([^\[\]]+)\](?!:)")


@dataclass(frozen=True)
class Parsed:
    """The tokens of a page, and the `title` that its settings give."""

    tokens: list[Token]
    title: str

    @property
    def too_deep(self) -> bool:
        """Whether quotations in quotations, lists in lists go on beyond what is parsed."""
        return any(token.level >= _DEEPEST - 1 for token in self.tokens)


def parse(source: str) -> Parsed:
    """Parses a page, with the tables that are common beside CommonMark. Front matter is no part of its text, unless
    there is nothing else.
    """
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"maxNesting": _DEEPEST}).enable("table")
    markdown.block.ruler.at("reference", _reference)
    settings, text = front_matter(source)
    if not text.strip():
        settings, text = "", settings
    found = _TITLE.search(settings)
    return Parsed(markdown.parse(text), found[1] if found else "")


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
    return "".join(map(_said, token.children or ())).strip()


def _said(child: Token) -> str:
    if child.type in ("text", "code_inline"):
        return child.content
    if child.type == "image":
        return "".join(map(_said, child.children or ()))
    if child.type in ("softbreak", "hardbreak") or child.content.lower().startswith("<br"):
        return "\n"
    return ""
