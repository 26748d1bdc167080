"""Writes a corpus of bad files: more than sixty kinds, each with what the indexer must say about it."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from helpers.tiny_pdf import Page, jpeg, pdf, photo

READ: Final = ""
"""Odd, but readable: it must be indexed."""


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    check = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png(width: int, height: int, *, data: bytes | None = None, extra: bytes = b"", crc: int | None = None) -> bytes:
    """A PNG of zeros, or with other data than its header says."""
    if data is None:
        data = packed_zeros(height * (width * 3 + 1))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), crc)
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def packed_zeros(size: int, byte: bytes = b"\0") -> bytes:
    """About that many equal bytes in zlib's format (without a valid checksum at the end), quickly made."""
    squeeze = zlib.compressobj(9)
    head = squeeze.compress(byte * (1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    block = squeeze.compress(byte * (1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size >> 20) + squeeze.flush()


def webp_bomb() -> bytes:
    """Its header claims the largest size that the format knows."""
    data = bytearray(encoded("WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    bits = int.from_bytes(data[at : at + 4], "little")
    data[at : at + 4] = ((bits & ~0xFFFFFFF) | 16382 | 16382 << 14).to_bytes(4, "little")
    return bytes(data)


def encoded(format: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or photo()).save(file, format, **options)
    return file.getvalue()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def tiff(width: int, height: int, next_directory: int = 0) -> bytes:
    """An uncompressed grey TIFF whose header claims a size; its list of directories may lead back to itself."""
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 16)]
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<2sHI", b"II", 42, 24) + bytes(16) + body + struct.pack("<I", next_directory)


def gif_bomb() -> bytes:
    data = bytearray(encoded("GIF"))
    data[6:10] = struct.pack("<HH", 65535, 65535)
    at = data.index(b"\x2c")
    data[at + 5 : at + 9] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def bmp_bomb() -> bytes:
    data = bytearray(encoded("BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(data)


def scribbled(data: bytes) -> bytes:
    bad = bytearray(data)
    for place in range(len(bad) // 3, len(bad) * 2 // 3, 7):
        bad[place] ^= 0x5A
    return bytes(bad)


def animation(frames: int) -> bytes:
    pictures = [Image.new("RGB", (60, 60), (n % 256, 90, 200)) for n in range(frames)]
    return encoded("GIF", pictures[0], save_all=True, append_images=pictures[1:])


def pdf_with(old: bytes, new: bytes) -> bytes:
    good = pdf([Page(["Some words on a page."])])
    assert old in good
    return good.replace(old, new)


def pdf_bomb() -> bytes:
    """A page whose drawing unpacks to a gigabyte of blanks."""
    data = packed_zeros(1 << 30, b" ")
    stream = b"<< /Filter /FlateDecode /Length %d >>\nstream\n" % len(data) + data + b"\nendstream"
    good = pdf([Page()])
    at = good.index(b"<<  /Length")
    return good[:at] + stream + good[good.index(b"endstream", at) + len(b"endstream") :]


RANDOM = np.random.default_rng(7).integers(0, 256, 40_000, np.uint8).tobytes()
WORDS = b"These are good words. "
DAMAGED = "damaged|cut short"

KINDS: Final[dict[str, tuple[bytes | Callable[[], bytes], str]]] = {
    # Pictures.
    "empty.jpg": (b"", "is empty"),
    "empty.png": (b"", "is empty"),
    "words.jpg": (WORDS, "not a picture"),
    "random.png": (RANDOM, "not a picture"),
    "one-byte.gif": (b"G", "not a picture"),
    "truncated.jpg": (half(jpeg(photo())), "cut short"),
    "truncated.png": (
        half(encoded("PNG", Image.fromarray(np.frombuffer(RANDOM[:30000], np.uint8).reshape(100, 100, 3)))),
        DAMAGED,
    ),
    "truncated.gif": (half(encoded("GIF")), DAMAGED),
    "truncated.webp": (half(encoded("WEBP", lossless=True)), DAMAGED),
    "truncated.bmp": (half(encoded("BMP")), DAMAGED),
    "truncated.tif": (half(encoded("TIFF")), DAMAGED),
    "truncated.jp2": (encoded("JPEG2000")[:60], DAMAGED),
    "truncated.avif": (half(encoded("AVIF")), DAMAGED),
    "truncated.ppm": (half(encoded("PPM")), DAMAGED),
    "truncated.ico": (encoded("ICO")[:40], DAMAGED),
    "truncated-progressive.jpg": (half(encoded("JPEG", progressive=True)), "cut short"),
    "header.jpg": (jpeg(photo())[:24], DAMAGED),
    "scribbled.png": (scribbled(encoded("PNG")), DAMAGED),
    "scribbled.jpg": (scribbled(jpeg(photo())), f"{READ}|{DAMAGED}"),
    "bomb.png": (lambda: png(20_000, 20_000), "20,000 x 20,000 pixels"),
    "claims.png": (png(50_000, 50_000, data=zlib.compress(b"")), "50,000 x 50,000 pixels"),
    "nothing.png": (png(10, 10, data=zlib.compress(b"")), DAMAGED),
    "no-width.png": (png(0, 10), "damaged|no pixels"),
    "wrong-sum.png": (png(10, 10, crc=1), "damaged"),
    "text-bomb.png": (
        png(10, 10, extra=chunk(b"zTXt", b"Comment\0\0" + packed_zeros(200 << 20))),
        f"{READ}|damaged",
    ),
    "bomb.gif": (gif_bomb(), "65,535 x 65,535 pixels"),
    "bomb.bmp": (bmp_bomb(), "60,000 x 60,000 pixels"),
    "bomb.tif": (tiff(100_000, 100_000), "100,000 x 100,000 pixels"),
    "bomb.webp": (
        webp_bomb(),
        "16,383 x 16,383 pixels|more memory",
    ),
    "endless.tif": (tiff(4, 4, next_directory=24), READ),
    "animated.gif": (lambda: animation(300), READ),
    "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(200), "HEIC pictures need an extra package|damaged"),
    "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>", "drawing"),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not a picture"),
    "broken.psd": (b"8BPS\0\1" + bytes(40), "damaged|not a picture|cut short"),
    "sound.jpg": (b"ID3\x04" + RANDOM[:4000], "not a picture"),
    "really-png.jpg": (encoded("PNG"), READ),
    "really-pdf.jpg": (pdf([Page(["A page in disguise."])]), READ),
    "really-html.png": (b"<!doctype html><p>Not found</p>", READ),
    # Texts.
    "empty.txt": (b"", "is empty"),
    "blank.txt": (b" \r\n\t\n" * 1000, "no text"),
    "binary.txt": (RANDOM[1:], "binary"),
    "program.txt": (b"\x7fELF\x02\x01\x01" + bytes(5000), "binary"),
    "zeros.log": (bytes(100_000), "zero bytes"),
    "packed.txt": (gzip.compress(WORDS * 4000, mtime=0), "binary"),
    "database.csv": (b"SQLite format 3\0" + bytes(4080), "binary"),
    "random.md": (RANDOM[2:], "binary"),
    "comments.md": (b"<!-- nothing to see -->\n", "no text"),
    "brackets.md": (b"[" * 50_000, READ),
    "quotes.md": (b">" * 5_000 + b" deep", READ),
    "emphasis.md": (b"*a _b " * 8_000, READ),
    "odd-utf16.txt": ("Zwölf Boxkämpfer".encode("utf-16") + b"x", READ),
    "cut-utf8.txt": (("日本語のテキスト".encode() * 50)[:-1], READ),
    "one-line.txt": (b"word " * 20_000, READ),
    "unbroken.txt": (b"x" * 60_000, READ),
    "nul-in-words.txt": (WORDS * 50 + b"\0" + WORDS * 50, READ),
    # Pages of the web.
    "empty.html": (b"", "is empty"),
    "scripts.html": (b"<html><script>alert(1)</script>", "no text"),
    "frames.html": (b"<html><frameset><frame src=a.html></frameset>", "no text"),
    "binary.html": (b"<html>" + RANDOM, "binary"),
    "huge.html": (lambda: b"<p>" + b"<b>x</b>" * (5 << 20), "more than 32 MB"),
    "deep.html": (b"<div>" * 10_000 + b"deep", READ),
    # PDFs.
    "empty.pdf": (b"", "is empty|damaged"),
    "words.pdf": (WORDS[1:], "damaged"),
    "header.pdf": (b"%PDF-1.7\n", "damaged"),
    "random.pdf": (b"%PDF-1.7\n" + RANDOM, "damaged"),
    "locked.pdf": (pdf([Page(["secret"])], encrypted=True), "password"),
    "truncated.pdf": (half(pdf([Page(["words"])])), "damaged"),
    "no-pages.pdf": (pdf([]), "no text and no picture|damaged"),
    "blank.pdf": (pdf([Page(), Page()]), "no text and no picture"),
    "cycle.pdf": (pdf_with(b"/Kids [", b"/Kids [5 0 R "), f"{READ}|damaged|no text"),
    "nested.pdf": (b"%PDF-1.4\n1 0 obj\n" + b"[" * 100_000 + b"\nendobj\ntrailer << /Root 1 0 R >>", "damaged"),
    "lies.pdf": (pdf_with(b"/Length ", b"/Length 99999999"), f"{READ}|damaged|no text"),
    "giant-page.pdf": (pdf([Page(["Tiny words on a giant page."], size=(1e6, 1e6))]), READ),
    "giant-picture.pdf": (
        pdf([Page(["Words beside it."], [photo()])], claim=(50_000, 50_000)),
        f"{READ}|50,000 x 50,000",
    ),
    "bomb.pdf": (pdf_bomb, f"{READ}|no text|crashed|killed|memory|seconds"),
    "really-jpeg.pdf": (jpeg(photo((9, 99, 9))), READ),
}
GOOD: Final = ("good.jpg", "good.png", "good.txt", "good.md", "good.html", "good.pdf")


def write_corpus(folder: Path) -> dict[str, str]:
    """Writes all of them, and good neighbours; returns the reason expected of each (a pattern), by name."""
    for name, (content, _) in KINDS.items():
        (folder / name).write_bytes(content() if callable(content) else content)
    expected = {name: reason for name, (_, reason) in KINDS.items()}
    os.mkfifo(folder / "pipe.txt")
    (folder / "gone.jpg").symlink_to(folder / "nothing")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    (folder / "folder.jpg").mkdir()
    expected |= {"pipe.txt": "named pipe", "gone.jpg": "link to a file", "itself.png": "link|examined"}
    if os.geteuid() != 0:
        (folder / "denied.txt").write_bytes(WORDS)
        (folder / "denied.txt").chmod(0)
        expected["denied.txt"] = "Permission"
    (folder / "good.jpg").write_bytes(jpeg(photo((1, 2, 200))))
    (folder / "good.png").write_bytes(encoded("PNG", photo((1, 200, 2))))
    for name in ("good.txt", "good.md", "good.html"):
        (folder / name).write_bytes(WORDS + name.encode())
    (folder / "good.pdf").write_bytes(pdf([Page(["A good page."], [photo((200, 1, 2))])]))
    return expected
