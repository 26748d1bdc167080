"""Finding out how a text file is encoded, and reading it piece by piece."""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from tsembed_search.documents.encoding_guess import NATIONAL_SETS, guess
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
# Control characters that are no part of a text: all but tabs, line and page ends, backspace and escape (terminal logs).
_ODD: Final = frozenset(range(32)) - frozenset(b"\t\n\x0b\x0c\r\x1b\x08") | {0x7F}
_MOST_ODD: Final = 0.005
# Files that hold more than that hold few *kinds* of them, as marks between fields; binary data holds every kind.
_MOST_SEPARATORS: Final = 0.45
_MOST_KINDS: Final = 4
_MOST_KINDS_LEGACY: Final = 2
_PADDING: Final = re.compile(rb"\0{8,}")
# Formats that may hold mostly text, or mostly zeros, and are none. Each has zeros in what begins it.
_BINARY: Final = re.compile(
    rb"\x7fELF|PK\x03\x04|SQLite format 3\0|RIFF|OggS|ID3|fLaC|MThd|\x1f\x8b|OTTO|\x00\x01\x00\x00|.{257}ustar",
    re.DOTALL,
)
# Encodings whose every byte is ASCII: nothing in them tells that they are not.
_SEVEN_BITS: Final = ("iso2022", "hz")
# How much of a page may contradict the encoding that it declares.
_MOST_MISFITS: Final = 0.02
# National sets of the commonest ideographs and syllables: a quarter of what Unicode has.
_COMMON: Final = ("gb2312", "big5", "cp932", "euc_kr")
_EASTERN: Final = ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "IDEOGRAPHIC")
_SAME_SCRIPT: Final = 0.9
# Alphabets come before, and two characters of ASCII after it.
_EAST: Final = "\u2000"
_MOST_SENSELESS: Final = 0.02
_FOREIGN_RUN: Final = re.compile(rb"[\x80-\xff]+")
_SIGNS: Final = re.compile(rb"[ ,!\t]")
# What a terminal acts on and does not show, and letters that are struck over, as in printed manuals.
_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[PX^_][^\x1b\n]*(?:\x1b\\)?|[ -/]*[0-~])"
)
_STRUCK: Final = re.compile(r"[^\n\x08]\x08")
_MOST_STRIKES: Final = 100
_UNSHOWN_BYTES: Final = bytes([*range(9), *range(14, 32), 0x7F])
_UNSHOWN: Final = re.compile(r"\0{2,}|[\x00-\x08\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Encoding:
    """`name`: of Python's codec. `strays`: the codec of bytes that it cannot read."""

    name: str
    strays: str | None = None

    def decoder(self) -> codecs.IncrementalDecoder:
        """A decoder that never fails: a few stray bytes can be wrong, such as a character that was cut."""
        errors = "replace"
        if self.strays is not None:
            errors = f"tsembed-{self.strays}"
            codecs.register_error(errors, _Strays(self.strays))
        return codecs.getincrementaldecoder(self.name)(errors)


def read_text(file: BinaryIO, declared: Sequence[str] = ()) -> Iterator[str]:
    """The text of an open file in pieces of a few hundred kilobytes, every line end as `\\n`, as a person sees it:
    without what only terminals and programs read. `declared`: see `find_encoding`.

    Raises `LoadError` when there is nothing in it, when it is binary data, or when no encoding fits.
    """
    encoding = find_encoding(file, declared)
    decoder = io.IncrementalNewlineDecoder(encoding.decoder(), translate=True)
    rest = ""
    for data in _pieces(file):
        text, rest = rest + decoder.decode(data), ""
        # To look at bytes is five times faster than to look at characters.
        if len(data.translate(None, _UNSHOWN_BYTES)) < len(data):
            at = text.rfind("\n") + 1
            if at and len(text) - at < _SAMPLE:
                # What a terminal acts on stands in one line.
                text, rest = text[:at], text[at:]
            text = _without_controls(text)
        if text:
            yield text
    if text := _without_controls(rest + decoder.decode(b"", final=True)):
        yield text


def _without_controls(text: str) -> str:
    text = _ESCAPES.sub("", text)
    for _ in range(_MOST_STRIKES if "\x08" in text else 0):
        text, strikes = _STRUCK.subn("", text)
        if not strikes:
            break
    return _UNSHOWN.sub(lambda found: "\n" if len(found[0]) > 1 else " ", text)


def find_encoding(file: BinaryIO, declared: Sequence[str] = ()) -> Encoding:
    """The encoding: by its mark or its zeros (UTF-16), else UTF-8 if all of it is valid, else by its letters.

    `declared`: codecs that a page names. They are believed where the bytes do not contradict.
    """
    file.seek(0)
    sample = file.read(_SAMPLE)
    if not sample:
        raise LoadError("The file is empty.")
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return Encoding(encoding)
    if (zeros := _wide_encoding(sample)) and _sense(sample, zeros) is not None:
        return Encoding(zeros)
    if _BINARY.match(sample) and b"\0" in sample[:512]:
        raise _binary()
    while sample and not sample.strip(b"\0"):
        sample = file.read(_SAMPLE)
    if not sample:
        raise LoadError("It holds nothing but zero bytes.", "Restore it from a backup.")
    odd = _odd(sample)
    if odd.total() > _MOST_ODD * len(_PADDING.sub(b"", sample)):
        if script := _wide_script(sample):
            return Encoding(script)
        if _is_binary(sample, odd):
            raise _binary()
    # All of it is looked at: a legacy encoding may show its first letter late.
    if _is_utf8(_pieces(file)):
        if b"\x1b$" in sample and _fits(sample, "iso2022_jp"):
            return Encoding("iso2022_jp")
        seven = [codec for codec in declared if codec.startswith(_SEVEN_BITS) and _fits(sample, codec)]
        return Encoding(seven[0] if seven else "utf-8")
    return _old_encoding(file, declared)


def _binary() -> LoadError:
    return LoadError("It holds binary data, not text.", "Check that its name has the right extension.")


def _odd(sample: bytes) -> Counter[int]:
    """Count how often each odd character is in it, but for padding: runs of zeros, and the end mark of DOS."""
    sample = _PADDING.sub(b"", sample).rstrip(b"\0\x1a")
    return Counter({byte: count for byte in _ODD if (count := sample.count(byte))})


def _is_binary(sample: bytes, odd: Counter[int]) -> bool:
    """Return whether it holds more, or more kinds, of odd characters than separate the fields of a text."""
    length = len(_PADDING.sub(b"", sample))
    kinds = _MOST_KINDS if _is_utf8([sample]) else _MOST_KINDS_LEGACY
    return len(odd) > kinds or odd.total() > _MOST_SEPARATORS * length


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


def _sense(sample: bytes, encoding: str) -> str | None:
    """The beginning of a sample in UTF-16 or UTF-32, if somebody can have written it: next to nothing in it is no
    character, or none of a text.
    """
    try:
        text = codecs.getincrementaldecoder(encoding)("strict").decode(sample)[:4096]
    except UnicodeDecodeError:
        return None
    senseless = sum(
        unicodedata.category(one) in ("Cn", "Co") or (one < "\x80" and ord(one) in _ODD and one != "\0") for one in text
    )
    return text if senseless <= _MOST_SENSELESS * len(text) else None


def _wide_script(sample: bytes) -> str | None:
    """UTF-16 without a mark in a script other than Latin: read so, and not as bytes, it is the writing of somebody."""
    # Any two letters of ASCII make an ideograph.
    as_bytes = _is_utf8([sample])
    shares = {
        encoding: _writing(text, eastern=not as_bytes)
        for encoding in ("utf-16-le", "utf-16-be")
        if (text := _sense(sample, encoding)) is not None
    }
    best = max(shares, key=lambda encoding: shares[encoding], default=None)
    return best if best is not None and shares[best] > _SAME_SCRIPT else None


def _writing(text: str, *, eastern: bool) -> float:
    """The share of a text's letters that are of one script, besides Latin, or common ones of East Asia."""
    letters = [one for one in text if unicodedata.category(one)[0] in "LM"]
    scripts = Counter(unicodedata.name(one, "?").split()[0] for one in letters)
    latin = scripts.pop("LATIN", 0)
    if not scripts:
        return 0.0
    if 2 * sum(scripts[name] for name in _EASTERN) > scripts.total():
        common = (
            max(sum(len(one.encode(codec, "ignore")) > 0 for one in letters) for codec in _COMMON) if eastern else 0
        )
    elif sum(one < _EAST for one in text) < _SAME_SCRIPT * len(text):
        return 0.0
    else:
        common = scripts.most_common(1)[0][1] + latin
    return common / len(letters)


def _is_utf8(pieces: Iterable[bytes]) -> bool:
    """Whatever the pieces are cut from is UTF-8 so far: a character may be cut at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        for data in pieces:
            decoder.decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """The whole file."""
    file.seek(0)
    return iter(lambda: file.read(_PIECE), b"")


def _foreign(file: BinaryIO) -> tuple[bytes, bool]:
    """Return 64 KB of the first lines that are not UTF-8, wherever they are, and whether they are the exception: bytes
    of another encoding strayed into UTF-8, as when programs share a log.
    """
    sample = bytearray()
    valid = invalid = good = bad = 0
    file.seek(0)
    whole = True
    while (line := file.readline(_SAMPLE)) and len(sample) < _SAMPLE:
        begins, whole = whole, line.endswith(b"\n") or len(line) < _SAMPLE
        if line.isascii():
            continue
        # A line without an end comes in parts, which may cut a character: only between signs that no character holds.
        if not (begins and whole) and (signs := [one.end() for one in _SIGNS.finditer(line)]):
            line = line[0 if begins else signs[0] : None if whole else signs[-1]]
        text = line.decode("utf-8", "replace")
        wrong = text.count("\ufffd") - line.count(b"\xef\xbf\xbd")
        bad += wrong
        good += sum(not one.isascii() for one in text) - wrong
        if wrong:
            invalid += 1
            sample += line
        else:
            valid += 1
    return bytes(sample), 0 < invalid <= valid or good >= 4 * bad


def _fits(sample: bytes, codec: str) -> bool:
    """Hardly anything in the sample contradicts a codec."""
    text = codecs.getincrementaldecoder(codec)("replace").decode(sample)
    foreign = sum(not one.isascii() for one in text)
    return text.count("\ufffd") <= _MOST_MISFITS * foreign


def _old_encoding(file: BinaryIO, declared: Sequence[str]) -> Encoding:
    """The encoding of a file that is not UTF-8 throughout."""
    sample, mostly_utf8 = _foreign(file)
    # Marks between fields mislead the judge; no encoding uses them within a character.
    sample = sample.translate(bytes(32 if byte in _ODD else byte for byte in range(256)))
    if mostly_utf8:
        return Encoding("utf-8", guess(sample, "cp1252"))
    for codec in declared:
        if _fits(sample, codec):
            return Encoding(codec)
    legacy = guess(sample)
    if legacy is None:
        raise LoadError("Its encoding cannot be told, or it holds binary data.", "Save it as UTF-8.")
    return Encoding(legacy)


class _Strays:
    """Reads what is not UTF-8 in another encoding: a run of foreign bytes, unless UTF-8 goes on behind the bad ones."""

    def __init__(self, codec: str) -> None:
        self._codec = codec

    def __call__(self, error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        data, start, end = error.object, error.start, error.end
        if self._codec in NATIONAL_SETS:
            # A second byte may be one of ASCII.
            after = data.find(b"\n", start)
            after = len(data) if after < 0 else after
            return data[start:after].decode(self._codec, "replace"), after
        found = _FOREIGN_RUN.match(data, start)
        if found is None or end == len(data):
            return "\ufffd", end
        try:
            if data[end : found.end()].decode("utf-8"):
                return "\ufffd", end
        except UnicodeDecodeError:
            pass
        return found[0].decode(self._codec, "replace"), found.end()
