"""Writes small PDFs: pages of text lines and JPEG pictures, whole or broken in chosen ways."""

from __future__ import annotations

import io
from collections.abc import Sequence
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


def pdf(pages: Sequence[Page], *, encrypted: bool = False, claim: tuple[int, int] | None = None) -> bytes:
    """A PDF. `encrypted`: with a password that nobody knows. `claim`: the size that pictures say they have."""
    objects: list[bytes] = []

    def add(body: bytes) -> int:
        objects.append(body)
        return len(objects)

    def stream(head: bytes, data: bytes) -> int:
        return add(b"<< %s /Length %d >>\nstream\n%s\nendstream" % (head, len(data), data))

    font = add(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    pages_id = len(objects) + 1 + sum(2 + len(page.pictures) for page in pages)
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
    assert add(b"") == pages_id
    objects[-1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(b"%d 0 R" % k for k in kids), len(kids))
    root = add(b"<< /Type /Catalog /Pages %d 0 R >>" % pages_id)
    trailer = b"/Root %d 0 R" % root
    if encrypted:
        lock = add(b"<< /Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P -4 >>" % (b"ab" * 32, b"cd" * 32))
        trailer += b" /Encrypt %d 0 R /ID [<00> <00>]" % lock
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, start)
    return bytes(out)


def photo(colour: tuple[int, int, int] = (200, 40, 40), size: tuple[int, int] = (200, 150)) -> Image.Image:
    """A picture that shows something: a square of one colour on another."""
    image = Image.new("RGB", size, (230, 230, 230))
    image.paste(colour, (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4))
    return image
