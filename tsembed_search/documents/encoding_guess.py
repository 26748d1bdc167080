"""Guessing which of the encodings from before Unicode a text is in."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Final

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
