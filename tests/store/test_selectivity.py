"""Which way a filtered search goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tsembed_search.paths import IndexAddress
from tsembed_search.search.where import parse_where
from tsembed_search.store.base import Point, Search, Store, StoreSettings
from tsembed_search.store.conditions import translate
from tsembed_search.store.edge import query
from tsembed_search.store.edge.query import Walk, walk
from tsembed_search.store.edge.store import EDGE
from tsembed_search.store.schema import point_id


@pytest.mark.parametrize(
    ("passing", "total", "way"),
    [
        (900, 1000, Walk.GRAPH),
        (100, 1000, Walk.SCAN),
        (30_000, 1_000_000, Walk.DETOUR),
        (0, 0, Walk.GRAPH),
        (300_000, 1_000_000, Walk.SIEVE),
        (14_000, 40_000, Walk.DETOUR),
    ],
)
def test_filters_go_by_how_many_points_pass(passing: int, total: int, way: Walk) -> None:
    assert walk(passing, total, "binary") is way


def test_the_engine_compares_few_by_itself() -> None:
    assert walk(100, 1000, "none") is walk(100, 1000, "scalar") is Walk.DETOUR


class TestSieve:
    """Pictures and texts, and a place of the space in which there are only texts."""

    count = 300

    def vectors(self) -> NDArray[np.float32]:
        chance = np.random.default_rng(0)
        made = chance.standard_normal((self.count, 8)).astype(np.float32)
        made[: self.count // 3, 0] += 30  # only texts are here
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
        monkeypatch.setattr(query, "LARGE", 50)
        with_both = EDGE.create(IndexAddress("both", f"edge:{tmp_path}"), StoreSettings(8))
        kinds = ["text" if at < self.count // 3 else ("image", "text")[at % 2] for at in range(self.count)]
        with_both.upsert(
            [
                Point(point_id(f"{at:064x}", None, None, "m"), vector, {"kind": kind, "sha": f"{at:064x}", "page": at})
                for at, (vector, kind) in enumerate(zip(self.vectors(), kinds, strict=True))
            ]
        )
        yield with_both
        with_both.close()

    @pytest.fixture
    def ways(self, monkeypatch: pytest.MonkeyPatch) -> list[Walk]:
        """The ways that are gone, in their order."""
        gone: list[Walk] = []
        ask = query._asked

        def noted(*given: Any) -> Any:
            gone.extend(dict.fromkeys(given[-1]))
            return ask(*given)

        monkeypatch.setattr(query, "_asked", noted)
        return gone

    def test_it_finds_what_comparing_all_finds(self, store: Store, ways: list[Walk]) -> None:
        where = parse_where("kind=image")
        queries = self.vectors()[self.count // 3 :][:5]
        truth = store.search(queries, 12, where, exact=True)
        ways.clear()
        assert store.search(queries, 7, where, offset=5) == [own[5:] for own in truth]
        assert ways == [Walk.GRAPH, Walk.SCAN]
        (own,) = store.search(queries[:1], 3, where, fields=["page"], with_vectors=True)
        assert [hit.payload.keys() for hit in own] == [{"page"}] * 3
        assert all(hit.vector is not None for hit in own)

    def test_where_none_of_the_nearest_passes_it_takes_the_detour(self, store: Store, ways: list[Walk]) -> None:
        where = parse_where("kind=image")
        queries = self.vectors()[[0, -1]]
        truth = store.search(queries, 5, where, exact=True)
        ways.clear()
        assert store.search(queries, 5, where) == truth
        assert ways == [Walk.GRAPH, Walk.SCAN, Walk.DETOUR]

    def test_for_most_of_the_points_it_is_not_worth_it(self, store: Store, ways: list[Walk]) -> None:
        where = parse_where("kind=image")
        assert len(store.search(self.vectors()[:1], 400, where)[0]) == 100
        assert ways == [Walk.DETOUR]

    def test_two_conditions(self, store: Store, ways: list[Walk]) -> None:
        where = parse_where("kind=image and page>150")
        (own,) = store.search(self.vectors()[-1:], 4, where)
        assert [hit.payload["page"] > 150 and hit.payload["kind"] for hit in own] == ["image"] * 4

    def test_what_passes_is_counted_anew_after_a_change(self, store: Store) -> None:
        pages = parse_where("kind=page")
        vectors = self.vectors()[-1:]

        def found() -> list[str]:
            return [hit.id for hit in store.search(vectors, 5, pages)[0]]

        id = point_id("f" * 64, None, None, "m")
        assert found() == []
        store.upsert([Point(id, vectors[0], {"kind": "page", "sha": "f" * 64, "page": 1})])
        assert found() == [id]
        store.set_payloads({id: {"kind": "text"}})
        assert found() == []
        store.set_payloads({id: {"kind": "page"}})
        assert found() == [id]
        store.delete([id])
        assert found() == []


def test_a_kind_that_all_points_have_is_not_checked_until_there_is_another(tmp_path: Path) -> None:
    store = EDGE.create(IndexAddress("kinds", f"edge:{tmp_path}"), StoreSettings(8))
    vectors = np.eye(8, dtype=np.float32)
    ids = [point_id(f"{at:064x}", None, None, "m") for at in range(8)]

    def upsert(at: int, kind: str) -> None:
        store.upsert([Point(ids[at], vectors[at], {"kind": kind, "sha": f"{at:064x}"})])

    def found(where: str) -> set[str]:
        own = {hit.id for hit in store.search(vectors[:1], 9, parse_where(where))[0]}
        assert own == {hit.id for hit in store.find([Search(vectors[0], 9, parse_where(where))])[0]}
        return own

    for at in range(5):
        upsert(at, "text")
    assert found("kind=text") == found("kind in (text, image)") == found("not kind=image") == set(ids[:5])
    assert found("kind=image") == found("not kind=text") == set()
    upsert(5, "image")
    assert (found("kind=text"), found("kind=image")) == (set(ids[:5]), {ids[5]})
    store.set_payloads({ids[0]: {"kind": "page"}})
    assert (found("kind=text"), found("kind=page")) == (set(ids[1:5]), {ids[0]})
    store.delete(ids[:5])
    assert (found("kind=text"), found("kind=image")) == (set(), {ids[5]})
    store.optimize()
    assert (found("kind=text"), found("kind=image")) == (set(), {ids[5]})
    store.close()


class TestTextsOfPaths:
    """A pattern of which the engine looks up a folder, and reads all paths in it for the rest."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        made = EDGE.create(IndexAddress("paths", f"edge:{tmp_path}"), StoreSettings(8))
        vectors = np.random.default_rng(1).standard_normal((200, 8)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        points = []
        for at, vector in enumerate(vectors):
            rel = f"{2006 + at % 2}/{at}.{'jpg' if at % 3 else 'md'}"
            place = {"path": f"/p/{rel}", "root": "/p", "rel": rel, "ext": rel.rpartition(".")[2], "mtime": 1.0}
            payload = {"kind": "image", **place, "places": [place]}
            points.append(Point(point_id(f"{at:064x}", None, None, "m"), vector, payload))
        made.upsert(points)
        yield made
        made.close()

    @pytest.mark.parametrize("text", ["path~'2007/*.jpg'", "path~'2007/*.jpg' and kind=image", "path~'2007/*.none'"])
    def test_the_hits_are_those_of_comparing_all(self, store: Store, text: str) -> None:
        where = parse_where(text)
        queries = np.eye(8, dtype=np.float32)[:3]
        truth = store.search(queries, 5, where, exact=True)
        assert store.search(queries, 5, where) == truth
        assert [len(own) for own in truth] == [0 if "none" in text else 5] * 3

    def test_only_what_passes_the_folder_is_read(self, store: Store) -> None:
        dialect = query.dialect()
        native = translate(parse_where("path~'2007/*.jpg' and kind=image"), dialect)
        assert not native.exact and "jpg" in str(native.condition) and "jpg" not in str(native.loose)
        for text in ("path~'2007/'", "kind=image", "path~'*.jpg'", "not path~'2007/*.jpg'"):
            assert translate(parse_where(text), dialect).loose is None
