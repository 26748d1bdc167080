"""Finding out how a text file is encoded, and reading it piece by piece."""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final

from tsembed_search.errors import LoadError
from tsembed_search.wording import encoding_by_mark

_PIECE: Final = 1 << 18
_SAMPLE: Final = 1 << 16
# Control characters that are no part of a text: all but tabs, line and page ends, backspace and escape (terminal logs).
_ODD: Final = frozenset(range(32)) - frozenset(b"\t\n\x0b\x0c\r\x1b\x08") | {0x7F}
_EVEN: Final = bytes(byte for byte in range(256) if byte not in _ODD)
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

# Guessing which of the encodings from before Unicode a text is in.
_LEGACY: Final = (
    "cp1252", "cp1250", "iso8859_2", "cp1251", "koi8_r", "cp866", "cp1253", "cp1254", "cp1255", "cp1256", "cp874",
    "cp932", "euc_jp", "gb18030", "big5", "cp949", "cp437", "cp850", "mac_roman",
)  # fmt: skip
# How far two guesses may differ and still count as equals.
_NEAR: Final = 0.01

NATIONAL_SETS: Final = {
    "cp932": ("euc_jp", range(0xB0, 0xD0)), "euc_jp": ("euc_jp", range(0xB0, 0xD0)),
    "gb18030": ("gb2312", range(0xB0, 0xD8)), "big5": ("big5", range(0xA4, 0xC7)),
    "cp949": ("euc_kr", range(0xB0, 0xC9)),
}  # fmt: skip
"""The encodings of East Asia: a set that has the commonest characters, and which first bytes those have in it."""

_TYPOGRAPHY: Final = frozenset("€£¥§©®°±²³µ·«»‹›‘’‚“”„–—…¡¿½¼¾×•№\u00a0")
_COMMONEST: Final = frozenset(
    "оеаинтсрвлкмдпуі" "αοιετσνηυρπκλςίάόέή" "יוהלארתבשמנ" "اليمنورتبهعدسفةأ" "านรกอเงมยลวดทสตะปบคหแไโ"
    "이다는에을의가하고한로지기도사를은있어아서나그니리자것인해일수대라들정시여게우부과전마만적보모면제상"
    "的一是不了在人有我他這这個个們们中來来上大為为和國国地到以說说時时要就出會会可也你對对生能子得于下自之年過过發发后後作里"
    "日月本東京語今明何行見食学校電車気天私方前分市新文化")  # fmt: skip
# Vowel signs without a letter to stand at, figures within a word, what no word begins with.
_MISPLACED: Final = re.compile(
    "(?<![\u0e01-\u0e2e\u0e31-\u0e3a\u0e47-\u0e4e])[\u0e30-\u0e3a\u0e47-\u0e4e]"
    "|(?<=[\u0e01-\u0e4e])[\u0e50-\u0e59](?=[\u0e01-\u0e4e])|(?<![\u0400-\u04ff])[ъыьЪЫЬ]"
    "|(?<![\u05b0-\u05ea])[\u05b0-\u05c7]|(?<![\u0621-\u0652])[\u064b-\u0652]"
)
# What a text in Latin letters counts for, beside the share of the commonest letters of another alphabet.
_LATIN: Final = 0.75
_RARER: Final = 0.4
_ODDLY_SPELT: Final = 0.4
_SIGN_IN_WORD: Final = re.compile(r"[¢£¤¥¦¨¬®¯±²³´¶¸¹º»¼½¾¿](?=[^\W\d_])(?<![\s(]¿)")
_WORDS: Final = re.compile(r"[^\W\d_]+")


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
            codecs.register_error(errors, partial(_read_stray, self.strays))
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
    marked = encoding_by_mark(sample)
    if marked != "utf-8-sig" or sample.startswith(codecs.BOM_UTF8):
        return Encoding(marked)
    if (zeros := _wide_encoding(sample)) and _sense(sample, zeros) is not None:
        return Encoding(zeros)
    binary = LoadError("It holds binary data, not text.", "Check that its name has the right extension.")
    if _BINARY.match(sample) and b"\0" in sample[:512]:
        raise binary
    while sample and not sample.strip(b"\0"):
        sample = file.read(_SAMPLE)
    if not sample:
        raise LoadError("It holds nothing but zero bytes.", "Restore it from a backup.")
    unpadded = _PADDING.sub(b"", sample)
    odd = Counter(unpadded.rstrip(b"\0\x1a").translate(None, _EVEN))
    if odd.total() > _MOST_ODD * len(unpadded):
        if script := _wide_script(sample):
            return Encoding(script)
        # More, or more kinds, of them than separate the fields of a text.
        kinds = _MOST_KINDS if _is_utf8([sample]) else _MOST_KINDS_LEGACY
        if len(odd) > kinds or odd.total() > _MOST_SEPARATORS * len(unpadded):
            raise binary
    # All of it is looked at: a legacy encoding may show its first letter late.
    if not _is_utf8(_pieces(file)):
        return _old_encoding(file, declared)
    seven_bits = [codec for codec in declared if codec.startswith(_SEVEN_BITS)]
    for codec in ("iso2022_jp", *seven_bits) if b"\x1b$" in sample else seven_bits:
        if _fits(sample, codec):
            return Encoding(codec)
    return Encoding("utf-8")


