"""PDF: the text of each page, the pictures on it and, for models that read pages by eye, the page as a picture."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from tsembed_search.documents.document import Document, Format, Section, Sign, Unit, numbers, text_start
from tsembed_search.errors import LoadError

if TYPE_CHECKING:
    from PIL import Image

    from tsembed_search.documents.document import Pixels
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
# PDFium marks a hyphen at a line's end with U+FFFE (or U+0002); the word goes on in the next line.
_HYPHENS: Final = re.compile("[\ufffe\x02\u00ad]\n?")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\uffff]+")
_LONGEST_LABEL: Final = 24
_PASSWORD_FIELD: Final = 1 << 13
# In bytes: what a person types into a field is shorter.
_LONGEST_VALUE: Final = 1 << 20


def units(document: Document) -> Iterator[Unit]:
    """The units of each page in order; a page that is broken is left out with a note."""
    import pypdfium2
    import pypdfium2.raw as pdfium

    from tsembed_search.documents.pdf_pictures import NONSENSE
    from tsembed_search.documents.said import pdf_words

    with closing(open_pdf(document.file)) as pdf:
        if pdf.get_formtype() == pdfium.FORMTYPE_XFA_FULL:
            document.note("It is a form that only Adobe's reader can show (XFA): what is typed in it is not read.")
        total, given, broken = len(pdf), 0, []
        seen: set[bytes] = set()
        said = pdf_words(pdf) or None
        for index in range(total):
            try:
                with closing(PdfSheet(pdf, index)) as sheet:
                    for unit in _page_units(sheet, index + 1, _label(pdf, index), document, seen):
                        given += 1
                        yield replace(unit, title=said)
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


def _label(pdf: Any, index: int) -> str | None:
    """The name of a page, such as iv, where it is another than its number."""
    # Damage there is none of the page.
    with suppress(ValueError):
        label = " ".join(str(pdf.get_page_label(index)).split())
        label = label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
        return label if label not in ("", str(index + 1)) else None
    return None


def _page_units(
    sheet: PdfSheet, number: int, label: str | None, document: Document, seen: set[bytes]
) -> Iterator[Unit]:
    """Text chunks, then pictures, which go on with the chunks' numbers, then the page itself."""
    from tsembed_search.documents.chunking import paragraphs
    from tsembed_search.documents.pdf_pictures import pictures
    from tsembed_search.documents.pictures import open_image

    spec = document.image_spec
    drawn = open_image(_drawn(sheet, spec), spec) if document.pages else None
    chunk = yield from document.text_units(paragraphs([sheet.text()]), page=number, page_label=label)
    for image, width, height in pictures(sheet.content, number, document, seen):
        pixels = open_image(image, spec, memory=document.memory).pixels
        if int(pixels.max()) - int(pixels.min()) >= _LEAST_CONTRAST:
            yield Unit("image", number, chunk, pixels=pixels, width=width, height=height, page_label=label)
            chunk += 1
    if drawn is not None:
        yield Unit(
            "page", number, pixels=drawn.pixels, width=drawn.width, height=drawn.height, page_label=label
        )  # fmt: skip


def sections(document: Document) -> Iterator[Section]:
    """The pages that can be read, under the bookmarks that lead to them; the first one under the title, too."""
    import pypdfium2

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
                with closing(PdfSheet(pdf, index)) as sheet:
                    text = sheet.text()
                yield Section(tuple(" ".join(one.split()) for one in headings[index]), text, index + 1)


def text(file: BinaryIO, page: int | None) -> Iterator[str]:
    """The words of a page; by default of the first."""
    import pypdfium2

    from tsembed_search.documents.pdf_pictures import NONSENSE

    number = page or 1
    with closing(open_pdf(file)) as pdf:
        if number > len(pdf):
            raise LoadError(f"There is no page {number}.", f"The pages are 1 to {len(pdf)}.")
        try:
            with closing(PdfSheet(pdf, number - 1)) as sheet:
                yield sheet.text()
        except (pypdfium2.PdfiumError, *NONSENSE) as error:
            raise LoadError(f"Page {number} cannot be read: it is damaged.") from error


