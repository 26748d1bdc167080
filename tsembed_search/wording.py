"""Words for people: data made safe to show, and numbers as one says them."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence

# Joiners shape emoji and scripts, and the tag letters spell flags: they show something, unlike the rest of their class.
_HARMLESS_FORMATS = {"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))}
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# UTF-32's little-endian mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


def shown(text: str) -> str:
    """Return `text` as it is safe to show: without control codes, line breaks, text-direction marks and broken bytes.

    Those are written as escapes (`\\n`, `\\x1b`, `\\u202e`); a byte that was not UTF-8 (a surrogate escape) is `\\xff`.
    Characters beyond Unicode's assigned planes are escaped too: terminals use them to place pictures.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown_character, text))


def _shown_character(character: str) -> str:
    code = ord(character)
    if character in _HARMLESS_FORMATS or (code < 0xF0000 and unicodedata.category(character) not in _HIDDEN):
        return character
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode() if code > 0x7F else repr(character)[1:-1]


def valid_text(text: str) -> str:
    """Return `text` as characters only: two halves of a surrogate pair are one, and what is none becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def brief(error: BaseException, longest: int = 200) -> str:
    """Return another library's error in one line."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
    return line if len(line) <= longest else line[:longest] + " …"


def encoding_by_mark(data: bytes) -> str:
    """Return the codec of a text that begins with `data`: by its byte-order mark, else UTF-8. It drops the mark."""
    return next((codec for mark, codec in _MARKS.items() if data.startswith(mark)), "utf-8-sig")


def size_words(count: float) -> str:
    """A number of bytes for people: `1.2 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def place_words(
    page: int | None = None,
    page_label: str | None = None,
    lines: Sequence[int] | None = None,
    headings: Sequence[str] = (),
    total: int | None = None,
) -> list[str]:
    """Return the parts of a place in a file, safe to show, for people: `page 3 (iii)`, `lines 4-9`, `Tools › Saws`.

    `lines` are the first and the last, of `total`, `headings` those from the outermost to the innermost.
    """
    parts = []
    if page is not None:
        parts.append(f"page {page}" + (f" ({shown(page_label)})" if page_label else ""))
    if lines:
        numbers = f"line {lines[0]}" if lines[0] == lines[-1] else f"lines {lines[0]}-{lines[-1]}"
        parts.append(numbers if total is None else f"{numbers} of {total}")
    if headings:
        parts.append(shown(" › ".join(headings)))
    return parts


def expert_words(name: str) -> str:
    """Say what the name of an expert means: `b3e0 is expert 0 of block 3`. Empty for what is no such name."""
    found = re.fullmatch(r"b(\d+)e(\d+)", name)
    return f"{name} is expert {found[2]} of block {found[1]}" if found else ""


def time_words(seconds: float) -> str:
    """A duration for people: `45 ms`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count_words(count: int, one: str, many: str | None = None) -> str:
    """`1 file`, `2,310 files`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def rate_words(rate: float) -> str:
    """A rate with two or three digits that matter."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"
