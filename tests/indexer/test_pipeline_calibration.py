"""A run leaves a calibration behind when the model has none, and only then."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from helpers.indexing import Indexing
from tsembed_search.ranking.scores import Calibration
from tsembed_search.search.index_model import FEWEST


def fill(indexing: Indexing) -> None:
    for number in range(FEWEST):
        indexing.picture(f"{number}.png", ["red", "green", "blue", "yellow"][number % 4], (20 + number, 20))
        indexing.write(f"{number}.txt", f"The {number} lanterns of the harbour.")


def left_behind(indexing: Indexing) -> Calibration | None:
    store = indexing.open(None)
    assert store is not None
    with closing(store):
        data = store.metadata.get("calibration")
        return Calibration.from_json(data) if data else None


def test_a_model_without_a_calibration_gets_one_from_its_index(indexing: Indexing) -> None:
    indexing.backbone.info = replace(indexing.backbone.info, calibration=None)
    fill(indexing)
    indexing.run()
    calibration = left_behind(indexing)
    assert calibration is not None and calibration.source == "measured on the index"
    assert ("text", "image") in calibration.lines and ("text", "text") in calibration.lines


def test_a_model_with_a_calibration_keeps_it(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run()
    assert left_behind(indexing) is None
