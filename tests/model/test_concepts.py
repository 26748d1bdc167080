"""The concepts that come with the package, and what `mini` sees of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tsembed_search.items import Item
from tsembed_search.model.concepts import hierarchy, meanings
from tsembed_search.model.embedder import Embedder
from tsembed_search.ranking.concepts import likeliest, meant, shown_names

PICTURES = Path(__file__).parents[2] / "examples/corpus/pictures"


@pytest.fixture(scope="module")
def mini() -> Embedder:
    return Embedder.load("mini", "cpu")


def test_a_labrador_is_a_dog_and_an_animal() -> None:
    known = hierarchy()
    labrador = next(place for place, names in enumerate(known.names) if names[0] == "Labrador retriever")
    kinds = {known.names[place][0] for place in known.kinds[labrador]}
    assert {"retriever", "dog", "carnivore", "animal", "entity"} <= kinds
    assert "cat" not in kinds
    assert known.classes == 1000
    assert known.usual_names["domestic dog"] == "dog"


@pytest.mark.parametrize("dim", [384, 128])
def test_meanings_are_unit_vectors_of_the_size_of_the_index(dim: int) -> None:
    found = meanings(dim)
    assert found.shape == (len(hierarchy().names), dim)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(found)), abs=1e-5)


@pytest.mark.parametrize(
    ("word", "names"), [("dogs", {"dog", "working dog"}), ("an old car", {"car", "motor vehicle"})]
)
def test_a_word_means_its_concept(mini: Embedder, word: str, names: set[str]) -> None:
    known = hierarchy()
    found = meant(known, meanings(384), mini.embed([Item(word)], "query").vectors[0]).shown
    first = {known.names[found.places[at]][0] for at in np.argsort(-found.weights)[:5]}
    assert first & names, first


def test_mini_tells_what_a_picture_shows_alone_and_among_others(mini: Embedder) -> None:
    dog = Item(image=PICTURES / "animals/labrador.png")
    found = mini.embed([dog, Item("a text"), Item(image=PICTURES / "music/cello.png")])
    assert found.classes is not None
    assert found.classes.sum(axis=1) == pytest.approx([1, 0, 1], abs=1e-4)
    assert likeliest(hierarchy(), found.classes[0])[0][0] == "Labrador retriever"
    assert "dog" in shown_names(hierarchy(), found.classes[0])
    assert likeliest(hierarchy(), found.classes[2])[0][0] == "cello"
    alone = mini.embed([dog]).classes
    assert alone is not None
    assert alone[0] == pytest.approx(found.classes[0], abs=1e-5)


def test_a_shortened_model_tells_the_same() -> None:
    item = Item(image=PICTURES / "animals/labrador.png")
    found = Embedder.load("mini-base:64", "cpu").embed([item])
    assert found.classes is not None
    assert likeliest(hierarchy(), found.classes[0])[0][0] == "Labrador retriever"
