"""Training rows from a folder of a person's own files: what its captions, pages, headings and names say.

Only files on this machine are read, and only text that people have written about something: a picture's caption, its
alternative text, a heading above a passage, a telling name. Names that cameras give say nothing and are dropped.

What a file's or folder's name says, if anything: words that a person chose, not numbers that a camera counts.

What pages in HTML and Markdown say: their pictures with alternative texts and captions, and headings with text.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from tsembed_search.data.records import Problem
from tsembed_search.data.rows import Row, hashed
from tsembed_search.documents.crawl import IgnoreRules, rules_in
from tsembed_search.documents.encoding import read_text
from tsembed_search.documents.formats.html import page_text, shown_page
from tsembed_search.documents.formats.markdown import parse
from tsembed_search.documents.formats.pdf import open_page, open_pdf
from tsembed_search.errors import LoadError
from tsembed_search.items import Item

if TYPE_CHECKING:
    from markdown_it.token import Token
    from selectolax.lexbor import LexborNode


PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})

_HTML: Final = frozenset({".html", ".htm", ".xhtml"})

_MARKDOWN: Final = frozenset({".md", ".markdown", ".mdown", ".mkd"})

_SIDECARS: Final = (".txt", ".caption", ".json", ".xmp")

_CAPTION_FIELDS: Final = ("caption", "description", "alt", "text", "title")

_MOST_BYTES: Final = 4 << 20

_LONGEST_CAPTION: Final = 1_000

_MOST_PAGES: Final = 300

_FEWEST_FOLDERS: Final = 2

_FEWEST_IN_FOLDER: Final = 2


CAPTIONS, ALT_TEXTS, PASSAGES, NAMES, FOLDERS = "captions", "alt_texts", "passages", "file_names", "folder_names"

TASKS: Final = (CAPTIONS, ALT_TEXTS, PASSAGES, NAMES, FOLDERS)

"""The tasks that a folder can offer: caption to picture, alternative text to picture, heading to passage, file name to
picture, and picture to the name of its folder.
"""


@dataclass(frozen=True)
class FolderRow:
    """A row, and the file that it is about: rows of one file stay on one side of a split."""

    row: Row
    about: str


def folder_rows(folder: Path) -> tuple[dict[str, list[FolderRow]], list[Problem]]:
    """The rows of each task that the folder offers, in a stable order, and the files that could not be read.

    Hidden files and folders are passed over and so is what a `.tsembedignore` leaves out; links to folders are not
    followed. Raises `LoadError` for a folder that cannot be listed.
    """
    folder = folder.absolute()
    files = list(_files(folder))
    found: dict[str, list[FolderRow]] = defaultdict(list)
    problems: list[Problem] = []
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    known = set(files)
    captioned: set[Path] = set()
    for path in files:
        try:
            for task, row in _rows(path, known):
                found[task].append(row)
                if isinstance(row.row.positive.image, Path):
                    captioned.add(row.row.positive.image)
        except (LoadError, OSError) as error:
            reason = error.message if isinstance(error, LoadError) else f"it cannot be read: {error.strerror or error}"
            problems.append(Problem(path, 0, reason))
    for picture in pictures:
        name = telling_name(picture.stem)
        if name and picture not in captioned:
            found[NAMES].append(_pair(Item(name), Item(image=picture), picture, picture))
    found[FOLDERS] = list(_by_folder(pictures, folder))
    return {task: found[task] for task in TASKS if found[task]}, problems


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, but for hidden ones and what a `.tsembedignore` leaves out."""
    waiting: list[tuple[str, IgnoreRules | None]] = [(os.fspath(folder.absolute()), None)]
    while waiting:
        top, above = waiting.pop()
        rules = rules_in(top, above)
        try:
            with os.scandir(top) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise LoadError(f"The folder {top} cannot be listed: {error.strerror or error}.") from error
        below = []
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name.startswith(".") or (rules is not None and rules.ignores(entry.path, is_folder=is_folder)):
                continue
            if is_folder:
                below.append((entry.path, rules))
            elif entry.is_file():
                yield Path(entry.path)
        waiting += reversed(below)


def _rows(path: Path, known: set[Path]) -> Iterator[tuple[str, FolderRow]]:
    kind = path.suffix.lower()
    if kind in PICTURES:
        if path.stat().st_size == 0:
            raise LoadError("the picture's file is empty")
        caption = sidecar_caption(path, known)
        if caption:
            yield CAPTIONS, _pair(Item(caption), Item(image=path), path, path)
    elif kind in _HTML | _MARKDOWN:
        reader = markdown_pairs if kind in _MARKDOWN else html_pairs
        for pair in reader(_text(path)):
            if isinstance(pair, Passage):
                yield PASSAGES, _pair(Item(pair.heading), Item(pair.text), path, path)
                continue
            picture = Path(os.path.normpath(path.parent / pair.source))
            if picture in known and picture.suffix.lower() in PICTURES and telling_words(pair.text):
                yield ALT_TEXTS, _pair(Item(pair.text), Item(image=picture), path, picture)
    elif kind == ".pdf":
        for page in _pdf(path):
            yield PASSAGES, _pair(Item(page.heading), Item(page.text), path, path)


def _pair(query: Item, positive: Item, origin: Path, about: Path) -> FolderRow:
    identity = hashed("target", (positive.text or "").casefold(), positive.image or "")
    return FolderRow(Row(query, positive, f"{identity:016x}", (), str(origin)), str(about))


