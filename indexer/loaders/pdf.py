"""PDF: the text of each page, the pictures on it and, for models that read pages by eye, the page as a picture.

PDFium is native code and not thread-safe: this runs in a decoding process, one file at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import LoadError
from tsembed_search.images import open_image
from tsembed_search.indexer.chunking import paragraphs
from tsembed_search.indexer.loaders.pdf_pictures import NONSENSE, pictures
from tsembed_search.indexer.loaders.unit import Loading, Unit, numbers, text_unit
from tsembed_search.pdf_pages import PdfSheet, has_unreadable_form, open_page, open_pdf
from tsembed_search.pixels import content_size

if TYPE_CHECKING:
    from PIL import Image

    from tsembed_search.model.backbones.protocol import ImageSpec

# A picture whose brightest and darkest values differ less shows nothing.
_LEAST_CONTRAST: Final = 8
_FINEST: Final = 200 / 72
"""In pixels per point: more shows no more of a printed page."""


def load(loading: Loading) -> Iterator[Unit]:
    """The units of each page in order; a page that is broken is left out with a note."""
    import pypdfium2

    with closing(open_pdf(loading.file)) as document:
        if has_unreadable_form(document):
            loading.note("It is a form that only Adobe's reader can show (XFA): what is typed in it is not read.")
        total, given, broken = len(document), 0, []
        seen: set[bytes] = set()
        for index in range(total):
            try:
                with open_page(document, index) as sheet:
                    for unit in _units(sheet, index + 1, loading, seen):
                        given += 1
                        yield unit
            except (pypdfium2.PdfiumError, *NONSENSE):
                broken.append(index + 1)
            loading.alive()
        if broken and len(broken) == total:
            raise LoadError("None of its pages can be read: the PDF is damaged.", "Save it again, or restore it.")
        if broken:
            loading.note(f"Pages that cannot be read: {numbers(broken)} of {total}.")
        if not given:
            raise LoadError(
                "There is no text and no picture in it.",
                "If it is made of drawings, index it with --pages always and a model that reads pages by eye.",
            )


def _units(sheet: PdfSheet, number: int, loading: Loading, seen: set[bytes]) -> Iterator[Unit]:
    """Text chunks, then pictures, which go on with the chunks' numbers, then the page itself."""
    spec = loading.inputs.image
    drawn = open_image(_drawn(sheet, spec), spec) if loading.pages else None
    next_chunk = 0
    for chunk in loading.cutter.chunks(paragraphs([sheet.text()])):
        yield text_unit(chunk, next_chunk, chunk.text, number)
        next_chunk += 1
    for picture in pictures(sheet.content, number, loading, seen):
        pixels = open_image(picture.image, spec, memory=loading.memory).pixels
        if int(pixels.max()) - int(pixels.min()) >= _LEAST_CONTRAST:
            yield Unit("image", number, next_chunk, pixels=pixels, width=picture.width, height=picture.height)
            next_chunk += 1
    if drawn is not None:
        yield Unit("page", number, pixels=drawn.pixels, width=drawn.width, height=drawn.height)


def _drawn(sheet: PdfSheet, spec: ImageSpec) -> Image.Image:
    """The page at the resolution that the model wants, whatever size it says it has."""
    width, height = sheet.size
    fine = max(1, round(width * _FINEST)), max(1, round(height * _FINEST))
    wide, high = content_size(*fine, spec)
    scale = min(_FINEST, max(wide / max(width, 1e-3), high / max(height, 1e-3)))
    # A page that is all length would still explode in the other direction.
    scale = min(scale, (4 * max(wide * high, 1) / max(width * height, 1e-3)) ** 0.5)
    return sheet.drawn(scale)
