"""Reranking: by shared experts, and for variety. First by hand, then on an index made from files by a checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from helpers.colour_index import Maker, solid
from helpers.colours import COLOURS, ColourBackbone
from helpers.fault_server import FaultServer
from helpers.store_points import address_of
from tsembed_search.errors import StoreError, UsageError
from tsembed_search.index import Index
from tsembed_search.items import Item
from tsembed_search.model import loading
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.paths import IndexAddress
from tsembed_search.ranking.reranking import RERANKERS, Candidate, Given, Query, Reranker
from tsembed_search.search.results import SearchOptions
from tsembed_search.store import opening
from tsembed_search.store.base import Record
from tsembed_search.store.schema import IndexMetadata, route_fields


class TestOptions:
    @pytest.fixture
    def routed(self, maker: Maker) -> Index:
        expert = Embedder(ColourBackbone(experts=True))
        maker.embedder = expert
        for name, rgb in COLOURS.items():
            maker.add(Item(image=solid(*rgb)), f"{name}.png")
            maker.add(Item(f"all about {name}"), f"{name}.txt", chunk=0)
        metadata = replace(IndexMetadata.of(expert.info), route_weight=1.0)
        return Index(IndexAddress(), metadata, store=maker.store, embedder=expert)

    def test_variety(self, maker: Maker, index: Index) -> None:
        for number in range(4):
            maker.add(Item("red"), f"red{number}.txt", chunk=0)
        maker.add(Item("red tulip"), "tulip.txt", chunk=0)
        assert [hit.path.rpartition("/")[2] for hit in index.search("red", k=2, rerank="mmr").hits] == [
            "red0.txt", "tulip.txt"
        ]  # fmt: skip

    def test_the_models_own_weight_and_the_users(self, routed: Index) -> None:
        own = routed.search("about red", k=12, rerank="expert").hits
        assert [hit.route_similarity for hit in own] == sorted((hit.route_similarity for hit in own), reverse=True)
        for hit in own:
            assert hit.score == pytest.approx((1 + hit.route_similarity) / 2, abs=1e-6)
        plain = routed.search("about red", k=12).hits
        given = routed.search("about red", k=12, rerank="expert", route_weight=0.0).hits
        assert [hit.id for hit in given] == [hit.id for hit in plain] != [hit.id for hit in own]
        assert routed.search_many(["about red"], k=12, rerank="expert", snippets=True)[0] == own

    def test_an_index_without_routes(self, index: Index) -> None:
        with pytest.raises(UsageError, match=r"holds no routing vectors.*colours.*Search without rerank= expert"):
            index.search("red", rerank="expert")
        with pytest.raises(UsageError, match="no routing vectors"):
            index.search_many(["red"], rerank="expert", route_weight=0.5)

    def test_a_model_that_was_not_calibrated(self, routed: Index) -> None:
        unsaid = Index(routed.address, replace(routed.metadata, route_weight=None), embedder=routed.embedder)
        with pytest.raises(UsageError, match=r"not calibrated.*route_weight="):
            unsaid.search("red", rerank="expert")

    @pytest.mark.parametrize(
        ("rerank", "weight", "words"),
        [("none", 0.5, "rerank= expert"), ("mmr", 0.0, "rerank= expert"), ("expert", 1.1, "between 0 and 1")],
    )
    def test_weights_without_a_use(self, rerank: str, weight: float, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            SearchOptions(rerank=rerank, route_weight=weight)

    def test_a_route_of_another_size(self, routed: Index) -> None:
        record = next(iter(routed.store.scroll(fields=["kind"])))
        routed.store.set_payloads({record.id: route_fields(np.array([1.0, 0.0]))})
        with pytest.raises(StoreError, match="routing vector of 2 numbers, where the model has 6"):
            routed.search("red", k=12)

    @pytest.mark.parametrize("rerank", ["none", "expert", "mmr"])
    def test_only_the_best_of_all_kinds_are_read(
        self, maker: Maker, routed: Index, rerank: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Reading is what a search costs. It is bounded by what is asked for, however much the index holds."""
        shallow = replace(RERANKERS.get(rerank), depth=min(RERANKERS.get(rerank).depth, 8))
        monkeypatch.setitem(RERANKERS._entries, rerank, shallow)
        read: list[int] = []
        retrieve = type(routed.store).retrieve

        def counted(store: Any, ids: list[str], **how: Any) -> list[Record]:
            read.append(len(ids))
            return retrieve(store, ids, **how)

        monkeypatch.setattr(type(routed.store), "retrieve", counted)
        weight = {"route_weight": 0.5} if rerank == "expert" else {}
        costs = []
        for number in range(80):
            maker.add(Item(f"red number{number}"), f"more{number}.txt", chunk=0)
            maker.add(Item(image=solid(number, 0, 0)), f"more{number}.png")
            if number in (39, 79):
                read.clear()
                assert len(routed.search("red", k=3, rerank=rerank, **weight).hits) == 3
                costs.append(sum(read))
        assert costs[0] == costs[1] < 3 * 8

    def test_metadata_keeps_the_weight(self, routed: Index) -> None:
        assert IndexMetadata.from_json(json.loads(json.dumps(routed.metadata.to_json()))) == routed.metadata
        older = {name: value for name, value in routed.metadata.to_json().items() if name != "route_weight"}
        assert IndexMetadata.from_json(older).route_weight is None


