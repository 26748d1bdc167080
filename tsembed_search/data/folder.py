"""Training rows from a folder of a person's own files: what its captions, pages, headings and names say.

Only files on this machine are read, and only text that people have written about something: a picture's caption, its
alternative text, a heading above a passage, a telling name. Names that cameras give say nothing and are dropped.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tsembed_search.data.records import Problem
from tsembed_search.data.rows import Row, hashed
from tsembed_search.documents.crawl import Crawl, Selection, Unreachable
from tsembed_search.documents.document import Document, Figure, Section, extension_of, format_of
from tsembed_search.documents.encoding import read_text
from tsembed_search.errors import LoadError
from tsembed_search.items import Item

CAPTIONS, ALT_TEXTS, PASSAGES, NAMES, FOLDERS = "captions", "alt_texts", "passages", "file_names", "folder_names"
TASKS: Final = (CAPTIONS, ALT_TEXTS, PASSAGES, NAMES, FOLDERS)
"""The tasks that a folder can offer: caption to picture, alternative text to picture, heading to passage, file name to
picture, and picture to the name of its folder.
"""

PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
_SIDECARS: Final = (".txt", ".caption", ".json", ".xmp")
_CAPTION_FIELDS: Final = ("caption", "description", "alt", "text", "title")
_XMP_CAPTION: Final = re.compile(r"<dc:(?:description|title)>.*?<rdf:li[^>]*>(.*?)</rdf:li>", re.DOTALL)
_MOST_BYTES: Final = 4 << 20
_LONGEST_CAPTION: Final = 1_000
_LONGEST_NAME: Final = 80
_FEWEST_WORDS: Final = 12
_MOST_WORDS: Final = 120
_LONGEST_HEADING: Final = 12
_FEWEST_FOLDERS: Final = 2
_FEWEST_IN_FOLDER: Final = 2
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
_COUNTED: Final = re.compile(
    r"(?:IMG|DSCN?|DSCF|PXL|MVI|GOPR|GH|DJI|PANO|VID|P|SAM|CIMG|HPIM|KIF|R|L)[_-]?\d{3,}|WhatsApp", re.IGNORECASE
)
_HEX: Final = re.compile(r"[0-9a-f]{8,}|[0-9a-f-]{32,}", re.IGNORECASE)


def folder_rows(folder: Path) -> tuple[dict[str, list[Row]], list[Problem]]:
    """The rows of each task that the folder offers, in a stable order, and the files that could not be read.

    Hidden files and folders are passed over and so is what a `.tsembedignore` leaves out; links to folders are not
    followed. Raises `UsageError` for an ignore file that makes no sense.
    """
    folder = folder.absolute()
    files: list[Path] = []
    problems: list[Problem] = []
    for found in Crawl([folder], Selection(include=("*",))):
        if isinstance(found, Unreachable):
            problems.append(Problem(Path(found.path), 0, found.reason))
        else:
            files.append(Path(found.path))
    known = set(files)
    rows: dict[str, list[Row]] = defaultdict(list)
    captioned: set[Path | None] = set()
    for path in files:
        try:
            for task, row in _rows(path, known):
                rows[task].append(row)
                captioned.add(row.positive.image)
        except (LoadError, OSError) as error:
            reason = error.message if isinstance(error, LoadError) else f"it cannot be read: {error.strerror or error}"
            problems.append(Problem(path, 0, reason))
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    for picture in pictures:
        name = telling_name(picture.stem)
        if name and picture not in captioned:
            rows[NAMES].append(_pair(Item(name), Item(image=picture), picture))
    rows[FOLDERS] = _by_folder(pictures, folder)
    return {task: rows[task] for task in TASKS if rows[task]}, problems


def _rows(path: Path, known: set[Path]) -> Iterator[tuple[str, Row]]:
    """The rows of one file: a picture with its caption, the figures and sections of a document. Texts give none."""
    if path.suffix.lower() in PICTURES:
        if not path.stat().st_size:
            raise LoadError("the picture's file is empty")
        if caption := sidecar_caption(path, known):
            yield CAPTIONS, _pair(Item(caption), Item(image=path), path)
        return
    format = format_of(extension_of(path.name))
    if format.sections is None or (format.is_text and not _size(path)):
        return
    with path.open("rb") as file:
        for part in format.sections(Document(file)):
            if isinstance(part, Figure):
                picture = Path(os.path.normpath(path.parent / part.source))
                if picture in known and picture.suffix.lower() in PICTURES and telling_words(part.caption):
                    yield ALT_TEXTS, _pair(Item(part.caption), Item(image=picture), path)
            elif (found := passage(part)) is not None:
                yield PASSAGES, _pair(Item(found[0]), Item(found[1]), path)


def about(row: Row) -> str:
    """Return the file that a row is about: rows of one file stay on one side of a split."""
    return str(row.positive.image or row.query.image or row.origin)


def _pair(query: Item, positive: Item, origin: Path) -> Row:
    identity = hashed("target", (positive.text or "").casefold(), positive.image or "")
    return Row(query, positive, f"{identity:016x}", (), str(origin))


def passage(section: Section) -> tuple[str, str] | None:
    """A telling heading, and up to 120 words of the text below it; None where there is none, or too little text.

    A page whose headings say nothing has its first line for one, if that is no sentence.
    """
    heading = next(filter(telling_words, section.headings), "")
    lines = [line for line in (" ".join(line.split()) for line in section.text.splitlines()) if line]
    if section.page is not None and lines:
        is_title = len(lines[0].split()) <= _LONGEST_HEADING and not lines[0].endswith((".", ",", ";"))
        if not heading and is_title:
            heading = lines.pop(0)
        elif lines[0].casefold() == heading.casefold():
            lines.pop(0)
    words = " ".join(lines).split()
    if len(words) < _FEWEST_WORDS or not telling_words(heading):
        return None
    return " ".join(heading.split()), " ".join(words[:_MOST_WORDS])


def sidecar_caption(picture: Path, known: set[Path]) -> str:
    """Return the text of the file beside a picture (`cat.txt`, `cat.jpg.txt`, `.caption`, `.json`, `.xmp`), or ""."""
    for ending in _SIDECARS:
        for beside in (picture.with_suffix(ending), picture.with_name(picture.name + ending)):
            if beside in known:
                try:
                    caption = _caption(beside, ending)
                except LoadError as error:
                    raise LoadError(f"its side-car {beside.name} cannot be used: {error.message}") from error
                if telling_words(caption):
                    return caption
    return ""


def _caption(beside: Path, ending: str) -> str:
    with beside.open("rb") as file:
        text = "".join(read_text(file)) if _size(beside) else ""
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
        found = _XMP_CAPTION.search(text)
        text = found[1] if found else ""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_CAPTION else words[:_LONGEST_CAPTION].rsplit(" ", 1)[0]


def _size(text: Path) -> int:
    """The size of a text in bytes. Raises `LoadError` for one that no person wrote."""
    size = text.stat().st_size
    if size > _MOST_BYTES:
        raise LoadError(f"it has more than {_MOST_BYTES >> 20} MB")
    return size


def _by_folder(pictures: list[Path], top: Path) -> list[Row]:
    """Pictures and the telling names of their folders, if there are at least two such folders to tell apart."""
    named: dict[str, list[Path]] = defaultdict(list)
    for picture in pictures:
        if picture.parent != top and (name := telling_name(picture.parent.name)):
            named[name].append(picture)
    told = [(name, found) for name, found in named.items() if len(found) >= _FEWEST_IN_FOLDER]
    rows = [_pair(Item(image=picture), Item(name), picture) for name, found in told for picture in found]
    return rows if len(told) >= _FEWEST_FOLDERS else []


def telling_name(stem: str) -> str:
    """The words of a name (`Holiday_in-Rome (2)` is `Holiday in Rome`), or "" when they tell nothing."""
    name = _HEX.sub(" ", _COUNTED.sub(" ", stem))
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # camelCase
    words = [word for word in re.split(r"[\W\d_]+", name) if word]
    while words and (words[-1].lower() in _DULL or len(words[-1]) == 1):
        words.pop()
    while words and words[0].lower() in _DULL:
        words.pop(0)
    text = " ".join(words)
    return text if telling_words(text) and len(text) <= _LONGEST_NAME else ""


def telling_words(text: str) -> bool:
    """Return whether a text has a word that may say what something is: of a script without blanks, any two letters."""
    return any(
        word.lower() not in _DULL and (len(word) >= 3 or (len(word) == 2 and not word.isascii()))
        for word in re.findall(r"[^\W\d_]+", text)
    )
