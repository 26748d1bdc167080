"""Snippets: the best stretch of a text, its marks, and no word cut in two."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from Stemmer import Stemmer

from tsembed_search.search.snippet import Snippet, snippets

FILLER = "lorem ipsum dolor sit amet consectetur " * 10


def snippet(query: str, text: str, width: int = 200, others: Sequence[str] = ()) -> Snippet:
    found = snippets(query, [text, *others], width)[0]
    assert found is not None
    return found


def marked(part: Snippet) -> list[str]:
    return [part.text[start:end] for start, end in part.marks]


def test_stretch_with_most_of_the_query_wins() -> None:
    text = f"A bicycle. {FILLER} In the snow stood a red bicycle. {FILLER} Red paint."
    part = snippet("red bicycle in the snow", text, 80)
    assert marked(part) == ["snow", "red", "bicycle"]
    assert part.text.startswith("… ") and part.text.endswith(" …")


def test_rare_word_outweighs_a_common_one() -> None:
    text = f"harvest harvest harvest {FILLER} the quince {FILLER}"
    others = ["harvest here", "harvest there", "a harvest"]
    assert marked(snippet("quince harvest", text, 60, others)) == ["quince"]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("apples", "apple"), ("apple", "Apples"), ("city", "cities"), ("bake", "baking"), ("walk", "walked"),
        ("CAFÉ", "cafe"), ("Straße", "STRASSE"), ("naïve", "naive"), ("林檎", "今日は林檎を"), ("2024", "2024"),
    ],
)  # fmt: skip
def test_endings_case_and_accents_do_not_matter(query: str, text: str) -> None:
    assert len(marked(snippet(query, text))) == 1


@pytest.mark.parametrize(
    ("query", "text"),
    [("cat", "category"), ("art", "part"), ("car", "carpet"), ("red", "redwood"), ("party", "parts"), ("12", "123")],
)
def test_other_words_are_not_marked(query: str, text: str) -> None:
    assert marked(snippet(query, text)) == []


def test_empty_words_are_marked_only_when_there_is_nothing_else() -> None:
    text = "the cat and the dog"
    assert marked(snippet("the dog", text)) == ["dog"]
    assert marked(snippet("the", text)) == ["the", "the"]


def test_without_a_match_it_is_the_beginning() -> None:
    part = snippet("zebra", FILLER, 50)
    assert part.text.startswith("lorem ipsum") and part.text.endswith(" …")
    assert snippet("", "short\n text") == Snippet("short text")
    assert snippets("zebra", ["", "zebra"]) == [None, Snippet("zebra", ((0, 5),))]


@given(
    st.text(alphabet=st.sampled_from("ab é\n\t.林檎İßx"), max_size=300),
    st.text(alphabet=st.sampled_from("ab é林檎İß"), max_size=20),
    st.integers(5, 120),
)
def test_any_text_gives_a_stretch_of_it_with_marks_inside(text: str, query: str, width: int) -> None:
    part = snippet(query, text or " ", width)
    flat = " ".join(text.split())
    core = part.text.removeprefix("… ").removesuffix(" …")
    assert core in flat
    assert len(core) <= max(width, max(map(len, flat.split()), default=0))
    assert "\n" not in part.text
    last = 0
    for start, end in part.marks:
        assert last <= start < end <= len(part.text)
        last = end


@given(
    st.text(alphabet="aeioulbdsty", min_size=1, max_size=6),
    st.sampled_from(
        ("", "ing", "ying", "ied", "ies", "y", "ation", "biliti", "izer", "ement", "fulness", "logi", "ed")
    ),
    st.sampled_from(("", "s", "es", "ed", "ing", "ly", "li", "ity", "able", "'s")),
)
def test_every_word_with_the_query_s_stem_is_marked(start: str, middle: str, end: str) -> None:
    """Words are looked for by the beginning of a stem, so an ending may change no more of it."""
    word = start + middle + end
    stem = Stemmer("english").stemWord(word)
    assert marked(snippet(stem, f"x {word} x")) or Stemmer("english").stemWord(stem) != stem
