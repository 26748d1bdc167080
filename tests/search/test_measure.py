"""A model that brings no calibration gets one from its index, and then neither kind drowns the other."""

from __future__ import annotations

import numpy as np

from helpers.colour_index import Maker
from helpers.colours import COLOURS
from tsembed_search.items import Item
from tsembed_search.model.embedder import Embedder
from tsembed_search.ranking.scores import Calibration
from tsembed_search.search.index_model import FEWEST, measured_calibration

WORDS = "harbour bridge meadow lantern copper violin winter garden engine letter market forest river candle".split()


def middle(calibration: Calibration, modality: str, kind: str) -> float:
    """The cosine that scores 0.5."""
    line = calibration.lines[modality, kind]  # type: ignore[index]
    return -line.offset / line.slope


def fill(maker: Maker, count: int) -> None:
    for number in range(count):
        name, rgb = list(COLOURS.items())[number % len(COLOURS)]
        shade = tuple(max(0, channel - number) for channel in rgb)
        pixels = np.full((8, 8, 3), shade, dtype=np.uint8)
        maker.add(Item(text=f"{WORDS[number % len(WORDS)]} {number}", image=pixels), f"{number}.png", kind="image")
        maker.add(Item(text=f"a {name} {WORDS[number % len(WORDS)]} and a person {number}"), f"{number}.txt")


def test_the_typical_hit_of_each_kind_scores_a_half(maker: Maker, embedder: Embedder) -> None:
    fill(maker, FEWEST)
    calibration = measured_calibration(maker.store, embedder)
    assert calibration is not None
    assert set(calibration.lines) == {(m, k) for m in ("text", "image", "joint") for k in ("text", "image")}
    # Pictures are unlike every text, and like each other: the middle of their scores lies accordingly.
    assert middle(calibration, "text", "image") < middle(calibration, "text", "text")
    assert middle(calibration, "image", "text") < middle(calibration, "image", "image")
    for (modality, kind), line in calibration.lines.items():
        assert abs(line.score(middle(calibration, modality, kind)) - 0.5) < 1e-9


def test_too_few_items_tell_nothing(maker: Maker, embedder: Embedder) -> None:
    fill(maker, FEWEST - 1)
    assert measured_calibration(maker.store, embedder) is None