class CrossEncoder:
    """Reads query and text together, as a model would: the share of the query's letters that the text has."""

    loaded: ClassVar[list[str]] = []

    def __init__(self, device: str) -> None:
        self.loaded.append(device)

    def __call__(self, words: str, text: str) -> float:
        return sum(letter in text for letter in words) / len(words)


def by_reading(query: Query, candidates: Sequence[Candidate], given: Given) -> list[Candidate]:
    """A reranker as another package would write it: it asks for texts and for a model, and has new scores."""
    scored = [one._replace(score=given.model(query.words, one.payload["text"] or "")) for one in candidates]
    return sorted(scored, key=lambda one: -one.score)


def test_a_cross_encoder_is_one_function_and_one_line(
    maker: Maker, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, text in enumerate(["red", "zzz", "der", "re"]):
        maker.add(Item(text), f"{number}.txt", chunk=0)
    reading = Reranker(by_reading, depth=50, fields=("text",), load=CrossEncoder)
    monkeypatch.setitem(RERANKERS._entries, "reading", reading)
    hits = index.search("red", k=3, rerank="reading").hits
    assert [(hit.path.rpartition("/")[2], hit.score) for hit in hits] == [
        ("0.txt", 1.0), ("2.txt", 1.0), ("3.txt", pytest.approx(2 / 3))
    ]  # fmt: skip
    assert hits[0].snippet == "red"
    assert index.search_many(["red"], k=3, rerank="reading", snippets=True)[0] == hits
    assert CrossEncoder.loaded == ["auto"], "loaded once"


def tsembed(root: Path, *arguments: object) -> Result:
    from tsembed_search.cli.main import app

    return CliRunner().invoke(app, list(map(str, arguments)), env={"TSEMBED_HOME": str(root / "home")})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files, and a home with their index and the checkpoint that made it."""
    root = tmp_path_factory.mktemp("experts")
    loading.create_checkpoint(root / "home/models/fresh", settings=AdapterSettings(4, rank=2))
    (root / "files").mkdir()
    for name, rgb in COLOURS.items():
        Image.fromarray(solid(*rgb, size=64)).save(root / "files" / f"{name}.png")
        (root / "files" / f"{name}.txt").write_text(f"All about the colour {name}, and what it means to people.")
    done = tsembed(root, "index", root / "files", "--model", "fresh", "--quiet")
    assert done.exit_code == 0, done.output
    return root


class TestFromFilesWithACheckpoint:
    """The whole way: untrained experts on mini, files, the command line, the embedded engine."""

    def hits(self, root: Path, *arguments: object) -> list[dict[str, Any]]:
        done = tsembed(root, "search", "the colour red", "--json", *arguments)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["hits"]  # type: ignore[no-any-return]

    def test_points_carry_routes(self, place: Path) -> None:
        store = opening.open(address_of(place / "home/indexes/default"))
        records = list(store.scroll())
        assert IndexMetadata.from_json(store.metadata or {}).routes == (6, 4)
        store.close()
        assert len(records) == 12
        for record in records:
            assert np.linalg.norm(record.payload["route"]) == pytest.approx(1, abs=1e-5)
            assert record.payload["top_experts"]

    def test_reranked_by_experts(self, place: Path) -> None:
        plain = self.hits(place, "-k", 12)
        assert all(-1.00001 <= hit["route_similarity"] <= 1.00001 and hit["top_experts"] for hit in plain)
        routed = self.hits(place, "-k", 12, "--rerank", "expert", "--route-weight", 1)
        expected = sorted((hit["route_similarity"] for hit in plain), reverse=True)
        assert [hit["route_similarity"] for hit in routed] == pytest.approx(expected, abs=1e-6)
        assert {hit["id"] for hit in routed} == {hit["id"] for hit in plain}
        assert [hit["id"] for hit in self.hits(place, "-k", 12, "--rerank", "expert", "--route-weight", 0)] == [
            hit["id"] for hit in plain
        ]
        assert len(self.hits(place, "-k", 3, "--rerank", "mmr")) == 3

    def test_where_expert(self, place: Path) -> None:
        plain = self.hits(place, "-k", 12)
        # Untrained routers agree on much, so most experts are everyone's: the rarest one tells.
        counts = Counter(expert for hit in plain for expert in hit["top_experts"])
        expert = min(counts, key=lambda name: (counts[name], name))
        expected = {hit["id"] for hit in plain if expert in hit["top_experts"]}
        assert {hit["id"] for hit in self.hits(place, "-k", 12, "-w", f"expert={expert}")} == expected
        assert 0 < len(expected) < 12

    def test_an_untrained_checkpoint_has_no_weight_of_its_own(self, place: Path) -> None:
        done = tsembed(place, "search", "red", "--rerank", "expert")
        assert done.exit_code == 2
        assert "--route-weight" in done.output

    def test_another_model_is_refused(self, place: Path) -> None:
        done = tsembed(place, "search", "red", "--model", "mini")
        assert done.exit_code == 1
        assert "fresh" in done.output

    def test_a_cold_search_imports_neither_transformers_nor_peft(self, place: Path) -> None:
        code = (
            "import sys\n"
            "from tsembed_search.cli.main import app\n"
            "try: app(['search', 'red', '--rerank', 'expert', '--route-weight', '0.2', '--json'])\n"
            "except SystemExit as done: assert not done.code\n"
            "heavy = ('transformers', 'peft', 'huggingface_hub', 'qdrant_client')\n"
            "print([name for name in heavy if name in sys.modules])"
        )
        environment = {**os.environ, "TSEMBED_HOME": str(place / "home")}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        hits, imported = done.stdout.splitlines()
        assert json.loads(hits)["hits"][0]["shared_experts"]
        assert imported == "[]"

    def test_models_lists_it(self, place: Path) -> None:
        listed = json.loads(tsembed(place, "models", "--json").stdout)["models"]
        fresh = {"name": "fresh", "family": "mini", "where": "on this machine", "base": "mini-base", "prompt": "own"}
        assert fresh in listed
        folder = place / "home/models/fresh"
        assert tsembed(place, "models", folder).stdout == f"{folder}\texperts on mini-base\ton this machine\tits own\n"
        assert tsembed(place, "models", place).exit_code == 1


@pytest.fixture(scope="module")
def url(place: Path) -> Iterator[str]:
    """A server with an index of the same files."""
    server = FaultServer()
    done = tsembed(place, "index", place / "files", "--model", "fresh", "--quiet", "--url", server.url)
    assert done.exit_code == 0, done.output
    yield server.url
    server.stop()


class TestOnAServer:
    """The same files and checkpoint into Qdrant's own client engine, over HTTP."""

    def test_the_same_routes_as_in_the_embedded_engine(self, place: Path, url: str) -> None:
        stores = [opening.open(IndexAddress("default", where)) for where in (f"edge:{place}/home/indexes", url)]
        here, there = ({record.id: record.payload for record in store.scroll()} for store in stores)
        for store in stores:
            store.close()
        assert len(here) == 12
        assert here.keys() == there.keys()
        for id, payload in here.items():
            assert there[id]["route"] == pytest.approx(payload["route"], abs=1e-6)
            assert there[id]["top_experts"] == payload["top_experts"]

    def test_the_same_hits_explanations_and_usage(self, place: Path, url: str) -> None:
        def told(*arguments: object) -> list[dict[str, Any]]:
            both = [tsembed(place, *arguments, "--json", *where) for where in ([], ["--url", url])]
            assert all(done.exit_code == 0 for done in both), [done.output for done in both]
            return [json.loads(done.stdout) for done in both]

        here, there = told("search", "the colour red", "-k", 12, "--rerank", "expert", "--route-weight", 0.7)
        assert [hit["id"] for hit in there["hits"]] == [hit["id"] for hit in here["hits"]]
        for one, other in zip(here["hits"], there["hits"], strict=True):
            assert one["shared_experts"] == other["shared_experts"]
            assert one["route_similarity"] == pytest.approx(other["route_similarity"], abs=1e-5)
        here, there = told("explain", "the colour red", here["hits"][0]["id"])
        assert here["shared_experts"] == there["shared_experts"]
        here, there = told("status", "--experts")
        for one, other in zip(here["experts"]["groups"], there["experts"]["groups"], strict=True):
            assert (one["of"], one["name"], one["items"]) == (other["of"], other["name"], other["items"])
            assert np.allclose(one["share"], other["share"]) and np.allclose(one["mean"], other["mean"])
