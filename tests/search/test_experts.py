"""Which experts a query and an item share, where they agree, and how an index uses its experts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from helpers.colour_index import Maker, solid
from helpers.colours import COLOURS, ROUTES, ColourBackbone
from tsembed_search.errors import StoreError, UsageError
from tsembed_search.index import Index
from tsembed_search.items import Item
from tsembed_search.model.embedder import Embedder
from tsembed_search.paths import IndexAddress
from tsembed_search.ranking.routes import Agreement, shared_experts, top_experts
from tsembed_search.search.results import OTHERS, USAGE_FIELDS, usage_of
from tsembed_search.store.base import Record
from tsembed_search.store.schema import IndexMetadata, route_fields, stored_routes


def test_names() -> None:
    route = [0.1, -0.2, 0.5, 0.0, 0.3, -0.7]
    assert top_experts(route, 3) == ["b0e2", "b1e1", "b0e0"]
    assert top_experts(route, 2, most=1) == ["b1e0"]
    assert top_experts([0.0, -1.0], 2) == []
    assert len(top_experts(np.ones(40), 8)) == 8


def test_shared() -> None:
    query, item = [0.9, 0.3, -0.3, 0.1], [0.1, 0.9, -0.4, -0.1]
    assert shared_experts(query, [item], 2) == [["b0e1", "b0e0"]]  # both avoid b1e0, which is not sharing it


def test_agreement_adds_up() -> None:
    rng = np.random.default_rng(0)
    query, item = (one / np.linalg.norm(one) for one in rng.standard_normal((2, 6)))
    found = Agreement.of(query, item.tolist(), (2, 3))
    assert found.similarity == pytest.approx(float(query @ item))
    assert found.blocks.sum() == pytest.approx(found.similarity)
    named = dict(found.shared() + found.opposed())
    for place in range(6):
        name = f"b{place // 3}e{place % 3}"
        product = query[place] * item[place]
        if product < 0 or (query[place] > 0 and item[place] > 0):
            assert named[name] == pytest.approx(product)
        else:
            assert name not in named
    data = found.to_json()
    assert sum(block["agreement"] for block in data["blocks"]) == pytest.approx(found.similarity)
    assert data["blocks"][1]["experts"][2]["hit"] == pytest.approx(item[5])
    assert data["shared_experts"] == [name for name, _ in found.shared()]


class TestIndex:
    @pytest.fixture
    def index(self, maker: Maker) -> Iterator[Index]:
        maker.embedder = Embedder(ColourBackbone(experts=True))
        for colour, rgb in COLOURS.items():
            maker.add(Item(image=solid(*rgb)), f"{colour}.png")
            maker.add(Item(f"all about {colour}"), f"notes/{colour}.txt", chunk=0)
        maker.add(Item("tulips"), "notes/red.txt", chunk=1)
        yield Index(IndexAddress(), IndexMetadata.of(maker.embedder.info), store=maker.store, embedder=maker.embedder)

    def test_hits_say_what_they_share(self, index: Index) -> None:
        route = index.embedder.embed([Item("red blue")], "query").routes[0]
        for hit in index.search("red blue").hits:
            stored = stored_routes([index.store.retrieve([hit.id])[0].payload], len(route))[0]
            assert [hit.shared_experts] == shared_experts(route, [stored], ROUTES[1])
            assert set(hit.shared_experts) <= set(top_experts(route, ROUTES[1]))
        assert any(hit.shared_experts for hit in index.search("red blue").hits)

    def test_explain_by_number_id_and_path(self, index: Index) -> None:
        third = index.search("red").hits[2]
        by_number, by_id = index.explain("red", "3"), index.explain(Item("red"), third.id)
        assert by_number.why == by_id.why
        assert by_number.hit == by_id.hit
        assert by_id.hit.id == third.id
        for field in ("score", "similarity", "route_similarity"):
            assert getattr(by_id.hit, field) == pytest.approx(getattr(third, field), abs=1e-5)
        assert by_id.agreement.similarity == pytest.approx(third.route_similarity, abs=1e-5)
        path = index.search("red", where="kind=text").hits[0].path
        assert index.explain("red", path).hit.chunk == 0  # of two passages the one about red
        assert index.explain("tulips", path).hit.chunk == 1

    def test_explain_says_what_each_word_adds(self, index: Index) -> None:
        path = index.search("red", where="kind=text").hits[0].path
        found = index.explain("abuot red zebra", path)
        assert [(one.word, one.as_asked) for one in found.why.words] == [
            ("about", "abuot"),
            ("red", None),
            ("zebra", None),
        ]
        about, red, zebra = (one.share for one in found.why.words)
        assert about > 0 and red > 0 and zebra == 0 and about + red == pytest.approx(found.hit.words)
        assert found.to_json()["words"][0] == {"word": "about", "share": about, "as_asked": "abuot"}
        assert index.explain(Item(image=solid(250, 0, 0)), "1").why.words == []

    @pytest.mark.parametrize(
        ("hit", "words"), [("0", "no hit number 0"), ("99", "finds 12"), ("nothing.txt", "neither the id")]
    )
    def test_explain_what_is_not_there(self, index: Index, hit: str, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            index.explain("red", hit)

    def test_an_item_that_lost_its_route(self, index: Index) -> None:
        hit = index.search("red").hits[0]
        index.store.set_payloads({hit.id: {"route": [], "packed_route": None}})
        with pytest.raises(StoreError, match="has no routing vector"):
            index.explain("red", hit.id)
        index.store.set_payloads({hit.id: route_fields(np.array([1.0, 0.0]))})
        with pytest.raises(StoreError, match="2 numbers, where the model has 6"):
            index.explain("red", hit.id)

    def test_usage(self, index: Index) -> None:
        records = list(index.store.scroll(fields=USAGE_FIELDS))
        groups = {(one.of, one.name.rpartition("/")[2]): one for one in usage_of(records, ROUTES)}
        assert set(groups) == {
            ("all", ""), ("kind", "text"), ("kind", "image"), ("folder", "files"), ("folder", "notes"),
        }  # fmt: skip
        for (of, name), group in groups.items():
            members = [
                record
                for record in records
                if of == "all"
                or record.payload["kind"] == name
                or (of == "folder" and record.payload["rel"].startswith("notes/") == (name == "notes"))
            ]
            assert group.items == len(members)
            routes = stored_routes([record.payload for record in members], group.mean.size)
            assert np.allclose(group.mean.reshape(-1), routes.mean(axis=0), atol=1e-3)
            tops = [top_experts(route, ROUTES[1]) for route in routes]
            for place, share in enumerate(group.share.reshape(-1)):
                name_of = f"b{place // ROUTES[1]}e{place % ROUTES[1]}"
                assert share == pytest.approx(sum(name_of in top for top in tops) / len(tops))

    def test_an_index_without_experts(self, maker: Maker, embedder: Embedder) -> None:
        plain = Index(IndexAddress(), IndexMetadata.of(embedder.info), store=maker.store, embedder=embedder)
        maker.add(Item("red"), "red.txt", chunk=0)
        assert plain.search("red").hits[0].shared_experts == []
        with pytest.raises(UsageError, match="no experts"):
            plain.explain("red", "1")


def record(rel: str, size: int = 6, root: str = "/r") -> Record:
    return Record(rel, {"kind": "text", "root": root, "rel": rel, **route_fields(np.eye(size, dtype=np.float32)[0])})


def test_usage_of_many_folders_stays_small() -> None:
    stream = (record(f"folder{number}/a.txt") for number in range(3000))
    groups = usage_of(stream, ROUTES)
    folders = [group for group in groups if group.of == "folder"]
    assert len(folders) == 201
    assert folders[-1].name == OTHERS
    assert folders[-1].items == 2800
    assert groups[0].items == 3000
    assert groups[0].share[0, 0] == 1


def test_usage_refuses_routes_of_another_size_and_skips_none() -> None:
    assert usage_of([Record("a", {"kind": "text", "root": "/", "rel": "a"})], ROUTES) == []
    with pytest.raises(StoreError, match="7 numbers, where the model has 6"):
        usage_of([record("a"), record("b", 7)], ROUTES)
