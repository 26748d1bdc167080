"""The pictures on a page of a PDF, each as the viewer shows it.

A page turns, mirrors, squashes and cuts its pictures, and a scan often lies on it in pieces: strips, tiles, or layers
of paper and ink. Pieces are put together by drawing their part of the page.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from tsembed_search.documents.pictures import content_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from tsembed_search.documents.document import Document

# Below this (in pixels) it is an icon, a rule or a bullet; beyond this shape a border or one strip of many.
_SMALLEST_SIDE: Final = 64
_LONGEST_SHAPE: Final = 8.0
# With one bit per pixel a picture needs more of them to show something: signatures and single words stay out.
_SMALLEST_BITS: Final = 128
_MOST_PICTURES: Final = 50
_MOST_PIECES: Final = 1_000
"""Of a page; more are not compared in pairs."""
_MOST_OF_PAGE: Final = 0.4
# Of a box: less than this may lie outside of what is shown, or of another box.
_SLACK: Final = 0.1
# Seams are looked for in a drawing of this size; a step of fewer greys is none.
_SEAMS: Final = (512, 512)
_STEP: Final = 8
_LONGEST_CLIP: Final = 500
# What pypdfium2 meets when a crafted file says that something has no size, or an endless one.
NONSENSE: Final = (ZeroDivisionError, OverflowError, ValueError)


class Box(NamedTuple):
    """A part of the page as it is shown, in points from its lower left corner."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        return self.right - self.left, self.top - self.bottom

    @property
    def area(self) -> float:
        """Zero for a box of which nothing is left."""
        return (self.right - self.left) * (self.top - self.bottom)

    def within(self, other: Box) -> Box:
        """The part that two boxes have in common: a box without area where that is nothing."""
        left, bottom = max(self.left, other.left), max(self.bottom, other.bottom)
        return Box(left, bottom, max(left, min(self.right, other.right)), max(bottom, min(self.top, other.top)))


@dataclass(frozen=True)
class _Piece:
    """An image on the page. `matrix`: from the unit square to the page as shown. `box`: all of it, `seen`: what is
    not cut away. `width`, `height`: its pixels along the page's axes.
    """

    image: Any
    matrix: Any
    box: Box
    seen: Box
    width: float
    height: float
    is_bits: bool


def pictures(page: Any, number: int, document: Document, seen: set[bytes]) -> Iterator[tuple[Image.Image, int, int]]:
    """Yield the pictures of a `pypdfium2.PdfPage` as they are shown, each with its width and height in the file.

    Without icons, rules, and what an earlier page had too: `seen` holds digests of the pictures of the document so far,
    and is added to.
    """
    import pypdfium2

    given = 0
    pieces = list(_pieces(page, number, document))
    for group in _pictures_of(pieces, page, document):
        try:
            width, height = _pixels(group)
            # Rendering holds the decoded picture and the result, four bytes a pixel each; of bits less.
            if width * height * (2 if all(piece.is_bits for piece in group) else 8) > document.memory:
                document.note(f"A picture of {width:,} x {height:,} pixels on page {number} is too large.")
                continue
            if _is_known(group, seen):
                continue
            if given == _MOST_PICTURES:
                document.note(f"Page {number} has more than {_MOST_PICTURES} pictures; the rest is left out.")
                return
            if len(group) == 1 and not group[0].is_bits:
                image = _upright(group[0])
                width, height = image.size
            else:
                image = _part(page, _union(group), width, height, document)
        except (pypdfium2.PdfiumError, *NONSENSE):
            document.note(f"A picture on page {number} cannot be read.")
            continue
        given += 1
        yield image, width, height
        document.alive()


def _pieces(page: Any, number: int, document: Document) -> Iterator[_Piece]:
    """The images on a page of which something is seen."""
    import pypdfium2
    import pypdfium2.raw as pdfium

    shown = _shown(page)
    sheet = Box(0.0, 0.0, *page.get_size())
    for image in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE]):
        try:
            width, height = image.get_px_size()
            matrix, seen = image.get_matrix(), sheet
            inside = [image]
            while (outer := inside[-1].container) is not None:
                inside.append(outer)
            above = [one.get_matrix() for one in inside[1:]] + [shown]
            for level, one in enumerate(inside):
                clip = _clip(one)
                if clip is not None:
                    for step in above[level:]:
                        clip = Box(*step.on_rect(*clip))
                    seen = seen.within(clip)
            for step in above:
                matrix = matrix.multiply(step)
            box = Box(*matrix.on_rect(0, 0, 1, 1))
            seen = seen.within(box)
            if not seen.area or not all(map(math.isfinite, box)):
                continue
            if abs(matrix.a) + abs(matrix.d) < abs(matrix.b) + abs(matrix.c):
                width, height = height, width
            is_bits = image.get_metadata().bits_per_pixel == 1
            yield _Piece(image, matrix, box, seen, width, height, is_bits)
        except (pypdfium2.PdfiumError, *NONSENSE):
            document.note(f"A picture on page {number} cannot be read.")


