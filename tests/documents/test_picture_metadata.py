"""Pictures whose pixels are whole are shown, whatever lies beside the pixels; others are refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tsembed_search.documents.pictures import open_image
from tsembed_search.errors import LoadError
from tsembed_search.search.queries import item_of_file

MEGABYTE = 1 << 20


def drawing() -> Image.Image:
    """A picture that looks different in every position, and has some noise."""
    image = Image.new("RGB", (60, 40), (230, 230, 230))
    image.paste((200, 30, 30), (5, 5, 30, 15))
    image.paste((30, 30, 200), (40, 20, 55, 38))
    return image


def encoded(format: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or drawing()).save(file, format, **options)
    return file.getvalue()


def same(data: bytes, wanted: bytes, by: int = 0) -> bool:
    """Whether two files show the same pixels."""
    found, other = (open_image(one, None).pixels.astype(int) for one in (data, wanted))
    return found.shape == other.shape and int(np.abs(found - other).max()) <= by


# PNG


def chunk(kind: bytes, body: bytes, *, sound: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not sound))


def png(*more: bytes, after: bool = False, data: bytes | None = None) -> bytes:
    """A PNG with further chunks before its pixels, or behind them."""
    data = data or encoded("PNG")
    at = data.index(b"IEND" if after else b"IDAT") - 4
    return data[:at] + b"".join(more) + data[at:]


PACKED = zlib.compress(b"x" * 3 * MEGABYTE)
PNG_CHUNKS = {
    "a text with a wrong sum": chunk(b"tEXt", b"Author\0me", sound=False),
    "a profile with a wrong sum": chunk(b"iCCP", b"p\0\0" + zlib.compress(b"none"), sound=False),
    "EXIF with a wrong sum": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0", sound=False),
    "a gamma with a wrong sum": chunk(b"gAMA", struct.pack(">I", 45455), sound=False),
    "colours with a wrong sum": chunk(b"cHRM", bytes(32), sound=False),
    "an intent with a wrong sum": chunk(b"sRGB", b"\0", sound=False),
    "a size with a wrong sum": chunk(b"pHYs", struct.pack(">IIB", 1, 1, 1), sound=False),
    "a time with a wrong sum": chunk(b"tIME", bytes(7), sound=False),
    "a background with a wrong sum": chunk(b"bKGD", bytes(6), sound=False),
    "a private part with a wrong sum": chunk(b"prVt", b"words", sound=False),
    "an animation with a wrong sum": chunk(b"acTL", struct.pack(">II", 2, 0), sound=False),
    "a short size": chunk(b"pHYs", b"\0\0"),
    "a short gamma": chunk(b"gAMA", b"\0"),
    "a short intent": chunk(b"sRGB", b""),
    "short colours": chunk(b"cHRM", b"\0\0\0"),
    "a short profile": chunk(b"iCCP", b""),
    "a short animation": chunk(b"acTL", b"\0"),
    "a short text": chunk(b"tEXt", b""),
    "a short packed text": chunk(b"zTXt", b"a\0"),
    "an odd packing": chunk(b"zTXt", b"a\0\x07junk"),
    "a long size": chunk(b"pHYs", bytes(40)),
    "a long gamma": chunk(b"gAMA", bytes(400)),
    "a packed text": chunk(b"zTXt", b"workflow\0\0" + PACKED),
    "an international text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + PACKED),
    "a packed profile": chunk(b"iCCP", b"p\0\0" + PACKED),
    "a hundred texts": chunk(b"zTXt", b"w\0\0" + zlib.compress(b"x" * (MEGABYTE - 9))) * 100,
    "a bomb": chunk(b"zTXt", b"w\0\0" + zlib.compress(zlib.compress(bytes(200 * MEGABYTE)))),
    "junk for EXIF": chunk(b"eXIf", b"junk" * 9),
}


@pytest.mark.parametrize("name", PNG_CHUNKS)
@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "behind them"])
def test_a_png_is_shown_whatever_its_metadata(name: str, after: bool) -> None:
    assert same(png(PNG_CHUNKS[name], after=after), encoded("PNG"))


def test_what_lies_behind_the_pixels_of_a_png_may_be_cut_off() -> None:
    whole = png(chunk(b"tEXt", b"Author\0" + b"x" * 500), after=True)
    for end in (len(whole) - 12, len(whole) - 100, whole.index(b"tEXt") + 2, whole.index(b"tEXt") - 4):
        assert same(whole[:end], encoded("PNG"))


def test_what_a_png_means_by_its_transparency_and_palette_is_kept() -> None:
    broken = chunk(b"tEXt", b"Author\0me", sound=False)
    palette = drawing().quantize(4)
    for good in (
        encoded("PNG", palette, transparency=palette.getpixel((0, 0))),
        encoded("PNG", drawing(), transparency=(230, 230, 230)),
        encoded("PNG", drawing().convert("RGBA")),
        encoded("PNG", drawing().convert("1")),
        encoded("PNG", Image.fromarray(np.arange(0, 60000, 100, np.uint16).reshape(20, 30))),
    ):
        assert same(png(broken, data=good), good)


def test_a_palette_is_only_a_suggestion_where_colours_are_written_out() -> None:
    assert same(png(chunk(b"PLTE", bytes(9), sound=False)), encoded("PNG"))


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_picture_stays_upright_when_other_metadata_is_broken(orientation: int) -> None:
    exif = turned(orientation)
    bad = chunk(b"tEXt", b"Author\0me", sound=False)
    good = encoded("PNG", exif=exif)
    assert same(png(bad, data=good), good) and not same(good, encoded("PNG"))
    good = encoded("JPEG", quality=95, exif=exif)
    assert same(jpeg(segment(0xED, b"x"), segment(0xE0, b"JFIF\0"), data=good), good)


# JPEG


def segment(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(body) + 2 if length is None else length) + body


def jpeg(*more: bytes, data: bytes | None = None) -> bytes:
    """A JPEG with further segments at its head, in place of the one that says JFIF."""
    data = data or encoded("JPEG", quality=95)
    if data[2:4] == b"\xff\xe0":
        data = data[:2] + data[4 + struct.unpack(">H", data[4:6])[0] :]
    return data[:2] + b"".join(more) + data[2:]


ADOBE = b"Adobe\0\x64\0\0\0\0\1"
JPEG_SEGMENTS = {
    "a short JFIF": segment(0xE0, b"JFIF\0"),
    "no JFIF at all": segment(0xE0, b""),
    "a short Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0"),
    "an odd Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\xff\xff\xff\xff"),
    "a short Adobe": segment(0xEE, b"Adobe\0"),
    "an empty Adobe": segment(0xEE, b"Adobe"),
    "a short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "a profile in wrong order": segment(0xE2, b"ICC_PROFILE\0\x09\x01junk") * 2,
    "a short list of pictures": segment(0xE2, b"MPF\0"),
    "an odd list of pictures": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
    "FlashPix": segment(0xE2, b"FPXR\0"),
    "a short EXIF": segment(0xE1, b"Exif\0\0"),
    "EXIF of junk": segment(0xE1, b"Exif\0\0" + b"junk" * 9),
    "EXIF that turns by 77": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x4d\0\0\0\0\0\0"),
    "EXIF that turns by a word": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0"),
    "a short XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    "XMP of junk": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><" + b"\xff\0" * 99),
    "an empty comment": segment(0xFE, b""),
    "a comment of junk": segment(0xFE, bytes(range(256))),
    "a length of nothing": segment(0xED, b"", 0),
    "a length of one": segment(0xE0, b"JFIF\0\1", 1),
    "a length that leads too far": segment(0xE3, b"words", 300),
    **{f"APP{n}": segment(0xE0 + n, b"\0" * n) for n in range(16)},
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
def test_a_jpeg_is_shown_whatever_its_metadata(name: str) -> None:
    assert same(jpeg(JPEG_SEGMENTS[name]), encoded("JPEG", quality=95))
    progressive = encoded("JPEG", quality=95, progressive=True)
    assert same(jpeg(JPEG_SEGMENTS[name], segment(0xE0, b"JFIF\0"), data=progressive), progressive)


def test_four_inks_keep_their_colours_when_their_mark_is_broken() -> None:
    good = encoded("JPEG", drawing().convert("CMYK"), quality=95)
    at = good.index(b"\xff\xee")
    bare = good[:at] + good[at + 2 + struct.unpack(">H", good[at + 2 : at + 4])[0] :]
    assert b"Adobe" not in bare
    assert same(jpeg(segment(0xEE, b"Adobe\0\x64"), data=bare), good)


# Other containers


def webp(edit: Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]], **options: object) -> bytes:
    """A WebP whose chunks are edited."""
    data, at, found = encoded("WEBP", lossless=True, **options), 12, []
    while at < len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    body = b"WEBP"
    for kind, content in edit(found):
        body += kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def replaced(kind: bytes, content: bytes) -> Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]:
    return lambda found: [(name, content if name == kind else body) for name, body in found]


PROFILE = b"no profile at all"
WEBP = {
    "EXIF of junk": webp(replaced(b"EXIF", b"junk"), exif=turned(1)),
    "no EXIF where one is promised": webp(lambda found: [one for one in found if one[0] != b"EXIF"], exif=turned(1)),
    "an empty profile": webp(replaced(b"ICCP", b""), icc_profile=PROFILE),
    "no profile where one is promised": webp(lambda f: [one for one in f if one[0] != b"ICCP"], icc_profile=PROFILE),
    "a profile in a wrong place": webp(lambda f: sorted(f, key=lambda one: one[0] == b"ICCP"), icc_profile=PROFILE),
    "XMP of junk": webp(replaced(b"XMP ", b"<" * 9), xmp=b"<x/>"),
    "parts that nobody knows": webp(lambda found: [(b"JUNK", b"x"), *found, (b"MORE", b"y")], exif=turned(1)),
    "a size that is too large": webp(lambda found: found, exif=turned(1))[:-2],
}  # fmt: skip


@pytest.mark.parametrize("name", WEBP)
def test_a_webp_is_shown_whatever_its_metadata(name: str) -> None:
    assert same(WEBP[name], encoded("WEBP", lossless=True))


def test_a_webp_stays_upright_and_clear() -> None:
    good = encoded("WEBP", drawing().convert("RGBA").rotate(30), lossless=True, exif=turned(6))
    assert same(good + b"XMP \xff\xff\0\0junk", good)
    cut = webp(lambda found: found, exif=turned(6))
    assert open_image(cut, None).pixels.shape == (60, 40, 3)


def gif(*blocks: bytes) -> bytes:
    """A GIF with further blocks before its picture."""
    data = encoded("GIF", drawing().quantize(8))
    at = 13 + (3 << (data[10] & 7) + 1)
    return data[:at] + b"".join(blocks) + data[at:]


@pytest.mark.parametrize(
    "block",
    [
        b"\x21\xfe\0", b"\x21\xfe\xff" + b"x" * 255 + b"\0", b"\x21\xff\x0bNETSCAPE2.0\0",
        b"\x21\xff\x0bNETSCAPE2.0\x01\x01\0", b"\x21\xff\x02xx\0", b"\x21\xff\0", b"\x21\x01\x01x\0",
        b"\x21\xf9\x01\x00\0", b"\x21\xf9\0", b"\x21\xcc\x03abc\0",
    ],
    ids=["empty comment", "long comment", "no loop", "short loop", "odd program", "no program", "text", "short control",
         "no control", "unknown"],
)  # fmt: skip
def test_a_gif_is_shown_whatever_its_extensions(block: bytes) -> None:
    assert same(gif(block), gif())


def tiff(*entries: tuple[int, int, int, int], **options: object) -> bytes:
    """A TIFF with further tags: number, type, count, value. They sit at the end of the file."""
    data = encoded("TIFF", **options)
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    old = [data[at + 2 + 12 * n :][:12] for n in range(count)]
    old = [entry for entry in old if struct.unpack("<H", entry[:2])[0] not in [one[0] for one in entries]]
    new = sorted([*old, *(struct.pack("<HHII", *entry) for entry in entries)], key=lambda one: one[:2][::-1])
    folder = struct.pack("<H", len(new)) + b"".join(new) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + folder


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=["plain", "LZW"])
@pytest.mark.parametrize(
    "entry",
    [
        (305, 2, 1 << 30, 8), (305, 77, 4, 8), (306, 5, 3, 1 << 31), (282, 5, 1, 1 << 31), (282, 2, 4, 0),
        (296, 2, 4, 0), (34675, 7, 1 << 30, 1 << 30), (34665, 4, 1, 1 << 31), (34665, 2, 4, 0), (33723, 4, 1 << 28, 9),
        (34377, 1, 9, 1 << 31),
        (274, 2, 4, 0x20202020), (274, 3, 1, 99), (274, 5, 1, 8), (65000, 99, 9, 9), (700, 1, 1 << 30, 1 << 30),
    ],
    ids=str,
)  # fmt: skip
def test_a_tiff_is_shown_whatever_its_tags(entry: tuple[int, int, int, int], options: dict[str, object]) -> None:
    assert same(tiff(entry, **options), encoded("TIFF", **options))


def test_a_photoshop_file_is_shown_whatever_its_resources() -> None:
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 40, 60, 8, 3) + bytes(4)
    pixels = b"\0\0" + b"".join(channel.tobytes() for channel in drawing().split())
    for resources in (b"", b"junk", b"8BIM\x04\x0f\0\0\xff\xff\xff\xff", b"8BIM\x03\xed\xff"):
        data = header + struct.pack(">I", len(resources)) + resources + bytes(4) + pixels
        assert same(data, encoded("PNG"))


def test_an_avif_is_shown_whatever_its_exif() -> None:
    good = encoded("AVIF", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    at = good.index(b"MM\0*")
    for bad in (good[:at] + b"junkjunk" + good[at + 8 :], good[: at - 6] + b"\xff" * 14 + good[at + 8 :]):
        assert same(bad, good)


@pytest.mark.parametrize("part", [b"\0\0\0\x03xml ", struct.pack(">I4s", 12, b"xml ") + b"<<<<", b"\0\0\0\x08uuid"])
def test_a_jpeg_2000_is_shown_whatever_its_parts(part: bytes) -> None:
    good = encoded("JPEG2000")
    at = good.index(b"jp2c") - 4
    assert same(good[:at] + part + good[at:], good)
    assert same(good + part + b"junk", good)


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [(2, "<I", 7), (6, "<I", 1 << 31), (34, "<I", 1 << 31), (38, "<I", 1 << 31), (46, "<I", 1 << 31), (50, "<I", 999)],
    ids=["size", "reserved", "size of the pixels", "resolution", "colours", "important colours"],
)
def test_a_bmp_is_shown_whatever_its_header_says_beside_the_pixels(at: int, form: str, value: int) -> None:
    good = encoded("BMP", drawing().quantize(256))
    bad = bytearray(good)
    struct.pack_into(form, bad, at, value)
    assert same(bytes(bad), good)


def test_an_icon_is_shown_whatever_the_metadata_of_its_pictures() -> None:
    good = encoded("ICO", sizes=[(60, 40)])
    picture = png(PNG_CHUNKS["a text with a wrong sum"], data=good[good.index(b"\x89PNG") :])
    assert same(good[:14] + struct.pack("<II", len(picture), 22) + picture, good)


# What stays refused


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE"])
def test_parts_of_a_png_that_make_pixels_must_be_sound(kind: bytes) -> None:
    data = bytearray(encoded("PNG", drawing().quantize(4)))
    at = data.index(kind)
    data[at + 4 + struct.unpack_from(">I", data, at - 4)[0]] ^= 1
    with pytest.raises(LoadError, match=f"checksum of its {kind.decode()}"):
        open_image(bytes(data), None)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_pictures_that_are_cut_short_stay_refused(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    whole = encoded(format, noise)
    for data in (whole, png(PNG_CHUNKS["a short size"], data=whole) if format == "PNG" else whole):
        with pytest.raises(LoadError, match=r"cut short|damaged"):
            open_image(data[: len(data) * 2 // 3], None)


def test_queries_read_pictures_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "query.png"
    path.write_bytes(png(PNG_CHUNKS["a text with a wrong sum"]))
    image = item_of_file(path).image
    assert isinstance(image, np.ndarray) and (image == np.asarray(drawing())).all()


ASIDE = "tEXt zTXt iTXt iCCP eXIf gAMA cHRM sRGB pHYs tIME bKGD sBIT hIST sPLT acTL oFFs vpAg"
HEADS = [b"", b"JFIF\0", b"Adobe", b"Photoshop 3.0\0", b"ICC_PROFILE\0", b"MPF\0", b"JFXX\0"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ASIDE.encode().split()), st.binary(max_size=60), st.booleans(), st.booleans())
def test_junk_beside_the_pixels_never_costs_a_png(kind: bytes, body: bytes, sound: bool, after: bool) -> None:
    assert same(png(chunk(kind, body, sound=sound), after=after), encoded("PNG"))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*range(0xE0, 0xEE), 0xEF, 0xFE]), st.sampled_from(HEADS), st.binary(max_size=60))
def test_junk_beside_the_pixels_never_costs_a_jpeg(kind: int, head: bytes, body: bytes) -> None:
    assert same(jpeg(segment(kind, head + body)), encoded("JPEG", quality=95))
