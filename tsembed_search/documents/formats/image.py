"""Picture files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from tsembed_search.documents.document import Loading, Unit, numbers
from tsembed_search.documents.pictures import open_pages
from tsembed_search.documents.pixels import OpenedImage
from tsembed_search.errors import LoadError

_MOST_PAGES: Final = 500


def load(loading: Loading) -> Iterator[Unit]:
    """The picture, or the first frame of an animation; of a file with pages each page that can be read."""
    pages = open_pages(loading.file, loading.inputs.image, memory=loading.memory)
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
            loading.note(f"It has more than {_MOST_PAGES} pages; the rest is left out.")
            number -= 1
            break
        if isinstance(page, LoadError):
            broken.append(number)
            error = page
        else:
            yield _unit(page, number)
        loading.alive()
    if len(broken) == number:
        raise error
    if broken:
        loading.note(f"Pages that cannot be read: {numbers(broken)} of {number}. {error}")


def _until_broken(pages: Iterator[OpenedImage | LoadError]) -> Iterator[OpenedImage | LoadError]:
    """The pages, and the error behind which no more can be found."""
    try:
        yield from pages
    except LoadError as error:
        yield error


def _unit(page: OpenedImage, number: int | None) -> Unit:
    return Unit("image", number, pixels=page.pixels, width=page.width, height=page.height)
