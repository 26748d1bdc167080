"""The concepts that queries mean and pictures show, asked of a store beside the vectors (see `ranking/concepts.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from tsembed_search.ranking.concepts import Meant, likeliest, meant
from tsembed_search.ranking.reranking import Query
from tsembed_search.store.base import Record, Store
from tsembed_search.store.filters import Filter
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
    """The concepts of some queries, asked of a store. `row` is the number of a query. Only texts mean concepts, only
    pictures show them. What concepts mean is loaded when it is needed first.
    """

    def __init__(self, store: Store, queries: Sequence[Query]) -> None:
        self._store = store
        self._queries = queries
        self._meant: dict[int, Meant] = {}
        self._scores: dict[int, dict[str, float]] = {}

    def find(self, rows: Sequence[int], limit: int, where: Filter | None, offset: int) -> dict[int, list[Record]]:
        """Find for each of the queries the pictures that show most of what it means, best first."""
        asked = self._concepts(rows)
        if not asked:
            return {}
        found = self._store.search_concepts([one.shown for one in asked.values()], limit, where, offset=offset)
        answers = dict(zip(asked, found, strict=True))
        for row, own in answers.items():
            self._scores.setdefault(row, {}).update((one.id, one.score) for one in own)
        return answers

    def evidence(self, ids: Mapping[int, Sequence[str]]) -> dict[int, dict[str, float]]:
        """Return the evidence that given pictures show what queries mean; `ids` has pictures for rows of queries."""
        asked = self._concepts([row for row, own in ids.items() if own])
        known = {row: self._scores.get(row, {}) for row in asked}
        missing = [[id for id in ids[row] if id not in known[row]] for row in asked]
        scores = self._store.scores(missing, [one.shown for one in asked.values()])
        found: dict[int, dict[str, float]] = {row: {} for row in ids}
        for (row, one), more in zip(asked.items(), scores, strict=True):
            own = known[row] | more
            found[row] = {id: one.usual + own.get(id, 0.0) for id in ids[row]}
        return found

    def _concepts(self, rows: Sequence[int]) -> dict[int, Meant]:
        """The concepts of those of the queries that mean some."""
        texts = [row for row in rows if self._queries[row].modality == "text" and len(self._queries[row].vector)]
        if not texts or not self._store.has_concepts:
            return {}
        from tsembed_search.model.concepts import hierarchy, meanings

        known = meanings(self._store.dim)
        for row in texts:
            if row not in self._meant:
                self._meant[row] = meant(hierarchy(), known, self._queries[row].vector)
        return {row: self._meant[row] for row in texts}
