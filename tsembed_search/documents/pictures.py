"""Opening pictures: whatever a file holds becomes upright RGB pixels of the size that a model wants, or a `LoadError`.

The content decides what a file is, never its name. Large pictures are reduced while they are decoded where the format
allows it, and refused before decoding when they would not fit in memory. What is broken beside the pixels is left out.
"""

from __future__ import annotations

import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

from tsembed_search.documents.picture_modes import resizable
from tsembed_search.documents.picture_parts import ORIENTATION, pixel_parts, tiff_pages
from tsembed_search.documents.said import picture_words
from tsembed_search.errors import LoadError
from tsembed_search.items import ImageSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Source = Path | bytes | BinaryIO | Image.Image | NDArray[np.uint8]

T = TypeVar("T")

# EXIF orientation to `PIL.Image.Transpose`. From 5 on width and height change places.
_TURNS: Final = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
# Formats with a signature whose decoders are native and run no other program (EPS would start Ghostscript).
_FORMATS: Final = (
    "JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO", "CUR", "ICNS", "DIB", "PSD",
    "PCX", "QOI", "DDS", "SGI",
)  # fmt: skip
_BYTES_PER_PIXEL: Final = {"1": 1, "L": 1, "P": 1, "LA": 4, "PA": 4, "I;16": 2, "I;16B": 2, "I;16L": 2}
# Decoders of these hold a second whole picture while they work.
_DECODED_TWICE: Final = frozenset({"WEBP", "AVIF", "JPEG2000", "HEIF", "ICNS", "ICO"})
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
# Of all formats that are indexed, but for those whose signature is not all at the beginning.
_SIGNATURES: Final = (
    b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"8BPS", b"qoif", b"\0\0\0\x0cjP  ",
    b"\xffO\xffQ", b"\0\0\1\0", b"icns", b"P4\n", b"P5\n", b"P6\n", b"\n\5\1",
)  # fmt: skip
_HALF_SIGNATURES: Final = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
_SMALLER: Final = "Save a smaller copy of it."
_DEFAULT_MEMORY: Final = 2 << 30


