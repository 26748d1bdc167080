"""Documents, what is read out of them, and the table of their formats.

A format is one file in `formats/` and one line in `FORMATS`. Other packages add theirs by entry points in the group
`tsembed.formats`. The table is light: a format imports its parser when it reads a file, which for an index happens in a
process of its own (`worker.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, BinaryIO, Final

from tsembed_search.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.documents.chunking import Block
    from tsembed_search.items import ImageSpec, InputSpec, Kind

    Pixels = NDArray[np.uint8]

_LONGEST_HEADING: Final = 120
HEAD: Final = 1024
"""The bytes at the beginning of a file that tell its format."""


@dataclass(frozen=True)
class Unit:
    """One item of a file, ready for the model: a picture, a chunk of text, or a rendered page.

    `page` counts from 1, `chunk` from 0 (see `store/schema.py`). `text` is the file's (or page's) characters `start` to
    `end`; `reads` is what the model reads instead of it, when that differs. `pixels` uint8 `[H, W, 3]` RGB, shaped for
    the model; `width` and `height` are the original's. `headings`: those it stands under, outermost first. `lines`: its
    first and last line in the file, from 1. `page_label`: what the document itself calls the page. `title`: what
    the file says about itself, to be found by.
    """

    kind: Kind
    page: int | None = None
    chunk: int | None = None
    text: str | None = None
    start: int | None = None
    end: int | None = None
    reads: str | None = None
    pixels: Pixels | None = None
    width: int | None = None
    height: int | None = None
    headings: tuple[str, ...] = ()
    lines: tuple[int, int] | None = None
    page_label: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class Section:
    """A part of a document for training: its text, and its `headings`, the best first. A page may have several, such as
    bookmarks, or none. `page` counts from 1.
    """

    headings: tuple[str, ...]
    text: str
    page: int | None = None


@dataclass(frozen=True)
class Figure:
    """A picture in a document: its path relative to the document, and what the document says about it."""

    source: str
    caption: str


@dataclass(frozen=True)
class Document:
    """An open file, and how it is to be read.

    `inputs`: of the model that reads the units; sections need none. `pages`: also render document pages. `pixels`:
    decode picture files, of which otherwise only the size is read. `memory`: the bytes that one picture may take.
    `note(reason)` says that a part of the file was left out; `alive()` says that work
    goes on though nothing was given for a while (a file that is silent for too long is given up).
    """

    file: BinaryIO
    inputs: InputSpec | None = None
    pages: bool = False
    pixels: bool = True
    memory: int = 2 << 30
    note: Callable[[str], None] = lambda reason: None
    alive: Callable[[], None] = lambda: None

    @property
    def image_spec(self) -> ImageSpec:
        """The shape that the model wants pictures in."""
        assert self.inputs is not None, "units need a model's inputs"
        return self.inputs.image

    def text_units(
        self,
        blocks: Iterable[Block],
        title: str = "",
        page: int | None = None,
        page_label: str | None = None,
        said: str = "",
    ) -> Generator[Unit, None, int]:
        """Yield the chunks of a text; the model reads each below its headings and the title. Return their number.

        `said` is what the file says about itself, of which the model reads nothing.
        """
        from tsembed_search.documents.chunking import chunker

        assert self.inputs is not None, "units need a model's inputs"
        cutter = chunker(self.inputs.text)
        number = -1
        for number, chunk in enumerate(cutter.chunks(blocks)):
            headings = (title, *chunk.headings)
            reads = cutter.with_headings(chunk.text, headings, chunk.most) if any(headings) else chunk.text
            given = None if reads == chunk.text else reads
            yield Unit(
                "text", page, number, chunk.text, chunk.start, chunk.end, reads=given, title=said or None,
                headings=tuple(filter(None, map(_in_brief, chunk.headings))), lines=chunk.lines, page_label=page_label,
            )  # fmt: skip
        return number + 1


def _in_brief(heading: str) -> str:
    """A heading on one line, cut where nobody would read on."""
    line = " ".join(heading[: 4 * _LONGEST_HEADING].split())
    return line if len(line) <= _LONGEST_HEADING else line[: _LONGEST_HEADING - 2].rstrip() + " …"


class Sign(IntEnum):
    """The weight of a file's first bytes for a format: nothing; so little that it is tried last; enough to try it
    first, though a text may begin like that; or all that there is to know.
    """

    NONE = 0
    FAINT = 1
    LIKELY = 2
    CERTAIN = 3


@dataclass(frozen=True)
class Format:
    """A kind of file. `extensions` (lower case, without dot) say that a file is indexed at all; what is in it decides
    how it is read: it begins with one of `signatures` and can be opened as such, or no other format's (`formats_of`).

    `units` reads a document for an index, one unit after the other, and holds no more of it than needed. `sections`
    reads it for training. Both raise `LoadError` for a file that cannot be read. `preview` draws a page (from 1) of an
    open file, small, as uint8 RGB `[H, W, 3]`. `pages`: it has pages that can be rendered. `is_text`: its files are
    texts, and its signatures are compared without case and blanks before them. `judge` replaces the comparison with
    `signatures` where more must be looked at. `text` gives the words of an open file piece by piece, as people read
    them: those of a page (from 1), or of all of a file without pages. The `start` of its units are offsets in them, or
    their `lines` are lines of them. Raise `version` when `units` finds more, or something else, in the same file:
    unchanged files are then read again.
    """

    name: str
    version: int
    extensions: frozenset[str]
    units: Callable[[Document], Iterator[Unit]]
    signatures: tuple[bytes, ...] = ()
    pages: bool = False
    sections: Callable[[Document], Iterator[Section | Figure]] | None = None
    preview: Callable[[BinaryIO, int], Pixels] | None = None
    is_text: bool = False
    judge: Callable[[bytes], Sign] | None = None
    text: Callable[[BinaryIO, int | None], Iterator[str]] | None = None

    def recipe(self, *, pages: bool) -> str:
        """Return what an index remembers of how a file was read. `pages`: document pages were rendered too."""
        return f"{self.name}/{self.version}{'+pages' if pages and self.pages else ''}"

    def sign(self, head: bytes) -> Sign:
        """Return how much a file's first bytes say for this format."""
        if self.judge is not None:
            return self.judge(head)
        start = text_start(head).lower() if self.is_text else head
        return Sign.LIKELY if self.signatures and start.startswith(self.signatures) else Sign.NONE


