"""Plain text, and whatever reads as such: logs, tables, reStructuredText, TeX, subtitles."""

from __future__ import annotations

from collections.abc import Iterator

from tsembed_search.documents.chunking import paragraphs
from tsembed_search.documents.document import Loading, Unit, text_unit
from tsembed_search.documents.encoding import read_text
from tsembed_search.errors import LoadError


def load(loading: Loading) -> Iterator[Unit]:
    """Chunks of text; a file of any length streams through."""
    number = -1
    for number, chunk in enumerate(loading.cutter.chunks(paragraphs(read_text(loading.file)))):
        yield text_unit(chunk, number, chunk.text)
    if number < 0:
        raise LoadError("There is no text in it.")
