"""Plain text, and whatever reads as such: logs, tables, reStructuredText, TeX, subtitles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from tsembed_search.documents.document import Document, Format, Unit
from tsembed_search.errors import LoadError


def units(document: Document) -> Iterator[Unit]:
    """Chunks of text; a file of any length streams through."""
    from tsembed_search.documents.chunking import paragraphs
    from tsembed_search.documents.encoding import read_text

    if not (yield from document.text_units(paragraphs(read_text(document.file), 1))):
        raise LoadError("There is no text in it.")


def text(file: BinaryIO, page: int | None) -> Iterator[str]:
    """All of the file; it has no pages."""
    from tsembed_search.documents.encoding import read_text

    return read_text(file)


_EXTENSIONS: Final = "txt text rst adoc asciidoc org tex log csv tsv srt vtt nfo"
FORMAT = Format("text", 3, frozenset(_EXTENSIONS.split()), units, is_text=True, text=text)
