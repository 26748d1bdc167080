"""The share of a query's words that items have, found beside the vectors.

    share = (sum of BM25 over the query's words) / (the same sum where every word is at its best in the index)

So a word that few items have counts for more; an item that has them all, and little else, has a share near 1, whatever
the index and however long the query. A word that no item has counts as the rarest of the others. A code as a whole is
asked for beside its parts, and does not count where nobody has it.

A word that no item has may be misspelt: what it was to be is asked for in its place (see `respelling.py`), and counts
for less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tsembed_search.ranking.reranking import Query
from tsembed_search.ranking.words import Words, query_words
from tsembed_search.search.respelling import Respelled, respelled
from tsembed_search.search.results import WordPart
from tsembed_search.store.base import Record, Store
from tsembed_search.store.filters import Filter

RESPELLED_WEIGHT: Final = 0.8
"""The part of its score that a word counts which stands for a misspelt one: an item that has every word as it is asked
for comes first.
"""


class ByWords:
    """The words of some queries, asked of a store. `row` is the number of a query.

    `respelled` [Q] says of each query which of its words stand for others.
    """

    def __init__(self, store: Store, queries: Sequence[Query]) -> None:
        self._store = store
        self._asked = [query.asked for query in queries]
        self._tops: dict[str, float] = {}
        self._ask(term for query in queries for term in query.asked.terms)
        self.respelled = self._respelled(queries)
        self._ask(term for own in self.respelled for one in own.values() for term in one.terms)
        weighted = [{term: RESPELLED_WEIGHT for one in own.values() for term in one.terms} for own in self.respelled]
        rows = list(zip(queries, weighted, strict=True))
        self._all = [query_words(query.asked.terms, more) for query, more in rows]
        # What must occur is all that is looked for; the other words still count.
        self._leading = [
            query_words(query.asked.required) if query.asked.required else words
            for query, words in zip(queries, self._all, strict=True)
        ]
        self._best = [self._best_of(query, own) for query, own in zip(queries, self.respelled, strict=True)]
        self._scores: list[dict[str, float]] = [{} for _ in queries]

    def _ask(self, terms: Iterable[str]) -> None:
        """Learn the most that BM25 can give for each of these terms, 0 for one that no item has."""
        new = [term for term in dict.fromkeys(terms) if term not in self._tops]
        found = self._store.search_words([query_words([term]) for term in new], 1)
        self._tops.update((term, own[0].score if own else 0.0) for term, own in zip(new, found, strict=True))

    def _respelled(self, queries: Sequence[Query]) -> list[dict[str, Respelled]]:
        """For each query the words in place of terms that no item has. What is in quotes must occur as it stands."""
        missing = [
            {
                term: form
                for term, form in zip(query.asked.terms, query.asked.forms, strict=False)
                if not self._tops[term] and term not in query.asked.required
            }
            for query in queries
        ]
        found = [respelled(self._store, list(own.values())) if own else {} for own in missing]
        return [
            {term: there[form] for term, form in own.items() if form in there}
            for own, there in zip(missing, found, strict=True)
        ]

    def _best_of(self, query: Query, respelled: dict[str, Respelled]) -> float:
        """The most that BM25 can give for a query."""
        terms, plain = query.asked.terms, query.asked.plain
        tops = [
            max(self._tops[each] for each in (respelled[term].terms if term in respelled else [term])) for term in terms
        ]
        rarest = max(tops, default=0.0)
        return sum(top or rarest for top in tops[:plain]) + sum(tops[plain:])

    def asks(self, row: int) -> bool:
        """Tell whether some item has a word of the query."""
        return self._best[row] > 0

    def find(self, rows: Sequence[int], limit: int, where: Filter | None, offset: int) -> list[list[Record]]:
        """Find for each of the queries the items that have most of its words, best first."""
        asking = [row for row in rows if self.asks(row)]
        found = self._store.search_words([self._leading[row] for row in asking], limit, where, offset=offset)
        answers = dict(zip(asking, found, strict=True))
        for row, own in answers.items():
            if self._leading[row] is self._all[row]:
                self._scores[row].update((one.id, one.score) for one in own)
        return [answers.get(row, []) for row in rows]

    def shares(self, rows: Sequence[int], ids: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """Return the shares of given items, for each of the queries; 0 for those that have none of its words."""
        asked: list[Words] = [self._all[row] for row in rows]
        wanted = [
            [id for id in own if id not in self._scores[row]] if self.asks(row) else []
            for row, own in zip(rows, ids, strict=True)
        ]
        for row, more in zip(rows, self._store.scores(wanted, asked), strict=True):
            self._scores[row].update(more)
        return [
            {id: min(1.0, self._scores[row].get(id, 0.0) / self._best[row]) if self.asks(row) else 0.0 for id in own}
            for row, own in zip(rows, ids, strict=True)
        ]

    def parts(self, row: int, id: str) -> list[WordPart]:
        """Return what each word of a query adds to the share of an item; codes as a whole only where they add to it."""
        if not self.asks(row):
            return []
        asked, respelled = self._asked[row], self.respelled[row]
        terms = [respelled[term].terms if term in respelled else (term,) for term in asked.terms]
        weights = [RESPELLED_WEIGHT if term in respelled else 1.0 for term in asked.terms]
        found = self._store.scores([[id]] * len(terms), [query_words(own) for own in terms])
        shares = [
            min(1.0, own.get(id, 0.0) * weight / self._best[row]) for own, weight in zip(found, weights, strict=True)
        ]
        words = [
            WordPart(" / ".join(respelled[term].forms), share, form) if term in respelled else WordPart(form, share)
            for term, form, share in zip(asked.terms, asked.forms, shares, strict=False)
        ]
        codes = zip(asked.terms[asked.plain :], shares[asked.plain :], strict=True)
        return words + [WordPart(code, share) for code, share in codes if share]
