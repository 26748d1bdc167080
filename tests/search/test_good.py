"""Good matches are told from weaker ones; a query that the model cannot read is said to be so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibration import copies
from PIL import Image

from helpers.colour_index import Maker, solid
from helpers.colours import CALIBRATION, COLOURS, ColourBackbone
from tsembed_search.index import Index
from tsembed_search.items import Item
from tsembed_search.model.embedder import Embedder
from tsembed_search.paths import IndexAddress
from tsembed_search.ranking.scores import Calibration
from tsembed_search.search.queries import unreadable
from tsembed_search.store.schema import IndexMetadata

ROOT = Path(__file__).parents[2]


@pytest.fixture
def judged(maker: Maker, embedder: Embedder) -> Index:
    """Six colours, each as a picture and as a text, and a model that knows from which scores on hits are good."""
    limits = {("text", "text"): 0.8, ("text", "image"): 0.75}
    backbone = ColourBackbone()
    backbone.info = replace(embedder.info, calibration=replace(CALIBRATION, limits=limits))
    for name, rgb in COLOURS.items():
        maker.add(Item(image=solid(*rgb)), f"{name}.png")
        maker.add(Item(f"all about {name}"), f"{name}.txt", chunk=0)
    return Index(IndexAddress(), IndexMetadata.of(backbone.info), store=maker.store, embedder=Embedder(backbone))


def good(result: object) -> list[str]:
    return sorted(hit.path.rpartition("/")[2] for hit in result.hits if hit.good)  # type: ignore[attr-defined]


def test_good_matches_are_told_from_weaker_ones(judged: Index) -> None:
    found = judged.search("red")
    assert good(found) == ["red.png", "red.txt"] and found.good == 2 and len(found.hits) > 2
    assert found.to_json()["good"] == 2 and [hit["good"] for hit in found.to_json()["hits"]].count(True) == 2
    only = judged.search("red", good=True)
    assert [hit.rank for hit in only.hits] == [1, 2] and all(hit.good for hit in only.hits)
    assert only.hits[0].score == found.hits[0].score


def test_of_what_is_not_there_nothing_is_good(judged: Index) -> None:
    found = judged.search("purple elephants")
    assert found.hits and found.good == 0
    assert judged.search("purple elephants", good=True).hits == []


def test_many_queries_are_judged_alike(judged: Index) -> None:
    red, none = judged.search_many(["red", "purple elephants"], good=True)
    assert len(red) == 2 and none == []


def test_without_limits_nobody_can_tell(judged: Index, index: Index) -> None:
    """Words and a picture together have no limits here; a model without any has none for words either."""
    joint = judged.search(Item("red", image=solid(20, 200, 20)))
    assert joint.hits and joint.good is None and joint.to_json()["good"] is None
    plain = index.search("red")
    assert plain.hits and plain.good is None and not any(hit.good for hit in plain.hits)


def test_the_same_picture_is_good_wherever_limits_lie(judged: Index, index: Index) -> None:
    for opened in (judged, index):
        found = opened.search(Item(image=solid(*COLOURS["blue"])))
        assert good(found) == ["blue.png"] and found.hits[0].good and found.good == 1


def test_what_must_occur_and_does_is_good(judged: Index) -> None:
    found = judged.search('"about red"')
    assert good(found) == ["red.txt"] and found.good == len(found.hits) == 1


def test_by_words_alone_their_share_decides(judged: Index, maker: Maker) -> None:
    # A word of this test alone: the engine counts those of removed items until it tidies up, and tests share the store.
    maker.add(Item("all about mahogany"), "wood.txt", chunk=0)
    assert good(judged.search("all about mahogany", words="only")) == ["wood.txt"]
    found = judged.search("mahogany lorries in winter storms", words="only")
    assert found.hits and found.good == 0


def test_limits_are_kept_with_the_calibration() -> None:
    calibration = replace(CALIBRATION, limits={("text", "image"): 0.9})
    assert Calibration.from_json(calibration.to_json()) == calibration
    before = {key: value for key, value in CALIBRATION.to_json().items() if key != "limits"}
    assert Calibration.from_json(before) == CALIBRATION


@pytest.fixture(scope="module")
def mini() -> Embedder:
    return Embedder.load("mini", "cpu")


@pytest.fixture
def made(mini: Embedder, tmp_path: Path) -> Iterator[Index]:
    with Index.create("mini", embedder=mini) as index:
        yield index


class TestWhatMiniCannotRead:
    @pytest.mark.parametrize("text", ["ภาษาไทย", "🍎", "♫ ♪", "ქართული!", "தமிழ்"])
    def test_no_letter_of_it(self, mini: Embedder, text: str) -> None:
        assert unreadable(text, mini)

    @pytest.mark.parametrize("text", ["東京", "привет", "!!!", "…", "🍎 pie", "ภาษา 2024", "ÄÖÜ", ""])
    def test_a_part_of_it_is_enough(self, mini: Embedder, text: str) -> None:
        assert not unreadable(text, mini)

    def test_words_answer_alone(self, made: Index, tmp_path: Path) -> None:
        (tmp_path / "thai.txt").write_text("ภาษาไทย เป็นภาษา", "utf-8")
        (tmp_path / "english.txt").write_text("The harbour lights", "utf-8")
        made.add(tmp_path)
        found = made.search("ภาษาไทย")
        assert [hit.path.rpartition("/")[2] for hit in found.hits] == ["thai.txt"]
        assert found.unread and found.to_json()["unread"] is True and found.hits[0].similarity == 0
        assert made.search("ภาษาไทย", words="never").hits == [] and made.search("🍎").unread
        read = made.search("lights of the harbour")
        assert not read.unread and "unread" not in read.to_json()


def test_every_picture_finds_itself_and_so_does_a_near_copy(made: Index) -> None:
    pictures = sorted((ROOT / "examples/corpus/pictures").rglob("*.*"))[::3]
    made.add([ROOT / "examples/corpus/documents", ROOT / "examples/corpus/pictures"])
    queries = [(file, Item(image=file)) for file in pictures]
    queries += [(file, Item(image=np.asarray(copy.convert("RGB")))) for file in pictures[::4] for copy in copies(file)]
    for (file, _), hits in zip(queries, made.search_many([item for _, item in queries], k=3), strict=True):
        assert hits[0].path == str(file) and hits[0].good, (file, hits)


def test_the_very_file_is_before_others_with_the_same_pixels(made: Index, tmp_path: Path) -> None:
    picture = Image.open(ROOT / "examples/corpus/pictures/vehicles/bicycle.png").convert("RGB")
    files = [tmp_path / f"{name}.png" for name in "abcd"]
    for level, file in enumerate(files):
        picture.save(file, compress_level=level + 1)
    made.add(files)
    for file in files:
        found = made.search(Item(image=file))
        assert found.hits[0].path == str(file) and found.good == len(found.hits) == 4