def _wide_encoding(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: every second byte, or three of four, are mostly zeros."""
    quarter = len(sample) // 4
    if not quarter:
        return None
    first, second, third, fourth = (sample[place : 4 * quarter : 4].count(0) / quarter for place in range(4))
    if first < 0.1 and min(second, third, fourth) > 0.7:
        return "utf-32-le"
    if fourth < 0.1 and min(first, second, third) > 0.7:
        return "utf-32-be"
    even, odd = (first + third) / 2, (second + fourth) / 2
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even > 0.3 and odd < 0.05 else None


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


def _read_stray(codec: str, error: UnicodeError) -> tuple[str, int]:
    """Read what is not UTF-8 in another encoding: a run of foreign bytes, unless UTF-8 goes on behind the bad ones."""
    assert isinstance(error, UnicodeDecodeError)
    data, start, end = error.object, error.start, error.end
    if codec in NATIONAL_SETS:
        # A second byte may be one of ASCII.
        after = data.find(b"\n", start)
        after = len(data) if after < 0 else after
        return data[start:after].decode(codec, "replace"), after
    found = _FOREIGN_RUN.match(data, start)
    if found is None or end == len(data):
        return "\ufffd", end
    with suppress(UnicodeDecodeError):
        if data[end : found.end()].decode("utf-8"):
            return "\ufffd", end
    return found[0].decode(codec, "replace"), found.end()


def guess(sample: bytes, default: str | None = None) -> str | None:
    """The likeliest of the encodings that people's files have; of equals the western one, by far the commonest."""
    from charset_normalizer import from_bytes

    if all(one.isascii() or one in _TYPOGRAPHY for one in sample.decode("cp1252", "replace")):
        return "cp1252"
    matches = from_bytes(sample, cp_isolation=list(_LEGACY))
    if not matches:
        return default
    # Its measures say little of a few words; whether somebody writes such characters, and such words, says more.
    doubts = {}
    for match in matches:
        text = sample.decode(match.encoding, "replace")
        familiar, usual = _familiar(text, match.encoding), _usual(text, match.encoding)
        doubt = match.chaos - match.coherence / 2 + (1 - familiar) + (1 - usual) / 2
        # What reads the same in several encodings is listed under one of them.
        doubts["cp1252" if "cp1252" in match.could_be_from_charset else match.encoding] = doubt
    best = min(doubts, key=lambda codec: doubts[codec])
    return "cp1252" if doubts.get("cp1252", 1e9) <= doubts[best] + _NEAR else best


def _usual(text: str, codec: str) -> float:
    """The share of the commonest letters in writing other than Latin. What no word has counts against it."""
    foreign = [one for one in text.lower() if not one.isascii() and unicodedata.category(one)[0] in "LM"]
    if not foreign:
        return 1.0
    if unicodedata.name(foreign[0], "").startswith("LATIN"):
        return _LATIN
    common = sum(one in _COMMONEST or "\u3041" <= one <= "\u3093" for one in foreign) / len(foreign)
    if codec in NATIONAL_SETS:
        # Of thousands of characters even the commonest are few.
        return _RARER + (1 - _RARER) * common
    return common - len(_MISPLACED.findall(text)) / len(foreign)


def _familiar(text: str, codec: str) -> float:
    """The share of the foreign characters that people who use an encoding often write."""
    foreign = Counter(one for one in text if not one.isascii())
    if codec in NATIONAL_SETS:
        common = float(sum(count for one, count in foreign.items() if _is_common(one, codec)))
    else:
        common = sum(
            count * (unicodedata.category(one)[0] in "LM" or one in _TYPOGRAPHY) for one, count in foreign.items()
        )
        # Capitals begin words, accents stand among plain letters, and signs before blanks.
        common -= _ODDLY_SPELT * sum(map(_oddly_spelt, _WORDS.findall(text))) + len(_SIGN_IN_WORD.findall(text))
    return common / (foreign.total() or 1)


def _is_common(one: str, codec: str) -> bool:
    """One of the common of the thousands of ideographs and syllables, kana, or a sign of East Asian writing."""
    national, rows = NATIONAL_SETS[codec]
    code = one.encode(national, "ignore")
    kana = "\u3041" <= one <= "\u30fe" and codec in ("cp932", "euc_jp")
    sign = "\u3001" <= one <= "\u3011" or "\uff01" <= one <= "\uff5e" or one in _TYPOGRAPHY
    return kana or sign or (len(code) == 2 and code[0] in rows)


def _oddly_spelt(word: str) -> int:
    """Count the foreign letters of a word are out of place: of another script than the rest, capitals within it, or all
    of a Latin word of nothing but accents.
    """
    foreign = [one for one in word if not one.isascii()]
    latin = all(unicodedata.name(one, "").startswith("LATIN") for one in foreign)
    plain = len(foreign) < len(word)
    if foreign and (plain != latin) and (plain or len(word) > 2):
        return 2 * len(foreign) if plain else len(foreign)
    return sum(one.isupper() for one in word[1:] if not one.isascii())
