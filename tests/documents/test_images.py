"""Opening pictures: every mode and format becomes the same upright RGB pixels, and nothing crafted gets through."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tsembed_search.documents.pictures import open_image, target_size
from tsembed_search.errors import LoadError
from tsembed_search.items import ImageSpec

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def halves(size: tuple[int, int] = (40, 20), left: tuple[int, ...] = RED, right: tuple[int, ...] = BLUE) -> Image.Image:
    """A picture whose left half has one colour and whose right half another."""
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, size[0], size[1]))
    return image


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """The pixels near the four corners: top left, top right, bottom left, bottom right."""
    return [tuple(int(v) for v in pixels[y, x]) for y in (2, -3) for x in (2, -3)]


def close(a: tuple[int, ...], b: tuple[int, ...], by: int = 12) -> bool:
    return max(abs(int(x) - int(y)) for x, y in zip(a, b, strict=True)) <= by


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("JPEG2000", {}),
        ("ICO", {"sizes": [(40, 20)]}),
        ("AVIF", {"quality": 95}),
    ],
)
def test_every_format_gives_the_same_picture(format: str, options: dict[str, object]) -> None:
    opened = open_image(encoded(halves(), format, **options), None)
    assert (opened.width, opened.height) == (40, 20)
    assert opened.pixels.shape == (20, 40, 3) and opened.pixels.dtype == np.uint8 and opened.pixels.flags.writeable
    left, right, *_ = corners(opened.pixels)
    assert close(left, RED) and close(right, BLUE)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright_whatever_its_orientation_says(orientation: int, format: str) -> None:
    upright = Image.new("RGB", (60, 40), RED)
    upright.paste(GREEN, (30, 0, 60, 20))
    upright.paste(BLUE, (0, 20, 30, 40))
    upright.paste((240, 240, 240), (30, 20, 60, 40))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, format, exif=exif)
    for spec in (None, ImageSpec(size=(20, 30)), ImageSpec(max_pixels=700)):
        opened = open_image(data, spec)
        assert (opened.width, opened.height) == (60, 40)
        assert opened.pixels.shape[1] > opened.pixels.shape[0]
        expected = (RED, GREEN, BLUE, (240, 240, 240))
        assert all(close(found, wanted, 25) for found, wanted in zip(corners(opened.pixels), expected, strict=True))


def test_what_is_transparent_is_white() -> None:
    clear = halves().convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    for image in (clear, clear.convert("LA")):
        assert (open_image(encoded(image, "PNG"), None).pixels == 255).all()
        assert (open_image(encoded(image, "PNG"), ImageSpec(size=(9, 9))).pixels == 255).all()


def test_half_transparent_pixels_do_not_bleed_their_hidden_colour() -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((200, 30, 30, 255), (0, 0, 32, 64))
    small = open_image(encoded(image, "PNG"), ImageSpec(size=(16, 16))).pixels
    assert small[:, 9:].min() > 230, "black under full transparency must not darken the edge"


def test_palettes_with_a_transparent_colour() -> None:
    image = halves().quantize(4)
    index = image.getpixel((35, 10))
    data = encoded(image, "PNG", transparency=index)
    left, right, *_ = corners(open_image(data, None).pixels)
    assert close(left, RED, 20) and right == (255, 255, 255)


def test_a_transparent_colour_of_rgb_and_grey_pictures() -> None:
    left, right, *_ = corners(open_image(encoded(halves(), "PNG", transparency=BLUE), None).pixels)
    assert left == RED and right == (255, 255, 255)
    grey = Image.new("L", (20, 20), 77)
    assert (open_image(encoded(grey, "PNG", transparency=77), None).pixels == 255).all()


def test_cmyk_and_its_inverted_kin() -> None:
    cmyk = halves().convert("CMYK")
    for data in (encoded(cmyk, "JPEG", quality=95), encoded(cmyk, "TIFF")):
        for spec in (None, ImageSpec(size=(20, 40))):
            left, right, *_ = corners(open_image(data, spec).pixels)
            assert close(left, RED, 20) and close(right, BLUE, 20)


def test_other_modes() -> None:
    for image, format in [(halves().convert("YCbCr"), "TIFF"), (halves().convert("RGBX"), "TIFF")]:
        left, right, *_ = corners(open_image(encoded(image, format), None).pixels)
        assert close(left, RED) and close(right, BLUE)
    bits = Image.new("1", (16, 16), 1)
    assert (open_image(encoded(bits, "PNG"), ImageSpec(size=(5, 5))).pixels == 255).all()


@pytest.mark.parametrize(
    ("values", "format", "expected"),
    [
        (np.array([[0, 65535]], np.uint16), "PNG", (0, 255)),
        (np.array([[0, 4095]], np.uint16), "PNG", (0, 16)),
        (np.array([[0, 4095]], np.uint16), "TIFF", (0, 255)),
        (np.array([[0, 200]], np.uint16), "TIFF", (0, 200)),
        (np.array([[0.0, 1.0]], np.float32), "TIFF", (0, 255)),
        (np.array([[0.0, 0.5]], np.float32), "TIFF", (0, 128)),
        (np.array([[-7.0, 900.0]], np.float32), "TIFF", (0, 255)),
        (np.array([[np.nan, 1.0]], np.float32), "TIFF", (0, 255)),
        (np.array([[-70000, 900000]], np.int32), "TIFF", (0, 255)),
        (np.array([[5.0, 5.0]], np.float32), "TIFF", (0, 0)),
    ],
)
def test_deep_greys_are_scaled(values: np.ndarray, format: str, expected: tuple[int, int]) -> None:
    pixels = open_image(encoded(Image.fromarray(values), format), None).pixels
    assert (int(pixels[0, 0, 0]), int(pixels[0, 1, 0])) == expected
    assert (pixels[..., 0] == pixels[..., 1]).all()


def test_only_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (10, 10), colour) for colour in (RED, BLUE)]
    for format, options in [("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})]:
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert close(corners(open_image(data, None).pixels)[0], RED)


def test_a_large_jpeg_is_decoded_small() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1200, 1600, 3), np.uint8).repeat(1, 0))
    data = encoded(noise, "JPEG")
    opened = open_image(data, ImageSpec(size=(150, 200)), memory=200 * 200 * 4)
    assert (opened.width, opened.height) == (1600, 1200) and opened.pixels.shape == (150, 200, 3)
    with pytest.raises(LoadError, match="1,600 x 1,200 pixels and would take"):
        open_image(data, None, memory=200 * 200 * 4)


def test_reduced_pictures_are_what_a_plain_resize_gives() -> None:
    gradient = np.linspace(0, 255, 1600, dtype=np.uint8)[None, :, None].repeat(1200, 0).repeat(3, 2)
    image = Image.fromarray(gradient)
    plain = np.asarray(image.resize((260, 260), Image.Resampling.BICUBIC), dtype=int)
    for format in ("JPEG", "PNG", "WEBP"):
        found = open_image(encoded(image, format), ImageSpec(size=(260, 260))).pixels.astype(int)
        assert np.abs(found - plain).mean() < 1.5


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([1, 14, 28, 32]), st.integers(0, 40_000), st.data())
def test_target_sizes_hold_their_promises(width: int, height: int, step: int, lowest: int, data: st.DataObject) -> None:
    highest = data.draw(st.integers(max(4 * step * step, 4 * lowest), 2_000_000))
    wide, high = target_size(width, height, ImageSpec(multiple=step, min_pixels=lowest, max_pixels=highest))
    assert wide % step == 0 and high % step == 0 and wide >= step and high >= step
    assert wide * high <= highest
    if max(width, height) < 4 * min(width, height):
        assert wide * high >= lowest
        if min(wide, high) >= 8 * step:
            assert 0.8 < (wide / high) / (width / height) < 1.25


def test_exact_sizes_do_not_keep_the_shape() -> None:
    assert open_image(encoded(halves(), "PNG"), ImageSpec(size=(7, 9))).pixels.shape == (7, 9, 3)


def test_padding_keeps_the_shape_on_white() -> None:
    for data in (encoded(halves((400, 200)), "PNG"), encoded(halves((400, 200)), "JPEG", quality=95)):
        pixels = open_image(data, ImageSpec(size=(40, 40), pad=True)).pixels
        assert pixels.shape == (40, 40, 3)
        assert (pixels[:9] == 255).all() and (pixels[-9:] == 255).all()
        assert close(tuple(pixels[20, 5]), RED) and close(tuple(pixels[20, 35]), BLUE)
        assert (open_image(pixels, ImageSpec(size=(40, 40), pad=True)).pixels == pixels).all(), "shaped once is shaped"


def test_padding_turns_with_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = open_image(encoded(halves((400, 200)), "JPEG", exif=exif), ImageSpec(size=(40, 40), pad=True)).pixels
    assert (pixels[:, :9] == 255).all() and close(tuple(pixels[5, 20]), RED) and close(tuple(pixels[35, 20]), BLUE)


def test_other_sources(tmp_path: Path) -> None:
    array = np.asarray(halves())
    assert (open_image(array, None).pixels == array).all()
    assert open_image(array, ImageSpec(size=(8, 8))).pixels.shape == (8, 8, 3)
    assert (open_image(halves(), None).pixels == array).all()
    path = tmp_path / "wrong.txt"
    path.write_bytes(encoded(halves(), "PNG"))
    assert (open_image(path, None).pixels == array).all(), "the content decides, not the name"
    with pytest.raises(LoadError, match="not a picture"):
        open_image(np.zeros((4, 4), np.uint8), None)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


JPEG = encoded(halves((400, 300)), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just some words", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "extra package|damaged"),
        (JPEG[: len(JPEG) // 2], "cut short"),
        (JPEG[:30], "damaged"),
        (png(30000, 30000), "30,000 x 30,000 pixels|far too many"),
        (png(10, 10), "cut short|damaged"),
        (png(0, 10), "damaged|no pixels"),
        (encoded(halves(), "PNG")[:-40], "cut short|damaged"),
        (encoded(halves(), "GIF")[:30], "damaged|cut short"),
        (encoded(halves(), "WEBP")[:40], "damaged|cut short"),
        (encoded(halves(), "TIFF")[:60], "damaged|cut short"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
)
def test_bad_pictures_are_refused_with_a_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=reason):
        open_image(data, None)
    path = tmp_path / "named.jpg"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=r"named\.jpg") as raised:
        open_image(path, ImageSpec(size=(10, 10)))
    assert raised.value.message.endswith(".")


def test_an_avif_may_name_its_family_first() -> None:
    data = bytearray(encoded(halves(), "AVIF", quality=95))
    data[8:12] = b"mif1"
    assert close(corners(open_image(bytes(data), None).pixels)[0], RED)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"nothing\.png: No such file"):
        open_image(tmp_path / "nothing.png", None)


@given(st.data())
def test_damage_anywhere_gives_pixels_or_a_load_error(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "JPEG2000"]))
    good = bytearray(encoded(halves((24, 24)), format))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        good = good[: data.draw(st.integers(0, len(good)))]
    try:
        opened = open_image(bytes(good), ImageSpec(size=(8, 8)), memory=1 << 26)
    except LoadError as error:
        assert error.message
    else:
        assert opened.pixels.shape == (8, 8, 3)
