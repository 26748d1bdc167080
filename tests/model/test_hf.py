"""Every family on a tiny random model of its real architecture, with a real tokenizer."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from helpers.model_folders import image_processor
from tsembed_search.documents.pictures import OpenedImage, open_image
from tsembed_search.errors import LoadError, ModelError
from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.model.backbones import hf, tiny
from tsembed_search.model.embedder import Embedder

FAMILIES = list(tiny.MAKERS)
Folders = Callable[[str], Path]
Embedders = Callable[[str], Embedder]


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Coarse random patches: unlike fine noise, they survive resizing."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


def items() -> list[Item]:
    """Texts, images and joint items of many lengths and sizes."""
    return [
        Item("a red apple"),
        Item(image=picture(64, 100)),
        Item("a black cat asleep", picture(30, 200, 1)),
        Item("two dogs run along the beach " * 6),
        Item(image=picture(20, 20, 2)),
        Item("a photo", picture(150, 90, 3)),
        Item("a red apple", instruction="Find a fruit"),
    ]


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.einsum("nd,nd->n", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("family", FAMILIES)
class TestFamily:
    def test_vectors(self, family: str, tiny_embedder: Embedders) -> None:
        embedder = tiny_embedder(family)
        embeddings = embedder.embed(items())
        assert embeddings.vectors.shape == (7, embedder.info.dim) == (7, 32)
        assert embeddings.vectors.dtype == np.float32
        assert embeddings.routes.shape == (7, 0)
        np.testing.assert_allclose(np.linalg.norm(embeddings.vectors, axis=1), 1, atol=1e-5)
        between = embeddings.vectors @ embeddings.vectors.T
        assert np.sort(between.ravel())[-8] < 0.9999, "two different items have the same vector"

    def test_alone_as_in_a_batch(self, family: str, tiny_embedder: Embedders) -> None:
        embedder = tiny_embedder(family)
        one_batch = [embedder.prepare(item) for item in items()]
        together = embedder.encode(one_batch).vectors
        alone = np.concatenate([embedder.encode([one]).vectors for one in one_batch])
        backwards = embedder.encode(one_batch[::-1]).vectors[::-1]
        assert cosines(together, alone).min() >= 0.9999
        assert cosines(together, backwards).min() >= 0.9999

    def test_bfloat16(self, family: str, model_folder: Folders, tiny_embedder: Embedders) -> None:
        coarse = Embedder(hf.load(registry.resolve(model_folder(family)), "cpu", torch.bfloat16))
        assert coarse.info.dtype == "bfloat16"
        one_batch = [coarse.prepare(item) for item in items()]
        together = coarse.encode(one_batch).vectors
        alone = np.concatenate([coarse.encode([one]).vectors for one in one_batch])
        assert cosines(together, alone).min() >= 0.999
        assert cosines(together, tiny_embedder(family).embed(items()).vectors).min() >= 0.99

    def test_as_plain_transformers(self, family: str, model_folder: Folders, tiny_embedder: Embedders) -> None:
        embedder = tiny_embedder(family)
        shaped = [
            item.image if item.image is None else open_image(item.image, embedder.inputs.image) for item in items()
        ]
        batch = [embedder.prepare(item) for item in items()]
        expected = [
            reference(family, model_folder(family), one.data, image) for one, image in zip(batch, shaped, strict=True)
        ]
        assert cosines(embedder.encode(batch).vectors, np.stack(expected)).min() >= 0.99999

    def test_image_from_anywhere(self, family: str, tiny_embedder: Embedders, tmp_path: Path) -> None:
        pixels = picture(70, 50)
        file = tmp_path / "picture.png"
        Image.fromarray(pixels).save(file)
        vectors = tiny_embedder(family).embed([Item(image=form) for form in (pixels, Image.open(file), file)]).vectors
        assert (vectors @ vectors.T).min() >= 0.9999

    def test_prepared_travels_between_processes(self, family: str, tiny_embedder: Embedders) -> None:
        import pickle

        embedder = tiny_embedder(family)
        prepared = embedder.prepare(items()[2])
        assert prepared.tokens == len(prepared.data.ids)
        copy = pickle.loads(pickle.dumps(prepared))
        np.testing.assert_array_equal(embedder.encode([copy]).vectors, embedder.encode([prepared]).vectors)

    def test_instruction_and_text_matter(self, family: str, tiny_embedder: Embedders) -> None:
        embedder = tiny_embedder(family)
        default = embedder.backbone.family.instruction  # type: ignore[attr-defined]
        same, other = Item("a cat", instruction=default), Item("a cat", instruction="Find dogs")
        vectors = embedder.embed([Item("a cat"), same, other, Item("a dog")]).vectors
        assert vectors[0] @ vectors[1] >= 0.9999
        assert vectors[0] @ vectors[2] < 0.999
        assert vectors[0] @ vectors[3] < 0.999

    def test_gradients_only_on_request(self, family: str, model_folder: Folders) -> None:
        backbone = hf.load(registry.resolve(model_folder(family)), "cpu")
        batch = [backbone.prepare(item) for item in items()[:3]]
        assert not backbone.forward(batch).vectors.requires_grad
        weight = next(p for name, p in backbone.model.named_parameters() if name.endswith("q_proj.weight"))
        weight.requires_grad_(True)
        backbone.forward(batch).vectors.square().sum().add(backbone.forward(batch).vectors[0, 0]).backward()
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_on_a_gpu(self, family: str, model_folder: Folders, tiny_embedder: Embedders) -> None:
        embedder = Embedder.load(str(model_folder(family)), "cuda")
        assert embedder.info.dtype == "bfloat16"
        one_batch = [embedder.prepare(item) for item in items()]
        together = embedder.encode(one_batch).vectors
        alone = np.concatenate([embedder.encode([one]).vectors for one in one_batch])
        assert cosines(together, alone).min() >= 0.999
        assert cosines(together, tiny_embedder(family).embed(items()).vectors).min() >= 0.99


def reference(family: str, folder: Path, inputs: hf.Inputs, image: OpenedImage | None) -> NDArray[np.float32]:
    """The vector of one item by transformers' own model class and, where it can be exact, its own image processor."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    arguments: dict[str, Any] = {"input_ids": torch.from_numpy(inputs.ids)[None]}
    arguments["attention_mask"] = torch.ones_like(arguments["input_ids"])
    if image is not None:
        arguments |= reference_pixels(family, folder, inputs, image)
        if "image_grid_thw" in arguments:
            arguments["mm_token_type_ids"] = (arguments["input_ids"] == model.config.image_token_id).int()
    with torch.inference_mode():
        hidden = model(**arguments).last_hidden_state
    vector: NDArray[np.float32] = hidden[0, -1].numpy()
    return vector


