"""Picture files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, Final

from tsembed_search.documents.document import Document, Format, Sign, Unit, numbers
from tsembed_search.documents.pictures import OpenedImage, begins_as_picture, open_image, open_pages
from tsembed_search.errors import LoadError
from tsembed_search.items import ImageSpec

if TYPE_CHECKING:
    from tsembed_search.documents.document import Pixels

_MOST_PAGES: Final = 500
_SMALL: Final = ImageSpec(max_pixels=512 * 512)


def units(document: Document) -> Iterator[Unit]:
    """The picture, or the first frame of an animation; of a file with pages each page that can be read. What the file
    says about itself is the title.
    """
    pages = open_pages(document.file, document.image_spec, memory=document.memory, pixels=document.pixels)
    first = next(pages)
    if (second := next(pages, None)) is None:
        if isinstance(first, LoadError):
            raise first
        yield _unit(first, None)
        return
    broken: list[int] = []
    number = 0
    for number, page in enumerate(chain([first, second], pages), 1):
        if number > _MOST_PAGES:
            document.note(f"It has more than {_MOST_PAGES} pages; the rest is left out.")
            number -= 1
            break
        if isinstance(page, LoadError):
            broken.append(number)
            error = page
        else:
            yield _unit(page, number)
        document.alive()
    if len(broken) == number:
        raise error
    if broken:
        document.note(f"Pages that cannot be read: {numbers(broken)} of {number}. {error}")


def _unit(page: OpenedImage, number: int | None) -> Unit:
    pixels = page.pixels if page.pixels.size else None
    return Unit("image", number, pixels=pixels, width=page.width, height=page.height, title=page.said or None)


def preview(file: BinaryIO, page: int) -> Pixels:
    """A page of the file, small."""
    return open_image(file, _SMALL, page=page).pixels


def _judge(head: bytes) -> Sign:
    if not begins_as_picture(head):
        return Sign.NONE
    return Sign.CERTAIN if b"\0" in head[:64] else Sign.LIKELY


FORMAT = Format(
    "image",
    3,
    frozenset({
        "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "tif", "tiff", "bmp", "dib", "avif", "heic", "heif", "jp2",
        "j2k", "jpx", "ppm", "pgm", "pbm", "pnm", "ico", "icns", "pcx", "psd", "qoi",
    }),
    units,
    preview=preview,
    judge=_judge,
)  # fmt: skip
