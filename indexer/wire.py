"""Messages between the run and its decoding processes: a JSON header, then raw bytes. Never a pickle.

A decoder reads hostile files, so what it sends is parsed as data and never executed.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO, Final

_LENGTHS: Final = struct.Struct("<II")
_MOST_HEADER: Final = 64 << 20
_MOST_BODY: Final = 1 << 30


def send(stream: BinaryIO, header: dict[str, Any], body: bytes | memoryview = b"") -> None:
    """Writes one message and flushes it."""
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    stream.write(_LENGTHS.pack(len(text), len(body)) + text)
    if body:
        stream.write(body)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], bytearray] | None:
    """Reads one message, or None when the other side is gone. Raises `ValueError` for what is no message."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header_size, body_size = _LENGTHS.unpack(lengths)
    if header_size > _MOST_HEADER or body_size > _MOST_BODY:
        raise ValueError("not a message")
    text = stream.read(header_size)
    body = bytearray(body_size)
    if len(text) < header_size or _fill(stream, memoryview(body)) < body_size:
        return None
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("not a message")
    return header, body


def _fill(stream: Any, view: memoryview) -> int:
    done = 0
    while done < len(view):
        read = stream.readinto(view[done:])
        if not read:
            break
        done += read
    return done