_FOLDER: Final = "tsembed_search.documents.formats"

FORMATS: Final = Registry[Format](
    "format",
    "tsembed.formats",
    {
        "image": f"{_FOLDER}.image:FORMAT",
        "pdf": f"{_FOLDER}.pdf:FORMAT",
        "html": f"{_FOLDER}.html:FORMAT",
        "markdown": f"{_FOLDER}.markdown:FORMAT",
        "text": f"{_FOLDER}.text:FORMAT",
    },
)

_PLAIN_NAMES: Final = frozenset({"readme", "changelog", "changes", "notes", "todo", "news", "faq"})


def formats() -> tuple[Format, ...]:
    """All formats, ours first."""
    return tuple(FORMATS.all())


def extensions() -> frozenset[str]:
    """The extensions of all files that are indexed."""
    return frozenset(extension for format in formats() for extension in format.extensions)


def extension_of(name: str) -> str:
    """The extension that decides: lower case, without dot; a text file's for names that by custom need none."""
    stem, dot, extension = name.rpartition(".")
    if dot and stem:
        return extension.lower()
    return "txt" if name.lower() in _PLAIN_NAMES else ""


def format_of(extension: str, head: bytes = b"") -> Format:
    """The format of a file of that extension which begins with `head` (`HEAD` bytes)."""
    return formats_of(extension, head)[0]


def formats_of(extension: str, head: bytes) -> tuple[Format, ...]:
    """The formats that a file may be in, the likeliest first: where one cannot be opened, the next is tried.

    A signature alone is a word that a text may hold. What the name says comes after it, and alone counts where there is
    none; a signature that only files of that format have leaves no doubt.
    """
    table = formats()
    named = next((format for format in table if extension in format.extensions), FORMATS.get("text"))
    signed = max(table, key=lambda format: format.sign(head))
    sign = signed.sign(head)
    if sign is Sign.NONE or sign is Sign.CERTAIN:
        return (signed if sign else named,)
    return tuple(dict.fromkeys((signed, named) if sign is Sign.LIKELY else (named, signed)))


def text_start(head: bytes) -> bytes:
    """The beginning of a text, without the mark of its encoding and blanks."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64]


def numbers(pages: list[int]) -> str:
    """The numbers of pages in words, the first ten of many."""
    shown = ", ".join(map(str, pages[:10]))
    return shown if len(pages) <= 10 else f"{shown} and {len(pages) - 10} more"
