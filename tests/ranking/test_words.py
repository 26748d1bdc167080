"""The terms of texts, names and queries, whatever the script and however a code is written."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsembed_search.ranking.words import Asked, Words, document_words, folded, query_terms, query_words


def shares(query: str, text: str, *names: str) -> bool:
    """Whether a text has a term of each of the query's words."""
    found = set(document_words(text, names).terms.tolist())
    words, _ = query_terms(query)
    return set(query_words(words).terms.tolist()) <= found


def whole(code: str) -> set[int]:
    return set(query_words(query_terms(code)[1]).terms.tolist())


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("running", "He runs."),
        ("CRÈME brulee", "crème brûlée"),
        ("Muller", "Dr. Müller"),
        ("strasse", "Große Straße 5"),
        ("fish", "a \ufb01sh"),
        ("12", "Ｎｏ．１２"),
        ("o'brien", "Mrs O’Brien"),
        ("日本", "日本語のテキスト"),
        ("ガス", "ｶﾞｽの料金"),
        ("ภาษา", "ภาษาไทย"),
        ("हिन्दी", "हिन्दी में लिखा"),
        ("עברית", "עִבְרִית"),
        ("ελλαδα", "Ελλάδα"),
        ("й", "и\u0306"),
        ("80070005 error", "failed with error x80070005"),
        ("", ""),
    ],
)
def test_words_are_found_however_they_are_written(query: str, text: str) -> None:
    assert shares(query, text)


@pytest.mark.parametrize(
    "code", ["INV-2024-01013", "inv/2024/01013", "INV.2024.01013", "INV2024-01013", "inv_2024_01013"]
)
def test_a_code_is_one_word_whatever_joins_its_parts(code: str) -> None:
    stored = set(document_words(f"Invoice {code} of May").terms.tolist())
    assert whole("INV-2024-01013") <= stored
    assert shares("2024 01013", code)
    assert not whole("INV-2024-01014") & stored


@pytest.mark.parametrize("number", ["0x1F04A3BC", "3f2a9c71b0e4", "a1b2c3"])
def test_a_number_of_letters_and_figures_is_one_word(number: str) -> None:
    assert query_terms(number) == ([number.lower()], [])
    assert shares(number.lower(), f"failed with {number}.")


def test_an_apostrophe_or_none() -> None:
    assert whole("O'Brien") == set(query_words(query_terms("obrien")[0]).terms.tolist())


def test_names_of_files() -> None:
    names = ["Holiday Photos", "IMG_20240113-beachAtNight.jpg", "IMG_20240113-beachAtNight"]
    assert shares("beach night", "", *names)
    assert shares("holiday photo", "", *names)
    assert whole("IMG_20240113-beachAtNight") <= set(document_words("", names).terms.tolist())


@given(st.text())
def test_any_text_gives_sorted_terms_and_finite_weights(text: str) -> None:
    words = document_words(text, [text[:20]])
    assert isinstance(words, Words)
    assert words.terms.tolist() == sorted(set(words.terms.tolist()))
    assert (words.weights > 0).all()
    assert (words.weights < 2.2).all()


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_both_forms_of_a_text_are_one(text: str) -> None:
    composed, apart = unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)
    assert folded(composed) == folded(apart)


def test_words_that_tell_nothing_count_only_alone() -> None:
    assert query_terms("the history of the sea")[0] == ["histori", "sea"]
    assert query_terms("who are you")[0] == ["who", "are", "you"]


def test_a_longer_text_weighs_each_word_less() -> None:
    short, long = document_words("whale"), document_words("whale " + "sea " * 200)
    assert short.weights[0] > long.weights[long.terms.tolist().index(int(short.terms[0]))]


@pytest.mark.parametrize(
    ("query", "text", "phrases", "without"),
    [
        ("a red bicycle", "a red bicycle", 0, 0),
        ('"scales and fins" sea', "scales and fins sea", 1, 0),
        ("“Scales” fish", "Scales fish", 1, 0),
        ("invoice -smith", "invoice", 0, 1),
        ('invoice -"john smith" jones', "invoice jones", 0, 1),
        ("state-of-the-art - 5", "state-of-the-art - 5", 0, 0),
        ('5" pipe', '5" pipe', 0, 0),
        ("-smith", "", 0, 1),
        ("at -5 degrees", "at -5 degrees", 0, 0),
        ('" "', "", 0, 0),
    ],
)
def test_what_a_query_says_of_words(query: str, text: str, phrases: int, without: int) -> None:
    asked = Asked.of(query)
    assert (asked.text.strip(), len(asked.phrases), len(asked.without)) == (text, phrases, without)


def test_what_must_and_must_not_occur() -> None:
    asked = Asked.of('"scales and fins" -Shark')
    assert asked.allows(["It has SCALES, and\nfins."])
    assert not asked.allows(["fins and scales"])
    assert not asked.allows(["scales and fins of a shark"])
    assert asked.allows(["scales and fins of sharks"])  # as it stands
    assert Asked.of('"IMG 2024"').allows(["", "/home/me/img-2024.jpg"])
