"""The set's pictures: flattened on white, no larger than needed, written once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import LoadError

if TYPE_CHECKING:
    from PIL import Image

SIDE: Final = 320
"""Pictures are at most so many pixels wide and high."""
_MAX_PIXELS: Final = 20_000_000
_QUALITY: Final = 85


@dataclass
class Pictures:
    """Writes pictures below a folder, each once: one that is already there is left as it is."""

    folder: Path
    written: int = 0
    kept: int = 0
    unreadable: list[str] = field(default_factory=list)

    def add(self, name: str, make: Callable[[], Image.Image], *, lossless: bool = False) -> str:
        """The path, inside the set, of the picture that `make` makes. Raises `LoadError` when it cannot be made."""
        relative = f"images/{safe(name)}.{'png' if lossless else 'webp'}"
        target = self.folder / relative
        if target.exists():
            self.kept += 1
            return relative
        picture = flattened(make())
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            if lossless:
                picture.save(partial, "PNG", optimize=True)
            else:
                picture.save(partial, "WEBP", quality=_QUALITY, method=2)
            partial.replace(target)
        except OSError as error:
            raise LoadError(f"Cannot write {target}: {error.strerror or error}.", "Is the disk full?") from error
        self.written += 1
        return relative

    def copy(self, name: str, source: Path, *, lossless: bool = False) -> str | None:
        """The path, inside the set, of a picture from a file; None, with a note, when that cannot be read."""
        try:
            return self.add(name, lambda: opened(source), lossless=lossless)
        except (LoadError, ValueError, SyntaxError) as error:
            self.unreadable.append(f"{source}: {error}")
            return None

    def open(self, relative: str) -> Image.Image:
        """A picture of the set, in RGB."""
        from PIL import Image

        with Image.open(self.folder / relative) as picture:
            return picture.convert("RGB")


def safe(name: str) -> str:
    """A name for a file: parts of letters, digits, dots, dashes and underscores, between slashes."""
    return "/".join(re.sub(r"[^\w.-]+", "_", part)[:80] for part in name.split("/"))


def opened(source: Path) -> Image.Image:
    """A picture of a file. Raises `LoadError` for one that cannot be read or has absurdly many pixels."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(source) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise LoadError(f"{picture.width} x {picture.height} pixels are too many.")
            picture.load()
            return picture
    except (OSError, Image.DecompressionBombError) as error:
        raise LoadError(f"{source} cannot be read: {error}.") from error


def flattened(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """RGB on white, made smaller if it is larger than `side`."""
    from PIL import Image

    if max(picture.size) > side:
        scale = side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        deep = picture.convert("RGBA") if _transparent(picture) else picture.convert("RGB")
        # A reduction by whole steps first: a clip-art file may be twenty times too large.
        picture = deep.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    if not _transparent(picture):
        return picture.convert("RGB")
    alpha = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", alpha.size, "white"), alpha).convert("RGB")


def _transparent(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


def look(picture: Image.Image) -> int:
    """64 bits of what a picture looks like: equal for copies, and mostly for slightly changed ones (a difference hash).
    0 for a picture without any contrast.
    """
    from PIL import Image

    small = picture.convert("L").resize((9, 8), Image.Resampling.BOX).tobytes()
    bits = 0
    for row in range(8):
        for column in range(8):
            bits = bits << 1 | (small[row * 9 + column] < small[row * 9 + column + 1])
    return bits
