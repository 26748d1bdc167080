"""The embedded engine, a server's API (qdrant-client's in-memory engine) and numpy give the same answers."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.store_points import DIM, EXTS, KINDS, address_of, make_points, make_queries, nearest
from tsembed_search.errors import StoreError
from tsembed_search.search.where import parse_where
from tsembed_search.store.base import Point, Record, Store, StoreSettings
from tsembed_search.store.edge.store import EDGE
from tsembed_search.store.filters import And, Condition, Filter, Not, Or, matches
from tsembed_search.store.qdrant import collection
from tsembed_search.store.qdrant.connection import MEMORY, Connection
from tsembed_search.store.qdrant.store import ServerStore
from tsembed_search.store.schema import stored_routes

FILTERS = [
    None,
    "kind=image",
    "kind in (image, page) and page<=3",
    "kind!=text",
    "page=2 or page>=5",
    "not page<4",
    "page in (1, 5)",
    "ext=jpg and ext=png",
    "ext!=pdf",
    "ext not in (pdf, txt)",
    'path="/docs/a b/item11.jpg" or path=item12.png',
    "path~holiday",
    "path~holiday/*.jpg",
    "path~'*holiday*'",
    "path~/pics",
    "path~/pics/",
    "path~/pics/holiday/*",
    "path~'/docs/ünï(1)'",
    "path~'**/*[13579].*'",
    "path!~/pics and kind=text",
    "not (path~holiday or path~*.pdf)",
    "modified>=@1700000500.25",
    "modified<@1700000500.25 and not modified<@1700000100",
    "expert=b1e3",
    "expert in (b0e0, b1e1) and not expert=b1e1",
    f"sha={7:064x}",
    "model=model-a and not model!=model-a",
    "path~nowhere",
    "path~holiday/",
    "path~2019/item21.jpg",
    "path~/pics/**/item*.jpg",
    "path~item7-copy.pdf",
    "path=holiday",
    "path!~2019/ and path!=item12.png",
    "kind=image and kind=text",
    # The same names in both forms: composed, and decomposed as a Mac writes them.
    "path~Zürich",
    "path~Zu\u0308rich/",
    "path~/docs/Zürich",
    "path~/docs/Zu\u0308rich/*.pdf",
    "path~Zürich/*.jpg",
    "path~'*ürich*'",
    "path~'*Zu*'",
    "path~'/docs/Z?rich/*'",
    "path!~Zu\u0308rich and path~/docs",
    "path~Caf[e\u0301é]/Mu\u0308ller",
    "path~'*Cafe*'",
    "path=Zürich/item2.pdf or path=/docs/Zu\u0308rich/item7.jpg",
]
WHERE = [None if text is None else parse_where(text) for text in FILTERS] + [And(()), Or(()), Not(And(()))]


@pytest.fixture(scope="module", params=["edge", "edge with a graph", "server"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, points: list[Point]
) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        made: Store
        if request.param == "server":
            connection = Connection(MEMORY)
            collection.create(connection, "test", StoreSettings(DIM))
            made = ServerStore(connection, "test")
        else:
            if request.param == "edge with a graph":
                patch.setattr("tsembed_search.store.edge.shard.INDEXING_THRESHOLD_KB", 10)
            made = EDGE.create(address_of(tmp_path_factory.mktemp("edge")), StoreSettings(DIM))
        made.upsert(points)
        made.optimize()
    assert has_graph(made) == (request.param == "edge with a graph")
    yield made
    made.close()


def has_graph(store: Store) -> bool:
    """Whether a search is approximate unless it is told otherwise; `test_edge.py` tests how good it is."""
    return store.info().indexed > 0


def check_hits(found: list[Record], expected: dict[str, float], limit: int, offset: int = 0) -> None:
    """The same ids with the same scores in the same order; equal scores may change places."""
    wanted = list(expected.items())[offset : offset + limit]
    assert len(found) == len(wanted)
    assert np.allclose([hit.score for hit in found], [score for _, score in wanted], atol=1e-5)
    for hit in found:
        assert abs(expected[hit.id] - hit.score) < 1e-5
    assert len({hit.id for hit in found}) == len(found)


@pytest.mark.parametrize("where", WHERE, ids=[str(where) for where in WHERE])
def test_searches_agree(store: Store, points: list[Point], where: Filter | None) -> None:
    queries, graph = make_queries(2), has_graph(store)
    payloads = {point.id: point.payload for point in points}
    chosen = [point for point in points if matches(where, point.payload)]
    for limit, offset in [(1, 0), (10, 0), (10, 5), (1000, 0)]:
        results = store.search(queries, limit, where, offset=offset, exact=limit == 1000 or graph)
        assert len(results) == len(queries)
        for query, found in zip(queries, results, strict=True):
            check_hits(found, nearest(chosen, query), limit, offset)
            assert all(hit.payload == payloads[hit.id] and hit.vector is None for hit in found)


@pytest.mark.parametrize("where", WHERE, ids=[str(where) for where in WHERE])
def test_selections_agree(store: Store, points: list[Point], where: Filter | None) -> None:
    chosen = {point.id: point for point in points if matches(where, point.payload)}
    assert store.count(where) == len(chosen)
    assert {record.id: record.payload for record in store.scroll(where)} == {id: p.payload for id, p in chosen.items()}
    some = {record.id: record.payload for record in store.scroll(where, fields=["sha", "page"])}
    assert some == {id: {"sha": p.payload["sha"], "page": p.payload["page"]} for id, p in chosen.items()}
    assert all(record.payload == {} for record in store.scroll(where, fields=[]))
    for key, values in [
        ("kind", lambda payload: {payload["kind"]}),
        ("places[].ext", lambda payload: {place["ext"] for place in payload["places"]}),
        ("top_experts", lambda payload: set(payload["top_experts"])),
    ]:
        counts = Counter(value for point in chosen.values() for value in values(point.payload))
        facet = store.facet(key, where)
        assert facet == counts
        assert list(facet.values()) == sorted(counts.values(), reverse=True)


NUMBERS = st.sampled_from(["<", "<=", ">", ">=", "=", "!="])
PATTERNS = st.text(alphabet="/*?[]!adhilopy1. Zuür\u0308\u0301é", min_size=1, max_size=10)
LEAVES: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Condition, st.just("kind"), st.sampled_from(["=", "!="]), st.sampled_from(KINDS)),
    st.builds(Condition, st.just("ext"), st.just("in"), st.lists(st.sampled_from(EXTS), max_size=2).map(tuple)),
    st.builds(Condition, st.just("page"), NUMBERS, st.integers(0, 6)),
    st.builds(Condition, st.just("page"), st.just("in"), st.lists(st.integers(0, 6), max_size=2).map(tuple)),
    st.builds(Condition, st.just("modified"), NUMBERS, st.integers(0, 1000).map(lambda second: 1.7e9 + second + 0.25)),
    st.builds(Condition, st.just("path"), st.sampled_from(["~", "="]), PATTERNS),
    st.builds(Condition, st.just("expert"), st.just("="), st.sampled_from(["b0e0", "b1e3", "b9e9"])),
)
ANY_FILTER = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=ANY_FILTER, seed=st.integers(0, 100), limit=st.integers(1, 30))
def test_random_filters_agree(store: Store, points: list[Point], where: Filter, seed: int, limit: int) -> None:
    query = make_queries(1, seed=seed)
    check_hits(store.search(query, limit, where, exact=has_graph(store))[0], nearest(points, query[0], where), limit)
    assert store.count(where) == sum(matches(where, point.payload) for point in points)


def test_vectors_come_back(store: Store, points: list[Point]) -> None:
    vectors = {point.id: point.vector for point in points}
    some = [points[3].id, "00000000-0000-5000-8000-000000000000", points[1].id]
    retrieved = store.retrieve(some, with_vectors=True)
    assert [record.id for record in retrieved] == [points[3].id, points[1].id]
    scrolled = list(store.scroll(with_vectors=True))
    found = store.search(make_queries(1), 5, with_vectors=True)[0]
    for record in [*retrieved, *scrolled, *found]:
        assert record.vector is not None and record.vector.dtype == np.float32
        assert np.allclose(record.vector, vectors[record.id], atol=1e-6)
    assert store.retrieve([points[0].id])[0].vector is None


def test_parts_of_payloads_come_back(store: Store, points: list[Point]) -> None:
    some = points[5:40:3]
    for fields in (["sha", "page", "packed_route"], ["route"], ["nonsense"], []):
        found = store.retrieve([point.id for point in some], fields=fields)
        parts = [{key: value for key, value in point.payload.items() if key in fields} for point in some]
        assert [(record.id, record.payload) for record in found] == [
            (point.id, part) for point, part in zip(some, parts, strict=True)
        ]
    record = store.retrieve([points[5].id], fields=["sha"], with_vectors=True)[0]
    assert record.payload == {"sha": points[5].payload["sha"]}
    assert record.vector is not None and np.allclose(record.vector, points[5].vector, atol=1e-6)


def test_kappas_are_the_same_to_the_bit(store: Store, points: list[Point]) -> None:
    """Engines must not order by experts differently."""
    records = store.retrieve([point.id for point in points], fields=["packed_route"])
    stored = stored_routes([record.payload for record in records], 8)
    assert np.array_equal(stored, stored_routes([point.payload for point in points], 8))
    listed = [record.payload["route"] for record in store.retrieve([points[0].id], fields=["route"])]
    assert np.allclose(listed, stored[:1], atol=1e-3)


def test_extreme_arguments(store: Store, points: list[Point]) -> None:
    queries = make_queries(2)
    assert store.search(queries, 0) == [[], []]
    assert store.search(np.empty((0, DIM), dtype=np.float32), 5) == []
    assert [len(hits) for hits in store.search(queries, 10**12)] == [len(points)] * 2
    assert store.search(queries, 5, offset=10**6) == [[], []]
    assert store.search(queries, 5, parse_where("path~holiday/*"), offset=10**6) == [[], []]
    assert store.retrieve([]) == []
    assert len(store.facet("sha", limit=5)) == 5
    store.upsert([])
    store.delete([])


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.search(np.zeros((1, DIM + 1), dtype=np.float32), 5),
        lambda store: store.search(np.zeros(DIM, dtype=np.float32), 5),
        lambda store: store.search(np.full((1, DIM), np.nan, dtype=np.float32), 5),
        lambda store: store.upsert([Point("not-a-uuid", make_queries(1)[0], {})]),
        lambda store: store.upsert([Point(make_points(1)[0].id, make_queries(1, DIM + 1)[0], {})]),
        lambda store: store.upsert([Point(make_points(1)[0].id, np.zeros(DIM, dtype=np.float32), {})]),
        lambda store: store.upsert([Point(make_points(1)[0].id, np.full(DIM, np.inf, dtype=np.float32), {})]),
        lambda store: store.upsert([Point(make_points(1)[0].id, make_queries(1)[0], {"mtime": float("nan")})]),
        lambda store: store.upsert([Point(make_points(1)[0].id, make_queries(1)[0], {"text": "\udc80"})]),
        lambda store: store.upsert([Point(make_points(1)[0].id, make_queries(1)[0], {"text": {1, 2}})]),
        lambda store: store.set_payloads({"00000000-0000-5000-8000-000000000000": {"page": 1}}),
        lambda store: store.set_payloads({make_points(1)[0].id: {"page": float("inf")}}),
        lambda store: store.set_payloads({make_points(1)[0].id: {"page": 1}, make_points(2)[1].id: {"page": {1, 2}}}),
        lambda store: store.set_payloads({make_points(1)[0].id: {"page": 1}, str(uuid.UUID(int=5)): {"page": 1}}),
        lambda store: store.facet("text"),
        lambda store: store.retrieve(["nonsense"]),
        lambda store: store.write_metadata({"a": float("nan")}),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_changes_nothing(store: Store, points: list[Point], call: object) -> None:
    with pytest.raises(StoreError):
        call(store)  # type: ignore[operator]
    assert store.count() == len(points)
    assert store.retrieve([points[0].id])[0].payload == points[0].payload


def test_changes_agree(store: Store, points: list[Point]) -> None:
    """Last, for it changes the points, and puts them back."""
    first, second, third = points[:3]
    store.set_payloads({first.id: {"page": 77, "top_experts": ["b7e7"]}})
    assert store.retrieve([first.id])[0].payload == {**first.payload, "page": 77, "top_experts": ["b7e7"]}
    assert [record.id for record in store.scroll(parse_where("page=77 and expert=b7e7"))] == [first.id]
    store.set_payloads({second.id.upper(): {"page": 78}, third.id: {"page": 79}})
    assert [one.payload for one in store.retrieve([second.id, third.id])] == [
        {**second.payload, "page": 78}, {**third.payload, "page": 79}
    ]  # fmt: skip
    store.upsert([Point(second.id, third.vector, {"kind": "page"}), Point(second.id, first.vector, {"kind": "text"})])
    again = store.retrieve([second.id], with_vectors=True)[0]
    assert again.payload == {"kind": "text"} and np.allclose(again.vector, first.vector, atol=1e-6)
    store.delete([third.id, "00000000-0000-5000-8000-000000000000"])
    assert store.count() == len(points) - 1
    assert third.id not in {hit.id for hit in store.search(third.vector[None], 20)[0]}
    store.upsert(points[:3])
    assert {record.id: record.payload for record in store.scroll()} == {point.id: point.payload for point in points}


def test_metadata_are_replaced(store: Store) -> None:
    store.write_metadata({"a": 1, "nested": {"b": [1, 2]}})
    store.write_metadata({"nested": {"c": None}})
    assert store.metadata == {"nested": {"c": None}}
