"""What a loader gives and what it is given.

Loaders, one file per format, and the table of formats.

The table is light: a loader is imported where files are decoded, which is not in the process that runs the model.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

from tsembed_search.documents.chunking import Chunk, Chunker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.items import InputSpec, Kind


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


@dataclass(frozen=True)
class Format:
    """A kind of file. `extensions` (lower case, without dot) say that a file is indexed at all; what is in it decides
    how it is read: it begins with one of `signatures` and can be opened as such, or no other format's (`formats_of`).

    `pages`: it has pages that can be rendered. Raise `version` when a loader finds more, or something else, in the same
    file: unchanged files are then read again.
    """

    name: str
    version: int
    extensions: frozenset[str]
    signatures: tuple[bytes, ...] = ()
    pages: bool = False

    def recipe(self, *, pages: bool) -> str:
        """What an index remembers of how a file was read. `pages`: document pages were rendered too."""
        return f"{self.name}/{self.version}{'+pages' if pages and self.pages else ''}"

    @property
    def load(self) -> Loader:
        """The loader itself."""
        return cast("Loader", importlib.import_module(f"tsembed_search.documents.formats.{self.name}").load)


IMAGE: Final = Format(
    "image",
    2,
    frozenset({
        "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "tif", "tiff", "bmp", "dib", "avif", "heic", "heif", "jp2",
        "j2k", "jpx", "ppm", "pgm", "pbm", "pnm", "ico", "icns", "pcx", "psd", "qoi",
    }),
    (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"8BPS", b"qoif", b"\0\0\0\x0cjP  ",
     b"\xffO\xffQ", b"\0\0\1\0", b"icns", b"P4\n", b"P5\n", b"P6\n", b"\n\5\1"),
)  # fmt: skip

PDF: Final = Format("pdf", 2, frozenset({"pdf"}), (b"%PDF-",), pages=True)

HTML: Final = Format("html", 2, frozenset({"html", "htm", "xhtml"}), (b"<!doctype html", b"<html"))

MARKDOWN: Final = Format("markdown", 2, frozenset({"md", "markdown", "mdown", "mkd"}))

TEXT: Final = Format(
    "text",
    2,
    frozenset({"txt", "text", "rst", "adoc", "asciidoc", "org", "tex", "log", "csv", "tsv", "srt", "vtt", "nfo"}),
)


HEAD: Final = 1024

"""How many bytes of a file tell its format."""


# What the first lines of a PDF are, and of no text about one.
_PDF_BEGINS: Final = re.compile(rb"\A\s*%PDF-\d\.\d\s*[\r\n].*?\d+\s+\d+\s+obj\b", re.DOTALL)


FORMATS: Final = (IMAGE, PDF, HTML, MARKDOWN, TEXT)

EXTENSIONS: Final = frozenset(extension for format in FORMATS for extension in format.extensions)

PLAIN_NAMES: Final = frozenset({"readme", "changelog", "changes", "notes", "todo", "news", "faq"})

"""Names without extension that are texts by custom."""


def extension_of(name: str) -> str:
    """The extension that decides: lower case, without dot; a text file's for the names that need none."""
    stem, dot, extension = name.rpartition(".")
    if dot and stem:
        return extension.lower()
    return "txt" if name.lower() in PLAIN_NAMES else ""


def format_of(extension: str, head: bytes) -> Format:
    """How to read a file of that extension which begins with `head` (1,024 bytes)."""
    return formats_of(extension, head)[0]


def formats_of(extension: str, head: bytes) -> tuple[Format, ...]:
    """The formats that a file may be in, the likeliest first: where one cannot be opened, the next is tried.

    A signature alone is a word that a text may hold. What its name says comes after it, and alone counts once there is
    nothing else; a signature that only a file of that format has leaves no doubt.
    """
    named = next((format for format in FORMATS if extension in format.extensions), TEXT)
    signed = _signed(head)
    if signed in (None, named):
        # PDF readers allow a little before the header.
        return (named, PDF) if b"%PDF-" in head and named is not PDF else (named,)
    if (signed is IMAGE and b"\0" in head[:64]) or (signed is PDF and _PDF_BEGINS.search(head)):
        return (signed,)
    return (signed, named)


def _signed(head: bytes) -> Format | None:
    """The format whose signature a file begins with."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64]
    for format in FORMATS:
        if format.signatures and (head.startswith(format.signatures) or start.lower().startswith(format.signatures)):
            return format
    return PDF if start.startswith(b"%PDF-") else IMAGE if _is_picture(head) else None


def _is_picture(head: bytes) -> bool:
    """Pictures whose signature is not all at the beginning: WebP, AVIF and HEIC, BMP."""
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
    return head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"
