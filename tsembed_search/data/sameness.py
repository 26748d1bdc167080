"""The same content: the one notion of it for training, validation and evaluation.

Two items have the same content when their texts are the same but for case, forms of letters and blanks, and their
pictures are the same file, byte by byte, under whatever names. So the right answers of a query are known wherever they
turn up, and a query is known among its own candidates.
"""

from __future__ import annotations

import os
from functools import lru_cache
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.items import one_form

if TYPE_CHECKING:
    from tsembed_search.items import Item

_WHOLE: Final = 256 << 10
_PART: Final = 16 << 10
_PARTS: Final = 8
_PLAIN_PIXELS: Final = (b"BM", b"II", b"MM", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
"""BMP, TIFF and Netpbm may hold pixels as they are: there, two pictures can differ in one place alone."""
_REMEMBERED: Final = 1 << 17


def content(item: Item, picture: str | None = None) -> int:
    """63 bits of what an item shows: its text and its picture. Its instruction does not count. `picture`: the
    `picture_content` of its picture, where that is known already.
    """
    picture = picture_content(item.image) if picture is None else picture
    return number("content", text_form(item.text), picture)


def question(item: Item, picture: str | None = None) -> int:
    """63 bits of what a query asks: its content, and the instruction that says what to look for."""
    picture = picture_content(item.image) if picture is None else picture
    return number("question", text_form(item.text), picture, text_form(item.instruction))


def text_form(text: str | None) -> str:
    """A text in the form in which texts are compared."""
    if not text:
        return ""
    return " ".join(one_form(text).casefold().split())


def picture_content(image: Any) -> str:
    """A hash of a picture's file, "" without one. A file that is empty or cannot be read is known by its
    name alone, and a picture in memory by its pixels.
    """
    if image is None:
        return ""
    if isinstance(image, Path):
        try:
            path = str(image)
            found = os.stat(path)  # noqa: PTH116 - three times as fast, and there may be millions
            if found.st_size:
                return _of_file(path, found.st_size, found.st_mtime_ns, found.st_ino)
        except OSError:
            pass  # opening it will say why
        return f"file {image}"
    import numpy as np

    pixels = np.asarray(image)
    return blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()


class Copies:
    """Remembers under which name each picture was met first."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def first(self, image: Any, picture: str) -> str:
        """The name under which a picture was met first, by its `picture_content`; "" for none."""
        return "" if image is None else self._first.setdefault(picture, str(image))


@lru_cache(_REMEMBERED)
def _of_file(path: str, size: int, changed: int, inode: int) -> str:
    """The hash of a file. Of a large one only some parts are read: compressed data that differs anywhere differs in
    length or from there on.
    """
    digest = blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as above
        start = file.read(size if size <= _WHOLE else _PART) or b""
        digest.update(start)
        if size > _WHOLE:
            if start.startswith(_PLAIN_PIXELS):
                _add_rest(digest, file)
            else:
                for part in range(1, _PARTS):
                    file.seek((size - _PART) * part // (_PARTS - 1), os.SEEK_SET)
                    digest.update(file.read(_PART) or b"")
    return digest.hexdigest()


def _add_rest(digest: blake2b, file: FileIO) -> None:
    while block := file.read(1 << 20):
        digest.update(block)


def number(*parts: str) -> int:
    """63 bits that stand for texts, the same in every process and run."""
    data = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") >> 1
