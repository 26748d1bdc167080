"""Picture files with pages: one item a page, whatever else the file holds beside them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.reading import looks_like, pictures, read
from tsembed_search.cli.render.hits import thumbnails
from tsembed_search.documents.document import Unit
from tsembed_search.documents.formats import image as loader
from tsembed_search.documents.formats.image import FORMAT as IMAGE
from tsembed_search.documents.pictures import open_image
from tsembed_search.errors import LoadError
from tsembed_search.search.results import Hit

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def pages_of(*colours: tuple[int, int, int], size: tuple[int, int] = (40, 20)) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for colour in colours]


def tiff(pages: Sequence[Image.Image], kinds: Sequence[int | None] = (), **options: object) -> bytes:
    """A TIFF with a page per picture. `kinds`: their NewSubfileType."""
    file = io.BytesIO()
    with io.BytesIO() as out:
        if not kinds:
            pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:], **options)
            return out.getvalue()
    from PIL import TiffImagePlugin

    with TiffImagePlugin.AppendingTiffWriter(file) as writer:
        for page, kind in zip(pages, kinds, strict=True):
            page.save(writer, "TIFF", tiffinfo={} if kind is None else {254: kind}, **options)
            writer.newFrame()
    return file.getvalue()


def seen(units: list[Unit]) -> list[tuple[int | None, int | None, tuple[int, ...]]]:
    """Page, chunk and the colour in the middle, by 50."""
    middles = [pixels[48, 48].astype(int) // 50 for pixels in pictures(units)]
    return [(unit.page, unit.chunk, tuple(map(int, m))) for unit, m in zip(units, middles, strict=True)]


R, G, B = (4, 0, 0), (0, 4, 0), (0, 0, 4)


@pytest.mark.parametrize(
    "options", [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg", "quality": 95}, {"big_tiff": True}]
)
def test_each_page_of_a_tiff_is_an_item(options: dict[str, object]) -> None:
    units = read(IMAGE, tiff(pages_of(RED, GREEN, BLUE), **options))
    assert seen(units) == [(1, None, R), (2, None, G), (3, None, B)]
    assert [(unit.width, unit.height) for unit in units] == [(40, 20)] * 3


def test_pages_may_differ_in_all() -> None:
    fax = Image.new("1", (200, 100), 1)
    fax.paste(0, (0, 0, 100, 100))
    turned = pages_of(BLUE, size=(30, 60))[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.full((10, 10), 65535, np.uint16))
    units = read(IMAGE, tiff([pages_of(RED)[0], fax, deep]))
    assert [unit.page for unit in units] == [1, 2, 3]
    assert looks_like(pictures(units)[1], fax) and pictures(units)[2].min() == 255
    with io.BytesIO() as out:
        pages_of(RED)[0].save(out, "TIFF", save_all=True, append_images=[turned], exif=exif)
        units = read(IMAGE, out.getvalue())
    assert (units[0].width, units[0].height) == (20, 40)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((None, None, None), [(1, None, R), (2, None, G), (3, None, B)]),
        ((2, 2, 2), [(1, None, R), (2, None, G), (3, None, B)]),
        ((0, 1, 1), [(None, None, R)]),
        ((1, 0, None), [(1, None, G), (2, None, B)]),
        ((1, 0, 4), [(None, None, G)]),
        ((0, 4, 0), [(1, None, R), (2, None, B)]),
        ((2, 5, 6), [(None, None, R)]),
        ((1, 1, 1), [(None, None, R)]),
    ],
    ids=str,
)
def test_thumbnails_and_masks_are_no_pages(kinds: tuple[int | None, ...], expected: list[object]) -> None:
    assert seen(read(IMAGE, tiff(pages_of(RED, GREEN, BLUE), kinds))) == expected


def frames(format: str, **options: object) -> bytes:
    file = io.BytesIO()
    first, *rest = pages_of(RED, GREEN, BLUE)
    first.save(file, format, save_all=True, append_images=rest, **options)
    return file.getvalue()


def icon() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), RED).save(file, "ICO", sizes=[(16, 16), (64, 64), (32, 32)])
    return file.getvalue()


def layers() -> bytes:
    """A PSD whose picture is red, with a layer that is not."""
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 20, 40, 8, 3)
    record = struct.pack(">iiiiH", 0, 0, 1, 1, 3) + b"".join(struct.pack(">hI", n, 3) for n in range(3))
    record += b"8BIMnorm\xff\0\0\0" + struct.pack(">I", 12) + b"\0" * 8 + b"\x03abc"
    info = struct.pack(">h", 1) + record + b"".join(b"\0\0" + bytes([value]) for value in BLUE)
    info += b"\0" * (len(info) % 2)
    layers = struct.pack(">I", len(info)) + info + b"\0\0\0\0"
    pixels = b"\0\0" + b"".join(bytes([value]) * 800 for value in RED)
    return header + b"\0\0\0\0" + b"\0\0\0\0" + struct.pack(">I", len(layers)) + layers + pixels


@pytest.mark.parametrize(
    "data",
    [
        frames("GIF"), frames("WEBP", lossless=True), frames("PNG"), frames("AVIF", quality=95),
        frames("MPO", quality=95), icon(), layers(),
    ],
    ids=["GIF", "WebP", "APNG", "AVIF", "MPO", "ICO", "PSD"],
)  # fmt: skip
def test_frames_sizes_and_layers_are_no_pages(data: bytes) -> None:
    assert seen(read(IMAGE, data)) == [(None, None, R)]


def folders(data: bytes) -> list[int]:
    """Where the folders of tags of a little-endian TIFF begin."""
    found, (at,) = [], struct.unpack_from("<I", data, 4)
    while at:
        found.append(at)
        (count,) = struct.unpack_from("<H", data, at)
        (at,) = struct.unpack_from("<I", data, at + 2 + 12 * count)
    return found


def with_tag(data: bytes, page: int, tag: int, value: int) -> bytes:
    """A TIFF where a tag of a page says something else."""
    out, at = bytearray(data), folders(data)[page]
    for entry in range(struct.unpack_from("<H", data, at)[0]):
        if struct.unpack_from("<H", data, at + 2 + 12 * entry)[0] == tag:
            struct.pack_into("<I", out, at + 2 + 12 * entry + 8, value)
    return bytes(out)


@pytest.mark.parametrize(
    ("tag", "value"), [(273, 1 << 30), (258, 77), (256, 0), (259, 999), (262, 99)],
    ids=["no data", "odd depth", "no width", "unknown packing", "unknown colours"],
)  # fmt: skip
def test_a_page_that_is_broken_costs_that_page(tag: int, value: int) -> None:
    good = tiff([page.convert("L") for page in pages_of(RED, GREEN, BLUE)])
    notes: list[str] = []
    units = read(IMAGE, with_tag(good, 1, tag, value), notes=notes)
    assert [unit.page for unit in units] == [1, 3]
    assert len(notes) == 1 and notes[0].startswith("Pages that cannot be read: 2 of 3. ")


def test_what_lies_behind_a_broken_link_is_told_of() -> None:
    good = tiff(pages_of(RED, GREEN, BLUE))
    first = folders(good)[0]
    out = bytearray(good)
    struct.pack_into("<I", out, first + 2 + 12 * struct.unpack_from("<H", good, first)[0], len(good) + 99)
    notes: list[str] = []
    assert seen(read(IMAGE, bytes(out), notes=notes)) == [(1, None, R)]
    assert len(notes) == 1 and "2 of 2" in notes[0]


def test_pages_that_go_round_in_a_circle_end() -> None:
    good = tiff(pages_of(RED, GREEN))
    first, second = folders(good)
    out = bytearray(good)
    struct.pack_into("<I", out, second + 2 + 12 * struct.unpack_from("<H", good, second)[0], first)
    notes: list[str] = []
    assert [unit.page for unit in read(IMAGE, bytes(out), notes=notes)][:2] == [1, 2]


def test_a_file_of_broken_pages_is_refused() -> None:
    bad = with_tag(with_tag(tiff(pages_of(RED, GREEN)), 0, 273, 1 << 30), 1, 273, 1 << 30)
    with pytest.raises(LoadError, match=r"cut short|damaged"):
        read(IMAGE, bad, notes=[])


def test_there_is_an_end_to_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_MOST_PAGES", 2)
    notes: list[str] = []
    units = read(IMAGE, tiff(pages_of(RED, GREEN, BLUE)), notes=notes)
    assert seen(units) == [(1, None, R), (2, None, G)]
    assert notes == ["It has more than 2 pages; the rest is left out."]


def test_a_page_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "album.tif"
    path.write_bytes(tiff(pages_of(RED, GREEN, BLUE), (None, 1, None)))
    assert open_image(path, None).pixels[10, 10].tolist() == list(RED)
    assert open_image(path, None, page=2).pixels[10, 10].tolist() == list(BLUE)
    with pytest.raises(LoadError, match="no page 3"):
        open_image(path, None, page=3)


def test_previews_show_the_page_that_was_found(tmp_path: Path) -> None:
    path = tmp_path / "album.tif"
    path.write_bytes(tiff(pages_of(RED, GREEN, BLUE)))
    hits = [Hit(rank, 0.5, 0.5, 0.0, str(rank), "image", str(path), rank, None, None) for rank in (1, 2, 3, 4)]
    found = thumbnails(hits)
    assert {rank: pixels[5, 5].tolist() for rank, pixels in found.items()} == {
        1: list(RED), 2: list(GREEN), 3: list(BLUE),
    }  # fmt: skip
