"""PDF: the text of each page, the pictures on it and, for models that read pages by eye, the page as a picture."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, BinaryIO, Final

from tsembed_search.documents.document import Document, Format, Section, Sign, Unit, numbers, text_start
from tsembed_search.errors import LoadError

if TYPE_CHECKING:
    from PIL import Image

    from tsembed_search.documents.document import Pixels
    from tsembed_search.documents.pdf_page import PdfSheet
    from tsembed_search.items import ImageSpec

# A picture whose brightest and darkest values differ less shows nothing.
_LEAST_CONTRAST: Final = 8
# In pixels per point: more shows no more of a printed page.
_FINEST: Final = 200 / 72
# The longer side of a preview, in pixels.
_PREVIEW: Final = 320
# Pages that are read for training.
_MOST_PAGES: Final = 300
# What the first lines of a PDF are, and of no text about one.
_BEGINS: Final = rb"(?s)\A\s*%PDF-\d\.\d\s*[\r\n].*?\d+\s+\d+\s+obj\b"


def units(document: Document) -> Iterator[Unit]:
    """The units of each page in order; a page that is broken is left out with a note."""
    import pypdfium2

    from tsembed_search.documents.pdf_page import has_unreadable_form, open_page, open_pdf
    from tsembed_search.documents.pdf_pictures import NONSENSE

    with closing(open_pdf(document.file)) as pdf:
        if has_unreadable_form(pdf):
            document.note("It is a form that only Adobe's reader can show (XFA): what is typed in it is not read.")
        total, given, broken = len(pdf), 0, []
        seen: set[bytes] = set()
        for index in range(total):
            try:
                with open_page(pdf, index) as sheet:
                    for unit in _page_units(sheet, index + 1, document, seen):
                        given += 1
                        yield unit
            except (pypdfium2.PdfiumError, *NONSENSE):
                broken.append(index + 1)
            document.alive()
        if broken and len(broken) == total:
            raise LoadError("None of its pages can be read: the PDF is damaged.", "Save it again, or restore it.")
        if broken:
            document.note(f"Pages that cannot be read: {numbers(broken)} of {total}.")
        if not given:
            raise LoadError(
                "There is no text and no picture in it.",
                "If it is made of drawings, index its pages as pictures, with a model that reads pages by eye.",
            )


def _page_units(sheet: PdfSheet, number: int, document: Document, seen: set[bytes]) -> Iterator[Unit]:
    """Text chunks, then pictures, which go on with the chunks' numbers, then the page itself."""
    from tsembed_search.documents.chunking import paragraphs
    from tsembed_search.documents.pdf_pictures import pictures
    from tsembed_search.documents.pictures import open_image

    spec = document.image_spec
    drawn = open_image(_drawn(sheet, spec), spec) if document.pages else None
    chunk = yield from document.text_units(paragraphs([sheet.text()]), page=number)
    for picture in pictures(sheet.content, number, document, seen):
        pixels = open_image(picture.image, spec, memory=document.memory).pixels
        if int(pixels.max()) - int(pixels.min()) >= _LEAST_CONTRAST:
            yield Unit("image", number, chunk, pixels=pixels, width=picture.width, height=picture.height)
            chunk += 1
    if drawn is not None:
        yield Unit("page", number, pixels=drawn.pixels, width=drawn.width, height=drawn.height)


def sections(document: Document) -> Iterator[Section]:
    """The pages that can be read, under the bookmarks that lead to them; the first one under the title, too."""
    import pypdfium2

    from tsembed_search.documents.pdf_page import open_page, open_pdf

    with closing(open_pdf(document.file)) as pdf:
        headings = defaultdict[int, list[str]](list, {0: [str(pdf.get_metadata_value("Title") or "")]})
        for mark in pdf.get_toc(max_depth=4):
            target = mark.get_dest()
            page = target.get_index() if target is not None else None
            if page is not None:
                headings[page].append(mark.get_title() or "")
        for index in range(min(len(pdf), _MOST_PAGES)):
            # A page that is broken is left out.
            with suppress(pypdfium2.PdfiumError):
                with open_page(pdf, index) as sheet:
                    text = sheet.text()
                yield Section(tuple(" ".join(one.split()) for one in headings[index]), text, index + 1)


def preview(file: BinaryIO, page: int) -> Pixels:
    """A page as a viewer shows it, small."""
    import numpy as np
    import pypdfium2

    from tsembed_search.documents.pdf_page import open_page, open_pdf
    from tsembed_search.documents.pdf_pictures import NONSENSE

    try:
        with closing(open_pdf(file)) as pdf, open_page(pdf, page - 1) as sheet:
            return np.array(sheet.drawn(_PREVIEW / max(*sheet.size, 1e-3)).convert("RGB"))
    except (pypdfium2.PdfiumError, IndexError, *NONSENSE) as error:
        raise LoadError(f"Page {page} cannot be drawn.") from error


def _drawn(sheet: PdfSheet, spec: ImageSpec) -> Image.Image:
    """The page at the resolution that the model wants, whatever size it says it has."""
    from tsembed_search.documents.pixels import content_size

    width, height = sheet.size
    fine = max(1, round(width * _FINEST)), max(1, round(height * _FINEST))
    wide, high = content_size(*fine, spec)
    scale = min(_FINEST, max(wide / max(width, 1e-3), high / max(height, 1e-3)))
    # A page that is all length would still explode in the other direction.
    scale = min(scale, (4 * max(wide * high, 1) / max(width * height, 1e-3)) ** 0.5)
    return sheet.drawn(scale)


def _judge(head: bytes) -> Sign:
    # Readers allow a little before the header.
    if not text_start(head).startswith(b"%PDF-"):
        return Sign.FAINT if b"%PDF-" in head else Sign.NONE
    return Sign.CERTAIN if re.search(_BEGINS, head) else Sign.LIKELY


FORMAT = Format("pdf", 2, frozenset({"pdf"}), units, pages=True, sections=sections, preview=preview, judge=_judge)
