"""Words beside vectors: both engines and plain arithmetic give the same scores by BM25."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from helpers.store_points import DIM, address_of, make_queries, nearest
from tsembed_search.ranking.words import Asked, Words, query_terms, query_words
from tsembed_search.search.where import parse_where
from tsembed_search.store.base import Point, Record, Store, StoreSettings
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
        answers = store.search_words(queries, limit, chosen, offset=offset)
        for best, found in zip(expected, answers, strict=True):
            check_hits(found, best, limit, offset)
    assert any(store.search_words(queries, 5, None))


def test_scores_of_given_points(store: Store, points: list[Point], words: dict[str, dict[int, float]]) -> None:
    queries = [query_words(Asked.of(text).terms) for text in QUERIES_BY_WORDS]
    ids = [[point.id for point in points[at :: 7 + at]] for at in range(len(queries))]
    ids[2] = []
    for query, own, scores in zip(queries, ids, store.scores(ids, queries), strict=True):
        assert scores == pytest.approx(
            {id: n for id, n in by_words(points, words, query, None).items() if id in own}, abs=1e-5
        )
    vectors = make_queries(3)
    for vector, own, scores in zip(vectors, ids, store.scores(ids[:3], vectors), strict=False):
        assert scores == pytest.approx(
            {id: n for id, n in nearest(points, vector, None).items() if id in own}, abs=1e-5
        )


def test_words_follow_names(empty: Store, points: list[Point]) -> None:
    """A file that is renamed is found by its new name, and no more by its old one."""
    empty.upsert(points[:20])
    point = points[3]
    place = {**point.payload["places"][0], "rel": "new/wombat.txt", "path": "/new/wombat.txt"}
    empty.set_payloads({point.id: {"places": [place]}})
    wombat = query_words(query_terms("wombat")[0])
    assert [hit.id for hit in empty.search_words([wombat], 5)[0]] == [point.id]
    empty.set_payloads({point.id: {"places": point.payload["places"]}})
    assert empty.search_words([wombat], 5) == [[]]
