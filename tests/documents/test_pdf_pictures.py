"""Pictures on pages of a PDF look as the viewer shows them: scans of all kinds, turned, mirrored, cut, in pieces."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageOps

from helpers.reading import looks_like, pictures, read, words
from helpers.tiny_pdf import Stream, pixels_of, sheet
from tsembed_search.documents.formats.pdf import FORMAT as PDF
from tsembed_search.errors import LoadError

WIDE, HIGH = 480, 320
TEXT = b"BT /F1 12 Tf 40 270 Td (Words) Tj ET "


def drawing() -> Image.Image:
    """A page of ink: black shapes on white, the same in no other position."""
    image = Image.new("L", (WIDE, HIGH), 255)
    pen = ImageDraw.Draw(image)
    pen.rectangle((30, 30, 200, 120), fill=0)
    pen.ellipse((260, 60, 440, 240), outline=0, width=12)
    pen.line((40, 300, 220, 160), fill=0, width=14)
    pen.polygon([(300, 310), (460, 310), (460, 270)], fill=0)
    return image


def photo() -> Image.Image:
    """A picture in colours, the same in no other position."""
    grey = drawing().resize((240, 160))
    return Image.merge("RGB", (grey, ImageOps.invert(grey), Image.linear_gradient("L").resize(grey.size)))


INK, PHOTO = drawing(), photo()
BITS = INK.convert("1", dither=Image.Dither.NONE)
PLACE = b"q 300 0 0 200 50 40 cm /I0 Do Q"


def tiff_strip(image: Image.Image, compression: str) -> bytes:
    """A fax, as a TIFF holds it in one strip. To a fax, 0 is white; to Pillow, black."""
    file = io.BytesIO()
    ImageChops.invert(image).save(file, "TIFF", compression=compression, tiffinfo={278: image.height})
    with Image.open(file) as saved:
        (start,), (length,) = saved.tag_v2[273], saved.tag_v2[279]
    return file.getvalue()[start : start + length]


def fax(group: int) -> Stream:
    head = b"/Subtype /Image /Width %d /Height %d /BitsPerComponent 1 /ColorSpace /DeviceGray /Filter /CCITTFaxDecode "
    parms = b"/DecodeParms << /K %d /Columns %d /Rows %d /BlackIs1 false >>" % (-1 if group == 4 else 0, WIDE, HIGH)
    data = tiff_strip(BITS, f"group{group}")
    return Stream(head % (WIDE, HIGH) + parms, data)


def jbig2() -> Stream:
    """One region, coded as a fax of group 4."""
    info = struct.pack(">IIIIBH", WIDE, HIGH, 0, 0, 0, 0)
    region = struct.pack(">IIIIB", WIDE, HIGH, 0, 0, 0) + b"\x01" + tiff_strip(BITS, "group4")
    segments = struct.pack(">IBBBI", 0, 48, 0, 1, len(info)) + info
    segments += struct.pack(">IBBBI", 1, 38, 0, 1, len(region)) + region
    head = b"/Subtype /Image /Width %d /Height %d /BitsPerComponent 1 /ColorSpace /DeviceGray /Filter /JBIG2Decode"
    return Stream(head % (WIDE, HIGH), segments)


def pieces(image: Image.Image, columns: int, rows: int, head: bytes = b"") -> tuple[bytes, dict[str, Stream]]:
    """A picture cut into tiles: what draws them, and they."""
    wide, high = image.width // columns, image.height // rows
    content, parts = [], {}
    for row in range(rows):
        for column in range(columns):
            name = f"I{row * columns + column}"
            tile = image.crop((column * wide, row * high, (column + 1) * wide, (row + 1) * high))
            parts[name] = pixels_of(tile, head)
            across, along = 300 / columns, 200 / rows
            place = across, along, 50 + column * across, 240 - (row + 1) * along
            content.append(b"q %g 0 0 %g %g %g cm /%s Do Q" % (*place, name.encode()))
    return b"\n".join(content), parts


INVERTED = b"/Decode [1 0] "
MASK = b"/ImageMask true "
PAPER = Image.new("RGB", (60, 40), (235, 225, 200))

SCANS: dict[str, tuple[bytes, dict[str, Stream]]] = {
    "grey": (PLACE, {"I0": pixels_of(INK)}),
    "one bit": (PLACE, {"I0": pixels_of(BITS)}),
    "one bit, the other way round": (PLACE, {"I0": pixels_of(ImageChops.invert(BITS), INVERTED)}),
    "a palette of two": (PLACE, {"I0": Stream(
        pixels_of(BITS).head.replace(b"/DeviceGray", b"[/Indexed /DeviceGray 1 <00ff>]"), pixels_of(BITS).data
    )}),
    "a fax of group 3": (PLACE, {"I0": fax(3)}),
    "a fax of group 4": (PLACE, {"I0": fax(4)}),
    "JBIG2": (PLACE, {"I0": jbig2()}),
    "a stencil": (b"0 g " + PLACE, {"I0": pixels_of(BITS, MASK)}),
    "a stencil, the other way round": (b"0 g " + PLACE, {"I0": pixels_of(ImageChops.invert(BITS), MASK + INVERTED)}),
    "a white stencil on black": (
        b"0 g 50 40 300 200 re f 1 g " + PLACE, {"I0": pixels_of(ImageChops.invert(BITS), MASK)},
    ),
    "strips": pieces(INK, 1, 16),
    "strips of one bit": pieces(BITS, 1, 10),
    "strips of one bit, the other way round": pieces(ImageChops.invert(BITS), 1, 10, INVERTED),
    "strips of stencils": pieces(BITS, 1, 10, MASK),
    "columns": pieces(INK, 12, 1),
    "tiles": pieces(INK, 8, 5),
    "large tiles": pieces(INK, 2, 2),
    "two halves": pieces(INK, 1, 2),
    "ink on paper": (
        b"1 0 0 1 0 0 cm q 300 0 0 200 50 40 cm /I1 Do Q 0 g " + PLACE,
        {"I0": pixels_of(BITS, MASK), "I1": pixels_of(Image.new("RGB", (60, 40), "white"))},
    ),
    "a colour behind a mask on paper": (
        b"q 300 0 0 200 50 40 cm /I1 Do Q " + PLACE,
        {
            "I0": pixels_of(Image.new("RGB", (90, 80), "black"), b"/Mask {M} "),
            "M": pixels_of(BITS, MASK),
            "I1": pixels_of(Image.new("RGB", (240, 160), "white")),
        },
    ),
    "a colour behind a soft mask on paper": (
        b"q 300 0 0 200 50 40 cm /I1 Do Q " + PLACE,
        {
            "I0": pixels_of(Image.new("RGB", (90, 80), "black"), b"/SMask {M} "),
            "M": pixels_of(ImageOps.invert(INK)),
            "I1": pixels_of(Image.new("RGB", (240, 160), "white")),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCANS)
def test_a_scan_is_one_picture(name: str) -> None:
    content, parts = SCANS[name]
    found = pictures(read(PDF, sheet(content, parts)))
    assert len(found) == 1 and looks_like(found[0], INK)
    units = read(PDF, sheet(TEXT + content, parts))
    assert [unit.kind for unit in units] == ["text", "image"] and units[1].chunk == 1


def test_a_stencil_has_its_colour_on_its_paper() -> None:
    content = b"q 300 0 0 200 50 40 cm /I1 Do Q 0.8 0 0 rg " + PLACE
    (found,) = pictures(read(PDF, sheet(content, {"I0": pixels_of(BITS, MASK), "I1": pixels_of(PAPER)})))
    wanted = Image.new("RGB", BITS.size, (235, 225, 200))
    wanted.paste((204, 0, 0), mask=ImageChops.invert(INK))
    assert looks_like(found, wanted)


def test_letters_of_ink_that_cover_a_part_belong_to_their_paper() -> None:
    paper = Image.new("RGB", (300, 200), "white")
    letters = BITS.crop((0, 0, 240, 320))
    content = b"q 300 0 0 200 50 40 cm /I1 Do Q 0 g q 150 0 0 200 50 40 cm /I0 Do Q"
    wanted = Image.new("L", INK.size, 255)
    wanted.paste(INK.crop((0, 0, 240, 320)), (0, 0))
    (found,) = pictures(read(PDF, sheet(content, {"I0": pixels_of(letters, MASK), "I1": pixels_of(paper)})))
    assert looks_like(found, wanted)


def test_the_words_behind_a_scan_are_kept_and_not_drawn() -> None:
    hidden = b"BT 3 Tr /F1 30 Tf 60 120 Td (Badger sett) Tj ET "
    for content, parts in (SCANS["one bit"], SCANS["strips"], SCANS["grey"]):
        units = read(PDF, sheet(content + b" " + hidden, parts))
        assert words(units) == "Badger sett"
        assert [looks_like(one, INK) for one in pictures(units)] == [True]


def test_a_scan_with_a_small_logo_on_it() -> None:
    logo = pixels_of(Image.new("RGB", (40, 40), "red"))
    content, parts = SCANS["one bit"]
    (found,) = pictures(read(PDF, sheet(content + b" q 9 0 0 9 340 230 cm /Logo Do Q", {**parts, "Logo": logo})))
    assert looks_like(found, INK)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        pieces(Image.linear_gradient("L").resize((480, 4)), 1, 1),
        pieces(Image.linear_gradient("L").resize((20, 20)), 1, 1),
        (b"q 20 0 0 20 50 40 cm /I0 Do Q", {"I0": pixels_of(BITS.resize((100, 100)))}),
        (b"q 20 0 0 20 50 40 cm /I0 Do Q", {"I0": pixels_of(BITS.resize((100, 100)), MASK)}),
        (b"q 300 0 0 2 50 40 cm /I0 Do Q", {"I0": pixels_of(INK)}),
        (PLACE, {"I0": pixels_of(Image.new("1", (WIDE, HIGH), 1))}),
        (PLACE, {"I0": pixels_of(Image.new("1", (WIDE, HIGH), 0), MASK)}),
        # A page of rules, one below the other.
        pieces(INK.resize((480, 160)).crop((0, 0, 480, 40)), 1, 2),
    ],
    ids=["thin", "icon", "icon of bits", "stencil icon", "flat as a rule", "blank", "filled", "two strips"],
)  # fmt: skip
def test_rules_icons_and_masks_stay_out(content: bytes, parts: dict[str, Stream]) -> None:
    if b"300 0 0 100" in content:
        content = content.replace(b"300 0 0 100", b"300 0 0 12").replace(b"50 140", b"50 52")
    assert [unit.kind for unit in read(PDF, sheet(TEXT + content, parts))] == ["text"]


def test_photos_that_touch_stay_photos() -> None:
    other = ImageOps.invert(PHOTO)
    content = b"q 90 0 0 60 50 40 cm /I0 Do Q q 90 0 0 60 140 40 cm /I1 Do Q"
    found = pictures(read(PDF, sheet(content, {"I0": pixels_of(PHOTO), "I1": pixels_of(other)})))
    assert [looks_like(found[0], PHOTO), looks_like(found[1], other)] == [True, True]


@pytest.mark.parametrize("cut", [(1, 4), (4, 1), (2, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("size", [b"0.2 0 0 0.2 0 0", b"1.2 0 0 1.2 0 0"], ids=["small", "large"])
def test_a_scan_that_covers_little_of_the_page_is_one_picture_too(cut: tuple[int, int], size: bytes) -> None:
    content, parts = pieces(INK, *cut)
    page = b"q %s cm %s Q" % (size, content.replace(b"q ", b"q 1 0 0 1 0 0 cm "))
    (found,) = pictures(read(PDF, sheet(page, parts, box=b"0 0 595 842")))
    assert looks_like(found, INK)


def test_a_photo_on_a_background_stays_a_photo() -> None:
    back = Image.linear_gradient("L").resize((400, 300))
    content = b"q 400 0 0 300 0 0 cm /I1 Do Q q 150 0 0 100 50 40 cm /I0 Do Q"
    found = pictures(read(PDF, sheet(content, {"I0": pixels_of(PHOTO), "I1": pixels_of(back)})))
    assert looks_like(found[0], back) and looks_like(found[1], PHOTO) and len(found) == 2


def form(matrix: bytes = b"1 0 0 1 0 0", box: bytes = b"-1000 -1000 2000 2000", draws: bytes = b"/I0 Do") -> Stream:
    inside = b"/Resources << /XObject << /I0 {I0} >> >>"
    return Stream(b"/Subtype /Form /BBox [%s] /Matrix [%s] %s" % (box, matrix, inside), draws)


TURNED = PHOTO.transpose(Image.Transpose.ROTATE_90)
MIRRORED = ImageOps.mirror(PHOTO)
UPRIGHT = b"q 240 0 0 160 100 20 cm /I0 Do Q"
# What undoes a quarter turn to the left: it turns to the right.
QUARTER = b"q 0 -160 240 0 100 270 cm "

TURNS: dict[str, bytes] = {
    "as it is": sheet(UPRIGHT, {"I0": pixels_of(PHOTO)}),
    "a page turned by 90": sheet(b"q 160 0 0 240 100 20 cm /I0 Do Q", {"I0": pixels_of(TURNED)}, page=b"/Rotate 90"),
    "a page turned by 180": sheet(
        UPRIGHT, {"I0": pixels_of(PHOTO.transpose(Image.Transpose.ROTATE_180))}, page=b"/Rotate 180"
    ),
    "a page turned by 270": sheet(
        b"q 160 0 0 240 100 20 cm /I0 Do Q",
        {"I0": pixels_of(PHOTO.transpose(Image.Transpose.ROTATE_270))},
        page=b"/Rotate 270",
    ),
    "turned by its matrix": sheet(QUARTER + b"/I0 Do Q", {"I0": pixels_of(TURNED)}),
    "in a turned form": sheet(QUARTER + b"/X0 Do Q", {"I0": pixels_of(TURNED), "X0": form()}),
    "in a form with a turned matrix of its own": sheet(
        b"q 1 0 0 1 100 270 cm /X0 Do Q", {"I0": pixels_of(TURNED), "X0": form(b"0 -160 240 0 0 0")}
    ),
    "in a form in a form": sheet(
        b"q 0 -1 1 0 100 270 cm /X1 Do Q",
        {
            "I0": pixels_of(TURNED),
            "X0": form(),
            "X1": Stream(
                b"/Subtype /Form /BBox [0 0 999 999] /Resources << /XObject << /X0 {X0} >> >>",
                b"q 160 0 0 240 0 0 cm /X0 Do Q",
            ),
        },
    ),
    "in a turned form on a turned page": sheet(
        b"q 0 -240 160 0 100 270 cm /X0 Do Q",
        {"I0": pixels_of(PHOTO.transpose(Image.Transpose.ROTATE_180)), "X0": form()},
        page=b"/Rotate 90",
    ),
    "mirrored": sheet(b"q -240 0 0 160 340 20 cm /I0 Do Q", {"I0": pixels_of(MIRRORED)}),
    "upside down": sheet(b"q 240 0 0 -160 100 180 cm /I0 Do Q", {"I0": pixels_of(ImageOps.flip(PHOTO))}),
    "mirrored in a form": sheet(
        b"q -1 0 0 1 340 20 cm /X0 Do Q", {"I0": pixels_of(MIRRORED), "X0": form(draws=b"240 0 0 160 0 0 cm /I0 Do")}
    ),
    "squashed in the file": sheet(UPRIGHT, {"I0": pixels_of(PHOTO.resize((240, 80)))}),
    "cut by a clip": sheet(
        b"q 100 20 240 160 re W n 480 0 0 160 100 20 cm /I0 Do Q",
        {"I0": pixels_of(ImageOps.expand(PHOTO, (0, 0, 240, 0), "red"))},
    ),
    "cut by the box of a form": sheet(
        b"q 1 0 0 1 100 20 cm /X0 Do Q",
        {
            "I0": pixels_of(ImageOps.expand(PHOTO, (240, 0, 0, 0), "red")),
            "X0": form(box=b"0 0 240 160", draws=b"480 0 0 160 -240 0 cm /I0 Do"),
        },
    ),
    "cut by the page": sheet(
        b"q 480 0 0 320 100 -140 cm /I0 Do Q",
        {"I0": pixels_of(ImageOps.expand(PHOTO, (0, 0, 240, 160), "red"))},
        page=b"/CropBox [0 20 340 300]",
    ),
    "on a page whose corner lies elsewhere": sheet(
        b"q 160 0 0 240 600 520 cm /I0 Do Q",
        {"I0": pixels_of(TURNED)},
        box=b"500 500 900 800",
        page=b"/Rotate 90",
    ),
    "on a page with a unit of its own": sheet(UPRIGHT, {"I0": pixels_of(PHOTO)}, page=b"/UserUnit 3"),
}


@pytest.mark.parametrize("name", TURNS)
def test_a_picture_looks_as_the_viewer_shows_it(name: str) -> None:
    units = read(PDF, TURNS[name])
    (found,) = pictures(units)
    assert looks_like(found, PHOTO)
    assert abs((units[0].width or 0) / (units[0].height or 1) - 1.5) < 0.02


@pytest.mark.parametrize(
    "page", [b"/Rotate 90", b"/Rotate 180", b"/Rotate 270", b"/UserUnit 2", b"/CropBox [30 30 390 250]"]
)
def test_pieces_are_put_together_on_any_page(page: bytes) -> None:
    content, parts = pieces(INK, 1, 16)
    turns = {b"90": Image.Transpose.ROTATE_270, b"180": Image.Transpose.ROTATE_180, b"270": Image.Transpose.ROTATE_90}
    turn = turns.get(page.split()[1])
    (found,) = pictures(read(PDF, sheet(content, parts, page=page)))
    assert looks_like(found, INK if turn is None else INK.transpose(turn))


def test_a_picture_at_an_angle_is_upright_in_its_frame() -> None:
    content = b"q 150 150 -100 100 180 20 cm /I0 Do Q"
    (found,) = pictures(read(PDF, sheet(content, {"I0": pixels_of(Image.new("RGB", (240, 160), "red"))})))
    middle, corner = found[48, 48].astype(int), found[2, 2].astype(int)
    assert np.abs(middle - (255, 0, 0)).max() < 20 and corner.min() > 240


@pytest.mark.parametrize(
    "content",
    [b"q 240 0 0 160 900 20 cm /I0 Do Q", b"q 10 10 20 20 re W n 240 0 0 160 100 80 cm /I0 Do Q"],
    ids=["off the page", "clipped away"],
)
def test_a_picture_that_nobody_sees_is_none(content: bytes) -> None:
    with pytest.raises(LoadError, match="no text and no picture"):
        read(PDF, sheet(content, {"I0": pixels_of(PHOTO)}))


def test_a_page_of_thousands_of_pieces_is_one_picture() -> None:
    content, parts = pieces(INK.resize((240, 240)), 60, 60)
    (found,) = pictures(read(PDF, sheet(content, parts)))
    assert looks_like(found, INK)


def test_a_page_of_thousands_of_icons_has_no_picture() -> None:
    icon = pixels_of(Image.linear_gradient("L").resize((16, 16)))
    content = b" ".join(b"q 4 0 0 4 %d %d cm /I0 Do Q" % (n % 60 * 6, n // 60 * 6) for n in range(1500))
    assert [unit.kind for unit in read(PDF, sheet(TEXT + content, {"I0": icon}))] == ["text"]


def test_pieces_that_would_explode_are_noted() -> None:
    notes: list[str] = []
    content, parts = SCANS["one bit"]
    huge = Stream(parts["I0"].head.replace(b"/Width 480 /Height 320", b"/Width 48000 /Height 32000"), parts["I0"].data)
    assert [unit.kind for unit in read(PDF, sheet(TEXT + content, {"I0": huge}), notes=notes)] == ["text"]
    assert notes == ["A picture of 48,000 x 32,000 pixels on page 1 is too large."]
