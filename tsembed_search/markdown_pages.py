"""Markdown as CommonMark reads it: its tokens decide what is shown, and no pattern over the source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from markdown_it.token import Token

_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\n(.*?)\n?^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
# Settings in YAML. Anything else between two rules is text.
_SETTING: Final = re.compile(r"[\"']?[\w$@][^:{}\[\]]{0,60}:(?:\s|\Z)|[ \t]|-(?:[ \t]|\Z)|#|[}\]]|\Z")
_TITLE: Final = re.compile(r"^title:[ \t]*[\"']?(.*?)[\"']?[ \t]*$", re.MULTILINE | re.IGNORECASE)
# Ends where the library's own limit would leave out the rest of a quotation in a quotation in a ...
_DEEPEST: Final = 100
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*[.!?,;]?")


@dataclass(frozen=True)
class Parsed:
    """The tokens of a page, the `title` that its settings give, and `lost`: (line, text) of what CommonMark takes for
    the target of a link that nobody uses, and its writer for words: `[Anna]: Yes.`
    """

    tokens: list[Token]
    title: str
    lost: list[tuple[int, str]]


def parse(source: str) -> Parsed:
    """Parses a page, with the tables that are common beside CommonMark. Front matter is no part of its text, unless
    there is nothing else.
    """
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"maxNesting": _DEEPEST}).enable("table")
    settings, text = front_matter(source)
    if not text.strip():
        settings, text = "", settings
    found = _TITLE.search(settings)
    env: dict[str, Any] = {}
    tokens = markdown.parse(text, env)
    return Parsed(tokens, found[1] if found else "", list(_lost(text, tokens, env)))


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


def _lost(source: str, tokens: list[Token], env: dict[str, Any]) -> Iterator[tuple[int, str]]:
    # Only line feeds count: `splitlines` would also split at form feeds and the like, which the parser does not.
    lines = source.split("\n")
    used = {
        child.attrs.get("href") or child.attrs.get("src")
        for token in tokens
        for child in token.children or ()
        if child.type in ("link_open", "image")
    }
    for one in (*env.get("references", {}).values(), *env.get("duplicate_refs", ())):
        if one["href"] not in used and _WORD.fullmatch(unquote(one["href"])):
            first, after = one["map"]
            yield first, "\n".join(lines[first:after]).strip(" \t>")
