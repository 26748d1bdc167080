"""The words that a file says about itself beside what it shows: its title, what is in it, who made it, and with what.

Titles, descriptions, keywords, names of people and of cameras, as pictures keep them in EXIF, IPTC, XMP and comments,
and PDFs in their properties. All of it was written by others, and may be long, damaged or hostile: it is cleaned and
cut, and whatever cannot be read is left out.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.items import one_form

if TYPE_CHECKING:
    from PIL import Image

LONGEST: Final = 1000
"""The most characters that a file says about itself."""
_LONGEST_VALUE: Final = 300
_LONGEST_XMP: Final = 1 << 17
_UNSEEN: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufffd-\uffff]+"
)
# Description, maker, model, artist; then what Windows writes in UTF-16: title, comment, author, keywords, subject.
_EXIF: Final = (0x010E, 0x010F, 0x0110, 0x013B, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F)
_EXIF_MORE: Final = 0x8769
_USER_COMMENT: Final = 0x9286
# Title, keywords, by whom, city, part of the country, country, headline, description.
_IPTC: Final = ((2, 5), (2, 25), (2, 80), (2, 90), (2, 95), (2, 101), (2, 105), (2, 120))
_TEXTS: Final = ("Title", "Description", "Author", "Keywords", "Subject", "Comment", "comment")
_XMP: Final = re.compile(r"<(dc:(?:title|description|subject|creator))\b[^<>]{0,500}>")
_TAG: Final = re.compile(r"<[^<>]{0,500}>")
_PDF: Final = ("Title", "Subject", "Author", "Keywords")


def picture_words(image: Image.Image) -> str:
    """Return what an open picture says about itself; empty when that is nothing."""
    values: list[str] = []
    for read in (_exif, _iptc, _texts, _xmp):
        try:
            values += read(image)
        # Metadata is often malformed in files whose pixels are sound, and Pillow reads it with struct and int.
        except Exception:  # noqa: BLE001
            continue
    return joined(values)


def pdf_words(pdf: Any) -> str:
    """Return what an open `pypdfium2.PdfDocument` says about itself; empty when that is nothing."""
    import pypdfium2

    try:
        properties = pdf.get_metadata_dict(skip_empty=True)
    except (pypdfium2.PdfiumError, ValueError):
        return ""
    return joined(str(properties.get(key, "")) for key in _PDF)


def joined(values: Iterable[str]) -> str:
    """Return texts by others as one, each once, clean and not too long."""
    clean = (" ".join(_UNSEEN.sub(" ", value[: 4 * _LONGEST_VALUE]).split())[:_LONGEST_VALUE] for value in values)
    return one_form("; ".join(dict.fromkeys(filter(None, clean))))[:LONGEST].strip()


def _exif(image: Image.Image) -> Iterator[str]:
    exif = image.getexif()
    for tag in _EXIF:
        yield _text(exif.get(tag), "utf-16-le" if tag >= 0x9C9B else "utf-8")
    comment = exif.get_ifd(_EXIF_MORE).get(_USER_COMMENT, b"") if _EXIF_MORE in exif else b""
    if isinstance(comment, bytes) and comment[:8] in (b"ASCII\0\0\0", b"\0" * 8):
        yield _text(comment[8:])


def _iptc(image: Image.Image) -> Iterator[str]:
    from PIL import ImageFile, IptcImagePlugin

    found = IptcImagePlugin.getiptcinfo(image) or {} if isinstance(image, ImageFile.ImageFile) else {}
    for key in _IPTC:
        values = found.get(key, [])
        yield from map(_text, values if isinstance(values, list) else [values])


def _texts(image: Image.Image) -> Iterator[str]:
    for key in _TEXTS:
        yield _text(image.info.get(key))


def _xmp(image: Image.Image) -> Iterator[str]:
    """The values of Dublin Core. No parser of XML is asked: a file can make one open others, and grow without end."""
    raw = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    text = _text(raw[:_LONGEST_XMP])
    at = 0
    while opening := _XMP.search(text, at):
        end = text.find(f"</{opening[1]}>", opening.end())
        if end < 0:
            return
        yield from map(html.unescape, _TAG.split(text[opening.end() : end]))
        at = end


def _text(value: object, encoding: str = "utf-8") -> str:
    """A value of any kind as text; bytes that are not in the encoding are Latin-1."""
    if isinstance(value, tuple) and all(isinstance(each, int) and 0 <= each < 256 for each in value):
        value = bytes(value)
    if isinstance(value, bytes):
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            return value.decode("latin-1")
    return value if isinstance(value, str) else ""
