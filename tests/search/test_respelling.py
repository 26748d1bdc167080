"""A misspelt word is found, and it is said; what is spelled right, quoted or excluded stays as it is."""

from __future__ import annotations

import json

import pytest

from helpers.colour_index import Maker
from tsembed_search.index import Index
from tsembed_search.items import Item


def names(index: Index, query: str, **options: object) -> list[str]:
    return [hit.path.rpartition("/")[2] for hit in index.search(query, **options).hits]


@pytest.fixture
def letters(maker: Maker) -> Maker:
    """Texts that a model of colours cannot tell apart."""
    texts = {
        "red-00.txt": "We received the bearings on Monday",
        "red-01.txt": "Invoice INV-2024-01013 for Kowalczyk",
        "red-02.txt": "Invoice INV-2024-01014 for Müllner",
        "red-03.txt": "A goat stands on the bridge",
        "red-04.txt": "договор аренды",
    }
    for name, text in texts.items():
        maker.add(Item(text), f"letters/{name}", chunk=0)
    return maker


@pytest.mark.parametrize(
    ("query", "first", "said"),
    [
        ("recieved", "red-00.txt", {"recieved": ["received"]}),
        ("recieve", "red-00.txt", {"recieve": ["receive"]}),
        ("invoice Kowalzcyk", "red-01.txt", {"kowalzcyk": ["kowalczyk"]}),
        ("Mulner", "red-02.txt", {"mulner": ["mullner"]}),
        ("договр", "red-04.txt", {"договр": ["договор"]}),
        ("lettres 03", "red-03.txt", {"lettres": ["letters"]}),
    ],
)
@pytest.mark.parametrize("words", ["auto", "only"])
def test_a_misspelt_word_is_found(
    letters: Maker, index: Index, query: str, first: str, said: dict[str, list[str]], words: str
) -> None:
    result = index.search(query, words=words)
    assert result.hits[0].path.endswith(first)
    assert result.respelled == said
    assert json.loads(json.dumps(result.to_json()))["respelled"] == said


def test_it_is_marked_in_the_snippet(letters: Maker, index: Index) -> None:
    hit = index.search("recieved", words="only").hits[0]
    assert [(hit.snippet or "")[start:end] for start, end in hit.marks] == ["received"]


@pytest.mark.parametrize(
    "query",
    [
        "received",  # it is there
        "boat",  # a word, though no text has it: a goat is none
        "boats",
        '"recieved"',  # as it stands
        "2024-01023",  # another invoice
        "bearings -recieved",
        "qqqqqqq",  # nothing is near
    ],
)
def test_the_rest_stays_as_it_is(letters: Maker, index: Index, query: str) -> None:
    result = index.search(query)
    assert result.respelled == {} and "respelled" not in result.to_json()


def test_nothing_is_found_by_a_boat(letters: Maker, index: Index) -> None:
    assert names(index, "boat", words="only") == []
    assert names(index, "bearings -received", words="only") == []


def test_what_has_the_word_itself_comes_first(letters: Maker, index: Index) -> None:
    """A misspelt word that some text has, too, is looked for as it is; in another query it counts for less."""
    hits = index.search("bearings monday", words="only").hits
    slipped = index.search("baerings monday", words="only").hits
    assert slipped[0].id == hits[0].id and 0.5 < slipped[0].words < hits[0].words
    letters.add(Item("baerings"), "letters/red-05.txt", chunk=0)
    assert names(index, "baerings", words="only") == ["red-05.txt"]


def test_many_queries_are_as_one_by_one(letters: Maker, index: Index) -> None:
    queries = ["recieved", "boat", "kowalzcyk 2024", "goat"]
    assert index.search_many(queries, snippets=True) == [index.search(query).hits for query in queries]
