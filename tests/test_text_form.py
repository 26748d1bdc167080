"""One form of text: what a model reads is the same however it was written, and what means something else stays."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsembed_search.errors import UsageError
from tsembed_search.items import Item, one_form
from tsembed_search.search.snippet import snippets

SAME = [
    ("ﬀ ﬁ ﬂ ﬃ ﬄ ﬅ ﬆ", "ff fi fl ffi ffl st st"),
    ("Ｔｈｅ　ｂｕｓ，　Ｎｏ．１２！", "The bus, No.12!"),
    ("𝐒𝐮𝐦 𝑠𝑢𝑚 𝒮𝓊𝓂 𝔖𝔲𝔪 𝚜𝚞𝚖 𝟙𝟚", "Sum sum Sum Sum sum 12"),
    ("Zu\u0308rich Cafe\u0301", "Zürich Café"),
    ("ｶﾞｷﾞﾊﾟﾝ｡", "ガギパン。"),
    ("com\u00adput\u200ber\u2060s\ufeff", "computers"),
    ("ten\u00a0past\u202ffive\u2009!", "ten past five !"),
    ("ﺏﺎﺏ", "باب"),
    ("Ⅷ Ⓐ ⑴ ⑫", "VIII A (1) 12"),
    ("10①②", "10 1 2"),
    ("㎞ ℃ ㍿ ⼀", "km °C 株式会社 一"),
    ("twenty‑one", "twenty-one"),
    ("auf\u200cfallen", "auffallen"),
    ("Wake\x07 up\x1b!", "Wake  up !"),
]
KEPT = [
    "Plain words, 10 of them.\nAnd a tab\there.",
    "10² is not 102, H₂O, 5½, xⁿ, ™ and º",
    "👨‍👩‍👧 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇳🇴",
    "می‌خواهم क्‍ष",
    "今天，我们去公园（散步）！",
    "これは「テスト」です：一",
    "ไม่ทำคำ",
    "ㅋㅋㅋ 녹차",
    "wait… `´¨ – “quoted”",
]


class TestOneForm:
    @pytest.mark.parametrize(("written", "read"), SAME)
    def test_what_looks_the_same_reads_the_same(self, written: str, read: str) -> None:
        assert one_form(written) == read
        assert Item(written).text == Item(read).text == read
        assert Item("x", instruction=written).instruction == read

    @pytest.mark.parametrize("text", KEPT)
    def test_what_means_something_else_stays(self, text: str) -> None:
        assert one_form(text) == text

    @given(st.text(max_size=60))
    def test_it_is_a_form(self, text: str) -> None:
        formed = one_form(text)
        assert one_form(formed) == formed
        assert bool(formed.strip()) == bool(text.strip())
        assert formed == text or unicodedata.is_normalized("NFC", formed)

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
    def test_plain_ascii_is_the_same_object(self, text: str) -> None:
        assert one_form(text) is text

    def test_a_text_of_nothing_seen_is_no_crash(self) -> None:
        assert Item("\u00ad\u200b").text == "\u00ad\u200b"
        with pytest.raises(UsageError):
            Item(" \u00a0 ")


class TestMarks:
    @pytest.mark.parametrize(
        ("query", "text", "marked"),
        [
            ("financial", "The ﬁnancial oﬃce", "ﬁnancial"),
            ("oﬃce", "The financial office", "office"),
            ("computer", "a com\u00adputer here", "com\u00adputer"),
            ("Zürich", "in Zu\u0308rich am See", "Zu\u0308rich"),
            ("Zu\u0308rich", "in Zürich am See", "Zürich"),
            ("ガギ", "x ｶﾞｷﾞ y", "ｶﾞｷﾞ"),
            ("bus", "Ｔｈｅ ｂｕｓ", "ｂｕｓ"),
            ("sum", "𝐒𝐮𝐦 of all", "𝐒𝐮𝐦"),
            ("Straße", "die STRASSE dort", "STRASSE"),
        ],
    )
    def test_words_are_marked_in_any_form(self, query: str, text: str, marked: str) -> None:
        found = snippets(query, [text])[0]
        assert found is not None
        assert [found.text[start:end] for start, end in found.marks] == [marked]

    @given(st.text(max_size=80), st.text(max_size=12))
    def test_marks_lie_in_the_text(self, text: str, query: str) -> None:
        found = snippets(query, [f"{text}."])[0]
        assert found is not None
        assert all(0 <= start < end <= len(found.text) for start, end in found.marks)
