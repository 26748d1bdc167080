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

from tsembed_search.items import KINDS
from tsembed_search.ranking.reranking import Query
from tsembed_search.ranking.words import Asked, Words, query_words
from tsembed_search.search.respelling import Respelled, respelled
from tsembed_search.search.results import WordPart
from tsembed_search.store.base import Record, Search, Store

RESPELLED_WEIGHT: Final = 0.8
"""The part of its score that a word counts which stands for a misspelt one: an item that has every word as it is asked
for comes first.
"""


class ByWords:
    """The words of some queries, asked of a store; a `Way` to find items of all kinds (see `finding.py`).

    What the store answers to `first` is to be learnt before there are scores. `respelled` [Q] then says of each query
    which of its words stand for others.
    """

    name = "words"
    kinds = KINDS

    def __init__(self, store: Store, queries: Sequence[Query]) -> None:
        self._store = store
        self._asked = [query.asked for query in queries]
        self.scores: list[dict[str, float]] = [{} for _ in queries]
        self.respelled: list[dict[str, Respelled]] = [{} for _ in queries]
        self._tops: dict[str, float] = {}
        self._unknown = list(dict.fromkeys(term for asked in self._asked for term in asked.terms))
        self._all = [query_words(asked.terms) for asked in self._asked]
        # What must occur is all that is looked for; the other words still count.
        self._leading = [
            query_words(asked.required) if asked.required else words
            for asked, words in zip(self._asked, self._all, strict=True)
        ]
        self._best = [float(len(asked.terms)) for asked in self._asked]

    def first(self) -> list[Search]:
        """Return what is to be known first: for each term, the point that has most of it."""
        return [Search(query_words([term]), 1) for term in self._unknown]

    def learn(self, found: Sequence[Sequence[Record]]) -> None:
        """Take the answers to `first`, and look for what misspelt words were to be."""
        self._take(found)
        self.respelled = [self._respelled(asked) for asked in self._asked]
        terms = dict.fromkeys(term for own in self.respelled for one in own.values() for term in one.terms)
        self._unknown = [term for term in terms if term not in self._tops]
        self._take(self._store.find(self.first()))
        for row, own in enumerate(self.respelled):
            if own:
                weights = {term: RESPELLED_WEIGHT for one in own.values() for term in one.terms}
                self._all[row] = query_words(self._asked[row].terms, weights)
                if not self._asked[row].required:
                    self._leading[row] = self._all[row]
        self._best = [self._best_of(asked, own) for asked, own in zip(self._asked, self.respelled, strict=True)]

    def _take(self, found: Sequence[Sequence[Record]]) -> None:
        self._tops.update((term, own[0].score if own else 0.0) for term, own in zip(self._unknown, found, strict=True))
        self._unknown = []

    def _respelled(self, asked: Asked) -> dict[str, Respelled]:
        """The words in place of terms that no item has. What is in quotes must occur as it stands."""
        missing = {
            term: form
            for term, form in zip(asked.terms, asked.forms, strict=False)
            if not self._tops[term] and term not in asked.required
        }
        there = respelled(self._store, list(missing.values())) if missing else {}
        return {term: there[form] for term, form in missing.items() if form in there}

    def _best_of(self, asked: Asked, respelled: dict[str, Respelled]) -> float:
        """The most that BM25 can give for a query."""
        tops = [
            max(self._tops[each] for each in (respelled[term].terms if term in respelled else [term]))
            for term in asked.terms
        ]
        rarest = max(tops, default=0.0)
        return sum(top or rarest for top in tops[: asked.plain]) + sum(tops[asked.plain :])

    def asked(self, row: int) -> Words | None:
        """Return the words that count, None where no item has one of them."""
        return self._all[row] if self._best[row] > 0 else None

    def sought(self, row: int) -> Words | None:
        """Return the words that items are found by."""
        return self._leading[row] if self._best[row] > 0 else None

    def shares(self, row: int, ids: Iterable[str]) -> list[float]:
        """Return the shares of points whose scores are known; 0 for one that has none of the words."""
        scores, best = self.scores[row], self._best[row]
        return [min(1.0, scores[id] / best) if id in scores else 0.0 for id in ids]

    def parts(self, row: int, id: str) -> list[WordPart]:
        """Return what each word of a query adds to the share of an item; codes as a whole only where they add to it."""
        if self.asked(row) is None:
            return []
        asked, respelled = self._asked[row], self.respelled[row]
        terms = [respelled[term].terms if term in respelled else (term,) for term in asked.terms]
        weights = [RESPELLED_WEIGHT if term in respelled else 1.0 for term in asked.terms]
        found = self._store.find([Search(query_words(own), ids=[id]) for own in terms])
        scores = [sum(one.score for one in own) for own in found]
        shares = [min(1.0, score * weight / self._best[row]) for score, weight in zip(scores, weights, strict=True)]
        words = [
            WordPart(" / ".join(respelled[term].forms), share, form) if term in respelled else WordPart(form, share)
            for term, form, share in zip(asked.terms, asked.forms, shares, strict=False)
        ]
        codes = zip(asked.terms[asked.plain :], shares[asked.plain :], strict=True)
        return words + [WordPart(code, share) for code, share in codes if share]
