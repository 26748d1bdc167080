"""The concepts that queries mean and pictures show, asked of a store beside the vectors (see `ranking/concepts.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from tsembed_search.items import Kind
from tsembed_search.ranking.concepts import ConceptVector, Meant, likeliest, meant
from tsembed_search.ranking.reranking import Query
from tsembed_search.store.base import Store
from tsembed_search.store.schema import stored_classes


class Sighting(TypedDict):
    """The name of a class, and the probability (0..1) that a picture shows it."""

    name: str
    probability: float


def sightings(payload: Mapping[str, Any]) -> list[Sighting]:
    """Return what an item's picture most likely shows, the likeliest first; nothing for an item without."""
    classes = stored_classes(payload)
    if classes is None:
        return []
    from tsembed_search.model.concepts import hierarchy

    return [{"name": name, "probability": probability} for name, probability in likeliest(hierarchy(), classes)]


class ByConcepts:
    """The concepts that some queries mean; a `Way` to find pictures (see `finding.py`). Only texts mean concepts. What
    concepts mean is loaded when it is needed first.
    """

    name = "concepts"
    kinds: tuple[Kind, ...] = ("image",)

    def __init__(self, store: Store, queries: Sequence[Query]) -> None:
        self.scores: list[dict[str, float]] = [{} for _ in queries]
        self._store = store
        self._queries = queries
        self._known: dict[int, Meant] = {}

    def asked(self, row: int) -> ConceptVector | None:
        """Return the evidence that pictures can give for what a query means; None where it means no concepts."""
        found = self._meant(row)
        return None if found is None else found.shown

    sought = asked

    def evidence(self, row: int, id: str) -> float | None:
        """Return the evidence that a picture shows what a query means; None where it means no concepts."""
        found = self._meant(row)
        return None if found is None else found.usual + self.scores[row].get(id, 0.0)

    def _meant(self, row: int) -> Meant | None:
        if row not in self._known:
            query = self._queries[row]
            if query.modality != "text" or not len(query.vector) or not self._store.has_concepts:
                return None
            from tsembed_search.model.concepts import hierarchy, meanings

            self._known[row] = meant(hierarchy(), meanings(self._store.dim), query.vector)
        return self._known[row]