def preview(file: BinaryIO, page: int) -> Pixels:
    """A page as a viewer shows it, small."""
    import numpy as np
    import pypdfium2

    from tsembed_search.documents.pdf_pictures import NONSENSE

    try:
        with closing(open_pdf(file)) as pdf, closing(PdfSheet(pdf, page - 1)) as sheet:
            return np.array(sheet.drawn(_PREVIEW / max(*sheet.size, 1e-3)).convert("RGB"))
    except (pypdfium2.PdfiumError, IndexError, *NONSENSE) as error:
        raise LoadError(f"Page {page} cannot be drawn.") from error


def _drawn(sheet: PdfSheet, spec: ImageSpec) -> Image.Image:
    """The page at the resolution that the model wants, whatever size it says it has."""
    from tsembed_search.documents.pictures import content_size

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


def open_pdf(file: BinaryIO) -> Any:
    """Open a PDF, with its forms, as a `pypdfium2.PdfDocument` that the caller closes.

    Raises `LoadError` for what is damaged or locked.
    """
    import logging

    import pypdfium2

    # It warns on stderr of forms that it does not know; `units` says so itself.
    logging.getLogger("pypdfium2").setLevel(logging.CRITICAL)
    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        reason = LoadError("The PDF is damaged, or it is none.", "Open it in a viewer and save it again.")
        if "assword" in str(error):
            reason = LoadError("The PDF is protected by a password.", "Save a copy without one.")
        elif "ecurity" in str(error):
            reason = LoadError("The PDF is encrypted in a way that cannot be read.", "Save a copy without encryption.")
        raise reason from error
    # Without its forms the rest can still be read.
    with suppress(pypdfium2.PdfiumError):
        document.init_forms()
    return document


class PdfSheet:
    """Page `index` of a PDF, from 0. Raises `pypdfium2.PdfiumError` for one that is broken.

    `drawn` comes before `content` and `text`, which put the annotations into the page for good.
    """

    def __init__(self, document: Any, index: int) -> None:
        self._document = document
        self._index = index
        self._page = document[index]
        self._typed: dict[str, None] = {}
        self._has_annotations = False
        if self._remove(self._is_unseen):
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

        if self._has_annotations:
            self._has_annotations = False
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

    def _is_unseen(self, annotation: Any, kind: int) -> bool:
        """Return whether no viewer shows an annotation. Notes what was typed into one that is shown."""
        import pypdfium2.raw as pdfium

        if kind not in (pdfium.FPDF_ANNOT_LINK, pdfium.FPDF_ANNOT_POPUP):
            self._has_annotations = True
        if pdfium.FPDFAnnot_GetFlags(annotation) & (pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW):
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

    def _remove(self, unwanted: Callable[[Any, int], bool]) -> bool:
        """Remove the annotations for which `unwanted(annotation, subtype)` holds; return whether there were any."""
        import pypdfium2.raw as pdfium

        found = []
        for index in range(pdfium.FPDFPage_GetAnnotCount(self._page)):
            if annotation := pdfium.FPDFPage_GetAnnot(self._page, index):
                if unwanted(annotation, pdfium.FPDFAnnot_GetSubtype(annotation)):
                    found.append(index)
                pdfium.FPDFPage_CloseAnnot(annotation)
        for index in reversed(found):
            pdfium.FPDFPage_RemoveAnnot(self._page, index)
        return bool(found)

    def _note(self, function: Any, *arguments: Any) -> None:
        """Keep what a function of PDFium's says, which fills a buffer with UTF-16."""
        import ctypes

        import pypdfium2.raw as pdfium

        size = function(*arguments, None, 0)
        if not 2 < size <= _LONGEST_VALUE:
            return
        buffer = ctypes.create_string_buffer(size)
        function(*arguments, ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
        self._typed[buffer.raw[: size - 2].decode("utf-16-le", "replace")] = None


FORMAT = Format(
    "pdf",
    3,
    frozenset({"pdf"}),
    units,
    pages=True,
    sections=sections,
    preview=preview,
    judge=_judge,
    text=text,
)
