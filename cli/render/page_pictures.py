"""Document pages as thumbnails, rendered in a process of its own: PDFium is native code, and a file may be crafted."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.documents import worker as wire
from tsembed_search.errors import LoadError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Page = tuple[str, int]
"""The path of a file as the system spells it, and a page counted from 1."""

_SECONDS: Final = 4.0
_MEMORY: Final = 1 << 30
_SIDE: Final = 320
"""The longer side of a picture in pixels, at most."""


def page_pictures(pages: Sequence[Page]) -> Mapping[Page, NDArray[np.uint8]]:
    """The pages that could be rendered in a few seconds, as uint8 RGB `[H, W, 3]`; others are left out."""
    if not pages:
        return {}
    import numpy as np

    command = [sys.executable, "-P", "-m", "tsembed_search.cli.render.page_pictures"]
    asked = "".join(json.dumps(page) + "\n" for page in dict.fromkeys(pages))
    try:
        done = subprocess.run(
            command, input=asked.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_SECONDS
        )
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
    found: dict[Page, NDArray[np.uint8]] = {}
    stream = io.BytesIO(output)
    while (message := wire.receive(stream)) is not None:
        header, body = message
        pixels = np.frombuffer(body, np.uint8).reshape(header["height"], header["width"], 3)
        found[header["path"], header["page"]] = pixels
    return found


def main() -> None:
    """Renders the pages named on stdin to stdout, one message each. Dies of what is too large or broken."""
    from tsembed_search.documents.worker import limit_memory

    limit_memory(_MEMORY)
    for line in sys.stdin:
        path, page = json.loads(line)
        rendered = _rendered(path, page)
        if rendered is not None:
            width, height = rendered.size
            header = {"path": path, "page": page, "width": width, "height": height}
            wire.send(sys.stdout.buffer, header, rendered.tobytes())


def _rendered(path: str, page: int) -> Any:
    """A page as a Pillow picture in RGB, or None when it is not there any more or cannot be read."""
    import pypdfium2

    from tsembed_search.documents.formats.pdf import open_page, open_pdf

    try:
        with closing(open_pdf(Path(path))) as document, open_page(document, page - 1) as sheet:
            return sheet.drawn(_SIDE / max(*sheet.size, 1e-3)).convert("RGB")
    except (pypdfium2.PdfiumError, LoadError, OSError, IndexError, ValueError):
        return None


if __name__ == "__main__":
    main()
