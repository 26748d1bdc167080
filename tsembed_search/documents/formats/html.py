"""Pages in HTML: chunks of what a reader of the page reads; headings, and pictures with what is said about them."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from tsembed_search.documents.document import Document, Figure, Format, Section, Unit
from tsembed_search.errors import LoadError

# A page is parsed as a whole, into ten times its size.
_LONGEST: Final = 32 << 20
# From that many words on, and that share of all, a person should know that they were left out.
_TELLING_WORDS: Final = 50
_SECTION_HEADINGS: Final = ("h1", "h2", "h3", "h4")
_SECTION_BLOCKS: Final = "h1, h2, h3, h4, p, li, dd, td, pre, blockquote"
_TELLING_SHARE: Final = 1 / 3

# Labels mean to a browser what the WHATWG Encoding Standard says (https://encoding.spec.whatwg.org, section 4.2), which
# for most is what they mean to Python. Here: spellings that Python does not know, then what browsers mean by others.
_SPELLINGS: Final = (
    (re.compile(r"^(?:x-)+|^cn-"), ""),
    (re.compile(r"^(?:windows|dos)-(?=\d+$)"), "cp"),
    (re.compile(r"^(?:cs)?iso-?8859-?(\d+)(?:-?[ei])?$"), r"iso8859-\1"),
)
_OTHERS: Final = {
    "visual": "iso8859-8", "logical": "iso8859-8", "sun_eu_greek": "iso8859-7", "csisolatin9": "iso8859-15",
    "koi": "koi8-r", "koi8": "koi8-r", "koi8-ru": "koi8-u", "csmacintosh": "mac-roman", "mac": "mac-roman",
    "mac-ukrainian": "mac-cyrillic", "user-defined": "cp1252", "csgb2312": "gbk", "gb_2312": "gbk",
    "gb_2312-80": "gbk", "gb-2312": "gbk", "cseucpkdfmtjapanese": "euc_jp", "windows-31j": "cp932", "cseuckr": "cp949",
    "csksc56011987": "cp949", "iso-ir-149": "cp949", "ks_c_5601-1989": "cp949", "ksc_5601": "cp949",
}  # fmt: skip
_MEANT: Final = {
    "ascii": ("cp1252",), "iso8859-1": ("cp1252",), "iso8859-9": ("cp1254",), "iso8859-11": ("cp874",),
    "tis-620": ("cp874",), "gb2312": ("gb18030",), "gbk": ("gb18030",), "big5": ("big5hkscs", "cp950"),
    "big5hkscs": ("big5hkscs", "cp950"), "euc_jp": ("euc_jp", "euc_jis_2004"), "shift_jis": ("cp932",),
    "iso2022_jp": ("iso2022_jp", "iso2022_jp_ext"), "euc_kr": ("cp949",),
}  # fmt: skip
# All that browsers know, and two that they refuse to show.
_KNOWN: Final = re.compile(
    r"iso8859-\d+|cp(?:866|874|932|949|125\d)|koi8-[ru]|mac-(?:roman|cyrillic)|gb18030|iso2022_kr|hz"
)
_UNICODE: Final = re.compile("utf|unicode|ucs-2")
# What a parser passes over on its way to a label, and where the label can stand.
_HEAD: Final = re.compile(
    rb"<!--.*?(?:-->|\Z)|<(script|style|title|textarea)\b.*?(?:</\1\b|\Z)"
    rb"|<meta(?=[\s/])(?P<meta>(?:[^>\"']|\"[^\"]*\"|'[^']*')*)>",
    re.DOTALL | re.IGNORECASE,
)
_ATTRIBUTE: Final = re.compile(rb"([^\s=/>\"']+)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>\"']+)))?")
_CONTENT: Final = re.compile(rb"charset\s*=\s*[\"']?\s*([^\s;\"']+)", re.IGNORECASE)
_XML: Final = re.compile(rb"\s*<\?xml\b[^>]*?\bencoding\s*=\s*[\"']\s*([^\"'>]+?)\s*[\"']", re.IGNORECASE)


def units(document: Document) -> Iterator[Unit]:
    """Chunks of the readable text; `start` and `end` are offsets in that text."""
    from tsembed_search.documents.chunking import tiled
    from tsembed_search.documents.html_page import readable, shown_page
    from tsembed_search.documents.said import joined

    _refuse_long(document.file)
    page = shown_page(page_text(document.file))
    document.alive()
    given = yield from document.text_units(tiled(readable(page.tree.body)), page.title, said=joined([page.title]))
    if not given:
        hint = "It may be a page that only a browser's scripts fill."
        if page.tree.css_first("frameset") is not None:
            hint = "It is a set of frames: index the pages that it shows."
        raise LoadError("There is no text to read in it.", hint)
    if page.hidden >= max(_TELLING_WORDS, _TELLING_SHARE * page.words):
        document.note(f"Hidden parts of the page were left out: about {page.hidden:,} of {page.words:,} words.")


def text(file: BinaryIO, page: int | None) -> Iterator[str]:
    """All of the readable text; it has no pages."""
    from tsembed_search.documents.chunking import tiled
    from tsembed_search.documents.html_page import readable, shown_page

    _refuse_long(file)
    for block in tiled(readable(shown_page(page_text(file)).tree.body)):
        yield block.text


def _refuse_long(file: BinaryIO) -> None:
    if file.seek(0, os.SEEK_END) > _LONGEST:
        raise LoadError(f"The page has more than {_LONGEST >> 20} MB.", "Save its text as a .txt file.")


def sections(document: Document) -> Iterator[Section | Figure]:
    """The pictures of a page with what it says about each, then its sections."""
    from tsembed_search.documents.html_page import shown_page

    tree = shown_page(page_text(document.file)).tree
    captions: dict[int, str] = {}
    for figure in tree.css("figure:has(figcaption)"):
        caption, images = figure.css_first("figcaption"), figure.css("img")
        if caption is not None and len(images) == 1:
            captions[images[0].mem_id] = words(caption.text())
    for image in tree.css("img"):
        place = local_path(image.attributes.get("src"))
        text = captions.get(image.mem_id) or words(image.attributes.get("alt")) or words(image.attributes.get("title"))
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


def page_text(file: BinaryIO) -> str:
    """The source of a page, in the encoding that it declares as a browser understands it, or else the one found.

    Raises `LoadError` for a file that is empty or no text.
    """
    from tsembed_search.documents.encoding import read_text

    file.seek(0)
    return "".join(read_text(file, declared_codecs(file.read(1 << 16))))


def declared_codecs(page: bytes) -> tuple[str, ...]:
    """Python's codecs, the best first, of the encoding that the head of a page in HTML declares: in a `meta` element
    that a browser knows, or in its XML declaration. None for UTF-8, which shows itself.
    """
    for found in _HEAD.finditer(page):
        if found["meta"] is None:
            continue
        attributes: dict[bytes, bytes] = {}
        for name, *values in _ATTRIBUTE.findall(found["meta"]):
            attributes.setdefault(name.lower(), b"".join(values))
        label = attributes.get(b"charset")
        if label is None and attributes.get(b"http-equiv", b"").strip().lower() == b"content-type":
            named = _CONTENT.search(attributes.get(b"content", b""))
            label = named[1] if named else None
        if label is not None and (found_codecs := _meant(label)) is not None:
            return found_codecs
    xml = _XML.match(page)
    return _meant(xml[1]) or () if xml else ()


def _meant(label: bytes) -> tuple[str, ...] | None:
    """The codecs of a label: () for Unicode's, None of an unknown one."""
    name = label.decode("latin-1").strip("\t\n\f\r ").lower()
    if _UNICODE.search(name):
        return ()
    for pattern, written in _SPELLINGS:
        name = pattern.sub(written, name)
    try:
        name = codecs.lookup(_OTHERS.get(name, name)).name
    except (LookupError, ValueError):
        return None
    return _MEANT.get(name, (name,) if _KNOWN.fullmatch(name) else None)


_SIGNATURES: Final = (b"<!doctype html", b"<html")
FORMAT = Format(
    "html",
    3,
    frozenset({"html", "htm", "xhtml"}),
    units,
    _SIGNATURES,
    sections=sections,
    is_text=True,
    text=text,
)
