"""Finding points for queries by meaning, by words and by what pictures show, beside each other.

Each kind of item is searched by itself, so that a kind whose cosines are small by nature is not drowned by another. The
store is asked for all ways and kinds at once; then for what is not known yet of the points that were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from tsembed_search.items import KINDS, Kind
from tsembed_search.ranking.reranking import Query
from tsembed_search.ranking.scores import Calibration, Scored, merged
from tsembed_search.search.by_concepts import ByConcepts
from tsembed_search.search.by_words import ByWords
from tsembed_search.store.base import Record, Search, Store
from tsembed_search.store.filters import Condition, Filter, all_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.ranking.concepts import ConceptVector
    from tsembed_search.ranking.words import Words

_ALL_BUT_SAME: Final = 1 - 1e-9


class Way(Protocol):
    """One way to find points of some kinds; `row` is the number of a query. `scores` [Q] are those of known points."""

    name: str
    kinds: tuple[Kind, ...]
    scores: list[dict[str, float]]

    def asked(self, row: int) -> NDArray[np.float32] | Words | ConceptVector | None:
        """Return what scores points, None where a query asks for nothing in this way."""

    def sought(self, row: int) -> NDArray[np.float32] | Words | ConceptVector | None:
        """Return what points are found by: mostly the same."""


class ByMeaning:
    """The vectors of some queries. What must occur in an item is looked for by words alone."""

    name = "meaning"
    kinds = KINDS

    def __init__(self, queries: Sequence[Query]) -> None:
        self.scores: list[dict[str, float]] = [{} for _ in queries]
        self._queries = queries

    def asked(self, row: int) -> NDArray[np.float32] | None:
        """Return the query's vector, None where it has none."""
        vector = self._queries[row].vector
        return vector if len(vector) else None

    def sought(self, row: int) -> NDArray[np.float32] | None:
        """Return the same, unless words must occur."""
        return None if self._queries[row].asked.required else self.asked(row)


class Finder:
    """Finds points of a store that pass a filter, for some queries, and scores them by a calibration.

    `read` are those that had to be read to be found.
    """

    def __init__(
        self, store: Store, queries: Sequence[Query], calibration: Calibration, where: Filter | None = None
    ) -> None:
        self._store = store
        self._queries = queries
        self._calibration = calibration
        self._filters = {kind: all_of([Condition("kind", "=", kind), where]) for kind in KINDS}
        self.meaning = ByMeaning(queries)
        self.words = ByWords(store, queries)
        self.concepts = ByConcepts(store, queries)
        self._channels: list[dict[str, tuple[str, ...]]] = [{} for _ in queries]
        self._found: list[dict[str, Scored]] = [{} for _ in queries]
        self.read: dict[str, Record] = {}

    def find(self, rows: Sequence[int], more: int, known: int) -> None:
        """Find for some queries the next points of each kind and by each way, after those that are `known`."""
        fresh: dict[int, dict[str, Kind]] = {row: {} for row in rows}
        self._search((self.meaning, self.words), more, known, fresh)
        # What is not found by its vector any more has been found.
        pictured = {row: own for row, own in fresh.items() if self._has_pictures(row, own)}
        self._search((self.concepts,), more, known, pictured)
        for row, scored in self.scored(fresh).items():
            self._found[row].update(scored)

    def best(self, row: int, most: int) -> list[Scored]:
        """Return at most so many of the points that were found, of all kinds, the best first."""
        return merged(self._found[row].values(), most)

    def scored(self, kinds: Mapping[int, Mapping[str, Kind]]) -> dict[int, dict[str, Scored]]:
        """Return given points of each query with their scores. `kinds` says of which kind each is."""
        self._ask([])  # where nothing was searched for, the words know nothing yet
        asked = [
            (way, row, Search(query, ids=ids))
            for way in (self.words, self.meaning, self.concepts)
            for row, own in kinds.items()
            if (ids := [id for id, kind in own.items() if kind in way.kinds and id not in way.scores[row]])
            and (query := way.asked(row)) is not None
        ]
        for (way, row, _), records in zip(asked, self._ask([one[-1] for one in asked]), strict=True):
            way.scores[row].update((one.id, one.score) for one in records)
        return {row: self._scored(row, own) for row, own in kinds.items()}

    def _search(self, ways: Sequence[Way], more: int, known: int, fresh: Mapping[int, dict[str, Kind]]) -> None:
        """Put the next points of each kind, by some ways, into `fresh`."""
        asked = [
            (way, row, kind, Search(query, more, self._filters[kind], known))
            for kind in KINDS
            for way in ways
            if kind in way.kinds
            for row in fresh
            if (query := way.sought(row)) is not None
        ]
        before = self.words.respelled
        answers = self._ask([one[-1] for one in asked])
        again = (
            {} if self.words.respelled is before else {row: fresh[row] for row in fresh if self.words.respelled[row]}
        )
        for (way, row, kind, search), records in zip(asked, answers, strict=True):
            if way is self.words and row in again:
                continue
            if search.query is way.asked(row):
                way.scores[row].update((one.id, one.score) for one in records)
            fresh[row].update((one.id, kind) for one in records)
            self.read.update((one.id, one) for one in records if one.payload)
            channels = self._channels[row]
            for one in records:
                if way.name not in (ways_before := channels.get(one.id, ())):
                    channels[one.id] = (*ways_before, way.name)
        if again:
            self._search((self.words,), more, known, again)

    def _ask(self, searches: Sequence[Search]) -> list[list[Record]]:
        """The store's answers; with those to the first searches, the words learn what they are to know before."""
        first = self.words.first()
        answers = self._store.find([*first, *searches])
        if first:
            self.words.learn(answers[: len(first)])
        return answers[len(first) :]

    def _has_pictures(self, row: int, kinds: Mapping[str, Kind]) -> bool:
        """Tell whether there are pictures among points, found by what a query means."""
        channels = self._channels[row]
        return any(kind == "image" and "meaning" in channels[id] for id, kind in kinds.items())

    def _scored(self, row: int, kinds: Mapping[str, Kind]) -> dict[str, Scored]:
        """Points with their scores; without a vector on either side, its share of the words is all that is known."""
        query, cosines, channels = self._queries[row], self.meaning.scores[row], self._channels[row]
        telling = {kind: query.telling_in(kind) for kind in KINDS}
        found = {}
        for (id, kind), share in zip(kinds.items(), self.words.shares(row, kinds), strict=True):
            cosine = cosines.get(id)
            if cosine is None:
                score, cosine = share, 0.0
            elif id == query.same:
                score = cosine = 1.0
            else:
                shown = self.concepts.evidence(row, id) if kind == "image" else None
                score = self._calibration.score(cosine, query.modality, kind, share, shown, telling[kind])
                # What only looks the same stays below the very picture.
                score = min(score, _ALL_BUT_SAME) if query.same else score
            found[id] = Scored(id, kind, score, cosine, share, channels.get(id, ()))
        return found
