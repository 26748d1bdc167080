"""Whose prompt a checkpoint was tuned with: refused by name, warned of, or known."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.model_folders import Folders, edit, put_in_cache
from helpers.model_folders import hub_cache as hub_cache
from tsembed_search.errors import ModelError, UnsupportedModelError
from tsembed_search.model import export, loading, registry
from tsembed_search.model.backbones import families, origin, tiny

REFUSED = [
    "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct",
    "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct@main",
    "someone/GME-Qwen2-VL-2B-Instruct-4bit",
    "NCSOFT/GME-VARCO-VISION-Embedding",
    "OpenSearch-AI/Ops-MM-embedding-v1-2B",
    "OpenSearch-AI/Ops-MM-embedding-v1-7B",
    "qihoo360/RzenEmbed",
    "qihoo360/RzenEmbed-v1-2B",
    "VLM2Vec/VLM2Vec-V2.0",
    "TIGER-Lab/VLM2Vec-Qwen2VL-2B",
    "code-kunkun/LamRA-Ret",
    "DeepGlint-AI/UniME-V2-Qwen2VL-2B",
    "DeepGlint-AI/UniME-LLaVA-OneVision-7B",
    "royokong/e5-v",
    "intfloat/mmE5-mllama-11b-instruct",
    "BAAI/BGE-VL-MLLM-S1",
    "jinaai/jina-embeddings-v4",
    "jinaai/jina-reranker-m0",
    "Qwen/Qwen3-VL-Reranker-2B",
    "nomic-ai/nomic-embed-multimodal-3b",
    "nomic-ai/colnomic-embed-multimodal-7b",
    "vidore/colqwen2-v1.0",
    "vidore/colSmol-256M",
    "nvidia/MM-Embed",
    "zhibinlan/LLaVE-2B",
    "zhibinlan/UME-R1-2B",
    "raghavlite/B3_Qwen2_2B",
    "moca-embed/MoCa-Qwen25VL-3B",
    "MrLight/dse-qwen2-2b-mrl-v1",
    "marco/mcdse-2b-v1",
    "llamaindex/vdr-2b-multi-v1",
]
TAKEN = [
    *(example for family in families.FAMILIES.all() for example in family.examples),
    *origin.VERIFIED,
    "Qwen/Qwen2.5-VL-72B-Instruct-AWQ",
    "Qwen/Qwen3-VL-30B-A3B-Instruct",
    "unsloth/Qwen2-VL-2B-Instruct-bnb-4bit",
    "someone/Qwen3-VL-Embedding-2B",
    "HuggingFaceM4/Idefics3-8B-Llama3",
]
DISGUISES: dict[str, Callable[[Path], object]] = {
    "architecture": lambda at: edit(at / "config.json", architectures=["GmeQwen2VL"]),
    "auto_map": lambda at: edit(at / "config.json", auto_map={"AutoModel": "modeling_gme_qwen2vl.GmeQwen2VL"}),
    "code of another repository": lambda at: edit(
        at / "config.json", auto_map={"AutoModel": "qihoo360/RzenEmbed--modeling.Model"}
    ),
    "where it was loaded from": lambda at: edit(
        at / "config.json", _name_or_path="OpenSearch-AI/Ops-MM-embedding-v1-2B"
    ),
    "a local path": lambda at: edit(at / "config.json", _name_or_path="/data/models/Ops-MM-embedding-v1-2B"),
    "architecture of colpali-engine": lambda at: edit(at / "config.json", architectures=["BiQwen2_5"]),
    "a model of many vectors": lambda at: edit(at / "config.json", architectures=["ColQwen2"]),
    "a reranker's head": lambda at: edit(at / "config.json", architectures=["Qwen2VLForSequenceClassification"]),
    "processor": lambda at: edit(at / "preprocessor_config.json", processor_class="ColQwen2Processor"),
    "tokenizer": lambda at: edit(at / "tokenizer_config.json", processor_class="JinaEmbeddingsV4Processor"),
    "adapter": lambda at: (at / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct"}'
    ),
    "name of a script": lambda at: (at / "rzen_embed_inference.py").write_text("import torch\n"),
    "class in a script": lambda at: (at / "model.py").write_text("class OpsMMEmbeddingV1(nn.Module):\n    pass\n"),
    "modules": lambda at: (at / "modules.json").write_text('[{"idx": 0, "type": "gme_inference.Transformer"}]'),
    "base in the model card": lambda at: (at / "README.md").write_text(
        "---\nlicense: mit\nbase_model:\n- Alibaba-NLP/gme-Qwen2-VL-2B-Instruct\ntags:\n- x\n---\n# Mine\n"
    ),
    "name in the model card": lambda at: (at / "README.md").write_text(
        "---\nmodel-index:\n- name: RzenEmbed-v2-7B\n  results: []\n---\n"
    ),
    "title of the model card": lambda at: (at / "README.md").write_text(
        "---\nlicense: mit\n---\n\n<p><b>GME: General Multimodal Embedding</b></p>\n\n## Usage\n"
    ),
}
TUNED: dict[str, Callable[[Path], object]] = {
    "sentence-transformers": lambda at: (at / "modules.json").write_text("[]"),
    "its prompts": lambda at: (at / "config_sentence_transformers.json").write_text('{"prompts": {"query": "Find: "}}'),
    "its pooling": lambda at: (at / "1_Pooling").mkdir(),
    "adapter": lambda at: (at / "adapter_config.json").write_text("{}"),
    "a trainer's state": lambda at: (at / "trainer_state.json").write_text("{}"),
    "a trainer's arguments": lambda at: (at / "training_args.bin").write_bytes(b"\x80"),
    "code of its own": lambda at: edit(at / "config.json", auto_map={"AutoModel": "modeling_mine.Mine"}),
    "class of its own": lambda at: edit(at / "config.json", architectures=["MyEmbedder"]),
    "made from another": lambda at: edit(at / "config.json", _name_or_path="company/shop-search-2b"),
    "base in the model card": lambda at: (at / "README.md").write_text(
        "---\nbase_model: Qwen/Qwen2-VL-2B-Instruct\n---\n# Shop search\n"
    ),
    "tag in the model card": lambda at: (at / "README.md").write_text(
        "---\r\ntags: [sentence-transformers, images]\r\n---\r\n# Shop search\r\n"
    ),
    "on another verified model": lambda at: (at / "README.md").write_text(
        "---\nbase_model: Qwen/Qwen3-VL-Embedding-2B\n---\n# Shop search, which beats GME and RzenEmbed\n"
    ),
}
PLAIN: dict[str, Callable[[Path], object]] = {
    "nothing but its files": lambda at: None,
    "the published model card": lambda at: (at / "README.md").write_text(
        "---\nbase_model:\n- Qwen/Qwen2-VL-2B\n---\n# Qwen2-VL-2B-Instruct\nBetter than GME, VLM2Vec and RzenEmbed.\n"
    ),
    "saved again": lambda at: edit(at / "config.json", _name_or_path="Qwen/Qwen2-VL-2B-Instruct"),
    "a path of whoever made it": lambda at: edit(at / "config.json", _name_or_path="/fsx/experiments/tr_12/opt-300"),
    "a model card that cannot be read": lambda at: (at / "README.md").mkdir(),
    "a card that is no text": lambda at: (at / "README.md").write_bytes(b"---\nbase_model: \xff\xfe"),
    "files of others that are broken": lambda at: (at / "tokenizer_config.json").write_text("[" * 10_000),
}


@pytest.fixture
def copy(model_folder: Folders, tmp_path: Path) -> Path:
    return shutil.copytree(model_folder("qwen2-vl"), tmp_path / "copy")


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def prompt(name: str, folder: Path) -> str | None:
    known = registry.known_model(name, folder)
    return known and known.prompt


@pytest.mark.parametrize("name", REFUSED)
def test_a_hub_name_is_refused_before_anything_is_fetched(name: str, hub_cache: Path, model_folder: Folders) -> None:
    with pytest.raises(UnsupportedModelError, match="is not supported: it is") as caught:
        registry.resolve(name)
    assert caught.value.exit_code == 2 and "Qwen3-VL-Embedding" in caught.value.hint


@pytest.mark.parametrize("name", ["Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", "qihoo360/RzenEmbed"])
def test_a_model_in_the_cache_is_refused_wherever_it_is_named_from(
    name: str, hub_cache: Path, model_folder: Folders, tmp_path: Path
) -> None:
    snapshot = put_in_cache(hub_cache, name, model_folder("qwen2-vl"))
    (tmp_path / "mine").symlink_to(snapshot)
    for way in (name, snapshot, tmp_path / "mine"):
        with pytest.raises(UnsupportedModelError):
            registry.resolve(way)
    (known,) = [model for model in registry.known_models() if model.name == name]
    assert known.prompt == "refused"


@pytest.mark.parametrize("folder", ["gme-Qwen2-VL-2B-Instruct", "Ops-MM-embedding-v1-7B", "RzenEmbed", "colqwen2-v1.0"])
def test_a_folder_is_refused_by_its_name(folder: str, copy: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="its name says") as caught:
        registry.resolve(copy.rename(copy.parent / folder))
    assert "rename its folder" in caught.value.hint


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_renamed_folder_is_refused_by_what_is_in_it(disguise: str, copy: Path) -> None:
    DISGUISES[disguise](copy)
    with pytest.raises(UnsupportedModelError, match="is not supported: it is") as caught:
        registry.resolve(copy)
    assert "rename" not in caught.value.hint
    assert prompt("copy", copy) == "refused"


@pytest.mark.parametrize("family", tiny.MAKERS)
def test_every_family_is_looked_at(family: str, model_folder: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder(family), tmp_path / "one")
    assert prompt("one", folder) == "untuned"
    (folder / "modules.json").write_text("[]")
    assert prompt("one", folder) == "unknown"
    edit(folder / "config.json", _name_or_path="DeepGlint-AI/UniME-LLaVA-OneVision-7B")
    assert prompt("one", folder) == "refused"


@pytest.mark.parametrize("sign", TUNED)
def test_a_tuned_checkpoint_is_warned_of(sign: str, copy: Path, warnings: Callable[[], list[str]]) -> None:
    TUNED[sign](copy)
    registry.resolve(copy)
    (message,) = warnings()
    assert "seems to be tuned" in message and "Measure it" in message
    assert prompt("copy", copy) == "unknown"
    registry.resolve(copy, known=True)
    assert len(warnings()) == 1, "whoever searches an index of it has been told"


@pytest.mark.parametrize("sign", PLAIN)
def test_an_untuned_model_is_as_it_was(sign: str, copy: Path, warnings: Callable[[], list[str]]) -> None:
    PLAIN[sign](copy)
    registry.resolve(copy)
    assert warnings() == [] and prompt("copy", copy) == "untuned"


def test_an_unknown_hub_name_is_warned_of(
    hub_cache: Path, model_folder: Folders, warnings: Callable[[], list[str]]
) -> None:
    put_in_cache(hub_cache, "someone/a-model", model_folder("qwen2-vl"))
    registry.resolve("someone/a-model")
    assert "someone/a-model seems to be tuned" in warnings()[0]


@pytest.mark.parametrize("name", TAKEN)
def test_published_models_are_not_warned_of(
    name: str, hub_cache: Path, model_folder: Folders, warnings: Callable[[], list[str]]
) -> None:
    put_in_cache(hub_cache, name, model_folder("qwen2-vl"))
    registry.resolve(name)
    assert warnings() == []
    (known,) = [model for model in registry.known_models() if model.name == name]
    assert known.prompt == ("own" if "Embedding" in name else "untuned")


@pytest.mark.parametrize(
    "make",
    [
        lambda at: (at / "README.md").write_text(
            "---\nbase_model: Qwen/Qwen3-VL-2B-Instruct\ntags:\n- sentence-transformers\n---\n# Qwen3-VL-Embedding-2B\n"
        ),
        lambda at: (at / "config_sentence_transformers.json").write_text(
            json.dumps({"prompts": {"query": "Represent the user's input."}})
        ),
        lambda at: at.rename(at.with_name("Qwen3-VL-Embedding-8B")),
    ],
    ids=["model card", "prompts", "folder"],
)
def test_a_verified_model_is_known_in_any_folder(
    make: Callable[[Path], Any], model_folder: Folders, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    folder = shutil.copytree(model_folder("qwen3-vl"), tmp_path / "models" / "mine")
    (folder / "modules.json").write_text("[]")
    make(folder)
    (folder,) = (tmp_path / "models").iterdir()
    registry.resolve(folder)
    assert warnings() == [] and prompt("mine", folder) == "own"


@pytest.mark.parametrize(
    "base",
    ["Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", "vidore/colqwen2-base", "/data/RzenEmbed", "nomic-ai/colnomic-embed-3b"],
)
def test_adapters_of_a_refused_model_are_refused(base: str, model_folder: Folders, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    with pytest.raises(UnsupportedModelError, match=r"its adapter_config\.json says"):
        registry.resolve(tmp_path / "theirs")
    ours = loading.create_checkpoint(tmp_path / "ours", model_folder("qwen2-vl"))
    said = json.loads((ours / "tsembed.json").read_text())
    edit(ours / "tsembed.json", base=said["base"] | {"name": "qihoo360/RzenEmbed"})
    with pytest.raises(UnsupportedModelError, match="needs its base model, qihoo360/RzenEmbed"):
        loading.load(registry.resolve(ours), "cpu")


def test_what_is_made_here_is_not_warned_of(
    model_folder: Folders, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    made = loading.create_checkpoint(tmp_path / "adapters", model_folder("qwen2-vl"))
    plain = export.merged(registry.resolve(made), tmp_path / "plain").folder
    for folder in (made, plain):
        registry.resolve(folder)
        assert prompt("x", folder) == "own"
    assert warnings() == []


def test_a_warning_is_safe_to_print(copy: Path, warnings: Callable[[], list[str]]) -> None:
    edit(copy / "config.json", architectures=["Mine\x1b[2J"])
    registry.resolve(copy)
    assert "\x1b" not in warnings()[0]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://huggingface.co/Alibaba-NLP/gme-Qwen2-VL-2B-Instruct", "refused"),
        ("git@hf.co:qihoo360/RzenEmbed.git", "refused"),
        ("https://me:token@huggingface.co/company/shop-search/", "unknown"),
        ("https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct", "untuned"),
        ("https://github.com/company/models", "untuned"),
    ],
)
def test_a_clone_is_known_by_where_it_came_from(url: str, expected: str, copy: Path) -> None:
    (copy / ".git").mkdir()
    (copy / ".git" / "config").write_text(f'[core]\n\tbare = false\n[remote "origin"]\n\turl = {url}\n\tfetch = x\n')
    assert prompt("copy", copy) == expected


def test_a_local_folder_is_no_hub_name(
    copy: Path, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    monkeypatch.chdir(copy.parent.parent)
    registry.resolve(f"{copy.parent.name}/copy")
    assert warnings() == []


def test_an_unsupported_type_is_wrong_usage(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError) as caught:
        registry.resolve(copy)
    assert caught.value.exit_code == 2
