"""Shaping decoded pictures: upright, RGB, and of the size that a model wants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from tsembed_search.errors import LoadError
from tsembed_search.items import ImageSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

_ORIENTATION: Final = 0x0112
_TURNS: Final = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF orientation to `PIL.Image.Transpose`."""


@dataclass(frozen=True)
class OpenedImage:
    """`pixels` uint8 `[H, W, 3]` RGB, shaped for the model; `width` and `height` of the original when upright."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


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


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 is upright, and what a picture without one has."""
    try:
        turn = image.getexif().get(_ORIENTATION)
    # Metadata is often malformed in files whose pixels are sound, and Pillow reads it with struct and int.
    except Exception:  # noqa: BLE001
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def is_sideways(orientation: int) -> bool:
    """Return whether turning it upright swaps width and height."""
    return orientation in (5, 6, 7, 8)


def shaped(image: Image.Image, spec: ImageSpec | None, full: tuple[int, int]) -> OpenedImage:
    """Scales, then turns, then flattens: each step on the fewest pixels. `full`: the size before any draft."""
    import numpy as np
    from PIL import Image

    stored_as = orientation(image)
    turn, turned = _TURNS.get(stored_as), is_sideways(stored_as)
    width, height = (full[1], full[0]) if turned else full
    if not width or not height:
        raise LoadError("The picture has no pixels.")
    image = _resizable(image)
    if spec is not None:
        size = content_size(width, height, spec)
        wanted = (size[1], size[0]) if turned else size
        if image.size != wanted:
            image = image.resize(wanted, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if turn is not None:
        image = image.transpose(Image.Transpose(turn))
    image = _flat(image)
    if spec is not None:
        image = _padded(image, target_size(width, height, spec))
    return OpenedImage(np.array(image, dtype=np.uint8), width, height)


def _resizable(image: Image.Image) -> Image.Image:
    """The picture in a mode whose pixels can be averaged: L, RGB, CMYK, LA or RGBA."""
    if image.mode.startswith(("I", "F")):
        return _deep_grey(image)
    if image.mode == "LAB":
        from PIL import ImageCms

        converted = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        return cast("Image.Image", converted)
    if image.mode in ("RGB", "L", "CMYK", "LA", "RGBA") and "transparency" not in image.info:
        return image
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _flat(image: Image.Image) -> Image.Image:
    """RGB, with what is transparent laid on white."""
    from PIL import Image

    if image.mode not in ("RGBA", "LA"):
        return image.convert("RGB")
    image = image.convert("RGBA")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def _padded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture in the middle of a white sheet of that size."""
    from PIL import Image

    if image.size == size:
        return image
    paper = Image.new("RGB", size, "white")
    paper.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return paper


def _deep_grey(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits or of floats, as 8 bits.

    Whole numbers are divided by the range that holds them (8, 10, 12, 14 or 16 bits: scanners and microscopes fill
    part of 16), a PNG's always by 16 bits as its standard says. Floats within [0, 1] are taken as they are, others are
    stretched.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    elif values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        bits = (8, 10, 12, 14, 16)
        low, high = 0.0, 65535.0 if image.format == "PNG" else next(2.0**b - 1 for b in bits if high <= 2.0**b - 1)
    scale = 255.0 / (high - low) if high > low else 0.0
    scaled = np.clip((values.astype(np.float32) - low) * scale + 0.5, 0, 255)
    return Image.fromarray(scaled.astype(np.uint8))


def shaped_array(pixels: NDArray[np.uint8], spec: ImageSpec | None) -> OpenedImage:
    """The same for uint8 RGB pixels `[H, W, 3]`. Raises `LoadError` for other arrays."""
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != "uint8" or not pixels.size:
        raise LoadError(
            f"Pixels of shape {list(pixels.shape)} and type {pixels.dtype} are not a picture.",
            "Give uint8 RGB pixels [H, W, 3].",
        )
    height, width = pixels.shape[:2]
    if spec is None or target_size(width, height, spec) == (width, height):
        return OpenedImage(pixels, width, height)
    return shaped(Image.fromarray(pixels), spec, (width, height))
