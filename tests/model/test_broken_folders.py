"""One broken thing in a model's folder is said in words: nothing that a person can cause is a fault in tsembed."""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.model_folders import Folders, edit, put_in_cache
from helpers.model_folders import hub_cache as hub_cache
from tsembed_search.errors import ModelError, TsembedError
from tsembed_search.items import Item
from tsembed_search.model import loading, registry
from tsembed_search.model.backbones import hf
from tsembed_search.model.embedder import Embedder

DEEP = "[" * 20_000
ODD: list[Any] = [None, -1, 0, 1, 10**9, 1.5, "x", "", [], {}, [1], True, "../../x", [[]], {"a": 1}]


@pytest.fixture
def copy(model_folder: Folders, tmp_path: Path) -> Path:
    return shutil.copytree(model_folder("qwen2-vl"), tmp_path / "copy")


@pytest.fixture
def adapters(model_folder: Folders, tmp_path: Path) -> Path:
    return loading.create_checkpoint(tmp_path / "adapters", model_folder("qwen2-vl"))


def use(folder: Path, picture: Path) -> None:
    embedder = Embedder.load(str(folder), device="cpu")
    embedder.embed([Item(text="a red apple"), Item(image=picture, text="two dogs")])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 40)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def rewrite(file: Path, change: Callable[[Any], object]) -> None:
    said = json.loads(file.read_text())
    change(said)
    file.write_text(json.dumps(said))


