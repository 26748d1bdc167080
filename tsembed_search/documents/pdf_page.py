"""A page of a PDF as a viewer shows it: with the values of form fields and with comments that are typed on the page.

PDFium is native code and not thread-safe, and a file may be crafted: an index reads PDFs in a decoding process.
"""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from tsembed_search.errors import LoadError

if TYPE_CHECKING:
    from PIL import Image

# PDFium marks a hyphen at a line's end with U+FFFE (or U+0002); the word goes on in the next line.
_HYPHENS: Final = re.compile("[\ufffe\x02\u00ad]\n?")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\uffff]+")
_PASSWORD_FIELD: Final = 1 << 13
# In bytes: what a person types into a field is shorter.
_LONGEST_VALUE: Final = 1 << 20


def open_pdf(file: BinaryIO) -> Any:
    """Open a PDF, with its forms, as a `pypdfium2.PdfDocument` that the caller closes.

    Raises `LoadError` for what is damaged or locked.
    """
    import pypdfium2

    # It warns on stderr of forms that it does not know; `has_unreadable_form` is how we say it.
    logging.getLogger("pypdfium2").setLevel(logging.CRITICAL)
    try:
        document = pypdfium2.PdfDocument(file)
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
