"""Mini: its text path is MiniLM's, its eye is EfficientNet-Lite2, and an item's vector is its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_tower import NaiveTower
from PIL import Image, ImageDraw

from tsembed_search.errors import ModelError
from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.model.backbones import mini_spec
from tsembed_search.model.backbones.mini_vision import VisionTower
from tsembed_search.model.embedder import Embedder

TEXTS = [
    "a red apple",
    "The committee met on Tuesday to discuss the drainage of the lower fields. " * 8,
    "é",
    "x " * 600,
]


@pytest.fixture(scope="module", params=["engine", "torch"])
def mini(request: pytest.FixtureRequest) -> Embedder:
    if request.param == "torch":
        return Embedder(loading.load(registry.resolve("mini-base"), "cpu"))
    pytest.importorskip("openvino")
    return Embedder.load("mini-base", device="cpu")


def picture(seed: int, size: tuple[int, int] = (320, 200)) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(int(c) for c in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = (int(v) for v in rng.integers(0, 200, 2))
        draw.ellipse((x, y, x + 60, y + 90), fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    return image


def test_text_is_embedded_as_minilm_does(mini: Embedder) -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(mini_spec.file_path("encoder").parent), device="cpu")
    expected = reference.encode(TEXTS, normalize_embeddings=True)
    assert np.abs(mini.embed([Item(text=text) for text in TEXTS], "query").vectors - expected).max() < 1e-5


@pytest.mark.parametrize("fused", [True, False])
def test_the_fast_tower_computes_what_the_naive_one_does(fused: bool) -> None:
    state = torch.load(mini_spec.verified("vision"), map_location="cpu", weights_only=True)
    pixels = torch.randint(0, 256, (5, 260, 260, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tower = VisionTower(state, 260, torch.device("cpu"))
    if not fused:
        tower.fused = False
    with torch.inference_mode():
        expected = NaiveTower(state)((pixels.permute(0, 3, 1, 2).float() - 127) / 128)
        assert (tower.logits(pixels) - expected).abs().max() < 1e-3


def test_a_vector_is_the_same_alone_and_in_any_batch(mini: Embedder) -> None:
    items = [Item(text=text) for text in TEXTS]
    items += [Item(image=picture(seed)) for seed in range(6)]
    items += [Item(text=text, image=picture(seed)) for seed, text in enumerate(TEXTS)]
    together = mini.embed(items).vectors
    backwards = mini.embed(items[::-1]).vectors[::-1]
    alone = np.concatenate([mini.embed([item]).vectors for item in items])
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert (together * alone).sum(axis=1).min() > 0.9999
    assert (together * backwards).sum(axis=1).min() > 0.9999
    assert len({tuple(row.round(4)) for row in together}) == len(items)


def test_a_picture_comes_as_a_file_an_image_or_an_array(mini: Embedder, tmp_path: Path) -> None:
    image = picture(1)
    image.save(tmp_path / "picture.png")
    vectors = mini.embed(
        [Item(image=tmp_path / "picture.png"), Item(image=image), Item(image=np.asarray(image))]
    ).vectors
    assert np.allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.allclose(vectors[0], vectors[2], atol=1e-5)


def test_a_joint_item_is_neither_its_text_nor_its_picture(mini: Embedder) -> None:
    image = picture(2)
    text, seen, joint = mini.embed([Item(text="autumn"), Item(image=image), Item(text="autumn", image=image)]).vectors
    assert text @ joint > text @ seen
    assert seen @ joint > text @ seen
    assert max(text @ joint, seen @ joint) < 0.999


def test_the_model_says_what_it_is(mini: Embedder) -> None:
    info = mini.info
    tower = torch.load(mini_spec.verified("vision"), map_location="cpu", weights_only=True)
    counted = sum(one.numel() for name, one in tower.items() if "running" not in name and "num_batches" not in name)
    whole: Any = loading.load(registry.resolve("mini-base"), "cpu")
    counted += sum(one.numel() for one in whole.encoder.parameters())
    assert info.parameters == counted + whole.table.numel()
    assert info.fingerprint == mini_spec.FINGERPRINT
    assert info.calibration is not None and info.calibration.lines
    assert mini.embed([]).vectors.shape == (0, info.dim)


def test_a_changed_weight_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(mini_spec.file_path("caption").read_bytes()[:-1] + b"?")
    monkeypatch.setattr(mini_spec, "file_path", lambda name: damaged)
    with pytest.raises(ModelError, match="not the file that mini was made with"):
        mini_spec.verified("caption")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mini_spec.FILES, "vision", ("no_such_package", "file", "0"))
    with pytest.raises(ModelError, match="no-such-package"):
        mini_spec.file_path("vision")


@pytest.mark.gpu
def test_mini_on_a_gpu_agrees_with_the_cpu(mini: Embedder) -> None:
    items = [Item(text=TEXTS[0]), Item(image=picture(3)), Item(text="red", image=picture(4))]
    on_gpu = Embedder.load("mini-base", device="cuda").embed(items).vectors
    assert (on_gpu * mini.embed(items).vectors).sum(axis=1).min() > 0.999