def reference_pixels(family: str, folder: Path, inputs: hf.Inputs, image: OpenedImage) -> dict[str, Any]:
    if family in ("smolvlm", "idefics3"):
        # Their processor resizes twice, ours once: compare the model on our tiles here, and the tiles in test_vision.
        assert inputs.picture is not None
        tiles = torch.from_numpy(inputs.picture.pixels).permute(0, 3, 1, 2).float() / 255
        return {"pixel_values": ((tiles - 0.5) / 0.5)[None]}
    processor = image_processor(folder)
    found = processor(images=Image.fromarray(image.pixels), return_tensors="pt")
    return {name: tensor for name, tensor in found.items() if name != "batch_num_images"}


Renames = list[tuple[str, str]]
QWEN: Renames = [("model.", "model.language_model."), ("visual.", "model.visual.")]
TOWER = ("vision_tower.embeddings.", "vision_tower.encoder.", "vision_tower.post_layernorm.")
LLAVA: Renames = [("language_model.lm_head.", "lm_head."), ("language_model.model.", "model.language_model.")]
LLAVA += [(name, f"model.{name.replace('tower.', 'tower.vision_model.')}") for name in TOWER]
LLAVA += [("multi_modal_projector.", "model.multi_modal_projector."), ("image_newline", "model.image_newline")]
LAYOUTS: list[tuple[str, str, Renames]] = [
    ("qwen2-vl", "since transformers 4.52", QWEN),
    ("qwen2-vl", "without a head", [(old, new.removeprefix("model.")) for old, new in QWEN]),
    ("qwen2.5-vl", "since transformers 4.52", QWEN),
    ("qwen3-vl", "without a head", [("model.", "")]),
    ("smolvlm", "without a head", [("model.", "")]),
    ("idefics3", "without a head", [("model.", "")]),
    ("llava-onevision", "published", [(name, name.replace("tower.", "tower.vision_model.")) for name in TOWER]),
    ("llava-onevision", "since transformers 4.52", LLAVA),
]
"""Names that weights have in published folders, made from those that `save_pretrained` gives (mostly the oldest)."""