@dataclass(frozen=True)
class OpenedImage:
    """`pixels` uint8 `[H, W, 3]` RGB, shaped for the model; `width` and `height` of the original when upright. `said`
    is what the file says about itself (see `said.py`), where that was asked for.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    said: str = ""


def open_image(source: Source, spec: ImageSpec | None, *, memory: int | None = None, page: int = 1) -> OpenedImage:
    """Decode a picture and shape it by `spec` (None: its own size).

    `source` is a path, a file's bytes, an open binary file, a `PIL.Image.Image` or uint8 RGB pixels `[H, W, 3]`. Only
    the first frame of an animation is read; transparency is laid on white. `memory`: the most bytes that decoding may
    take (None: two gigabytes, or half of what is free if that is less). `page` counts from 1.

    Raises `LoadError` for anything that is not a picture that can be read.
    """
    if not isinstance(source, Path):
        return _open(source, spec, memory, page)
    try:
        with source.open("rb") as file:
            return _open(file, spec, memory, page)
    except OSError as error:
        raise LoadError(f"Cannot read {source}: {error.strerror or error}.") from error
    except LoadError as error:
        raise LoadError(f"Cannot read {source}: {error.message}", error.hint) from error


def open_pages(
    file: BinaryIO, spec: ImageSpec | None, *, memory: int | None = None, pixels: bool = True
) -> Iterator[OpenedImage | LoadError]:
    """Decode the pages of a picture file one by one, as `open_image` does, with what they say about themselves; most
    files have one. Without `pixels`, only its header is read, and the pixels are `[0, 0, 3]`.

    A page that cannot be read is given as its error, and so is what hides all further pages.
    """
    reader = _PictureFile(file, memory)
    try:
        for frame in reader.frames():
            try:
                yield replace(reader.read(frame, spec) if pixels else reader.measure(frame), said=reader.said(frame))
            except LoadError as error:
                yield error
    except LoadError as error:
        yield error


def _open(
    source: bytes | BinaryIO | Image.Image | NDArray[np.uint8], spec: ImageSpec | None, memory: int | None, page: int
) -> OpenedImage:
    import numpy as np
    from PIL import Image

    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != "uint8" or not source.size:
            raise LoadError(
                f"Pixels of shape {list(source.shape)} and type {source.dtype} are not a picture.",
                "Give uint8 RGB pixels [H, W, 3].",
            )
        height, width = source.shape[:2]
        if spec is None or target_size(width, height, spec) == (width, height):
            return OpenedImage(source, width, height)
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        return _shaped(source, spec, source.size)
    reader = _PictureFile(io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source, memory)
    for frame in islice(reader.frames(), page - 1, page):
        return reader.read(frame, spec)
    raise LoadError(f"It has no page {page}.")


class _PictureFile:
    """A picture file that is open. A page that fails is tried again with nothing in it but what makes its pixels."""

    def __init__(self, file: BinaryIO, memory: int | None) -> None:
        self._file = file
        if not memory and sys.platform.startswith("linux"):
            memory = min(_DEFAULT_MEMORY, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
        self._memory = memory or _DEFAULT_MEMORY
        self._image: Image.Image | None = None

    def frames(self) -> Iterator[int]:
        """The numbers, from 0, of the frames that are pages, and not frames of an animation, sizes, or layers."""
        self._file.seek(0)
        head = self._file.read(64)
        if _is_heif(head):
            yield from range(_translated(lambda: getattr(self._at(0), "n_frames", 1)))
        else:
            yield from tiff_pages(self._file)

    def read(self, frame: int, spec: ImageSpec | None) -> OpenedImage:
        """Decode a frame."""
        try:
            return _translated(lambda: _decoded(self._at(frame), spec, self._memory))
        except _BrokenError:
            self._image = None
            parts = _translated(lambda: pixel_parts(self._file, self._memory // 4, frame))
            if parts is None:
                raise
        return _translated(lambda: _decoded(_identified(io.BytesIO(parts)), spec, self._memory))

    def measure(self, frame: int) -> OpenedImage:
        """Read the size of a frame."""
        import numpy as np

        image = _translated(lambda: self._at(frame))
        width, height = image.size if _orientation(image) < 5 else image.size[::-1]
        return OpenedImage(np.zeros((0, 0, 3), np.uint8), width, height)

    def said(self, frame: int) -> str:
        """Read the words of a frame about itself; none where its metadata is broken."""
        try:
            return picture_words(_translated(lambda: self._at(frame)))
        except LoadError:
            return ""

    def _at(self, frame: int) -> Image.Image:
        if self._image is None:
            self._image = _identified(self._file)
        if frame:
            self._image.seek(frame)
        return self._image


class _BrokenError(LoadError):
    """The content of the file makes no sense."""


def _translated(step: Callable[[], T]) -> T:
    """Run a step; what a library raises over a file becomes a `LoadError`."""
    from PIL import Image

    try:
        # Pillow warns of each oddity that it gets over; what it does not get over is an error.
        with warnings.catch_warnings(action="ignore"):
            return step()
    except LoadError:
        raise
    except MemoryError as error:
        raise LoadError("The picture needs more memory to decode than there is.", _SMALLER) from error
    except Image.DecompressionBombError as error:
        raise LoadError("The picture has far too many pixels to decode.", _SMALLER) from error
    except OSError as error:
        if error.errno is not None and error.strerror:
            raise LoadError(f"Reading it failed: {error.strerror}.", "Check the disk and the permissions.") from error
        raise _damaged(error) from error
    # Decoders meet crafted files with nearly any exception there is, from struct.error to RecursionError.
    except Exception as error:
        raise _damaged(error) from error


def _damaged(error: BaseException) -> LoadError:
    detail = " ".join(str(error).split())[:120].rstrip(".")
    if "could not create decoder" in detail:
        # All that the WebP decoder ever says.
        return _BrokenError("The picture is damaged, or needs more memory to decode than there is.", _SMALLER)
    if "truncated" in detail or "EOF" in detail or isinstance(error, EOFError):
        return _BrokenError("The picture is cut short: its data ends too early.", "Restore it from a backup.")
    return _BrokenError(f"The picture is damaged ({detail or type(error).__name__}).", "Restore it from a backup.")


def _identified(file: BinaryIO) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    file.seek(0)
    head = file.read(64)
    if not head:
        raise LoadError("The file is empty.")
    formats: tuple[str, ...] = _FORMATS
    if _is_heif(head):
        try:
            from pillow_heif import register_heif_opener  # type: ignore[import-not-found]
        except ImportError:
            raise LoadError(
                "HEIC pictures need an extra package.", "Install it with `pip install pillow-heif`."
            ) from None
        register_heif_opener()
        formats = ("HEIF",)
    file.seek(0)
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError as error:
        raise _unknown(head) from error


def _is_heif(head: bytes) -> bool:
    # An AVIF may name the general format first.
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head


def begins_as_picture(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a picture in one of the formats."""
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in _HEIF_BRANDS | {b"avif", b"avis"}
    return head.startswith(_SIGNATURES) or (head[:2] == b"BM" and head[6:10] == b"\0\0\0\0")


def _unknown(head: bytes) -> LoadError:
    if b"<svg" in head.lower() or head.lstrip().startswith((b"<?xml", b"<!DOCTYPE svg")):
        return LoadError("It is a drawing (SVG), not a picture of pixels.", "Export it as PNG.")
    if begins_as_picture(head) or head[4:8] == b"ftyp" or head.startswith(_HALF_SIGNATURES):
        return _BrokenError("The picture is damaged: its header makes no sense.", "Restore it from a backup.")
    return LoadError("It is not a picture in a format that can be read.", "Save it as JPEG, PNG or WebP.")