def _shown(page: Any) -> Any:
    """The matrix from the page's own coordinates to the page as it is shown."""
    from pypdfium2 import PdfMatrix

    left, bottom, right, top = page.get_bbox()
    turns = {
        0: (1, 0, 0, 1, -left, -bottom),
        90: (0, -1, 1, 0, -bottom, right),
        180: (-1, 0, 0, -1, right, top),
        270: (0, 1, -1, 0, top, -left),
    }
    rotation = page.get_rotation()
    upright = PdfMatrix(*turns[rotation])
    wide = (top - bottom) if rotation in (90, 270) else (right - left)
    # A page may have a unit of its own.
    unit = page.get_width() / wide
    return upright.scale(unit, unit)


def _clip(shape: Any) -> Box | None:
    """The box of what an object is clipped to, in the coordinates around it; None where it is not, or not simply."""
    import pypdfium2.raw as pdfium

    path = pdfium.FPDFPageObj_GetClipPath(shape)
    if not path:
        return None
    box: Box | None = None
    x, y = ctypes.c_float(), ctypes.c_float()
    for index in range(min(pdfium.FPDFClipPath_CountPaths(path), _LONGEST_CLIP)):
        count = pdfium.FPDFClipPath_CountPathSegments(path, index)
        points = []
        for segment in range(count if count <= _LONGEST_CLIP else 0):
            if pdfium.FPDFPathSegment_GetPoint(pdfium.FPDFClipPath_GetPathSegment(path, index, segment), x, y):
                points.append((x.value, y.value))
        if points:
            across, along = zip(*points, strict=True)
            outline = Box(min(across), min(along), max(across), max(along))
            box = outline if box is None else box.within(outline)
    return box


def _union(group: Sequence[_Piece]) -> Box:
    lefts, bottoms, rights, tops = zip(*(piece.seen for piece in group), strict=True)
    return Box(min(lefts), min(bottoms), max(rights), max(tops))


def _pixels(group: Sequence[_Piece]) -> tuple[int, int]:
    """Width and height of the whole in pixels as dense as the densest piece of some size."""
    wide, high = _union(group).size
    large = max(piece.seen.area for piece in group)
    some = [piece for piece in group if piece.seen.area >= large / 2]
    return (
        round(max(piece.width / piece.box.size[0] for piece in some) * wide),
        round(max(piece.height / piece.box.size[1] for piece in some) * high),
    )


def _is_let_in(group: Sequence[_Piece]) -> bool:
    """Return whether it is large enough, and no rule."""
    width, height = _pixels(group)
    wide, high = _union(group).size
    least = _SMALLEST_BITS if all(piece.is_bits for piece in group) else _SMALLEST_SIDE
    longest = max(max(width, height) / max(min(width, height), 1), max(wide, high) / max(min(wide, high), 1e-6))
    return min(width, height) >= least and longest <= _LONGEST_SHAPE


def _pictures_of(pieces: list[_Piece], page: Any, document: Document) -> Iterator[list[_Piece]]:
    """The pieces of each picture, in the order of the page."""
    left_out: list[_Piece] = []
    for group in _groups(pieces):
        let_in = [_is_let_in([piece]) for piece in group]
        # Photos that touch are photos.
        has_layers = sum(piece.seen.area for piece in group) > (1 + _SLACK) * _union(group).area
        is_one = not all(let_in) or len(group) == 1 or has_layers or _goes_on(group, page, document)
        if _is_let_in(group) and is_one:
            yield group
            continue
        yield from ([piece] for piece in compress(group, let_in))
        left_out += [piece for piece, is_alone in zip(group, let_in, strict=True) if not is_alone]
    # What makes no pictures may still be the page, in pieces with gaps.
    sheet = page.get_width() * page.get_height()
    if sum(piece.seen.area for piece in left_out) >= _MOST_OF_PAGE * sheet and _is_let_in(left_out):
        yield left_out


def _goes_on(group: Sequence[_Piece], page: Any, document: Document) -> bool:
    """Return whether the drawing goes on from piece to piece: most seams show no more of a step than what is beside."""
    import numpy as np
    import pypdfium2

    whole = _union(group)
    try:
        drawn = np.asarray(_part(page, whole, *_SEAMS, document).convert("L"), np.int16)
    except (pypdfium2.PdfiumError, *NONSENSE):
        return False
    high, wide = drawn.shape
    across, along = wide / whole.size[0], high / whole.size[1]
    steps = []
    for piece in group:
        left, right = ((side - whole.left) * across for side in (piece.seen.left, piece.seen.right))
        top, bottom = ((whole.top - side) * along for side in (piece.seen.top, piece.seen.bottom))
        for lines, at, first, last in ((drawn, bottom, left, right), (drawn.T, right, top, bottom)):
            seam, part = round(at), slice(round(first), round(last))
            if 4 <= seam < len(lines) - 4:
                rows = lines[seam - 4 : seam + 4, part]
                step = np.abs(rows[5] - rows[2]).mean()
                steps.append(
                    step <= _STEP + 2 * max(np.abs(rows[2] - rows[0]).mean(), np.abs(rows[7] - rows[5]).mean())
                )
    return bool(np.mean(steps) > 0.5) if steps else True


