"""Evidence that a picture shows what a text means."""

from __future__ import annotations

import numpy as np
import pytest

from tsembed_search.ranking.concepts import (
    FLOOR,
    Hierarchy,
    evidence,
    likeliest,
    meant,
    sharp,
    shown_names,
)

# Classes: robin, eagle, car, truck; then what they are kinds of.
SMALL = Hierarchy(
    names=[["robin"], ["eagle"], ["car", "auto"], ["truck"], ["bird"], ["vehicle"], ["thing"]],
    parents=[[4], [4], [5], [5], [6], [6], []],
    classes=4,
)


def probabilities(*given: float) -> np.ndarray:
    return np.array(given, np.float32)


def test_kinds_of_kinds_are_counted() -> None:
    assert SMALL.priors.tolist() == [0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 1.0]
    assert np.flatnonzero(SMALL.below[0]).tolist() == [0, 4, 6]


def test_what_is_below_a_concept_adds_up() -> None:
    places, weights = evidence(SMALL, probabilities(0.4, 0.5, 0.1, 0.0))
    assert places.tolist() == [0, 1, 2, 4, 5, 6]  # a truck is not seen
    assert weights[3] == pytest.approx(np.log(0.9 / FLOOR + 1))
    assert weights[4] == pytest.approx(np.log(0.1 / FLOOR + 1))


def test_evidence_speaks_for_what_shows_it_and_against_what_does_not() -> None:
    meanings = np.eye(7, dtype=np.float32)
    bird = meant(SMALL, meanings, meanings[4])
    scores = []
    for given in (probabilities(0.5, 0.5, 0, 0), probabilities(0.25, 0.25, 0.25, 0.25), probabilities(0, 0, 0.5, 0.5)):
        shown = evidence(SMALL, given)
        dense = np.zeros(7)
        dense[shown.places] = shown.weights
        scores.append(bird.usual + float(bird.shown.weights @ dense[bird.shown.places]))
    for_it, usual, against = scores
    assert for_it > 0.5
    assert usual == pytest.approx(0, abs=0.01)
    assert against < -0.5


def test_a_query_that_is_like_no_concept_says_little() -> None:
    meanings = np.eye(7, 8, dtype=np.float32)
    vague = meant(SMALL, meanings, np.eye(8, dtype=np.float32)[7])
    assert vague.shown.weights == pytest.approx(np.full(7, 1 / 7))


def test_only_the_likest_concepts_are_asked_for_but_all_are_weighed() -> None:
    many = Hierarchy([[f"n{number}"] for number in range(300)], [[] for _ in range(300)], 300)
    found = meant(many, np.eye(300, dtype=np.float32), np.eye(300, dtype=np.float32)[7])
    assert 7 in found.shown.places
    assert len(found.shown.places) == 64
    assert found.shown.weights.sum() < 1


def test_names_of_what_a_picture_shows() -> None:
    flattened = probabilities(0.4, 0.3, 0.2, 0.1)
    assert sharp(flattened).sum() == pytest.approx(1)
    assert sharp(flattened)[0] > 0.4
    assert [name for name, _ in likeliest(SMALL, flattened)] == ["robin", "eagle", "car"]
    assert shown_names(SMALL, flattened) == ["eagle", "robin"]  # half of all are birds: that tells nothing


def test_a_name_means_the_concept_that_is_usually_called_so() -> None:
    assert SMALL.usual_names["auto"] == "car"
    assert SMALL.usual_names["bird"] == "bird"