def _decoded(image: Image.Image, spec: ImageSpec | None, memory: int) -> OpenedImage:
    full = image.size
    if image.format in ("JPEG", "MPO") and spec is not None:
        # It can be decoded at 1/2, 1/4 or 1/8 of its size, but no smaller than needed.
        image.draft(None, _stored_size(image, spec, full))
    needed = _bytes_needed(image, full)
    if needed > memory:
        raise LoadError(
            f"The picture has {full[0]:,} x {full[1]:,} pixels and would take {_amount(needed)} of memory; "
            f"{_amount(memory)} are allowed.",
            _SMALLER,
        )
    image.load()
    # Loading turns a TIFF upright; a draft has its reduced size from the start.
    return _shaped(image, spec, image.size if image.format == "TIFF" else full)


def _bytes_needed(image: Image.Image, full: tuple[int, int]) -> int:
    pixels = image.width * image.height
    each = _BYTES_PER_PIXEL.get(image.mode, 4)
    # Palettes become RGBA, and deep greys are scaled as floats, before they are made smaller.
    extra = {"P": 4, "PA": 4, "1": 1}.get(image.mode, 9 if image.mode.startswith(("I", "F")) else 0)
    if image.format in _DECODED_TWICE:
        extra += each
    needed = pixels * (each + extra)
    if image.info.get("progressive"):
        # All coefficients are kept until the last scan has come: three components of two bytes.
        needed += full[0] * full[1] * 6
    return needed


def _amount(size: int) -> str:
    return f"{size / (1 << 30):.1f} GB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MB"


def target_size(width: int, height: int, spec: ImageSpec) -> tuple[int, int]:
    """(width, height) that a picture of this size gets.

    With an exact size that; else the nearest multiples of `spec.multiple` that keep the shape, scaled so that the area
    is within `min_pixels` and `max_pixels`. A very long picture is shortened, for no side is below one multiple.
    """
    if spec.size is not None:
        return spec.size[1], spec.size[0]
    step = spec.multiple
    wide, high = max(step, round(width / step) * step), max(step, round(height / step) * step)
    if wide * high > spec.max_pixels:
        scale = math.sqrt(spec.max_pixels / (width * height))
        wide = max(step, math.floor(width * scale / step) * step)
        high = max(step, math.floor(height * scale / step) * step)
    elif wide * high < spec.min_pixels:
        scale = math.sqrt(spec.min_pixels / (width * height))
        wide, high = math.ceil(width * scale / step) * step, math.ceil(height * scale / step) * step
    longest = max(1, spec.max_pixels // (step * step)) * step
    return min(wide, longest if high == step else wide), min(high, longest if wide == step else high)


def content_size(width: int, height: int, spec: ImageSpec) -> tuple[int, int]:
    """(width, height) that the picture itself gets: the target size, less the bars of a padded one."""
    wide, high = target_size(width, height, spec)
    if spec.size is None or not spec.pad:
        return wide, high
    scale = min(wide / width, high / height)
    return min(wide, max(1, round(width * scale))), min(high, max(1, round(height * scale)))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 is upright, and what a picture without one has."""
    try:
        turn = image.getexif().get(ORIENTATION)
    # Metadata is often malformed in files whose pixels are sound, and Pillow reads it with struct and int.
    except Exception:  # noqa: BLE001
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _stored_size(image: Image.Image, spec: ImageSpec, full: tuple[int, int]) -> tuple[int, int]:
    """The size that a picture is to get as it is stored, before it is turned. `full`: the size before any draft."""
    if _orientation(image) < 5:
        return content_size(*full, spec)
    return content_size(*full[::-1], spec)[::-1]


def _shaped(image: Image.Image, spec: ImageSpec | None, full: tuple[int, int]) -> OpenedImage:
    """Scales, then turns, then flattens: each step on the fewest pixels. `full`: the size before any draft."""
    import numpy as np
    from PIL import Image

    if not all(full):
        raise LoadError("The picture has no pixels.")
    turn = _orientation(image)
    wanted = image.size if spec is None else _stored_size(image, spec, full)
    image = resizable(image)
    if image.size != wanted:
        image = image.resize(wanted, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if turn > 1:
        image = image.transpose(Image.Transpose(_TURNS[turn]))
    width, height = full if turn < 5 else full[::-1]
    size = image.size if spec is None else target_size(width, height, spec)
    image = image.convert("RGBA" if image.mode in ("RGBA", "LA") else "RGB")
    if image.size != size or image.mode == "RGBA":
        # In the middle of a white sheet, which shows through what is transparent.
        paper = Image.new("RGB", size, "white")
        place = (size[0] - image.width) // 2, (size[1] - image.height) // 2
        paper.paste(image, place, mask=image.getchannel("A") if image.mode == "RGBA" else None)
        image = paper
    return OpenedImage(np.array(image, dtype=np.uint8), width, height)
