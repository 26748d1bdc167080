"""Words beside vectors: both engines and plain arithmetic give the same scores by BM25."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from helpers.store_points import DIM, address_of, make_queries, nearest
from tsembed_search.ranking.words import Asked, Words, query_terms, query_words
from tsembed_search.search.where import parse_where
from tsembed_search.store.base import Point, Record, Search, Store, StoreSettings
from tsembed_search.store.edge.store import EDGE
from tsembed_search.store.filters import Filter, matches
from tsembed_search.store.qdrant import collection
from tsembed_search.store.qdrant.connection import MEMORY, Connection
from tsembed_search.store.qdrant.store import ServerStore
from tsembed_search.store.schema import words_of


@pytest.fixture(scope="module", params=["edge", "server"])
def empty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    if request.param == "server":
        connection = Connection(MEMORY)
        collection.create(connection, "test", StoreSettings(DIM))
        made: Store = ServerStore(connection, "test")
    else:
        made = EDGE.create(address_of(tmp_path_factory.mktemp("edge")), StoreSettings(DIM))
    yield made
    made.close()


@pytest.fixture(scope="module")
def store(empty: Store, points: list[Point]) -> Store:
    """For tests that change nothing."""
    empty.upsert(points)
    empty.optimize()
    return empty


def check_hits(found: list[Record], expected: dict[str, float], limit: int, offset: int = 0) -> None:
    """The same ids with the same scores in the same order; equal scores may change places."""
    wanted = list(expected.values())[offset : offset + limit]
    assert [hit.score for hit in found] == pytest.approx(wanted, abs=1e-5)
    assert [expected[hit.id] for hit in found] == pytest.approx(wanted, abs=1e-5)
    assert len({hit.id for hit in found}) == len(found)


QUERIES_BY_WORDS = ["holiday", "item11", "item12 pdf", "Zürich", "zurich MULLER", "2019 holiday jpg", "nowhere", "docs"]


@pytest.fixture(scope="module")
def words(points: list[Point]) -> dict[str, dict[int, float]]:
    """What each point has of each word."""
    return {point.id: dict(zip(*map(list, words_of(point.payload)), strict=True)) for point in points}


def by_words(
    points: list[Point], words: dict[str, dict[int, float]], query: Words, where: Filter | None
) -> dict[str, float]:
    """BM25 as the module of words gives it: what the engines are to find."""
    scores: Counter[str] = Counter()
    for term in query.terms:
        holding = [id for id, own in words.items() if term in own]
        rarity = np.log(1 + (len(points) - len(holding) + 0.5) / (len(holding) + 0.5))
        for id in holding:
            scores[id] += float(words[id][term] * rarity)
    passing = {point.id for point in points if matches(where, point.payload)}
    return {id: score for id, score in scores.most_common() if id in passing}


@pytest.mark.parametrize("where", [None, "kind=image", "path~holiday", "path~'*ürich*'", "not page<4"])
def test_search_by_words(
    store: Store, points: list[Point], words: dict[str, dict[int, float]], where: str | None
) -> None:
    chosen = None if where is None else parse_where(where)
    queries = [query_words(Asked.of(text).terms) for text in QUERIES_BY_WORDS]
    expected = [by_words(points, words, query, chosen) for query in queries]
    for limit, offset in ((5, 0), (1000, 0), (4, 3)):
        answers = store.find([Search(query, limit, chosen, offset) for query in queries])
        for best, found in zip(expected, answers, strict=True):
            check_hits(found, best, limit, offset)
    assert any(store.find([Search(query, 5) for query in queries]))


def test_scores_of_given_points(store: Store, points: list[Point], words: dict[str, dict[int, float]]) -> None:
    queries = [query_words(Asked.of(text).terms) for text in QUERIES_BY_WORDS]
    ids = [[point.id for point in points[at :: 7 + at]] for at in range(len(queries))]
    ids[2] = []
    asked: list[Search] = [Search(query, ids=own) for query, own in zip(queries, ids, strict=True)]
    asked += [Search(vector, ids=own) for vector, own in zip(make_queries(3), ids, strict=False)]
    for search, found in zip(asked, store.find(asked), strict=True):
        best = (
            by_words(points, words, search.query, None)
            if isinstance(search.query, Words)
            else nearest(points, np.asarray(search.query), None)
        )
        expected = {id: score for id, score in best.items() if id in (search.ids or ())}
        assert {one.id: one.score for one in found} == pytest.approx(expected, abs=1e-5)


def test_searches_together_find_what_each_finds_alone(store: Store, points: list[Point]) -> None:
    """Vectors and words, filters that an engine knows and one that it does not, and given points."""
    filters = [None, "kind=image", "path~'*item*.jpg'", "page=99"]
    wheres = [None if text is None else parse_where(text) for text in filters]
    holiday, (vector,) = query_words(query_terms("holiday")[0]), make_queries(1)
    ids = [point.id for point in points[::9]]
    searches = [
        Search(query, limit, where, offset)
        for query in (vector, holiday)
        for where in wheres
        for limit, offset in ((3, 0), (0, 0), (4, 2))
    ]
    searches[2:2] = [Search(holiday, ids=ids), Search(vector, ids=ids), Search(vector, ids=[])]
    together = store.find(searches)
    for one, found in zip(searches, together, strict=True):
        check_hits(found, {hit.id: hit.score for hit in store.find([one])[0]}, len(ids))
    assert {hit.id for hit in together[2]} < {hit.id for hit in together[3]} == set(ids)
    assert together[1] == together[4] == []
    for one, found in zip(searches, together, strict=True):
        if one.ids is None and one.query is vector:
            chosen = list(nearest(points, vector, one.where).values())
            scores = [hit.score for hit in found]
            assert scores == pytest.approx(chosen[one.offset : one.offset + one.limit], abs=1e-5)
    assert store.find([]) == []


def test_words_follow_names(empty: Store, points: list[Point]) -> None:
    """A file that is renamed is found by its new name, and no more by its old one."""
    empty.upsert(points[:20])
    point = points[3]
    place = {**point.payload["places"][0], "rel": "new/wombat.txt", "path": "/new/wombat.txt"}
    empty.set_payloads({point.id: {"places": [place]}})
    wombat = query_words(query_terms("wombat")[0])
    assert [hit.id for hit in empty.find([Search(wombat, 5)])[0]] == [point.id]
    empty.set_payloads({point.id: {"places": point.payload["places"]}})
    assert empty.find([Search(wombat, 5)]) == [[]]