def sidecar_caption(picture: Path, known: set[Path]) -> str:
    """What the file beside a picture says about it (`cat.txt`, `cat.jpg.txt`, `.caption`, `.json`, `.xmp`), or ""."""
    for ending in _SIDECARS:
        for beside in (picture.with_suffix(ending), picture.with_name(picture.name + ending)):
            if beside in known:
                try:
                    caption = _caption(_text(beside), ending)
                except LoadError as error:
                    raise LoadError(f"its side-car {beside.name} cannot be used: {error.message}") from error
                if telling_words(caption):
                    return caption
    return ""


def _caption(text: str, ending: str) -> str:
    if ending == ".json":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LoadError("it is not valid JSON") from error
        fields = value if isinstance(value, Mapping) else {"text": value}
        text = next((one for name in _CAPTION_FIELDS if isinstance(one := fields.get(name), str) and one.strip()), "")
        # Exports of photo services give the file's own name for a title.
        text = "" if Path(text).suffix.lower() in PICTURES else text
    elif ending == ".xmp":
        found = re.search(r"<dc:(?:description|title)>.*?<rdf:li[^>]*>(.*?)</rdf:li>", text, re.DOTALL)
        text = found[1] if found else ""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_CAPTION else words[:_LONGEST_CAPTION].rsplit(" ", 1)[0]


def _by_folder(pictures: list[Path], top: Path) -> Iterator[FolderRow]:
    """Pictures and the telling names of their folders, if there are at least two such folders to tell apart."""
    named: dict[str, list[Path]] = defaultdict(list)
    for picture in pictures:
        if picture.parent != top and (name := telling_name(picture.parent.name)):
            named[name].append(picture)
    named = {name: found for name, found in named.items() if len(found) >= _FEWEST_IN_FOLDER}
    if len(named) >= _FEWEST_FOLDERS:
        for name, found in named.items():
            for picture in found:
                yield _pair(Item(image=picture, text=None), Item(name), picture, picture)


def _text(path: Path) -> str:
    size = path.stat().st_size
    if not size:
        return ""
    if size > _MOST_BYTES:
        raise LoadError(f"it has more than {_MOST_BYTES >> 20} MB")
    with path.open("rb") as file:
        return page_text(file) if path.suffix.lower() in _HTML else "".join(read_text(file))


def _pdf(path: Path) -> Iterator[Passage]:
    """A heading and the text of its page: bookmarks first, then each page's own first line; the title for page one."""
    import pypdfium2

    with closing(open_pdf(path)) as document:
        headings: dict[int, str] = {}
        title = " ".join(str(document.get_metadata_value("Title") or "").split())
        if telling_words(title):
            headings[0] = title
        for mark in document.get_toc(max_depth=4):
            target, words = mark.get_dest(), " ".join((mark.get_title() or "").split())
            page = target.get_index() if target is not None else None
            if page is not None and telling_words(words):
                headings.setdefault(page, words)
        for number in range(min(len(document), _MOST_PAGES)):
            try:
                with open_page(document, number) as sheet:
                    text = sheet.text()
            except pypdfium2.PdfiumError:
                continue
            found = page_passage(text, headings.get(number, ""))
            if found is not None:
                yield found


def page_passage(text: str, heading: str = "") -> Passage | None:
    """A page's heading (its first line, unless one is given) and what follows it; None where there is too little."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not heading and lines and len(lines[0].split()) <= 12 and not lines[0].endswith((".", ",", ";")):
        heading = lines.pop(0)
    elif lines and lines[0].casefold() == heading.casefold():
        lines.pop(0)
    return passage(heading, " ".join(lines))


_DULL: Final = frozenset(
    """
    image images img pic pics picture pictures photo photos foto fotos bild bilder scan scans screenshot screenshots
    screen shot untitled unnamed unbenannt file files new copy kopie copia final draft temp tmp test misc various other
    others stuff folder dcim camera roll mobile phone whatsapp telegram signal download downloads upload uploads export
    exports document documents desktop figure fig page thumb thumbnail thumbs large small medium edited original
    originals data assets media static public src png jpg jpeg webp gif video the and for with from dsc dscn dscf img
    pxl mvi gopr gopro dji pano hdr burst vid snap capture untitledfolder
    january february march april may june july august september october november december
    jan feb mar apr jun jul aug sep sept oct nov dec
""".split()
)

_CAMERA: Final = re.compile(
    r"(?:IMG|DSCN?|DSCF|PXL|MVI|GOPR|GH|DJI|PANO|VID|P|SAM|CIMG|HPIM|KIF|R|L)[_-]?\d{3,}|WhatsApp", re.IGNORECASE
)

_HEX: Final = re.compile(r"[0-9a-f]{8,}|[0-9a-f-]{32,}", re.IGNORECASE)

_LONGEST: Final = 80


def telling_name(stem: str) -> str:
    """The words of a name (`Holiday_in-Rome (2)` is `Holiday in Rome`), or "" when they tell nothing."""
    name = _HEX.sub(" ", _CAMERA.sub(" ", stem))
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # camelCase
    words = [word for word in re.split(r"[\W\d_]+", name) if word]
    while words and (words[-1].lower() in _DULL or len(words[-1]) == 1):
        words.pop()
    while words and words[0].lower() in _DULL:
        words.pop(0)
    text = " ".join(words)
    return text if telling_words(text) and len(text) <= _LONGEST else ""


def telling_words(text: str) -> bool:
    """Whether a text has a word that may say what something is: of a script without blanks, any two letters."""
    for word in re.findall(r"[^\W\d_]+", text):
        if word.lower() not in _DULL and (len(word) >= 3 or (len(word) == 2 and not word.isascii())):
            return True
    return False


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
        text = _pages_caption(image) or _words(image.attributes.get("alt")) or _words(image.attributes.get("title"))
        if place and text:
            yield Shown(place, text)
    yield from _sections((node.tag or "", _words(node.text(separator=" "))) for node in tree.css(_BLOCKS))


def _pages_caption(image: LexborNode) -> str:
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
