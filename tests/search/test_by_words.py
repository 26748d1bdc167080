"""Words beside meaning: what is named or quoted wins, and what is excluded stays out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.colour_index import Maker, solid
from helpers.colours import COLOURS, ColourBackbone
from tsembed_search.errors import UsageError
from tsembed_search.index import Index
from tsembed_search.items import Item
from tsembed_search.model.embedder import Embedder
from tsembed_search.paths import IndexAddress
from tsembed_search.search.queries import embedded_queries
from tsembed_search.store.schema import IndexMetadata


def names(index: Index, query: str, **options: object) -> list[str]:
    return [hit.path.rpartition("/")[2] for hit in index.search(query, **options).hits]


@pytest.fixture
def letters(maker: Maker) -> Maker:
    """Texts that a model of colours cannot tell apart."""
    for number in range(30):
        customer = ("Smith", "Jones", "Müller")[number % 3]
        maker.add(Item(f"Invoice INV-2024-010{number:02d} for {customer}"), f"letters/red-{number:02d}.txt", chunk=0)
    maker.add(Item(image=solid(*COLOURS["red"])), "pictures/harbour at night.png")
    return maker


@pytest.mark.parametrize("query", ["INV-2024-01013", "inv/2024.01013", "INV202401013", "01013", "red-13", "red-13.txt"])
@pytest.mark.parametrize("words", ["auto", "only"])
def test_a_code_or_a_name_comes_first(letters: Maker, index: Index, query: str, words: str) -> None:
    assert names(index, query, words=words)[0] == "red-13.txt"


def test_a_picture_is_found_by_its_name(letters: Maker, index: Index) -> None:
    assert names(index, "harbour night")[0] == "harbour at night.png"
    assert names(index, "harbour", words="only") == ["harbour at night.png"]


def test_a_text_with_a_word_that_a_model_knows_does_not_hide_a_picture_of_it(maker: Maker, index: Index) -> None:
    maker.add(Item(image=solid(*COLOURS["red"])), "1.png")
    maker.add(Item("a house of red bricks by Kowalczyk, at the end of a long and quiet street"), "2.txt", chunk=0)
    assert names(index, "red")[:2] == ["1.png", "2.txt"]
    assert names(index, "Kowalczyk red") == ["2.txt", "1.png"]


@pytest.mark.parametrize(
    ("query", "telling"),
    [
        ("fish", 0.25),
        ("red bicycles", 0.5),
        ("the end of a street", 0.5),
        ("what is a red bicycle for", 0.5),
        ("a red bicycle at the end of a quiet street", 1.0),
        ("Kowalczyk", 1.0),
        ("invoice 1998", 1.0),
        ("x-ray", 1.0),
        ('"fish"', 1.0),
        ("рыба", 1.0),
    ],
)
def test_few_words_that_a_model_knows_say_little_beside_their_meaning(query: str, telling: float) -> None:
    assert embedded_queries(Embedder(ColourBackbone()), [Item(query)], words=True)[0].telling == telling


def test_an_accent_does_not_matter(letters: Maker, index: Index) -> None:
    found = names(index, "muller", k=10)
    assert sorted(found) == [f"red-{number:02d}.txt" for number in range(2, 30, 3)]


def test_quoted_words_must_occur(letters: Maker, index: Index) -> None:
    assert sorted(names(index, '"for jones"', k=50)) == [f"red-{number:02d}.txt" for number in range(1, 30, 3)]
    assert names(index, '"jones for"', k=50) == []
    assert names(index, '"01013 for Jones" smith') == ["red-13.txt"]


def test_excluded_words_do_not_occur(letters: Maker, index: Index) -> None:
    found = names(index, "invoice -smith -jones", k=50)
    assert "red-02.txt" in found
    assert not {"red-00.txt", "red-01.txt"} & set(found)
    assert not any(name.startswith("red") for name in names(index, "red -letters", k=50))
    with pytest.raises(UsageError, match="only says what it is not to find"):
        index.search("-smith")


def test_words_only_needs_no_model(letters: Maker) -> None:
    """The embedder is one that fails as soon as it is asked for anything."""

    class Unusable:
        info = ColourBackbone().info

        def embed(self, *given: object) -> None:
            raise AssertionError("a model was asked")

    by_words = Index(IndexAddress(), IndexMetadata.of(Unusable.info), store=letters.store, embedder=Unusable())  # type: ignore[arg-type]
    (hit, *_) = by_words.search("INV-2024-01007", words="only").hits
    assert hit.path.endswith("red-07.txt")
    assert (hit.words, hit.score, hit.similarity) == (pytest.approx(1.0), hit.words, 0.0)
    assert by_words.search("nowhere", words="only").hits == []
    assert by_words.search_many(["INV-2024-01007", "nowhere"], words="only")[1] == []
    with pytest.raises(UsageError, match="picture"):
        by_words.search(Item("red", solid(1, 2, 3)), words="only")


def test_never_is_as_without_words(letters: Maker, index: Index) -> None:
    hits = index.search("01013 red", words="never", k=31).hits
    assert all(hit.words == 0 for hit in hits)
    plain = index.search("red", words="never", k=31).hits
    assert [hit.similarity for hit in plain] == sorted((hit.similarity for hit in plain), reverse=True)


def test_both_scores_of_all_hits(letters: Maker, index: Index) -> None:
    """However an item was found, its cosine and its share of the words are known."""
    hits = index.search("red INV-2024-01013", k=31).hits
    assert len(hits) == 31
    vectors = {record.id: record.vector for record in letters.store.scroll(with_vectors=True)}
    query = index._model.embedder.embed([Item("red INV-2024-01013")], "query").vectors[0]
    for hit in hits:
        assert hit.similarity == pytest.approx(float(np.dot(vectors[hit.id], query)), abs=1e-5)
    assert all(0 <= hit.words <= 1 for hit in hits)
    assert hits[0].words > 0.9 > max(hit.words for hit in hits[1:]) > 0
    assert json.loads(json.dumps(hits[0].to_json()))["words"] == hits[0].words


def test_many_queries_are_as_one_by_one(letters: Maker, index: Index) -> None:
    queries = ["INV-2024-01013", '"for jones" red', "muller -red-02", "harbour", "blue"]
    many = index.search_many(queries, snippets=True)
    assert many == [index.search(query).hits for query in queries]


def test_the_share_does_not_grow_with_the_index(letters: Maker, index: Index) -> None:
    before = index.search("INV-2024-01013").hits[0].words
    for number in range(100):
        letters.add(Item(f"another letter, number {number}"), f"more/{number}.txt", chunk=0)
    assert index.search("INV-2024-01013").hits[0].words == pytest.approx(before)


def test_what_found_a_hit_is_told(letters: Maker, index: Index) -> None:
    only = index.search("01013", words="only").hits
    assert [hit.channels for hit in only] == [["words"]]
    assert {tuple(hit.channels) for hit in index.search("red", words="never").hits} == {("meaning",)}
    hits = index.search("red INV-2024-01013", k=31).hits
    assert hits[0].channels == ["meaning", "words"] == hits[0].to_json()["channels"]
    assert all(("words" in hit.channels) == (hit.words > 0) for hit in hits)
