"""The share of a query's words that items have, found beside the vectors.

    share = (sum of BM25 over the query's words) / (the same sum where every word is at its best in the index)

So a word that few items have counts for more; an item that has them all, and little else, has a share near 1, whatever
the index and however long the query. A word that no item has counts as the rarest of the others. A code as a whole is
asked for beside its parts, and does not count where nobody has it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tsembed_search.ranking.reranking import Query
from tsembed_search.ranking.words import Words, query_words
from tsembed_search.store.base import Record, Store
from tsembed_search.store.filters import Filter


class ByWords:
    """The words of some queries, asked of a store. `row` is the number of a query."""

    def __init__(self, store: Store, queries: Sequence[Query]) -> None:
        self._store = store
        self._all = [query_words(query.asked.terms) for query in queries]
        # What must occur is all that is looked for; the other words still count.
        self._leading = [query_words(query.asked.required or query.asked.terms) for query in queries]
        self._best = self._best_scores(queries)

    def _best_scores(self, queries: Sequence[Query]) -> list[float]:
        """The most that BM25 can give for each query."""
        single = [(row, query_words([term])) for row, query in enumerate(queries) for term in query.asked.terms]
        tops: list[list[float]] = [[] for _ in queries]
        for (row, _), found in zip(single, self._store.search_words([one for _, one in single], 1), strict=True):
            tops[row].append(found[0].score if found else 0.0)
        return [self._best_of(query, own) for query, own in zip(queries, tops, strict=True)]

    def _best_of(self, query: Query, tops: list[float]) -> float:
        words = query.asked.terms[: query.asked.plain]
        rarest = max(tops, default=0.0)
        return sum(top or rarest for top in tops[: len(words)]) + sum(tops[len(words) :])

    def asks(self, row: int) -> bool:
        """Tell whether some item has a word of the query."""
        return self._best[row] > 0

    def find(self, rows: Sequence[int], limit: int, where: Filter | None, offset: int) -> list[list[Record]]:
        """Find for each of the queries the items that have most of its words, best first."""
        asking = [row for row in rows if self.asks(row)]
        found = self._store.search_words([self._leading[row] for row in asking], limit, where, offset=offset)
        answers = dict(zip(asking, found, strict=True))
        return [answers.get(row, []) for row in rows]

    def shares(self, rows: Sequence[int], ids: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """Return the shares of given items, for each of the queries; 0 for those that have none of its words."""
        asked: list[Words] = [self._all[row] for row in rows]
        wanted = [own if self.asks(row) else () for row, own in zip(rows, ids, strict=True)]
        scores = self._store.scores(wanted, asked)
        return [
            {id: min(1.0, found.get(id, 0.0) / self._best[row]) if self.asks(row) else 0.0 for id in own}
            for row, own, found in zip(rows, ids, scores, strict=True)
        ]
