"""The concepts that queries mean and pictures show, asked of a store beside the vectors (see `ranking/concepts.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from tsembed_search.ranking.concepts import Meant, likeliest, meant
from tsembed_search.ranking.reranking import Query
from tsembed_search.store.base import Record, Store
from tsembed_search.store.filters import Filter
from tsembed_search.store.schema import stored_classes

if TYPE_CHECKING:
    from tsembed_search.items import Kind


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
    pictures show them.
    """

    def __init__(self, store: Store, queries: Sequence[Query]) -> None:
        self._store = store
        self._meant: dict[int, Meant] = {}
        self._scores: dict[int, dict[str, float]] = {}
        texts = [row for row, query in enumerate(queries) if query.modality == "text" and len(query.vector)]
        if texts and store.has_concepts:
            from tsembed_search.model.concepts import hierarchy, meanings

            known = meanings(store.dim)
            self._meant = {row: meant(hierarchy(), known, queries[row].vector) for row in texts}

    def find(
        self, rows: Sequence[int], kind: Kind, limit: int, where: Filter | None, offset: int
    ) -> list[list[Record]]:
        """Find for each of the queries the items of one kind whose pictures show most of what it means, best first."""
        asking = [row for row in rows if row in self._meant and kind == "image"]
        shown = [self._meant[row].shown for row in asking]
        found = self._store.search_concepts(shown, limit, where, offset=offset) if shown else []
        answers = dict(zip(asking, found, strict=True))
        for row, own in answers.items():
            self._scores.setdefault(row, {}).update((one.id, one.score) for one in own)
        return [answers.get(row, []) for row in rows]

    def evidence(self, rows: Sequence[int], ids: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """Return the evidence that given pictures show what each of the queries means."""
        known = [self._scores.get(row, {}) for row in rows]
        asking = [place for place, row in enumerate(rows) if row in self._meant and ids[place]]
        missing = [[id for id in ids[place] if id not in known[place]] for place in asking]
        scores = self._store.scores(missing, [self._meant[rows[place]].shown for place in asking])
        found: list[dict[str, float]] = [{} for _ in rows]
        for place, more in zip(asking, scores, strict=True):
            usual, own = self._meant[rows[place]].usual, known[place] | more
            found[place] = {id: usual + own.get(id, 0.0) for id in ids[place]}
        return found