def _groups(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces that belong together: side by side with a common edge, or on top of each other."""
    import numpy as np

    if not 1 < len(pieces) <= _MOST_PIECES:
        yield from ([piece] for piece in pieces)
        return
    joined = _belong(pieces)
    # Each piece is called after the first one that it hangs together with, also over others.
    first = np.arange(len(pieces))
    while ((nearer := np.where(joined, first, len(pieces)).min(axis=1)) != first).any():
        first = nearer[nearer]
    for one in np.unique(first):
        yield [pieces[place] for place in np.flatnonzero(first == one)]


def _belong(pieces: list[_Piece]) -> NDArray[np.bool_]:
    """Return whether two pieces are parts of one picture, `[N, N]`."""
    import numpy as np

    left, bottom, right, top = np.array([piece.seen for piece in pieces], np.float64).T
    across, along = np.array([[piece.width, piece.height] / np.array(piece.box.size) for piece in pieces]).T
    # Pieces are often laid a pixel over each other.
    fine = np.clip(1 / np.minimum(across, along), 0.5, 1.5)
    slack = np.maximum(fine[:, None], fine[None])

    def near(values: Any, others: Any) -> Any:
        return np.abs(values[:, None] - others[None]) <= slack

    def alike(values: Any) -> Any:
        return np.abs(np.log(values)[:, None] - np.log(values)[None]) <= _SLACK

    stacked = near(left, left) & near(right, right) & (near(bottom, top) | near(top, bottom)) & alike(across)
    side_by_side = near(bottom, bottom) & near(top, top) & (near(left, right) | near(right, left)) & alike(along)
    wide = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    high = np.minimum(top[:, None], top) - np.maximum(bottom[:, None], bottom)
    common = np.maximum(wide, 0) * np.maximum(high, 0)
    area = (right - left) * (top - bottom)
    same_place = common >= (1 - _SLACK) * np.maximum(area[:, None], area)
    # Ink on paper: the layer of the letters may be smaller than the page, but lies on it.
    bits = np.array([piece.is_bits for piece in pieces])
    ink = (common >= (1 - _SLACK) * area[:, None]) & bits[:, None]
    return cast("NDArray[np.bool_]", stacked | side_by_side | same_place | ink | ink.T)


def _is_known(group: Sequence[_Piece], seen: set[bytes]) -> bool:
    """Return whether the document had the same picture before: logos and backgrounds come on every page."""
    whole = hashlib.sha256()
    for piece in group:
        data = piece.image.get_data()
        whole.update(hashlib.sha256(ctypes.string_at(data, len(data))).digest())
        if piece.seen != piece.box:
            whole.update(repr([round(side) for side in piece.seen]).encode())
    known = len(seen)
    seen.add(whole.digest())
    return len(seen) == known


def _upright(piece: _Piece) -> Image.Image:
    """An image at its own resolution, turned and stretched as on the page, and cut to what is seen of it."""
    from pypdfium2 import PdfMatrix

    wide, high = piece.box.size
    # As many pixels as it has, in the shape that it is shown in.
    fine = math.sqrt(piece.width * piece.height / (wide * high))
    width, height = max(1, round(wide * fine)), max(1, round(high * fine))
    matrix, own = piece.matrix, piece.image.get_matrix()
    across, along = width / wide, height / high
    piece.image.set_matrix(
        PdfMatrix(
            matrix.a * across, matrix.b * along, matrix.c * across, matrix.d * along,
            (matrix.e - piece.box.left) * across, (matrix.f - piece.box.bottom) * along,
        )
    )  # fmt: skip
    try:
        image = piece.image.get_bitmap(render=True, scale_to_original=False).to_pil()
    finally:
        piece.image.set_matrix(own)
    if piece.seen.area >= (1 - _SLACK / 2) * wide * high:
        return cast("Image.Image", image.copy())
    across, along = image.width / wide, image.height / high
    left, right = (round((side - piece.box.left) * across) for side in (piece.seen.left, piece.seen.right))
    upper, lower = (round((piece.box.top - side) * along) for side in (piece.seen.top, piece.seen.bottom))
    return cast("Image.Image", image.crop((left, upper, right, lower)))


def _part(page: Any, box: Box, width: int, height: int, document: Document) -> Image.Image:
    """A part of the page, drawn with up to `width` x `height` pixels: no more than the model can use."""
    wide, high = box.size
    target = content_size(width, height, document.image_spec)
    enough = 2 * max(target[0] / wide, target[1] / high)
    scale = min(max(width / wide, height / high), enough)
    scale = min(scale, math.sqrt(document.memory / (8 * wide * high)))
    around = box.left, box.bottom, page.get_width() - box.right, page.get_height() - box.top
    image = page.render(scale=scale, crop=tuple(max(0.0, side) for side in around), may_draw_forms=False).to_pil()
    return cast("Image.Image", image.copy())
