"""Finding out how a text file is encoded, and reading it piece by piece."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import BinaryIO, Final

from tsembed_search.errors import LoadError

_PIECE: Final = 1 << 18
_SAMPLE: Final = 1 << 16
# Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What text may contain below U+0020: tab, line feed, vertical tab, form feed, carriage return, escape (terminal logs).
_TEXT_CONTROLS: Final = frozenset(b"\t\n\x0b\x0c\r\x1b\x08")
_MOST_CONTROLS: Final = 0.005
_LEGACY: Final = (
    "cp1252", "cp1250", "iso8859_2", "cp1251", "koi8_r", "cp866", "cp1253", "cp1254", "cp1255", "cp1256", "cp874",
    "cp932", "euc_jp", "gb18030", "big5", "cp949", "cp437", "cp850", "mac_roman",
)  # fmt: skip
# How far two guesses may differ in charset-normalizer's measures and still count as equals.
_NEAR: Final = 0.01


def read_text(file: BinaryIO) -> Iterator[str]:
    """The text of an open file in pieces of a few hundred kilobytes, every line end as `\\n`.

    Raises `LoadError` when there is nothing in it, when it is binary data, or when no encoding fits.
    """
    encoding = find_encoding(file)
    file.seek(0)
    # Only a few stray bytes can be wrong by now, such as a character that was cut at the file's end.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)("replace"), translate=True)
    while data := file.read(_PIECE):
        if text := decoder.decode(data):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def find_encoding(file: BinaryIO) -> str:
    """The encoding: by its mark or its zeros (UTF-16), else UTF-8 if all of it is valid, else by its letters."""
    file.seek(0)
    sample = file.read(_SAMPLE)
    if not sample:
        raise LoadError("The file is empty.")
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    if zeros := _wide_encoding(sample):
        return zeros
    controls = sum(sample.count(byte) for byte in range(32) if byte not in _TEXT_CONTROLS)
    if controls > _MOST_CONTROLS * len(sample):
        raise LoadError("It holds binary data, not text.", "Check that its name has the right extension.")
    return "utf-8" if _is_utf8(file) else _legacy_encoding(sample)


def _wide_encoding(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: every second byte, or three of four, are mostly zeros."""
    sample = sample[: len(sample) // 4 * 4]
    if len(sample) < 4:
        return None
    quarter = len(sample) // 4
    zeros = [sample[place::4].count(0) / quarter for place in range(4)]
    full = [share > 0.7 for share in zeros]
    if zeros[0] < 0.1 and all(full[1:]):
        return "utf-32-le"
    if zeros[3] < 0.1 and all(full[:3]):
        return "utf-32-be"
    even, odd = (zeros[0] + zeros[2]) / 2, (zeros[1] + zeros[3]) / 2
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    if even > 0.3 and odd < 0.05:
        return "utf-16-be"
    return None


def _is_utf8(file: BinaryIO) -> bool:
    """Reads the file to its end, in pieces: a legacy encoding may show its first letter late."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        while data := file.read(_PIECE):
            decoder.decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _legacy_encoding(sample: bytes) -> str:
    """The likeliest of the encodings that people's files have; of equals the western one, by far the commonest."""
    from charset_normalizer import from_bytes

    # A multi-byte character may be cut at the sample's end.
    sample = sample[: sample.rfind(b"\n") + 1 or len(sample)]
    best = next(iter(matches := from_bytes(sample, cp_isolation=list(_LEGACY))), None)
    if best is None:
        raise LoadError("Its encoding cannot be told, or it holds binary data.", "Save it as UTF-8.")
    equals = {
        match.encoding
        for match in matches
        if match.chaos <= best.chaos + _NEAR and match.coherence >= best.coherence - 2 * _NEAR
    }
    return "cp1252" if "cp1252" in equals | set(best.could_be_from_charset) else best.encoding
