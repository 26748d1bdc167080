"""What a search finds: fairness between kinds, one hit per page or picture, filters, order, scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.colour_index import Maker, solid
from helpers.colours import CALIBRATION, COLOURS, ColourBackbone, text_vector, unit
from tsembed_search.errors import (
    IndexMismatchError,
    LoadError,
    MissingIndexError,
    ModelError,
    StoreError,
    UsageError,
)
from tsembed_search.index import Index
from tsembed_search.items import Item
from tsembed_search.model.embedder import Embedder
from tsembed_search.paths import IndexAddress
from tsembed_search.ranking.reranking import RERANKERS, Candidate, Given, Query, Reranker
from tsembed_search.search.results import SearchOptions
from tsembed_search.search.searcher import Searcher
from tsembed_search.store.schema import IndexMetadata


def add_palette(maker: Maker) -> None:
    for name, rgb in COLOURS.items():
        maker.add(Item(image=solid(*rgb)), f"{name}.png")
        maker.add(Item(f"all about {name}"), f"{name}.txt", chunk=0)


def names(hits: list) -> list[str]:
    return [hit.path.rpartition("/")[2] for hit in hits]


def test_text_finds_text_and_picture_of_what_it_says(maker: Maker, index: Index) -> None:
    add_palette(maker)
    result = index.search("red", k=2)
    assert sorted(names(result.hits)) == ["red.png", "red.txt"]
    assert [hit.rank for hit in result.hits] == [1, 2]
    assert set(result.seconds) == {"load", "embed", "search"}


def test_without_calibration_text_drowns_pictures_and_with_it_not(maker: Maker) -> None:
    maker.add(Item(image=solid(*COLOURS["red"])), "red.png")
    for number in range(10):
        maker.add(Item(f"red red red {number}"), f"{number}.txt", chunk=0)
    query = Query(unit(text_vector("red")), np.zeros(0, np.float32), "text", "red")
    plain = Searcher(maker.store).search([query], SearchOptions(k=11))[0]
    fair = Searcher(maker.store, CALIBRATION).search([query], SearchOptions(k=11))[0]
    assert names(plain).index("red.png") > names(fair).index("red.png")
    assert all(0 <= hit.score <= 1 for hit in fair)
    assert [hit.score for hit in fair] == sorted((hit.score for hit in fair), reverse=True)


def test_joint_query_is_one_item_and_beats_its_parts(maker: Maker, index: Index) -> None:
    red = Item("tulip", solid(*COLOURS["red"]))
    maker.add(Item("tulip"), "tulip.txt", chunk=0)
    maker.add(Item(image=solid(*COLOURS["red"])), "red.png")
    both = maker.add(red, "tulip.png", kind="image")
    assert index.search(red, k=1).hits[0].id == both


def test_a_picture_that_words_change_is_no_hit(maker: Maker, index: Index) -> None:
    """Left out under whatever name it lies, if there are words; a picture alone finds itself."""
    add_palette(maker)
    maker.folder.mkdir(exist_ok=True)
    file = maker.folder / "question.png"
    Image.fromarray(solid(225, 25, 25)).save(file)
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    maker.add(Item(image=file), "crimson.png", sha=sha, also_at=("crimson again.png",))
    assert names(index.search(Item(image=file), k=3).hits)[0] == "crimson.png"
    changed = index.search(Item("red", file), k=3).hits
    assert names(changed)[0] == "red.png" and len(changed) == 3
    assert "crimson.png" not in names(changed)
    many = index.search_many([Item("red", file), Item(image=file)], k=3)
    assert names(many[0]) == names(changed) and names(many[1])[0] == "crimson.png"


def test_image_query(maker: Maker, index: Index) -> None:
    add_palette(maker)
    hit = index.search(Item(image=solid(*COLOURS["blue"])), k=1).hits[0]
    assert names([hit]) == ["blue.png"]
    assert hit.similarity == pytest.approx(1, abs=1e-5)
    assert hit.snippet is None


def test_like_an_item_by_id_and_by_path_leaves_it_out(maker: Maker, index: Index) -> None:
    add_palette(maker)
    id = maker.add(Item(image=solid(225, 25, 25)), "crimson.png")
    by_id = index.search(like=id, k=3).hits
    assert names(by_id)[0] == "red.png"
    assert id not in [hit.id for hit in by_id]
    by_path = index.search(like=str(maker.folder / "crimson.png"), k=3).hits
    assert [hit.id for hit in by_path] == [hit.id for hit in by_id]


def test_like_a_stored_item_loads_no_model(maker: Maker, embedder: Embedder) -> None:
    add_palette(maker)
    unloaded = Index(IndexAddress(), IndexMetadata.of(embedder.info), store=maker.store)
    assert unloaded.search(like=str(maker.folder / "red.png"), k=1).hits
    with pytest.raises(ModelError, match="colours"):
        unloaded.search("red")  # there is no model of that name to load


def test_like_a_document_is_its_mean_and_leaves_all_of_it_out(maker: Maker, index: Index) -> None:
    for chunk, text in enumerate(["red tulip", "blue tulip", "green tulip"]):
        maker.add(Item(text), "flowers.txt", chunk=chunk)
    maker.add(Item("tulip"), "tulip.txt", chunk=0)
    maker.add(Item("engine"), "engine.txt", chunk=0)
    assert names(index.search(like=str(maker.folder / "flowers.txt"), k=5).hits) == ["tulip.txt", "engine.txt"]


def test_like_a_file_that_is_not_indexed(maker: Maker, index: Index) -> None:
    add_palette(maker)
    maker.folder.mkdir()
    (maker.folder / "new.txt").write_text("yellow")
    assert names(index.search(like=str(maker.folder / "new.txt"), k=1, where="kind=text").hits) == ["yellow.txt"]
    (maker.folder / "new.bin").write_bytes(b"\x00\x01\x02")
    with pytest.raises(LoadError, match="neither a picture nor plain text"):
        index.search(like=str(maker.folder / "new.bin"))
    with pytest.raises(UsageError, match="neither the id"):
        index.search(like="nothing/of/the/kind")
    with pytest.raises(UsageError, match="neither the id"):
        index.search(like="6f0d3f7e-5a0e-5c43-9d0b-7c1d1f6a2b90")


def test_one_hit_per_page_unless_all_chunks(maker: Maker, index: Index) -> None:
    for chunk in range(40):
        maker.add(Item(f"red red red {chunk}"), "long.pdf", page=1, chunk=chunk)
    maker.add(Item("red page two"), "long.pdf", page=2, chunk=0)
    maker.add(Item("red elsewhere with more words"), "other.txt", chunk=0)
    hits = index.search("red", k=3).hits
    assert [(hit.path.rpartition("/")[2], hit.page) for hit in hits] == [
        ("long.pdf", 1), ("long.pdf", 2), ("other.txt", None)
    ]  # fmt: skip
    assert len(index.search("red", k=30, all_chunks=True).hits) == 30
    assert len(index.search("red", k=100, all_chunks=True).hits) == 42


def test_page_found_by_its_text_and_by_its_picture_is_one_hit(maker: Maker, index: Index) -> None:
    maker.add(Item("red"), "report.pdf", page=1, chunk=0)
    maker.add(Item(image=solid(*COLOURS["red"])), "report.pdf", page=1, chunk=1)
    maker.add(Item(image=solid(*COLOURS["red"])), "report.pdf", page=1, kind="page")
    assert len(index.search("red").hits) == 1
    assert len(index.search("red", all_chunks=True).hits) == 3


def test_filter_and_the_place_that_it_asks_for(maker: Maker, index: Index) -> None:
    add_palette(maker)
    maker.add(Item(image=solid(230, 10, 10)), "a/copy.png", also_at=("b/copy.png", "c/copy.png"))
    hit = index.search("red", where='path~"b/*"', k=5).hits
    assert names(hit) == ["copy.png"]
    assert hit[0].path.endswith("/b/copy.png")
    assert [path.rpartition("/files/")[2] for path in hit[0].also_at] == ["a/copy.png", "c/copy.png"]
    assert {hit.kind for hit in index.search("red", where="kind=text").hits} == {"text"}
    assert index.search("red", where="kind=page").hits == []
    with pytest.raises(UsageError):
        index.search("red", where="colour=red")


def test_min_score_is_about_the_calibrated_score(maker: Maker, index: Index) -> None:
    add_palette(maker)
    everything = index.search("red", k=20).hits
    bar = everything[2].score + 1e-9
    kept = index.search("red", k=20, min_score=bar).hits
    assert [hit.id for hit in kept] == [hit.id for hit in everything if hit.score >= bar]


@pytest.mark.parametrize("bad", [{"k": 0}, {"k": 10_001}, {"min_score": 1.5}, {"rerank": "magic"}])
def test_options_out_of_range_are_refused(index: Index, bad: dict) -> None:
    with pytest.raises(UsageError):
        index.search("red", **bad)


def test_query_of_nothing_or_of_too_much_is_refused(index: Index) -> None:
    with pytest.raises(UsageError):
        index.search()
    with pytest.raises(UsageError):
        index.search("  ")
    with pytest.raises(UsageError):
        index.search("red", like="x")


def test_equal_scores_are_ordered_by_path(maker: Maker, index: Index) -> None:
    for name in ("c", "a", "b", "d"):
        maker.add(Item("red"), f"{name}.txt", chunk=0)
    assert names(index.search("red").hits) == ["a.txt", "b.txt", "c.txt", "d.txt"]


def test_many_queries_give_what_each_gives_alone(maker: Maker, index: Index) -> None:
    add_palette(maker)
    queries = ["red", Item(image=solid(*COLOURS["green"])), "all about blue", Item("yellow", solid(0, 0, 0))]
    queries *= 40  # several batches
    together = index.search_many(queries, k=4, snippets=True)
    alone = [index.search(query, k=4).hits for query in queries[:4]] * 40
    for hits, own in zip(together, alone, strict=True):
        assert [hit.id for hit in hits] == [hit.id for hit in own]
        assert [(hit.snippet, hit.marks) for hit in hits] == [(hit.snippet, hit.marks) for hit in own]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in own], abs=1e-5)
    assert index.search_many([]) == []
    assert all(hit.snippet is None and not hit.marks for hits in index.search_many(queries[:4]) for hit in hits)


def test_one_bad_picture_among_many_queries_is_told(index: Index, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(LoadError, match=r"a\.png"):
        index.search_many([*["red"] * 100, Item(image=tmp_path / "a.png"), *["red"] * 100])


@pytest.mark.parametrize("k", [1, 3, 30])
def test_many_chunks_of_few_files_leave_nobody_out(maker: Maker, index: Index, k: int) -> None:
    """A file that fills the first places with its chunks gives one hit, and the others follow."""
    for number in range(60):
        maker.add(Item("red red red"), "long.txt", chunk=number, sha="long")
    for name in COLOURS:
        maker.add(Item(f"all about {name} and red"), f"{name}.txt", chunk=0)
    hits = index.search("red", k=k).hits
    assert len(hits) == min(k, len(COLOURS) + 1) and names(hits)[0] == "long.txt"
    assert len(set(names(hits))) == len(hits)


def test_routes_of_query_and_item_are_compared(maker: Maker) -> None:
    expert = Embedder(ColourBackbone(experts=True))
    maker.embedder = expert
    maker.add(Item("red"), "red.txt", chunk=0)
    index = Index(IndexAddress(), IndexMetadata.of(expert.info), store=maker.store, embedder=expert)
    hit = index.search("red").hits[0]
    assert hit.route_similarity == pytest.approx(1, abs=1e-3)
    assert hit.top_experts == ["b0e1"]
    other = index.search("engine blue").hits[0]
    routes = expert.embed([Item("red"), Item("engine blue")]).routes
    assert other.route_similarity == pytest.approx(float(routes[0] @ routes[1]), abs=1e-3)


def test_hit_as_json_has_the_fields_of_the_contract(maker: Maker, index: Index) -> None:
    add_palette(maker)
    for hit in index.search("red", k=2).hits:
        data = json.loads(json.dumps(hit.to_json()))
        assert list(data)[:11] == [
            "rank", "score", "similarity", "route_similarity", "id", "kind", "path", "page", "chunk", "snippet",
            "top_experts",
        ]  # fmt: skip
        assert data["route_similarity"] == 0.0


def test_a_reranker_sees_more_than_k_and_decides(maker: Maker, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    add_palette(maker)
    seen: list[int] = []

    def backwards(query: Query, candidates: Sequence[Candidate], given: Given) -> list[Candidate]:
        seen.append(len(candidates))
        assert all(candidate.vector is not None for candidate in candidates)
        return list(reversed(candidates))

    monkeypatch.setitem(RERANKERS._entries, "backwards", Reranker(backwards, depth=8, needs_vectors=True))
    best_last = index.search("red", k=2, rerank="backwards").hits
    assert seen == [8]
    assert [hit.id for hit in best_last] == [hit.id for hit in reversed(index.search("red", k=8).hits)][:2]
    assert [hit.rank for hit in best_last] == [1, 2]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_grouping_is_exact_against_a_full_ranking(maker: Maker, data: st.DataObject) -> None:
    """Whatever the chunks are, the k groups are those that a ranking of all points gives."""
    maker.store.delete([record.id for record in maker.store.scroll(fields=[])])
    words = ["red", "blue", "tulip", "engine"]
    points = data.draw(
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(1, 3), st.lists(st.sampled_from(words), min_size=1, max_size=5)),
            min_size=1,
            max_size=60,
        )
    )
    vectors, groups = [], []
    for number, (document, page, content) in enumerate(points):
        maker.add(Item(" ".join(content)), f"{document}.pdf", page=page, chunk=number)
        vectors.append(unit(text_vector(" ".join(content))))
        groups.append((f"{document}.pdf", page))
    query = unit(text_vector("red tulip"))
    similarity = np.stack(vectors) @ query
    best = {group: max(s for s, g in zip(similarity, groups, strict=True) if g == group) for group in groups}
    k = data.draw(st.integers(1, 12))
    hits = Searcher(maker.store, CALIBRATION).search(
        [Query(query, np.zeros(0, np.float32), "text")], SearchOptions(k=k)
    )[0]
    assert [hit.similarity for hit in hits] == pytest.approx(sorted(best.values(), reverse=True)[:k], abs=1e-5)
    assert len({(hit.path, hit.page) for hit in hits}) == len(hits)


def test_opening_an_index_that_is_not_there_names_those_that_are(maker: Maker) -> None:
    with pytest.raises(StoreError, match="no index called 'other'") as error:
        Index.open("other")
    assert isinstance(error.value, MissingIndexError) and (error.value.name, error.value.store) == ("other", "edge")
    assert "{add()}" in error.value.hint and "default" in error.value.hint


def test_an_index_of_another_model_says_what_to_do(maker: Maker) -> None:
    with pytest.raises(IndexMismatchError) as error:
        Index.open(embedder=Embedder(ColourBackbone(fingerprint="colours-2")))
    assert "colours-1" in error.value.message and "colours-2" in error.value.message
    metadata = IndexMetadata("mini", "abc", 64)
    with pytest.raises(IndexMismatchError) as error:
        metadata.check("default", "owner/other", "def")
    assert "mini" in error.value.message and "owner/other" in error.value.message
    for way_out in ("the model mini ({model})", "{index}", "under another name"):
        assert way_out in error.value.hint


def test_calibration_is_the_models_or_else_the_indexs(maker: Maker, embedder: Embedder) -> None:
    add_palette(maker)
    plain = IndexMetadata("colours", embedder.info.fingerprint, embedder.info.dim)
    without = Index(IndexAddress(), plain, store=maker.store).search(like=str(maker.folder / "red.png"), k=1).hits[0]
    assert without.score == pytest.approx((without.similarity + 1) / 2)
    loaded = Index(IndexAddress(), plain, store=maker.store, embedder=embedder).search(Item(image=solid(1, 1, 1)), k=1)
    hit = loaded.hits[0]
    assert hit.score == pytest.approx(CALIBRATION.score(hit.similarity, "image", hit.kind))
    kept = Index(IndexAddress(), IndexMetadata.of(embedder.info), store=maker.store)
    hit = kept.search(like=str(maker.folder / "red.png"), k=1).hits[0]
    assert hit.score == pytest.approx(CALIBRATION.score(hit.similarity, "image", hit.kind))


def test_metadata_survives_json(embedder: Embedder) -> None:
    metadata = IndexMetadata.of(embedder.info)
    assert IndexMetadata.from_json(json.loads(json.dumps(metadata.to_json()))) == metadata
    with pytest.raises(StoreError, match="which model made it"):
        IndexMetadata.from_json({})


def test_status_counts_by_kind(maker: Maker, index: Index) -> None:
    add_palette(maker)
    status = index.status()
    assert status.items == {"image": 6, "text": 6}
    assert status.store.points == 12
    assert status.metadata.model == "colours"


def test_the_same_picture_comes_first(maker: Maker, index: Index) -> None:
    """Before texts that the calibration finds more like it, and before pictures that are only like it."""
    add_palette(maker)
    for name, rgb in COLOURS.items():
        picture = Item(image=solid(*rgb))
        assert names(index.search(picture, k=1).hits) == [f"{name}.png"]
        near = Item(image=solid(*(min(255, level + 1) for level in rgb)))
        assert names(index.search(near, k=1).hits) == [f"{name}.png"]
