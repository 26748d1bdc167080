"""Writes small PDFs: pages of text lines and JPEG pictures, whole or broken in chosen ways."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Page:
    """Lines of text and pictures; `size` in points."""

    lines: Sequence[str] = ()
    pictures: Sequence[Image.Image] = ()
    size: tuple[float, float] = (595, 842)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()


class Body:
    """The objects of a PDF while it is being written, numbered from 1."""

    def __init__(self) -> None:
        self._objects: list[bytes] = []

    def add(self, body: bytes = b"") -> int:
        """Add an object and return its number. An empty one keeps its number for `put`."""
        self._objects.append(body)
        return len(self._objects)

    def put(self, number: int, body: bytes) -> None:
        self._objects[number - 1] = body

    def stream(self, head: bytes, data: bytes) -> int:
        return self.add(b"<< %s /Length %d >>\nstream\n%s\nendstream" % (head, len(data), data))

    def written(self, trailer: bytes) -> bytes:
        """The file. `trailer`: what the trailer says beside its size."""
        out = bytearray(b"%PDF-1.7\n")
        offsets = []
        for number, body in enumerate(self._objects, 1):
            offsets.append(len(out))
            out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
        start = len(out)
        out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(self._objects) + 1)
        out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
        out += b"trailer\n<< /Size %d %s >>\n" % (len(self._objects) + 1, trailer)
        return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"


@dataclass(frozen=True)
class Stream:
    """An XObject: an image or a form. `{NAME}` in the head becomes the reference of another XObject of the page."""

    head: bytes
    data: bytes


def pixels_of(image: Image.Image, head: bytes = b"") -> Stream:
    """A picture of 1 bit or 8 bits of grey, or of RGB, as an XObject. `head`: further entries, which come first."""
    space = b"DeviceRGB" if image.mode == "RGB" else b"DeviceGray"
    facts = b"/Subtype /Image /Width %d /Height %d /BitsPerComponent %d" % (*image.size, 1 if image.mode == "1" else 8)
    if b"/ImageMask" not in head:
        facts += b" /ColorSpace /%s" % space
    return Stream(head + facts + b" /Filter /FlateDecode", zlib.compress(image.tobytes()))


@dataclass(frozen=True)
class Annotation:
    """An annotation as its dictionary says it; `looks`: the content of its appearance, if it has one.

    `field`: it is a widget, a field of the form by itself.
    """

    entries: bytes
    looks: bytes | None = None
    rect: tuple[float, float, float, float] = (120, 195, 370, 215)
    field: bool = True


def sheet(
    content: bytes = b"",
    parts: Mapping[str, Stream] | None = None,
    annotations: Sequence[Annotation] = (),
    *,
    box: bytes = b"0 0 400 300",
    page: bytes = b"",
    form: bytes = b"",
    catalogue: bytes = b"",
) -> bytes:
    """A PDF of one page that is drawn by `content` from `parts`; `page`, `form`, `catalogue`: further entries."""
    body = Body()
    root, pages, leaf, font = body.add(), body.add(), body.add(), body.add(FONT)
    numbers = {name: body.add() for name in parts or {}}
    for name, part in (parts or {}).items():
        head = part.head
        for other, number in numbers.items():
            head = head.replace(b"{%s}" % other.encode(), b"%d 0 R" % number)
        body.put(
            numbers[name],
            b"<< /Type /XObject %s /Length %d >>\nstream\n%s\nendstream"
            % (
                head,
                len(part.data),
                part.data,
            ),
        )
    resources = b"<< /Font << /F1 %d 0 R >> /XObject << %s >> >>" % (
        font,
        b" ".join(b"/%s %d 0 R" % (name.encode(), number) for name, number in numbers.items()),
    )
    widgets, all_annotations = [], []
    for one in annotations:
        left, bottom, right, top = one.rect
        entries = b"/Type /Annot /Rect [%g %g %g %g] %s" % (*one.rect, one.entries)
        if one.looks is not None:
            look = b"/Type /XObject /Subtype /Form /BBox [0 0 %g %g] /Resources %s" % (
                right - left,
                top - bottom,
                resources,
            )
            entries += b" /AP << /N %d 0 R >>" % body.stream(look, one.looks)
        number = body.add(b"<< %s >>" % entries)
        all_annotations.append(number)
        if one.field and b"/Widget" in one.entries:
            widgets.append(number)
    drawing = body.stream(b"", content)
    listed = [b" ".join(b"%d 0 R" % number for number in numbers_) for numbers_ in (all_annotations, widgets)]
    body.put(
        leaf,
        b"<< /Type /Page /Parent %d 0 R /MediaBox [%s] /Resources %s /Contents %d 0 R /Annots [%s] %s >>"
        % (
            pages,
            box,
            resources,
            drawing,
            listed[0],
            page,
        ),
    )
    body.put(pages, b"<< /Type /Pages /Kids [%d 0 R] /Count 1 >>" % leaf)
    for name, number in numbers.items():
        form = form.replace(b"{%s}" % name.encode(), b"%d 0 R" % number)
    acro = b"/AcroForm << /Fields [%s] /DA (/F1 12 Tf 0 g) /DR << /Font << /F1 %d 0 R >> >> %s >>" % (
        listed[1],
        font,
        form,
    )
    body.put(root, b"<< /Type /Catalog /Pages %d 0 R %s %s >>" % (pages, acro if widgets or form else b"", catalogue))
    return body.written(b"/Root %d 0 R" % root)


def pdf(
    pages: Sequence[Page], *, encrypted: bool = False, claim: tuple[int, int] | None = None, title: str = ""
) -> bytes:
    """A PDF. `encrypted`: with a password that nobody knows. `claim`: the size that pictures say they have."""
    body = Body()
    add, stream = body.add, body.stream
    font = add(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    pages_id = font + 1 + sum(2 + len(page.pictures) for page in pages)
    kids: list[int] = []
    for page in pages:
        names, drawing = [], [b"BT /F0 12 Tf 14 TL 40 %d Td" % (page.size[1] - 50)]
        for line in page.lines:
            escaped = line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)").encode("latin-1")
            drawing.append(b"(%s) Tj T*" % escaped)
        drawing.append(b"ET")
        for number, picture in enumerate(page.pictures):
            width, height = claim or picture.size
            head = (
                b"/Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceRGB /BitsPerComponent 8 "
                b"/Filter /DCTDecode"
            )
            names.append(b"/I%d %d 0 R" % (number, stream(head % (width, height), jpeg(picture))))
            drawing.append(b"q 200 0 0 150 40 %d cm /I%d Do Q" % (100 + 160 * number, number))
        content = stream(b"", b"\n".join(drawing))
        resources = b"<< /Font << /F0 %d 0 R >> /XObject << %s >> >>" % (font, b" ".join(names))
        box = b"%g %g" % page.size
        kids.append(
            add(
                b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 %s] /Resources %s /Contents %d 0 R >>"
                % (pages_id, box, resources, content)
            )
        )
    assert add() == pages_id
    tree = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(b"%d 0 R" % k for k in kids), len(kids))
    body.put(pages_id, tree)
    root = add(b"<< /Type /Catalog /Pages %d 0 R >>" % pages_id)
    trailer = b"/Root %d 0 R" % root
    if title:
        trailer += b" /Info %d 0 R" % body.add(b"<< /Title (%s) >>" % title.encode("ascii"))
    if encrypted:
        lock = add(b"<< /Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P -4 >>" % (b"ab" * 32, b"cd" * 32))
        trailer += b" /Encrypt %d 0 R /ID [<00> <00>]" % lock
    return body.written(trailer)


def photo(colour: tuple[int, int, int] = (200, 40, 40), size: tuple[int, int] = (200, 150)) -> Image.Image:
    """A picture that shows something: a square of one colour on another."""
    image = Image.new("RGB", size, (230, 230, 230))
    image.paste(colour, (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4))
    return image
