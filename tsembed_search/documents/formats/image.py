"""Picture files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, Final

from tsembed_search.documents.document import Document, Format, Sign, Unit, numbers
from tsembed_search.errors import LoadError
from tsembed_search.items import ImageSpec

if TYPE_CHECKING:
    from tsembed_search.documents.document import Pixels
    from tsembed_search.documents.pixels import OpenedImage

_MOST_PAGES: Final = 500
_SMALL: Final = ImageSpec(max_pixels=512 * 512)
_SIGNATURES: Final = (
    b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"8BPS", b"qoif", b"\0\0\0\x0cjP  ",
    b"\xffO\xffQ", b"\0\0\1\0", b"icns", b"P4\n", b"P5\n", b"P6\n", b"\n\5\1",
)  # fmt: skip
_BRANDS: Final = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def units(document: Document) -> Iterator[Unit]:
    """The picture, or the first frame of an animation; of a file with pages each page that can be read."""
    from tsembed_search.documents.pictures import open_pages

    pages = open_pages(document.file, document.image_spec, memory=document.memory)
    first = next(pages)
    rest = _until_broken(pages)
    second = next(rest, None)
    if second is None:
        if isinstance(first, LoadError):
            raise first
        yield _unit(first, None)
        return
    broken: list[int] = []
    number = 0
    for number, page in enumerate(chain([first, second], rest), 1):
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


def _until_broken(pages: Iterator[OpenedImage | LoadError]) -> Iterator[OpenedImage | LoadError]:
    """The pages, and the error behind which no more can be found."""
    try:
        yield from pages
    except LoadError as error:
        yield error


def _unit(page: OpenedImage, number: int | None) -> Unit:
    return Unit("image", number, pixels=page.pixels, width=page.width, height=page.height)


def preview(file: BinaryIO, page: int) -> Pixels:
    """A page of the file, small."""
    from tsembed_search.documents.pictures import open_image

    return open_image(file, _SMALL, page=page).pixels


def _judge(head: bytes) -> Sign:
    if not head.startswith(_SIGNATURES) and not _begins_late(head):
        return Sign.NONE
    return Sign.CERTAIN if b"\0" in head[:64] else Sign.LIKELY


def _begins_late(head: bytes) -> bool:
    """Return whether it is a picture whose signature is not all at the beginning: WebP, AVIF and HEIC, BMP."""
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in _BRANDS
    return head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"


FORMAT = Format(
    "image",
    2,
    frozenset({
        "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "tif", "tiff", "bmp", "dib", "avif", "heic", "heif", "jp2",
        "j2k", "jpx", "ppm", "pgm", "pbm", "pnm", "ico", "icns", "pcx", "psd", "qoi",
    }),
    units,
    preview=preview,
    judge=_judge,
)  # fmt: skip
