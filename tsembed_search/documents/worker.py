"""A decoding process: reads the files that it is told, one after the other, and sends what is in them.

Started as `python -m tsembed_search.documents.worker`. It imports neither torch nor transformers, ends when the process
that started it ends, and may die or hang over a bad file: see `decoders.py`. A message is a JSON header, then bytes.
A decoder reads hostile files, so what it sends is parsed as data and never executed.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from tsembed_search.documents.crawl import open_regular, signature, unreadable
from tsembed_search.documents.document import FORMATS, Document, Format, Unit
from tsembed_search.errors import LoadError
from tsembed_search.items import ImageSpec, InputSpec, TextSpec

CHANGED = LoadError("It changed while it was read.", "The next run takes it.")

_LENGTHS: Final = struct.Struct("<II")
_MOST_HEADER: Final = 64 << 20
_MOST_BODY: Final = 1 << 30
_LONGEST_PIECE: Final = 1 << 20  # characters of a text in one message


class TooSlow(LoadError):
    """A file took more than `limit` seconds."""

    def __init__(self, limit: float) -> None:
        super().__init__(
            f"Reading it took more than {limit:g} second{'' if limit == 1 else 's'}.",
            "Raise the time limit, and try what was skipped again.",
        )


def main() -> None:
    """Serves until the other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    # Whatever libraries print must not get between the messages.
    out = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    try:
        if (settings := receive(requests)) is None:
            return
        memory = int(settings[0]["memory"])
        open_document = functools.partial(
            Document,
            inputs=_inputs(settings[0]["inputs"]),
            # Pillow and numpy hold a result beside the decoded picture.
            memory=memory * 3 // 5,
            note=lambda text: send(out, {"is": "note", "text": text}),
            alive=lambda: send(out, {"is": "alive"}),
        )
        _limit_memory(memory)
        send(out, {"is": "ready"})
        while (message := receive(requests)) is not None:
            send(out, _answer(message[0], open_document, out))
    except BrokenPipeError:
        # The other process is gone; there is nobody to tell.
        os._exit(0)


def _answer(request: dict[str, Any], open_document: Callable[..., Document], out: BinaryIO) -> dict[str, Any]:
    """Sends the units of one file; returns the message that ends it."""
    path, page, words_of = request["path"], request["preview"], request["read"]
    expected = request["signature"] and tuple(request["signature"])
    formats = [FORMATS.get(name) for name in request["formats"]]
    try:
        with open_regular(path) as file:
            if expected not in (None, signature(os.fstat(file.fileno()))):
                raise CHANGED
            document = open_document(file, pages=bool(request["pages"]), pixels=bool(request["pixels"]))
            if page is not None:
                units = _preview(formats[0], file, page)
            elif words_of is not None:
                units = _units(formats, document, functools.partial(_words, words_of or None))
            else:
                units = _units(formats, document, lambda format, document: format.units(document))
            for unit in units:
                _send_unit(out, unit)
            if expected not in (None, signature(os.fstat(file.fileno()))):
                raise CHANGED
    except LoadError as error:
        # Damage is often seen only because the file is being written at this moment.
        changed = error is CHANGED or _has_changed(path, expected)
        return _failed(str(CHANGED if changed else error), again=changed)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _failed(unreadable(error), again=True)
    except MemoryError:
        return _failed("It needs more memory than a decoder may use.")
    # Formats stand on large libraries; what these raise on a crafted file must not end the run.
    except Exception as error:  # noqa: BLE001
        return _failed(f"Reading it failed ({type(error).__name__}: {' '.join(str(error).split())[:100]}).")
    return {"is": "done"}


def _failed(reason: str, *, again: bool = False) -> dict[str, Any]:
    return {"is": "failed", "reason": reason, "again": again}


def _has_changed(path: str, expected: tuple[int, ...] | None) -> bool:
    try:
        return expected not in (None, signature(Path(path).stat()))
    except OSError:
        return True


def _units(
    formats: list[Format], document: Document, read: Callable[[Format, Document], Iterator[Unit]]
) -> Iterator[Unit]:
    """The units of a file. What cannot be opened in its format may only look like it: the next is tried.

    Raises `LoadError` with the reason of the format that says most: "binary data" is true of every damaged picture.
    """
    reasons: list[tuple[bool, LoadError]] = []
    for format in formats:
        document.file.seek(0)
        given = False
        try:
            for unit in read(format, document):
                given = True
                yield unit
        except LoadError as error:
            if given:
                raise
            reasons.append((format.is_text, error))
        else:
            return
    raise next((error for is_text, error in reasons if not is_text), reasons[0][1])


def _words(page: int | None, format: Format, document: Document) -> Iterator[Unit]:
    """The text of a page, or of a file without pages, in pieces that a message can hold."""
    if format.text is None:
        raise LoadError(f"There is no text to show of {format.name} files.")
    for piece in format.text(document.file, page):
        for start in range(0, len(piece), _LONGEST_PIECE):
            yield Unit("text", page, text=piece[start : start + _LONGEST_PIECE])


def _preview(format: Format, file: BinaryIO, page: int) -> Iterator[Unit]:
    if format.preview is None:
        raise LoadError(f"There are no pictures of pages of {format.name} files.")
    yield Unit("page", page, pixels=format.preview(file, page))


def _send_unit(out: BinaryIO, unit: Unit) -> None:
    header = {"is": "unit", **vars(unit)}
    pixels = header.pop("pixels")
    if pixels is None:
        send(out, header)
    else:
        send(out, header | {"shape": pixels.shape}, pixels.data.cast("B"))


def _inputs(given: dict[str, Any] | None) -> InputSpec | None:
    if given is None:
        return None
    image, text = given["image"], given["text"]
    size = tuple(image["size"]) if image["size"] else None
    return InputSpec(
        ImageSpec(**image | {"size": size}), TextSpec(**text | {"tokenizer_file": Path(text["tokenizer_file"])})
    )


def _limit_memory(memory: int) -> None:
    """Lets this process use that much address space beyond what it has now, where the system can say so."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    from PIL import Image

    # Our own limits are stricter and say more; Pillow's would also count pixels that a draft never decodes.
    Image.MAX_IMAGE_PIXELS = None
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + memory,) * 2)


def send(stream: BinaryIO, header: dict[str, Any], body: bytes | memoryview = b"") -> None:
    """Writes one message and flushes it."""
    text = json.dumps(header, separators=(",", ":"), default=os.fspath).encode("ascii")
    stream.write(_LENGTHS.pack(len(text), len(body)) + text)
    if body:
        stream.write(body)
    stream.flush()


def receive(stream: Any) -> tuple[dict[str, Any], bytearray] | None:
    """Reads one message, or None when the other side is gone. Raises `ValueError` for what is no message."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header_size, body_size = _LENGTHS.unpack(lengths)
    if header_size > _MOST_HEADER or body_size > _MOST_BODY:
        raise ValueError("not a message")
    text = stream.read(header_size)
    body = bytearray(body_size)
    if len(text) < header_size or stream.readinto(body) < body_size:
        return None
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("not a message")
    return header, body


if __name__ == "__main__":
    main()
