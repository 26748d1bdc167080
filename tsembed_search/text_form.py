"""One form of text: what a model reads is written the way a person would type it.

A word can be written in letters that look the same, or nearly so, and are others to a tokenizer: with ligatures, in
full width, in mathematical bold, as base letter and accent. Every text that reaches a model goes through `one_form`
(see `Item`), files and queries alike. What is stored and shown stays as it was written.

Whoever changes what comes out of here raises the versions of the formats with text in `documents/formats/`, so that
no index holds vectors of two forms.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Control characters say nothing to a reader. Tabs and line ends do.
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Nobody sees them inside a word: soft hyphens, zero-width spaces, marks of direction, selectors of glyphs, annotations.
_UNSEEN: Final = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0d\ufeff\ufff9-\ufffb"
    "\U000e0100-\U000e01ef]"
)
# Joiners mean something in emoji, in Persian and in Indic scripts. Between these letters they only part a ligature.
_WESTERN: Final = "A-Za-z\u00c0-\u024f\u0370-\u052f"
_JOINERS: Final = re.compile(f"(?<=[{_WESTERN}])[\u200c\u200d]+(?=[{_WESTERN}])")
# Wide letters and digits, with the wide signs that touch them. Wide signs between ideographs are how they are written.
_WIDE: Final = re.compile("[！-～]*[０-９Ａ-Ｚａ-ｚ][！-～]*")
_NARROW: Final = {code: code - 0xFEE0 for code in range(ord("！"), ord("～") + 1)}
# "10①" is not 101.
_ENCLOSED: Final = "\u2460-\u249b\u24ea\u3251-\u325f\u32b1-\u32bf"
_BESIDE_ENCLOSED: Final = re.compile(f"(?<=[^\\W_])(?=[{_ENCLOSED}])|(?<=[{_ENCLOSED}])(?=[^\\W_])")
# Raised and lowered figures and fractions mean something else without their place: 10² is not 102.
_KEPT_TAGS: Final = frozenset({"<super>", "<sub>", "<fraction>"})
# Of what Unicode calls merely compatible: letters, Roman numerals, numbers in brackets, blanks, units, radicals. Not
# signs such as the ellipsis, which models know as they are.
_COMPAT: Final = frozenset({"Lu", "Ll", "Lt", "Lo", "Nl", "No", "Zs", "So"})
_HANGUL_LETTERS: Final = range(0x3131, 0x318F)


def one_form(text: str) -> str:
    """Return a text as a model reads it: composed, in plain letters, without what nobody sees.

    Plain ASCII stays as it is. So do superscripts, fractions, emoji, and the signs of East Asian writing. A text of
    nothing but unseen characters is given back as it came.
    """
    if text.isascii() and not _CONTROLS.search(text):
        return text
    if unicodedata.is_normalized("NFKC", text) and not _CONTROLS.search(text) and not _UNSEEN.search(text):
        return _plain(text)
    formed = _UNSEEN.sub("", _CONTROLS.sub(" ", text))
    formed = _WIDE.sub(lambda found: found[0].translate(_NARROW), formed)
    formed = _BESIDE_ENCLOSED.sub(" ", formed).translate(_LETTERS)
    formed = _plain(unicodedata.normalize("NFC", formed))
    return formed if formed.strip() else text


def _plain(text: str) -> str:
    """Without joiners between Western letters, and with the hyphen that keyboards have."""
    text = text.replace("\u2010", "-")
    return _JOINERS.sub("", text) if "\u200c" in text or "\u200d" in text else text


class _Letters(dict[int, str]):
    """The letters that stand for others, each found out when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _letter(chr(code))
        return found


_LETTERS: Final = _Letters()


def _letter(one: str) -> str:
    tag, *codes = unicodedata.decomposition(one).split() or [""]
    if not tag.startswith("<") or tag in _KEPT_TAGS or "！" <= one <= "～" or ord(one) in _HANGUL_LETTERS:
        return one
    parts = [chr(int(code, 16)) for code in codes]
    if tag == "<compat>":
        # A vowel sign of Thai is no compatibility form to those who write it, and a lone accent no blank with one.
        marked = any(unicodedata.category(part).startswith("M") for part in parts)
        if marked or unicodedata.category(one) not in _COMPAT:
            return one
    elif len(parts) > 1 and parts[0] == " ":
        return one
    return "".join(map(_letter, parts))
