"""What pictures show, beside vectors: both engines find it, filter by it, and go without where it is not kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.store_points import DIM, address_of
from tsembed_search.errors import StoreError, UsageError
from tsembed_search.model.concepts import hierarchy
from tsembed_search.ranking.concepts import ConceptVector, evidence
from tsembed_search.search.where import parse_where
from tsembed_search.store import opening
from tsembed_search.store.base import Point, Search, Store, StoreSettings
from tsembed_search.store.edge.store import EDGE
from tsembed_search.store.qdrant import collection
from tsembed_search.store.qdrant.connection import MEMORY, Connection
from tsembed_search.store.qdrant.store import ServerStore
from tsembed_search.store.schema import CONCEPTS, concept_fields, stored_classes


def classes(**given: float) -> np.ndarray:
    """Probabilities of classes by the usual names."""
    names = [names[0] for names in hierarchy().names[:1000]]
    found = np.zeros(1000, np.float32)
    for name, probability in given.items():
        found[names.index(name.replace("_", " "))] = probability
    return found


DOG = classes(Labrador_retriever=0.6, beagle=0.3, tench=0.1)
HEN = classes(hen=0.8, cock=0.2)
CAR = classes(sports_car=0.7, convertible=0.3)


def made(engine: str, folder: Path, *, concepts: bool) -> Store:
    settings = StoreSettings(DIM, concepts=concepts)
    if engine == "edge":
        return EDGE.create(address_of(folder), settings)
    connection = Connection(MEMORY)
    collection.create(connection, "test", settings)
    return ServerStore(connection, "test")


@pytest.fixture(params=["edge", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path, points: list[Point]) -> Iterator[Store]:
    """A dog, a hen, a car and a text."""
    store = made(request.param, tmp_path, concepts=True)
    fields = [concept_fields(DOG), concept_fields(HEN), concept_fields(CAR), {}]
    store.upsert([Point(one.id, one.vector, one.payload | own) for one, own in zip(points, fields, strict=False)])
    yield store
    store.close()


def weights(shown: ConceptVector) -> dict[int, float]:
    return dict(zip(shown.places.tolist(), shown.weights.tolist(), strict=True))


def place(name: str) -> int:
    return next(at for at, names in enumerate(hierarchy().names) if names[0] == name)


def test_pictures_are_found_by_the_evidence_for_a_concept(store: Store, points: list[Point]) -> None:
    dog, hen, car, text = points[:4]
    animal = ConceptVector(np.array([place("animal")], np.uint32), np.array([0.5], np.float32))
    found = store.find([Search(animal, 10)])[0]
    assert [hit.id for hit in found[:2]] in ([dog.id, hen.id], [hen.id, dog.id])
    expected = 0.5 * weights(evidence(hierarchy(), DOG))[place("animal")]
    (given,) = store.find([Search(animal, ids=[dog.id, car.id, text.id])])
    scores = {one.id: one.score for one in given}
    assert scores[dog.id] == pytest.approx(expected, abs=0.01)
    assert text.id not in scores
    assert store.count() == 4
    assert store.info().indexed <= 4


def test_a_filter_names_what_pictures_show(store: Store, points: list[Point]) -> None:
    dog, hen, car, _ = points[:4]

    def found(where: str) -> list[str]:
        return sorted(record.id for record in store.scroll(parse_where(where), fields=()))

    assert found("concept=bird") == [hen.id]
    assert found('concept="domestic dog"') == [dog.id]
    assert found("concept in (auto, birds)") == sorted([hen.id, car.id])
    assert found("kind=text and concept=dog") in ([dog.id], [])
    assert len(found("not concept=animal")) == 2
    assert store.facet(CONCEPTS)["bird"] == 1


def test_an_unknown_concept_is_told(store: Store) -> None:
    with pytest.raises(UsageError, match="'elefant' is not a concept, did you mean elephant"):
        parse_where("concept=elefant")


@pytest.mark.parametrize("engine", ["edge", "server"])
def test_an_index_without_concepts_says_so(engine: str, tmp_path: Path, points: list[Point]) -> None:
    store = made(engine, tmp_path, concepts=False)
    try:
        store.upsert([Point(points[0].id, points[0].vector, points[0].payload | concept_fields(DOG))])
        assert not store.has_concepts
        with pytest.raises(UsageError, match="does not know what its pictures show"):
            store.count(parse_where("kind=image and not concept=dog"))
        assert store.count() == 1
    finally:
        store.close()


def test_a_store_that_is_opened_again_still_has_them(tmp_path: Path, points: list[Point]) -> None:
    first = made("edge", tmp_path, concepts=True)
    first.upsert([Point(points[0].id, points[0].vector, points[0].payload | concept_fields(DOG))])
    first.close()
    again = opening.open(address_of(tmp_path))
    try:
        assert again.has_concepts
        assert again.count(parse_where("concept=dog")) == 1
    finally:
        again.close()


def test_classes_survive_packing_and_damage_is_told() -> None:
    fields = concept_fields(DOG)
    assert stored_classes(fields) == pytest.approx(DOG, abs=0.001)
    assert concept_fields(np.zeros(1000, np.float32)) == {}
    with pytest.raises(StoreError, match="damaged classes"):
        stored_classes({**fields, "packed_classes": "AAA="})
