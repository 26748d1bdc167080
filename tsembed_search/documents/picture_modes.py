"""The modes of pictures: what cannot be averaged, such as palettes and deep greys, becomes what can."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from PIL import Image


def resizable(image: Image.Image) -> Image.Image:
    """Return the picture in a mode whose pixels can be averaged: L, RGB, CMYK, LA or RGBA."""
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
