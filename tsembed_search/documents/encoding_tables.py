"""Guessing which of the encodings from before Unicode a text is in.

What a page's label for its encoding means to a browser, which is not always what the label says.

Labels and encodings are those of the WHATWG Encoding Standard (https://encoding.spec.whatwg.org, section 4.2), mapped
to Python's codecs: ISO 8859-1 is Windows' Latin, GB 2312 is all of GB 18030.
"""

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
    """How many foreign letters of a word are out of place: of another script than the rest, capitals within it, or all
    of a Latin word of nothing but accents.
    """
    foreign = [one for one in word if not one.isascii()]
    latin = all(unicodedata.name(one, "").startswith("LATIN") for one in foreign)
    plain = len(foreign) < len(word)
    if foreign and (plain != latin) and (plain or len(word) > 2):
        return 2 * len(foreign) if plain else len(foreign)
    return sum(one.isupper() for one in word[1:] if not one.isascii())


_LABELS: Final = {
    "utf_8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8 "
    # A page whose label could be read is not written in UTF-16.
    "unicodefffe utf-16be csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
    "cp866": "866 cp866 csibm866 ibm866",
    "iso8859_2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
    "iso8859_3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3",
    "iso8859_4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4",
    "iso8859_5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988",
    "iso8859_6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e "
    "iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "iso8859_7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 iso_8859-7 "
    "iso_8859-7:1987 sun_eu_greek",
    "iso8859_8": "csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598 iso_8859-8 "
    "iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
    "iso8859_10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "iso8859_13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859_14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859_15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9",
    "iso8859_16": "iso-8859-16",
    "koi8_r": "cskoi8r koi koi8 koi8-r koi8_r",
    "koi8_u": "koi8-ru koi8-u",
    "mac_roman": "csmacintosh mac macintosh x-mac-roman",
    "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
    "cp1250": "cp1250 windows-1250 x-cp1250",
    "cp1251": "cp1251 windows-1251 x-cp1251",
    "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 "
    "iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252 x-user-defined",
    "cp1253": "cp1253 windows-1253 x-cp1253",
    "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5 "
    "windows-1254 x-cp1254",
    "cp1255": "cp1255 windows-1255 x-cp1255",
    "cp1256": "cp1256 windows-1256 x-cp1256",
    "cp1257": "cp1257 windows-1257 x-cp1257",
    "cp1258": "cp1258 windows-1258 x-cp1258",
    "mac_cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "gb18030": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030",
    "big5hkscs cp950": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    "euc_jp euc_jis_2004": "cseucpkdfmtjapanese euc-jp x-euc-jp",
    "iso2022_jp iso2022_jp_ext": "csiso2022jp iso-2022-jp",
    "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
    "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 "
    "ksc_5601 windows-949",
    # Browsers refuse to show these; they are read all the same.
    "iso2022_kr": "csiso2022kr iso-2022-kr",
    "hz": "hz-gb-2312",
}  # fmt: skip

_CODECS: Final = {label: tuple(codecs.split()) for codecs, labels in _LABELS.items() for label in labels.split()}

_OTHERS: Final = {"ks_c_5601": ("cp949",), "gb-2312": ("gb18030",), "x-gb18030": ("gb18030",), "cp936": ("gb18030",)}

# What a parser passes over on its way to a label, and where the label can stand.
_HEAD: Final = re.compile(
    rb"<!--.*?(?:-->|\Z)|<(script|style|title|textarea)\b.*?(?:</\1\b|\Z)"
    rb"|<meta(?=[\s/])(?P<meta>(?:[^>\"']|\"[^\"]*\"|'[^']*')*)>",
    re.DOTALL | re.IGNORECASE,
)

_ATTRIBUTE: Final = re.compile(
    rb"([^\s=/>\"']+)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>\"']+)))?",
)

_CONTENT: Final = re.compile(rb"charset\s*=\s*[\"']?\s*([^\s;\"']+)", re.IGNORECASE)

_XML: Final = re.compile(rb"\s*<\?xml\b[^>]*?\bencoding\s*=\s*[\"']\s*([^\"'>]+?)\s*[\"']", re.IGNORECASE)

_SEARCHED: Final = 1 << 16


def declared_codecs(page: bytes) -> tuple[str, ...]:
    """Python's codecs, the best first, of the encoding that a page in HTML declares: in a `meta` element that a browser
    knows, or in its XML declaration. None for UTF-8, which shows itself.
    """
    for found in _HEAD.finditer(page[:_SEARCHED]):
        if found["meta"] is None:
            continue
        attributes: dict[bytes, bytes] = {}
        for name, *values in _ATTRIBUTE.findall(found["meta"]):
            attributes.setdefault(name.lower(), b"".join(values))
        label = attributes.get(b"charset")
        if label is None and attributes.get(b"http-equiv", b"").strip().lower() == b"content-type":
            named = _CONTENT.search(attributes.get(b"content", b""))
            label = named[1] if named else None
        if label is not None and (codecs := _meant(label)):
            return _unless_utf8(codecs)
    xml = _XML.match(page)
    return _unless_utf8(_meant(xml[1])) if xml else ()


def _meant(label: bytes) -> tuple[str, ...]:
    """The codecs of a label, or none of an unknown one."""
    name = label.decode("latin-1").strip("\t\n\f\r ").lower()
    return _CODECS.get(name, _OTHERS.get(name, ()))


def _unless_utf8(codecs: tuple[str, ...]) -> tuple[str, ...]:
    return () if codecs == ("utf_8",) else codecs
