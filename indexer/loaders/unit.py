"""What a loader gives and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from tsembed_search.indexer.chunking import Chunk, Chunker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.items import Kind
    from tsembed_search.model.backbones.protocol import InputSpec


@dataclass(frozen=True)
class Unit:
    """One item of a file, ready for the model: a picture, a chunk of text, or a rendered page.

    `page` counts from 1, `chunk` from 0 (see `store/schema.py`). `text` is the file's (or page's) characters `start` to
    `end`; `reads` is what the model reads instead of it, when that differs. `pixels` uint8 `[H, W, 3]` RGB, shaped for
    the model; `width` and `height` are the original's.
    """

    kind: Kind
    page: int | None = None
    chunk: int | None = None
    text: str | None = None
    start: int | None = None
    end: int | None = None
    reads: str | None = None
    pixels: NDArray[np.uint8] | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Loading:
    """One file being loaded. `pages`: also render document pages. `memory`: bytes that one picture may take.

    `note(reason)` says that a part of the file was left out; `alive()` says that work goes on though nothing was given
    for a while (a file that is silent for too long is given up).
    """

    file: BinaryIO
    inputs: InputSpec
    chunker: Callable[[], Chunker]
    pages: bool
    memory: int
    note: Callable[[str], None]
    alive: Callable[[], None]

    @property
    def cutter(self) -> Chunker:
        """The chunker for the model's tokenizer, which the first text that needs it loads."""
        return self.chunker()


class Loader(Protocol):
    """Turns an open file into units, one after the other, holding no more of it than needed.

    Raises `LoadError` for a file that cannot be read. A loader is one file in this folder and one line in `FORMATS`.
    """

    def __call__(self, loading: Loading) -> Iterator[Unit]: ...


def text_unit(chunk: Chunk, number: int, reads: str, page: int | None = None) -> Unit:
    """The unit of a chunk of text; `reads` is what the model is given."""
    return Unit("text", page, number, chunk.text, chunk.start, chunk.end, reads=None if reads == chunk.text else reads)


def numbers(pages: list[int]) -> str:
    """The numbers of pages in words, the first ten of many."""
    shown = ", ".join(map(str, pages[:10]))
    return shown if len(pages) <= 10 else f"{shown} and {len(pages) - 10} more"
