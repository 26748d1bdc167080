"""PDF: the text of each page, the pictures on it and, for models that read pages by eye, the page as a picture.

PDFium is native code and not thread-safe: this runs in a decoding process, one file at a time.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, cast

from tsembed_search.errors import LoadError
from tsembed_search.images import open_image
from tsembed_search.indexer.chunking import paragraphs
from tsembed_search.indexer.loaders.unit import Loading, Unit, text_unit
from tsembed_search.pixels import content_size

if TYPE_CHECKING:
    from PIL import Image

    from tsembed_search.model.backbones.protocol import ImageSpec

# Below this (in pixels) it is an icon, a rule or a bullet; beyond this shape a border or a strip of a sliced picture.
_SMALLEST_SIDE: Final = 64
_LONGEST_SHAPE: Final = 8.0
# A picture whose brightest and darkest values differ less shows nothing.
_LEAST_CONTRAST: Final = 8
_MOST_PICTURES: Final = 50
# What pypdfium2 meets when a crafted file says that something has no size, or an endless one.
_NONSENSE: Final = (ZeroDivisionError, OverflowError, ValueError)
_FINEST: Final = 200 / 72
"""In pixels per point: more shows no more of a printed page."""
# PDFium marks a hyphen at a line's end with U+FFFE (or U+0002); the word goes on in the next line.
_HYPHENS: Final = re.compile("[\ufffe\x02\u00ad]\n?")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\uffff]+")


def load(loading: Loading) -> Iterator[Unit]:
    """The units of each page in order; a page that is broken is left out with a note."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(loading.file, autoclose=False)
    except pypdfium2.PdfiumError as error:
        raise _refused(error) from error
    with closing(document):
        total, given, broken = len(document), 0, []
        seen: set[bytes] = set()
        for index in range(total):
            try:
                with closing(document[index]) as page:
                    for unit in _units(page, index + 1, loading, seen):
                        given += 1
                        yield unit
            except (pypdfium2.PdfiumError, *_NONSENSE):
                broken.append(index + 1)
            loading.alive()
        if broken and len(broken) == total:
            raise LoadError("None of its pages can be read: the PDF is damaged.", "Save it again, or restore it.")
        if broken:
            loading.note(f"Pages that cannot be read: {_numbers(broken)} of {total}.")
        if not given:
            raise LoadError(
                "There is no text and no picture in it.",
                "If it is made of drawings, index it with --pages always and a model that reads pages by eye.",
            )


def _refused(error: Exception) -> LoadError:
    if "assword" in str(error):
        return LoadError("The PDF is protected by a password.", "Save a copy without one.")
    if "ecurity" in str(error):
        return LoadError("The PDF is encrypted in a way that cannot be read.", "Save a copy without encryption.")
    return LoadError("The PDF is damaged, or it is none.", "Open it in a viewer and save it again.")


def _numbers(pages: list[int]) -> str:
    shown = ", ".join(map(str, pages[:10]))
    return shown if len(pages) <= 10 else f"{shown} and {len(pages) - 10} more"


def _units(page: Any, number: int, loading: Loading, seen: set[bytes]) -> Iterator[Unit]:
    """Text chunks, then pictures, which go on with the chunks' numbers, then the page itself."""
    next_chunk = 0
    for chunk in loading.cutter.chunks(paragraphs([_text(page)])):
        yield text_unit(chunk, next_chunk, chunk.text, number)
        next_chunk += 1
    for picture in _pictures(page, number, loading, seen):
        opened = open_image(picture, loading.inputs.image, memory=loading.memory)
        if int(opened.pixels.max()) - int(opened.pixels.min()) >= _LEAST_CONTRAST:
            yield Unit("image", number, next_chunk, pixels=opened.pixels, width=opened.width, height=opened.height)
            next_chunk += 1
    if loading.pages:
        opened = open_image(_rendered(page, loading.inputs.image), loading.inputs.image)
        yield Unit("page", number, pixels=opened.pixels, width=opened.width, height=opened.height)


def _text(page: Any) -> str:
    with closing(page.get_textpage()) as words:
        # Within the page's borders; all of it where they make no sense.
        text = words.get_text_bounded() or words.get_text_range()
    return _CONTROLS.sub(" ", _HYPHENS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def _pictures(page: Any, number: int, loading: Loading, seen: set[bytes]) -> Iterator[Image.Image]:
    """The pictures on a page as they look there, without icons, masks, and what an earlier page had too."""
    import pypdfium2
    import pypdfium2.raw as pdfium

    given = 0
    for picture in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE]):
        try:
            width, height = picture.get_px_size()
            if min(width, height) < _SMALLEST_SIDE or max(width, height) > _LONGEST_SHAPE * min(width, height):
                continue
            # Rendering holds the decoded picture and the result, four bytes a pixel each.
            if width * height * 8 > loading.memory:
                loading.note(f"A picture of {width:,} x {height:,} pixels on page {number} is too large.")
                continue
            if picture.get_metadata().bits_per_pixel == 1 or _is_known(picture, seen):
                continue
            if given == _MOST_PICTURES:
                loading.note(f"Page {number} has more than {_MOST_PICTURES} pictures; the rest is left out.")
                return
            bitmap = picture.get_bitmap(render=True)
        except (pypdfium2.PdfiumError, *_NONSENSE):
            loading.note(f"A picture on page {number} cannot be read.")
            continue
        given += 1
        yield bitmap.to_pil().copy()
        loading.alive()


def _is_known(picture: Any, seen: set[bytes]) -> bool:
    """Whether the document had the same picture before: logos and backgrounds come on every page."""
    data = picture.get_data()
    digest = hashlib.sha256(ctypes.string_at(data, len(data))).digest()
    if digest in seen:
        return True
    seen.add(digest)
    return False


def _rendered(page: Any, spec: ImageSpec) -> Image.Image:
    """The page at the resolution that the model wants, whatever size it says it has."""
    width, height = page.get_size()
    fine = max(1, round(width * _FINEST)), max(1, round(height * _FINEST))
    wide, high = content_size(*fine, spec)
    scale = min(_FINEST, max(wide / max(width, 1e-3), high / max(height, 1e-3)))
    # A page that is all length would still explode in the other direction.
    scale = min(scale, (4 * max(wide * high, 1) / max(width * height, 1e-3)) ** 0.5)
    return cast("Image.Image", page.render(scale=scale, may_draw_forms=False).to_pil().copy())