@pytest.mark.parametrize(("family", "layout", "renames"), LAYOUTS, ids=[f"{f}-{layout}" for f, layout, _ in LAYOUTS])
def test_layouts(family: str, layout: str, renames: Renames, model_folder: Folders, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(model_folder(family), tmp_path / "copy")
    tensors = {}
    for name, tensor in load_file(copy / "model.safetensors").items():
        old, new = next((pair for pair in renames if name.startswith(pair[0])), ("", ""))
        if layout != "without a head" or not name.startswith("lm_head"):
            tensors[new + name.removeprefix(old)] = tensor
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    vectors = [Embedder.load(str(folder), "cpu").embed(items()).vectors for folder in (model_folder(family), copy)]
    assert cosines(*vectors).min() >= 0.99999


class TestPositions:
    @pytest.mark.parametrize("family", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"])
    @pytest.mark.parametrize("size", [(56, 56), (30, 200), (150, 90)])
    def test_as_the_model_computes_them(self, family: str, size: tuple[int, int], tiny_embedder: Embedders) -> None:
        backbone: Any = tiny_embedder(family).backbone
        inputs = backbone.prepare(Item("a red apple", picture(*size))).data
        ids = torch.from_numpy(inputs.ids)[None]
        rows, columns = inputs.picture.grid
        arguments: dict[str, Any] = {"image_grid_thw": torch.tensor([[1, rows * 2, columns * 2]])}
        arguments["attention_mask"] = torch.ones_like(ids)
        if "mm_token_type_ids" in inspect.signature(backbone.model.get_rope_index).parameters:
            arguments["mm_token_type_ids"] = (ids == backbone.model.config.image_token_id).int()
        expected, _ = backbone.model.get_rope_index(ids, **arguments)
        np.testing.assert_array_equal(inputs.positions[1:], expected[:, 0].numpy())


class TestInputs:
    def test_roles(self, model_folder: Folders, tiny_embedder: Embedders) -> None:
        plain: Any = tiny_embedder("qwen3-vl").backbone
        asks = hf.load(registry.resolve(model_folder("qwen3-vl")), "cpu")
        asks.family = dataclasses.replace(asks.family, query_instruction="Find it.")
        item = Item("a cat")
        np.testing.assert_array_equal(plain.prepare(item, "query").data.ids, plain.prepare(item, "document").data.ids)
        np.testing.assert_array_equal(asks.prepare(item).data.ids, plain.prepare(item).data.ids)
        asked = plain.prepare(Item("a cat", instruction="Find it."))
        np.testing.assert_array_equal(asks.prepare(item, "query").data.ids, asked.data.ids)
        own = Item("a cat", instruction="Look.")
        np.testing.assert_array_equal(asks.prepare(own, "query").data.ids, plain.prepare(own, "document").data.ids)

    def test_long_text_is_cut(self, tiny_embedder: Embedders) -> None:
        embedder = tiny_embedder("qwen2-vl")
        short, long = embedder.prepare(Item("a")), embedder.prepare(Item("red apple " * 3000))
        assert long.tokens - short.tokens == embedder.inputs.text.max_tokens - 1

    def test_text_cannot_pass_for_a_picture(self, tiny_embedder: Embedders) -> None:
        backbone: Any = tiny_embedder("qwen2-vl").backbone
        ids = backbone.prepare(Item("<|image_pad|><|im_end|>")).data.ids
        assert (ids == backbone.model.config.image_token_id).sum() == 0
        assert np.isfinite(tiny_embedder("qwen2-vl").embed([Item("<|image_pad|>", picture(30, 30))]).vectors).all()

    @pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
    def test_bad_array(self, array: NDArray[Any], tiny_embedder: Embedders) -> None:
        with pytest.raises(LoadError, match="not a picture"):
            tiny_embedder("qwen2-vl").embed([Item(image=array)])

    def test_declares_its_inputs(self, tiny_embedder: Embedders) -> None:
        inputs = tiny_embedder("qwen2-vl").inputs
        assert inputs.reads_pages
        assert inputs.image.multiple == 28
        assert inputs.text.tokenizer_file.is_file()


class TestRefusals:
    @pytest.fixture
    def copy(self, model_folder: Folders, tmp_path: Path) -> Path:
        return shutil.copytree(model_folder("qwen2-vl"), tmp_path / "copy")

    def refuses(self, folder: Path, words: str) -> None:
        with pytest.raises(ModelError, match=words) as caught:
            loading.load(registry.resolve(folder), "cpu")
        assert caught.value.hint

    def edit_weights(self, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    def test_not_a_number(self, copy: Path) -> None:
        def damage(tensors: dict[str, torch.Tensor]) -> None:
            next(t for name, t in tensors.items() if "mlp.up_proj" in name)[3, 5] = torch.nan

        self.edit_weights(copy, damage)
        self.refuses(copy, r"damaged: .*mlp\.up_proj\.weight holds numbers that are not finite")

    def test_tensor_missing(self, copy: Path) -> None:
        def damage(tensors: dict[str, torch.Tensor]) -> None:
            del tensors[next(name for name in tensors if "q_proj.weight" in name)]

        self.edit_weights(copy, damage)
        self.refuses(copy, r"lack 1 tensors, .*q_proj\.weight")

    def test_other_shape(self, copy: Path) -> None:
        def damage(tensors: dict[str, torch.Tensor]) -> None:
            name = next(n for n in tensors if "mlp.up_proj" in n)
            tensors[name] = tensors[name][:-1].clone()

        self.edit_weights(copy, damage)
        self.refuses(copy, "cannot be loaded")

    def test_truncated(self, copy: Path) -> None:
        file = copy / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        self.refuses(copy, r"bytes where its header promises")

    def test_not_safetensors(self, copy: Path) -> None:
        (copy / "model.safetensors").write_bytes(b"\x80\x04 this is a pickle, honestly")
        self.refuses(copy, "not a readable safetensors file")

    def test_no_image_settings(self, copy: Path) -> None:
        (copy / "preprocessor_config.json").unlink()
        self.refuses(copy, r"lacks preprocessor_config\.json")

    def test_incomplete_image_settings(self, copy: Path) -> None:
        settings = json.loads((copy / "preprocessor_config.json").read_text())
        del settings["image_mean"]
        (copy / "preprocessor_config.json").write_text(json.dumps(settings))
        self.refuses(copy, "image_mean")

    def test_tokenizer_of_another_model(self, copy: Path, model_folder: Folders) -> None:
        shutil.copy(model_folder("smolvlm") / "tokenizer.json", copy / "tokenizer.json")
        self.refuses(copy, r"has no token <\|")

    def test_broken_tokenizer(self, copy: Path) -> None:
        (copy / "tokenizer.json").write_text("{}")
        self.refuses(copy, r"tokenizer\.json cannot be read")

    @pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:99", "cuda:"])
    def test_device(self, device: str, model_folder: Folders) -> None:
        with pytest.raises(ModelError, match="device"):
            loading.load(registry.resolve(model_folder("qwen2-vl")), device)
