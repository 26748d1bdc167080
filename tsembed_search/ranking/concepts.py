"""Pictures by what they show: evidence for concepts, from the probabilities of a classifier's classes.

A concept is a class, or one of the kinds that classes are of: a robin is a thrush, a bird, an animal. A picture shows
concept n with the probability P(n), the sum of those of the classes below it. Measured against how common the concept
is among classes, that speaks for the picture, or against it:

    r(n) = log((P(n) + e) / (prior(n) + e))        prior(n) = classes below n / all classes

A query means concepts, each as much as its vector q is like the concept's:

    pi = softmax(q · N / t)                        evidence = sum over n of pi(n) · r(n)

r(n) is log(P(n) / e + 1), which is 0 for nearly all concepts and so is stored as a sparse vector, less
log(prior(n) / e + 1), which the query can take off by itself. The form and its two constants were found by
`benchmarks/concepts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

FLOOR: Final = 0.01
"""e: a probability that says nothing."""
SHARPNESS: Final = 0.07
"""t: how much more like the query a concept must be to be meant e times as much."""
SHOWN_FROM: Final = 0.3
"""The probability from which on a picture is said to show a concept."""
TOP: Final = 3
"""The number of classes that a hit names."""
_FAINTEST: Final = 0.1
"""Less evidence than this for a concept is not stored."""
_MEANT: Final = 64
"""The most concepts of a query. What it means little of says as little."""
_FLATTENED: Final = 1.5


class ConceptVector(NamedTuple):
    """A sparse vector of concepts: their `places` [T] uint32, in order and each once, and their `weights` [T] float32.

    Of a picture, log(P(n) / e + 1); of a query, pi(n).
    """

    places: NDArray[np.uint32]
    weights: Array


class Meant(NamedTuple):
    """The concepts of a query; `usual` is the evidence of a picture that shows none of them."""

    shown: ConceptVector
    usual: float


@dataclass(frozen=True)
class Hierarchy:
    """Concepts, the classes first: the `names` of each, the usual one first, and the `parents` of each, by place."""

    names: Sequence[Sequence[str]]
    parents: Sequence[Sequence[int]]
    classes: int

    @cached_property
    def kinds(self) -> Sequence[frozenset[int]]:
        """The concepts that each class is, or is a kind of, by place."""
        known: dict[int, frozenset[int]] = {}

        def kinds_of(place: int) -> frozenset[int]:
            if place not in known:
                known[place] = frozenset({place}).union(*(kinds_of(parent) for parent in self.parents[place]))
            return known[place]

        return [kinds_of(place) for place in range(self.classes)]

    @cached_property
    def below(self) -> Array:
        """`[C, N]`: 1 where a class is a concept, or a kind of it."""
        found = np.zeros((self.classes, len(self.names)), np.float32)
        for place, kinds in enumerate(self.kinds):
            found[place, list(kinds)] = 1
        return found

    @cached_property
    def priors(self) -> Array:
        """`[N]`: the share of classes below each concept."""
        counts = np.bincount([kind for kinds in self.kinds for kind in kinds], minlength=len(self.names))
        return (counts / self.classes).astype(np.float32)

    @cached_property
    def telling(self) -> NDArray[np.bool_]:
        """`[N]`: whether a concept tells something: half of all classes are artefacts, all are things."""
        return self.priors < 0.5

    @cached_property
    def usual_names(self) -> dict[str, str]:
        """The usual name of the concept that each name means: of several, the most general one."""
        found = {names[0].lower(): names[0].lower() for names in self.names}
        for place in np.argsort(-self.priors, kind="stable").tolist():
            for name in self.names[place]:
                found.setdefault(name.lower(), self.names[place][0].lower())
        return found


def evidence(hierarchy: Hierarchy, probabilities: Array) -> ConceptVector:
    """Return what the probabilities `[C]` of classes in one picture say for concepts."""
    weights = np.log1p((probabilities @ hierarchy.below) / FLOOR)
    places = np.flatnonzero(weights >= _FAINTEST)
    return ConceptVector(places.astype(np.uint32), weights[places].astype(np.float32))


def meant(hierarchy: Hierarchy, meanings: Array, query: Array) -> Meant:
    """Return what a query `[D]` means, by the unit vectors `[N, D]` of what concepts mean."""
    likeness = meanings @ query / SHARPNESS
    every = np.exp(likeness - likeness.max())
    most = min(_MEANT, len(every))
    places = np.sort(np.argpartition(-every, most - 1)[:most])
    shares = every[places] / every.sum()
    usual = -float(shares @ np.log1p(hierarchy.priors[places] / FLOOR))
    return Meant(ConceptVector(places.astype(np.uint32), shares.astype(np.float32)), usual)


def sharp(probabilities: Array) -> Array:
    """Return probabilities `[C]` as the classifier gave them; a model flattens them to see more of what is likely."""
    given = probabilities**_FLATTENED
    total = given.sum()
    return given / total if total > 0 else given


def shown_names(hierarchy: Hierarchy, probabilities: Array) -> list[str]:
    """Return the usual names of the concepts that a picture shows, in order, by its classes' probabilities `[C]`."""
    shown = (sharp(probabilities) @ hierarchy.below >= SHOWN_FROM) & hierarchy.telling
    return sorted({hierarchy.names[place][0].lower() for place in np.flatnonzero(shown).tolist()})


def likeliest(hierarchy: Hierarchy, probabilities: Array) -> list[tuple[str, float]]:
    """Return the names of the likeliest classes with their probabilities, the likeliest first."""
    given = sharp(probabilities)
    order = np.argsort(-given, kind="stable")[:TOP]
    return [(hierarchy.names[place][0], float(given[place])) for place in order.tolist() if given[place] > 0]