def cut(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def header(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the header of a safetensors file."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    said = json.loads(data[8 : 8 + length])
    change(said)
    new = json.dumps(said).encode()
    file.write_bytes(len(new).to_bytes(8, "little") + new + data[8 + length :])


def first(said: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = next(entry for name, entry in said.items() if name != "__metadata__")
    return entry


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


W, C, T, P = "model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"
BROKEN: dict[str, Callable[[Path], object]] = {
    "weights cut": lambda at: cut(at / W, 0.5),
    "weights cut in their header": lambda at: cut(at / W, 0.001),
    "weights empty": lambda at: (at / W).write_bytes(b""),
    "weights that are a pickle": lambda at: (at / W).write_bytes(b"\x80\x04\x95" + b"x" * 500),
    "weights that are an archive": lambda at: (at / W).write_bytes(b"PK\x03\x04" + b"x" * 500),
    "a folder for weights": lambda at: replace_by_folder(at / W),
    "a tensor without a type": lambda at: header(at / W, lambda said: first(said).pop("dtype")),
    "a tensor of an unknown type": lambda at: header(at / W, lambda said: first(said).update(dtype="F7")),
    "a tensor of another shape": lambda at: header(at / W, lambda said: first(said).update(shape=[1, 2, 3])),
    "a tensor that is nowhere": lambda at: header(at / W, lambda said: first(said).update(data_offsets=[5])),
    "a tensor that ends before it begins": lambda at: header(
        at / W, lambda said: first(said).update(data_offsets=[9, 1])
    ),
    "tensors of another model": lambda at: header(at / W, lambda said: said.update(x=said.pop(next(iter(said))))),
    "a list of shards that is none": lambda at: (at / f"{W}.index.json").write_text('{"weight_map": 3}'),
    "shards without names": lambda at: (at / f"{W}.index.json").write_text('{"weight_map": {"a": ""}}'),
    "shards in a list": lambda at: (at / f"{W}.index.json").write_text('{"weight_map": ["a"]}'),
    "config without end": lambda at: (at / C).write_text(DEEP),
    "config in another encoding": lambda at: (at / C).write_bytes('{"model_type": "qwen2_vl"}'.encode("utf-16")),
    "config of other sizes": lambda at: rewrite(at / C, lambda said: said["text_config"].update(hidden_size=64)),
    "config without sense": lambda at: rewrite(at / C, lambda said: said["text_config"].update(num_attention_heads=0)),
    "config of other kinds": lambda at: rewrite(at / C, lambda said: said["vision_config"].update(patch_size=1.5)),
    "config with text for a part": lambda at: edit(at / C, vision_config="x"),
    "no tokenizer": lambda at: (at / T).unlink(),
    "tokenizer without end": lambda at: (at / T).write_text(DEEP),
    "tokenizer that is none": lambda at: (at / T).write_text("{}"),
    "tokenizer of a larger model": lambda at: rewrite(
        at / T, lambda said: said["added_tokens"].append(said["added_tokens"][-1] | {"content": "<|new|>", "id": 9999})
    ),
    "its settings without end": lambda at: (at / "tokenizer_config.json").write_text(DEEP),
    "no picture settings": lambda at: (at / P).unlink(),
    "two means for three colours": lambda at: edit(at / P, image_mean=[0.5, 0.5]),
    "words for a mean": lambda at: edit(at / P, image_mean="half"),
    "a filter that is none": lambda at: edit(at / P, resample=77),
    "deviations that are not there": lambda at: edit(at / P, image_std=None),
}
BROKEN_ADAPTERS: dict[str, Callable[[Path], object]] = {
    "tsembed.json without end": lambda at: (at / "tsembed.json").write_text(DEEP),
    "a base that is a list": lambda at: edit(at / "tsembed.json", base=[1]),
    "a base without a name": lambda at: rewrite(at / "tsembed.json", lambda said: said["base"].update(name=None)),
    "a base that is away": lambda at: rewrite(at / "tsembed.json", lambda said: said["base"].update(name="/nowhere/x")),
    "a base that cannot be named": lambda at: rewrite(
        at / "tsembed.json", lambda said: said["base"].update(name="x" * 300)
    ),
    "a router that is a word": lambda at: rewrite(at / "tsembed.json", lambda said: said["method"].update(router="x")),
    "a rank that is a word": lambda at: rewrite(at / "tsembed.json", lambda said: said["method"].update(rank="x")),
    "projections in lists": lambda at: rewrite(
        at / "tsembed.json", lambda said: said["method"].update(projections=[[1]])
    ),
    "a calibration that is a word": lambda at: edit(at / "tsembed.json", calibration="x"),
    "a mean beyond all numbers": lambda at: edit(at / "tsembed.json", routing_mean=[10**400]),
    "experts cut": lambda at: cut(at / "adapter_model.safetensors", 0.7),
    "experts of an unknown type": lambda at: header(
        at / "adapter_model.safetensors", lambda said: first(said).update(dtype="F7")
    ),
    "no routers": lambda at: (at / "router.safetensors").unlink(),
    "routers of another shape": lambda at: header(
        at / "router.safetensors", lambda said: first(said).update(shape=first(said)["shape"][::-1])
    ),
}


def in_words(error: TsembedError) -> None:
    assert error.message and error.hint
    assert "\n" not in error.message and len(error.message) < 1500


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_model(what: str, copy: Path, picture: Path) -> None:
    BROKEN[what](copy)
    with pytest.raises(ModelError) as caught:
        use(copy, picture)
    in_words(caught.value)


@pytest.mark.parametrize("what", BROKEN_ADAPTERS)
def test_a_broken_checkpoint(what: str, adapters: Path, picture: Path) -> None:
    BROKEN_ADAPTERS[what](adapters)
    with pytest.raises(ModelError) as caught:
        use(adapters, picture)
    in_words(caught.value)


@pytest.mark.parametrize("family", ["qwen2-vl", "llava-onevision", "smolvlm", "adapters"])
def test_any_value_of_any_file(
    family: str, model_folder: Folders, adapters: Path, picture: Path, tmp_path: Path
) -> None:
    """Values taken out, or put in another's place, at random: it works, or it is said what is wrong."""
    source = adapters if family == "adapters" else model_folder(family)
    draw = random.Random(family)
    for number in range(8):
        folder = shutil.copytree(source, tmp_path / f"{number}")
        file = draw.choice(sorted(file for file in folder.glob("*.json") if file.name != T))
        rewrite(file, lambda said: _change(said, draw))
        try:
            use(folder, picture)
        except TsembedError as error:
            in_words(error)


def _change(said: Any, draw: random.Random) -> None:
    inside = draw.choice(sorted(said)) if isinstance(said, dict) and said else None
    if isinstance(inside, str) and isinstance(said[inside], dict) and said[inside] and draw.random() < 0.8:
        _change(said[inside], draw)
    elif inside is not None and draw.random() < 0.3:
        del said[inside]
    elif inside is not None:
        said[inside] = draw.choice(ODD)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x" * 5000, "cannot be read"),
        ("~nobody-of-this-name/model", "no folder"),
        ("a..b/c", "is no name that a model on the hub can have"),
        ("a--b/c", "is no name that a model on the hub can have"),
        ("models/x.git", "is no name that a model on the hub can have"),
        ("a\x00b", "no model called"),
    ],
)
def test_a_name_that_can_be_none(name: str, words: str, hub_cache: Path) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        registry.resolve(name)
    assert caught.value.hint


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_disk_that_fails(number: int, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = registry.resolve(copy)

    def fail(*_: Any) -> Any:
        raise OSError(number, "the disk says no")

    monkeypatch.setattr("tsembed_search.model.files.weight_files", fail)
    for ask in (lambda: registry.resolve(copy), lambda: loading.load(ref, "cpu")):
        with pytest.raises(ModelError, match="cannot be read"):
            ask()


@pytest.mark.parametrize("error", [MemoryError(), "out of memory"])
def test_a_model_that_is_too_large(error: Any, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import transformers

    def fail(*_: Any, **__: Any) -> Any:
        raise error if isinstance(error, Exception) else torch.OutOfMemoryError(error)

    monkeypatch.setattr(transformers.Qwen2VLForConditionalGeneration, "from_pretrained", fail)
    with pytest.raises(ModelError, match="does not fit in the memory") as caught:
        hf.load(registry.resolve(copy), "cpu")
    assert "smaller" in caught.value.hint


@pytest.mark.parametrize(
    "spoil",
    [
        lambda at: (at / "config.json").write_text("{"),
        lambda at: (at / "config.json").write_text(DEEP),
        lambda at: (at / "config.json").write_text("[]"),
        lambda at: (at / "config.json").write_bytes(b"\xff\xfe"),
        lambda at: (at / "tsembed.json").write_text("{}"),
    ],
)
def test_a_broken_model_costs_the_list_one_entry(
    spoil: Callable[[Path], object], hub_cache: Path, model_folder: Folders
) -> None:
    spoil(put_in_cache(hub_cache, "someone/broken", model_folder("qwen2-vl")))
    known = {model.name: model for model in registry.known_models()}
    assert (known["someone/broken"].where, known["someone/broken"].prompt) == ("unreadable", "unreadable")
    assert known["mini"].where == "built in"


def test_a_cache_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    (tmp_path / "hub").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "mini" in {model.name for model in registry.known_models()}
    with pytest.raises(ModelError) as caught:
        registry.resolve("someone/a-model")
    in_words(caught.value)
