"""Small pictures of files, for people: of picture files and of the pages of documents."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tsembed_search.documents.crawl import open_regular
from tsembed_search.documents.decoders import Decoder, look
from tsembed_search.errors import LoadError, TsembedError

if TYPE_CHECKING:
    from tsembed_search.documents.document import Pixels

Page = tuple[Path, int]
"""A file, and one of its pages, counted from 1. Most pictures have one."""

_SECONDS: Final = 4.0
_MEMORY: Final = 1 << 30


def thumbnails(pages: Iterable[Page]) -> dict[Page, Pixels]:
    """The pages that can be drawn, as uint8 RGB `[H, W, 3]`; others, and texts, are left out.

    Pages of documents are drawn by a process of its own, for a few seconds at most: a file may be crafted.
    """
    found: dict[Page, Pixels] = {}
    documents: list[Page] = []
    for path, page in dict.fromkeys(pages):
        with suppress(LoadError, OSError):
            format = look(path)[0]
            if format.pages:
                documents.append((path, page))
            elif format.preview is not None:
                with open_regular(os.fspath(path)) as file:
                    found[path, page] = format.preview(file, page)
    if documents:
        decoder = Decoder(None, memory=_MEMORY, time_limit=_SECONDS)
        timer = threading.Timer(_SECONDS, decoder.kill)
        timer.start()
        try:
            for path, page in documents:
                with suppress(TsembedError):
                    found[path, page] = decoder.preview(path, page)
        finally:
            timer.cancel()
            decoder.kill()
            decoder.close()
    return found
