"""An index of pictures by `mini`: found by what they show, filtered by it, and told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsembed_search.errors import UsageError
from tsembed_search.index import Index
from tsembed_search.model.embedder import Embedder
from tsembed_search.ranking.scores import Calibration, Logistic
from tsembed_search.store.base import StoreSettings

PICTURES = Path(__file__).parents[2] / "examples/corpus/pictures"
SHOWN = ("animals/labrador.png", "animals/hen.gif", "vehicles/bus.png", "music/cello.png")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Four pictures whose names say nothing, and a text."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(SHOWN):
        shutil.copyfile(PICTURES / name, folder / f"{number}{Path(name).suffix}")
    (folder / "note.txt").write_text("Pay the rent on the first day of the month.")
    home = tmp_path_factory.mktemp("home")
    made = Index.open("shown", store=f"edge:{home}", embedder=Embedder.load("mini", "cpu"), create=StoreSettings(0))
    made.add(folder)
    yield made
    made.close()


def names(hits: list) -> list[str]:
    return [Path(hit.path).stem for hit in hits]


def test_kinds_find_what_is_of_the_kind(index: Index) -> None:
    assert set(names(index.search("an animal").hits[:2])) == {"0", "1"}
    assert names(index.search("a string instrument").hits)[0] == "3"
    assert names(index.search("when to pay the rent").hits)[0] == "note"


def test_what_is_there_scores_higher_than_what_is_not(index: Index) -> None:
    there = index.search("a dog", where="kind=image").hits[0].score
    absent = index.search("a submarine", where="kind=image").hits[0].score
    assert there > 0.5 > absent


def test_hits_tell_what_they_show(index: Index) -> None:
    hits = {Path(hit.path).stem: hit for hit in index.search("dog").hits}
    (first, *others) = hits["0"].concepts
    assert first["name"] == "Labrador retriever"
    assert 1 >= first["probability"] > max(one["probability"] for one in others)
    assert hits["note"].concepts == []
    assert json.loads(json.dumps(hits["0"].to_json()))["concepts"][0]["name"] == "Labrador retriever"


def test_one_hit_is_scored_as_in_the_list(index: Index) -> None:
    wanted = index.search("a dog").hits[0]
    assert index.explain("a dog", wanted.id).hit.score == pytest.approx(wanted.score)


def test_many_searches_find_what_one_does(index: Index) -> None:
    many = index.search_many(["a bird", "a vehicle"])
    assert [names(hits) for hits in many] == [names(index.search(query).hits) for query in ("a bird", "a vehicle")]


def test_files_are_filtered_by_concepts(index: Index) -> None:
    assert [Path(file.path).stem for file in index.files(where="concept=dog")] == ["0"]
    assert {Path(file.path).stem for file in index.files(where="kind=image and not concept=animal")} == {"2", "3"}
    assert index.store.facet("concepts")["dog"] == 1


def test_an_index_made_before_is_searched_as_it_was_and_says_what_it_lacks(tmp_path: Path, index: Index) -> None:
    """The store is made as earlier versions made it."""
    from tsembed_search.store import opening
    from tsembed_search.store.schema import IndexMetadata

    old = Index.open("old", store=f"edge:{tmp_path}", embedder=index.embedder, create=StoreSettings(0))
    store = opening.create(old.address, StoreSettings(384))
    store.write_metadata(IndexMetadata.of(index.embedder.info).to_json())
    store.close()
    with Index.open("old", store=f"edge:{tmp_path}", embedder=index.embedder) as opened:
        assert opened.add(PICTURES / SHOWN[0]).items.embedded == 1
        (hit,) = opened.search("a dog").hits
        assert hit.concepts == []
        with pytest.raises(UsageError, match="does not know what its pictures show"):
            opened.search("a dog", where="concept=dog")
        details = opened.status().store
        assert details is not None
        assert details.details["concepts"] == "no"


def test_evidence_raises_or_lowers_the_score_of_a_picture() -> None:
    calibration = Calibration({("text", "image"): Logistic(12.0, -5.0)})
    scores = [calibration.score(0.5, "text", "image", shown=shown) for shown in (-1.0, 0.0, 1.0)]
    assert scores == sorted(scores)
    assert scores[0] < 0.1
    assert scores[2] > 0.7
    assert 0 <= Calibration().score(0.5, "text", "image", shown=4.0) <= 1
