"""PDF: the text of each page, the pictures on it and, for models that read pages by eye, the page as a picture.

PDFium is native code and not thread-safe: this runs in a decoding process, one file at a time.

Pages of a PDF as a viewer shows them: with the values of form fields and with comments that are typed on the page.

PDFium is native code and not thread-safe, and a file may be crafted: files of others are read in a process of its own.
"""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from tsembed_search.documents.chunking import paragraphs
from tsembed_search.documents.document import Loading, Unit, numbers, text_unit
from tsembed_search.documents.formats.pdf_pictures import NONSENSE, pictures
from tsembed_search.documents.pictures import open_image
from tsembed_search.documents.pixels import content_size
from tsembed_search.errors import LoadError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from tsembed_search.items import ImageSpec


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


# PDFium marks a hyphen at a line's end with U+FFFE (or U+0002); the word goes on in the next line.
_HYPHENS: Final = re.compile("[\ufffe\x02\u00ad]\n?")

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\uffff]+")

_PASSWORD_FIELD: Final = 1 << 13

_LONGEST_VALUE: Final = 1 << 20

"""In bytes: what a person types into a field is shorter."""


def open_pdf(source: Path | BinaryIO) -> Any:
    """Open a PDF, with its forms, as a `pypdfium2.PdfDocument` that the caller closes.

    Raises `LoadError` for what is damaged or locked, `OSError` for a path that cannot be read.
    """
    import pypdfium2

    # It warns on stderr of forms that it does not know; `has_unreadable_form` is how we say it.
    logging.getLogger("pypdfium2").setLevel(logging.CRITICAL)
    try:
        document = pypdfium2.PdfDocument(source)
    except pypdfium2.PdfiumError as error:
        raise _refused(error) from error
    # Without its forms the rest can still be read.
    with suppress(pypdfium2.PdfiumError):
        document.init_forms()
    return document


def _refused(error: Exception) -> LoadError:
    if "assword" in str(error):
        return LoadError("The PDF is protected by a password.", "Save a copy without one.")
    if "ecurity" in str(error):
        return LoadError("The PDF is encrypted in a way that cannot be read.", "Save a copy without encryption.")
    return LoadError("The PDF is damaged, or it is none.", "Open it in a viewer and save it again.")


def has_unreadable_form(document: Any) -> bool:
    """Return whether the pages are a dynamic XFA form, which only Adobe's reader shows."""
    import pypdfium2.raw as pdfium

    return bool(document.get_formtype() == pdfium.FORMTYPE_XFA_FULL)


@contextmanager
def open_page(document: Any, index: int) -> Iterator[PdfSheet]:
    """Open page `index`, counted from 0. Raises `pypdfium2.PdfiumError` for a page that is broken."""
    with closing(PdfSheet(document, index)) as sheet:
        yield sheet


class PdfSheet:
    """One page. `drawn` comes before `content` and `text`, which put the annotations into the page for good."""

    def __init__(self, document: Any, index: int) -> None:
        self._document = document
        self._index = index
        self._page = document[index]
        self._typed: dict[str, None] = {}
        self._has_annotations = False
        self._is_flat = False
        if self._sorted_out():
            # The forms remember what was on the page when it was opened.
            self._open_again()

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in points, as the page is turned for the viewer."""
        return cast("tuple[float, float]", self._page.get_size())

    def drawn(self, scale: float) -> Image.Image:
        """Draw the page with its forms and comments, at `scale` pixels per point."""
        return cast("Image.Image", self._page.render(scale=scale, may_draw_forms=True).to_pil().copy())

    @property
    def content(self) -> Any:
        """The `pypdfium2.PdfPage`, where what fields and comments show is part of the page."""
        import pypdfium2.raw as pdfium

        if self._has_annotations and not self._is_flat:
            self._is_flat = True
            # Laid flat, a highlighter would cover the words; it says nothing in words of its own.
            self._remove(lambda annotation, kind: kind == pdfium.FPDF_ANNOT_HIGHLIGHT)
            if pdfium.FPDFPage_Flatten(self._page, pdfium.FLAT_NORMALDISPLAY) == pdfium.FLATTEN_SUCCESS:
                self._open_again()
        return self._page

    def text(self) -> str:
        """The words of the page in reading order; then what was typed into fields that do not show all of it."""
        with closing(self.content.get_textpage()) as words:
            # Within the page's borders; all of it where they make no sense.
            text = words.get_text_bounded() or words.get_text_range()
        shown = "".join(text.split())
        more = [value for value in self._typed if "".join(value.split()) not in shown]
        text = "\n".join([text, *more]).replace("\r\n", "\n").replace("\r", "\n")
        return _CONTROLS.sub(" ", _HYPHENS.sub("", text))

    def close(self) -> None:
        """Close the page."""
        self._page.close()

    def _open_again(self) -> None:
        self._page.close()
        self._page = self._document[self._index]

    def _sorted_out(self) -> bool:
        """Note what was typed, and remove what no viewer shows. Returns whether anything was removed."""
        import pypdfium2.raw as pdfium

        unseen = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW

        def is_secret(annotation: Any, kind: int) -> bool:
            if kind not in (pdfium.FPDF_ANNOT_LINK, pdfium.FPDF_ANNOT_POPUP):
                self._has_annotations = True
            if pdfium.FPDFAnnot_GetFlags(annotation) & unseen:
                return True
            forms = self._page.formenv
            if kind == pdfium.FPDF_ANNOT_WIDGET and forms:
                if pdfium.FPDFAnnot_GetFormFieldFlags(forms, annotation) & _PASSWORD_FIELD:
                    return True
                if pdfium.FPDFAnnot_GetFormFieldType(forms, annotation) == pdfium.FPDF_FORMFIELD_TEXTFIELD:
                    self._note(pdfium.FPDFAnnot_GetFormFieldValue, forms, annotation)
            elif kind == pdfium.FPDF_ANNOT_FREETEXT:
                self._note(pdfium.FPDFAnnot_GetStringValue, annotation, b"Contents")
            return False

        return self._remove(is_secret)

    def _remove(self, unwanted: Any) -> bool:
        """Remove the annotations for which `unwanted(annotation, subtype)` holds; return whether there were any."""
        import pypdfium2.raw as pdfium

        found = []
        for index in range(pdfium.FPDFPage_GetAnnotCount(self._page)):
            annotation = pdfium.FPDFPage_GetAnnot(self._page, index)
            if not annotation:
                continue
            if unwanted(annotation, pdfium.FPDFAnnot_GetSubtype(annotation)):
                found.append(index)
            pdfium.FPDFPage_CloseAnnot(annotation)
        for index in reversed(found):
            pdfium.FPDFPage_RemoveAnnot(self._page, index)
        return bool(found)

    def _note(self, function: Any, *arguments: Any) -> None:
        """Keep what a function of PDFium's says, which fills a buffer with UTF-16."""
        import pypdfium2.raw as pdfium

        size = function(*arguments, None, 0)
        if not 2 < size <= _LONGEST_VALUE:
            return
        buffer = ctypes.create_string_buffer(size)
        function(*arguments, ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
        self._typed[buffer.raw[: size - 2].decode("utf-16-le", "replace")] = None
