"""Pictures as each kind of model sees them, against transformers' own image processors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from helpers.model_folders import image_processor
from tsembed_search.documents.pictures import target_size
from tsembed_search.items import ImageSpec, Item
from tsembed_search.model.embedder import Embedder

CPU = torch.device("cpu")
SIZES = [(64, 100), (30, 200), (150, 90), (20, 20), (32, 32), (97, 31)]
STRIP = (5, 300)  # so thin that the reference processors would distort it further than we do
Embedders = Callable[[str], Embedder]


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth colour gradients, as most of a photograph is."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(5 * rows + k) * np.cos(4 * columns - k) for k in range(3)]
    return np.asarray((np.stack(waves, -1) + 1) * 127.5, np.uint8)


def vision_of(embedder: Embedder) -> Any:
    return embedder.backbone._vision  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["qwen2-vl", "qwen3-vl"])
def test_grid(
    family: str, size: tuple[int, int], model_folder: Callable[[str], Path], tiny_embedder: Embedders
) -> None:
    vision = vision_of(tiny_embedder(family))
    pixels = photo(*size)
    picture = vision.picture(pixels)
    ours = vision.collate([picture], CPU, torch.float32)
    limits = {"shortest_edge": vision.spec.min_pixels, "longest_edge": vision.spec.max_pixels}
    processor = image_processor(model_folder(family))
    theirs = processor(images=Image.fromarray(pixels), size=limits, return_tensors="pt")
    torch.testing.assert_close(ours["image_grid_thw"], theirs["image_grid_thw"])
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], atol=1e-5, rtol=0)
    assert picture.markup.count(vision.token) == theirs["image_grid_thw"].prod() // 4


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_tiles(
    family: str, size: tuple[int, int], model_folder: Callable[[str], Path], tiny_embedder: Embedders
) -> None:
    vision = vision_of(tiny_embedder(family))
    pixels = photo(*size)
    picture = vision.picture(pixels)
    ours = vision.collate([picture], CPU, torch.float32)["pixel_values"]
    try:
        processor = image_processor(model_folder(family))
    except ImportError:
        pytest.skip("this version of transformers wants torchvision for it")
    longest = min(-(-max(size) // 32) * 32, 96)
    split = {"do_image_splitting": max(size) > 32, "size": {"longest_edge": longest}}
    theirs = processor(images=[[Image.fromarray(pixels)]], return_row_col_info=True, return_tensors="pt", **split)
    assert ours.shape == theirs["pixel_values"].shape
    # It resizes in two steps where we take one.
    assert (ours - theirs["pixel_values"]).abs().mean() < 0.05
    rows, columns = int(theirs["rows"][0][0]), int(theirs["cols"][0][0])
    assert picture.markup.count("<row_") == rows * columns
    assert picture.markup.count("<image>") == 4 * (rows * columns + 1)
    assert picture.markup.endswith(
        "<fake_token_around_image><global-img><image><image><image><image><fake_token_around_image>"
    )
    if rows:
        assert picture.markup.startswith("<fake_token_around_image><row_1_col_1><image><image><image><image>")
        assert picture.markup.count("\n") == rows + 1
        assert f"<row_{rows}_col_{columns}>" in picture.markup


@pytest.mark.parametrize("size", [*SIZES, STRIP, (61, 33), (33, 61), (64, 65), (500, 499)])
def test_anyres(size: tuple[int, int], model_folder: Callable[[str], Path], tiny_embedder: Embedders) -> None:
    embedder = tiny_embedder("llava-onevision")
    vision = vision_of(embedder)
    pixels = photo(*size)
    picture = vision.picture(pixels)
    ours = vision.collate([picture], CPU, torch.float32)
    theirs = image_processor(model_folder("llava-onevision"))(images=Image.fromarray(pixels), return_tensors="pt")
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["image_sizes"], theirs["image_sizes"])
    with torch.inference_mode():
        model: Any = embedder.backbone.model  # type: ignore[attr-defined]
        features = model.get_image_features(**ours, return_dict=True)
    features = getattr(features, "pooler_output", features)
    assert picture.markup.count("<image>") == len(features[0])


@pytest.mark.parametrize("family", ["qwen2-vl", "qwen3-vl", "smolvlm", "idefics3", "llava-onevision"])
@pytest.mark.parametrize("size", [STRIP, (1, 1), (1, 4000)])
def test_odd_shapes(family: str, size: tuple[int, int], tiny_embedder: Embedders) -> None:
    vectors = tiny_embedder(family).embed([Item(image=photo(*size)), Item(image=photo(50, 50))]).vectors
    assert np.isfinite(vectors).all()


def test_a_batch_of_pictures_is_each_of_them(tiny_embedder: Embedders) -> None:
    vision = vision_of(tiny_embedder("qwen2-vl"))
    pictures = [vision.picture(photo(*size)) for size in SIZES]
    together = vision.collate(pictures, CPU, torch.float32)["pixel_values"]
    alone = torch.cat([vision.collate([picture], CPU, torch.float32)["pixel_values"] for picture in pictures])
    torch.testing.assert_close(together, alone, atol=0, rtol=0)


def test_fit_as_qwen_does(model_folder: Callable[[str], Path]) -> None:
    processor = image_processor(model_folder("qwen2-vl"))
    smart_resize = sys.modules[type(processor).__module__].smart_resize
    spec = ImageSpec(multiple=28, min_pixels=4 * 28 * 28, max_pixels=1280 * 28 * 28)
    random = np.random.default_rng(0)
    for height, width in random.integers(28, 3000, (500, 2)).tolist():
        if max(height, width) < 30 * min(height, width):
            expected = smart_resize(height, width, 28, spec.min_pixels, spec.max_pixels)
            assert target_size(width, height, spec) == expected[::-1]
