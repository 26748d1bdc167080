"""A page in HTML as a browser shows it, as far as that can be told without running its scripts and style sheets.

Whatever a browser does not show is left out, and so are menus. But an element is asked first how much of the page it
holds: a page that its script reveals, or that is one long menu, is read.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tsembed_search.documents.chunking import Block

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

_HEADINGS: Final = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_PARAGRAPHS: Final = _HEADINGS | {
    "p", "div", "section", "article", "main", "header", "blockquote", "pre", "textarea", "ul", "ol", "dl", "table",
    "figure", "hr", "figcaption", "address", "details", "summary", "fieldset", "body", "caption",
}  # fmt: skip
_LINES: Final = frozenset({"li", "tr", "dt", "dd", "br", "option", "legend", "text", "math", "button", "label"})
_VERBATIM: Final = frozenset({"pre", "textarea"})
_BLANKS: Final = re.compile(r"[ \t\n\r\f\u00a0]+")

# Never shown, whatever they hold.
_NEVER: Final = frozenset({
    "head", "script", "style", "title", "template", "noscript", "noembed", "noframes", "iframe", "canvas", "audio",
    "video", "progress", "meter", "datalist", "rp", "annotation", "annotation-xml", "metadata", "desc",
})  # fmt: skip
# Shown, and no part of what a page says, unless they hold a sentence: that many words outside of links.
_FURNITURE: Final = frozenset({"nav", "aside", "footer", "menu", "button", "object"})
_FURNITURE_ROLES: Final = frozenset({
    "navigation", "banner", "contentinfo", "search", "dialog", "menu", "menubar", "toolbar", "complementary", "button",
})  # fmt: skip
_SENTENCE: Final = 5
# What is left of a page by itself is too little when it has fewer words than that, or a smaller share of them.
_FEW_WORDS: Final = 20
_FEW: Final = 0.1
_WORDS: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
_COMMENTS: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_INSIDE: Final = re.compile(r"\A<[^>]*>(.*?)(?:</template>)?\Z", re.DOTALL | re.IGNORECASE)
# A browser that runs scripts does not look into it; a parser that runs none takes it for a part of the page.
_NOSCRIPT: Final = re.compile(
    r"(<!--.*?-->|<(script|style|textarea|title)\b.*?</\2\s*>)|<noscript\b[^>]*>(.*?)</noscript\s*>",
    re.DOTALL | re.IGNORECASE,
)
_DEEPEST: Final = 8
# In XML an element may close itself; to a parser of HTML a script that does goes on to the end of the page.
_XHTML: Final = re.compile(r"\A\s*<\?xml\b|<html\b[^>]*\bxmlns\s*=", re.IGNORECASE)
_SELF_CLOSED: Final = re.compile(
    r"<((?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr)\b)[a-z][\w-]*)"
    r"((?:\s+[^<>\"'/]+(?:=(?:\"[^\"]*\"|'[^']*'))?)*\s*)/>"
)
_CDATA: Final = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
# Fields that show what was typed into them. Others show dots, a tick, a colour.
_TYPED: Final = frozenset({"", "text", "search", "email", "url", "tel", "number", "date", "time", "month", "week"})


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
        elif tag in ("td", "th") and not entering:
            parts.append(" ")
    yield from flushed()


@dataclass(frozen=True)
class Page:
    """A parsed page: its `tree` without what is not shown, its `title`, the `words` of the source (each ideograph is
    one), and how many of them were left out as `hidden`.
    """

    tree: LexborHTMLParser
    title: str
    words: int
    hidden: int


def shown_page(source: str) -> Page:
    """Parse a page, and leave out what a browser does not show."""
    if "<noscript" not in source.lower():
        return _shown(source)
    page = _shown(_NOSCRIPT.sub(lambda found: found[1] or "", source))
    if page.words < _FEW_WORDS:
        # A page saved by a browser without scripts has its content there; more often it is one line that asks for them.
        without = _shown(_NOSCRIPT.sub(lambda found: found[1] or found[3], source))
        return without if without.words - page.words >= _FEW_WORDS else page
    return page


def _shown(source: str) -> Page:
    tree = _opened(source, 0)
    title = next((one.text() for one in tree.css("title") if one.parent is None or one.parent.tag != "svg"), "")
    words, parts = _census(tree)
    left_out: tuple[str, ...] = ("never", "hidden")
    hidden = sum(part.words for part in _outermost(parts, left_out))
    if _is_the_page(hidden, words - hidden):
        hidden, left_out = 0, ("never",)
    furniture = sum(part.words for part in _outermost(parts, (*left_out, "furniture")) if part.kind == "furniture")
    if not _is_the_page(furniture, words - hidden - furniture):
        left_out += ("furniture",)
    for part in _outermost(parts, left_out):
        part.node.decompose()
    return Page(tree, " ".join(title.split()), words, hidden)


def _is_the_page(words: int, others: int) -> bool:
    """A part is what the page is about: little is left without it."""
    return others < words and (others < _FEW_WORDS or others < _FEW * (words + others))


def _opened(source: str, depth: int) -> LexborHTMLParser:
    """The tree of a page, with what it keeps in other places put where it is shown: shadow trees, the pages of inline
    frames, the values of fields.
    """
    from selectolax.lexbor import LexborHTMLParser

    if _XHTML.search(source[:4096]):
        source = _CDATA.sub(lambda found: html.escape(found[1]), _SELF_CLOSED.sub(r"<\1\2></\1>", source))
    tree = LexborHTMLParser(source)
    for node in tree.css("template[shadowrootmode], iframe[srcdoc]") if depth < _DEEPEST else ():
        if node.tag == "iframe":
            inner = node.attributes.get("srcdoc") or ""
        else:
            found = _INSIDE.match(node.html or "")
            inner = found[1] if found else ""
        child = body.child if (body := _opened(inner, depth + 1).body) is not None else None
        while child is not None:
            node.insert_before(child)
            child = child.next
    for node in tree.css("input[value]"):
        if (node.attributes.get("type") or "").lower() in _TYPED:
            node.insert_before(f" {node.attributes.get('value') or ''} ")
    for node in tree.css("select:not([multiple]):not([size])"):
        options = node.css("option")
        chosen = {option.mem_id for option in node.css("option[selected]") or options[:1]}
        for option in options:
            if option.mem_id not in chosen:
                option.decompose()
    return tree


def walk(root: LexborNode | None) -> Iterator[tuple[LexborNode, bool]]:
    """Every node below `root` twice: when it is entered and when it is left. Texts only once.

    Walks without recursion: pages may be nested deeply.
    """
    todo = [(root.child if root is not None else None, True)]
    while todo:
        node, entering = todo.pop()
        if node is None:
            continue
        yield node, entering
        if entering and node.tag != "-text":
            todo += [(node, False), (node.child, True)]
        else:
            todo.append((node.next, True))


@dataclass
class _Element:
    """An element that may be left out, for `kind` of reason: `never` shown, `hidden`, `furniture`, or None after all.

    `words` and, of these, `own`: outside of links. `above`: the nearest such element around it.
    """

    node: LexborNode
    kind: str | None
    above: _Element | None
    words: int = 0
    own: int = 0
    gone: bool = False


def _census(tree: LexborHTMLParser) -> tuple[int, list[_Element]]:
    """The number of words of a page, and the elements that may be left out with theirs, outer before inner ones."""
    total = 0
    parts: list[_Element] = []
    part: _Element | None = None
    never = links = 0
    for node, entering in walk(tree.root):
        tag = node.tag or ""
        if tag == "-text":
            if not never:
                count = len(_WORDS.findall(node.text_content or ""))
                total += count
                if part is not None:
                    part.words += count
                    part.own += 0 if links else count
            continue
        links += (1 if entering else -1) if tag == "a" else 0
        if entering:
            kind = _kind(node, tag)
            if kind is not None:
                part = _Element(node, kind, part)
                parts.append(part)
                never += kind == "never"
        elif part is not None and part.node.mem_id == node.mem_id:
            never -= part.kind == "never"
            if part.kind == "furniture" and (part.own >= _SENTENCE or not part.words):
                part.kind = None
            if part.above is not None:
                part.above.words += part.words
                part.above.own += part.own
            part = part.above
    return total, parts


def _outermost(parts: list[_Element], kinds: tuple[str, ...]) -> list[_Element]:
    """The elements of some kinds that lie in no other one of these."""
    found = []
    for part in parts:
        inside = part.above is not None and part.above.gone
        part.gone = inside or part.kind in kinds
        if part.gone and not inside:
            found.append(part)
    return found


def _kind(node: LexborNode, tag: str) -> str | None:
    """The reason to leave an element out. The page itself is hidden only until a script shows it."""
    if tag in _NEVER:
        return "never"
    attributes = node.attributes
    if tag in ("html", "body"):
        return None
    if not attributes:
        return "hidden" if tag == "dialog" else "furniture" if tag in _FURNITURE else None
    if (
        (attributes.get("hidden", "until-found") or "").lower() != "until-found"
        or (tag == "dialog" and "open" not in attributes)
        or "popover" in attributes
        or ("style" in attributes and _is_hidden_by(attributes["style"] or ""))
    ):
        return "hidden"
    role = (attributes.get("role") or "").strip().lower()
    hushed = (attributes.get("aria-hidden") or "").strip().lower() == "true"
    return "furniture" if tag in _FURNITURE or role in _FURNITURE_ROLES or hushed else None


def _is_hidden_by(style: str) -> bool:
    """Return whether a `style` attribute hides an element. An important declaration counts, or else the last."""
    values: dict[str, tuple[bool, str]] = {}
    for declaration in _COMMENTS.sub("", style).lower().split(";"):
        name, _, value = declaration.partition(":")
        value, mark, _ = value.partition("!")
        if mark or not values.get(name.strip(), (False, ""))[0]:
            values[name.strip()] = bool(mark), value.strip()
    return (
        values.get("display", (False, ""))[1] == "none"
        or values.get("visibility", (False, ""))[1] in ("hidden", "collapse")
        or values.get("content-visibility", (False, ""))[1] == "hidden"
    )
