"""From names to folders and fingerprints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.errors import LocalEntryNotFoundError

from helpers.model_folders import Folders, edit, put_in_cache
from helpers.model_folders import hub_cache as hub_cache
from tsembed_search.errors import ModelError
from tsembed_search.model import checkpoint, registry
from tsembed_search.model.backbones import families, tiny


@pytest.fixture
def copy(model_folder: Folders, tmp_path: Path) -> Path:
    return shutil.copytree(model_folder("qwen2-vl"), tmp_path / "copy")


class TestNames:
    def test_mini(self) -> None:
        ref = registry.resolve("mini-base")
        assert (ref.name, ref.family, ref.folder) == ("mini-base", "mini", None)
        assert ref.fingerprint

    def test_the_trained_mini(self) -> None:
        ref = registry.resolve("mini")
        assert ref.family == "mini" and ref.folder is not None
        assert ref.fingerprint != registry.resolve("mini-base").fingerprint
        assert checkpoint.read(ref.folder).base.name == "mini-base"

    @pytest.mark.parametrize("family", list(tiny.MAKERS))
    def test_folder(self, family: str, model_folder: Folders) -> None:
        ref = registry.resolve(model_folder(family))
        assert ref.family == family
        assert ref.folder == model_folder(family)
        assert len(ref.fingerprint) == 16

    def test_hub_name_in_the_cache(self, hub_cache: Path, model_folder: Folders) -> None:
        put_in_cache(hub_cache, "someone/a-model", model_folder("qwen2-vl"))
        ref = registry.resolve("someone/a-model")
        assert ref.family == "qwen2-vl"
        assert ref.fingerprint == registry.resolve(model_folder("qwen2-vl")).fingerprint
        assert registry.KnownModel("someone/a-model", "qwen2-vl", "on this machine") in registry.known_models()

    def test_revision(self, hub_cache: Path, model_folder: Folders) -> None:
        put_in_cache(hub_cache, "someone/a-model", model_folder("qwen2-vl"), revision="v2")
        assert registry.resolve("someone/a-model@v2").family == "qwen2-vl"
        with pytest.raises(ModelError, match="not on this machine"):
            registry.resolve("someone/a-model")

    def test_known_models(self, hub_cache: Path) -> None:
        known = {model.name: model.where for model in registry.known_models()}
        assert known["mini"] == "built in"
        assert known["Qwen/Qwen3-VL-Embedding-2B"] == "on the hub"

    def test_resolving_is_light(self, model_folder: Folders) -> None:
        code = (
            "import sys; from tsembed_search.model import registry; registry.resolve('mini');"
            f"registry.resolve({str(model_folder('qwen2-vl'))!r});"
            "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'numpy') if m in sys.modules])"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert out.stdout.strip() == "[]"


class TestUnknown:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("minni", "Did you mean mini"),
            ("qwen2-vl-2b-instruct", "Did you mean Qwen/Qwen2-VL-2B-Instruct"),
            ("Qwen/Qwen2-VL-2B-Instrct", "Did you mean Qwen/Qwen2-VL-2B-Instruct"),
            ("zzzzzz", "Give a folder, `mini`, or a hub name"),
            ("./nowhere", "no such folder"),
            ("Qwen/Qwen3-VL-Embedding-2B", "hf download Qwen/Qwen3-VL-Embedding-2B"),
            ("", "no such folder"),
        ],
    )
    def test_names(self, name: str, words: str, hub_cache: Path) -> None:
        with pytest.raises(ModelError) as caught:
            registry.resolve(name)
        assert words in str(caught.value)

    def test_file(self, copy: Path) -> None:
        with pytest.raises(ModelError, match=r"is a file.*Give the folder"):
            registry.resolve(copy / "config.json")

    def test_incomplete_download(self, hub_cache: Path, model_folder: Folders) -> None:
        snapshot = put_in_cache(hub_cache, "someone/a-model", model_folder("qwen2-vl"))
        (snapshot / "model.safetensors").unlink()
        with pytest.raises(ModelError, match=r"holds no weights.*connect to a network and try again"):
            registry.resolve("someone/a-model")


class TestDownload:
    """With a stand-in for the hub's own client: tests have no network."""

    @pytest.fixture
    def client(self, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[list[str]]]:
        def install(answer: Any) -> list[list[str]]:
            asked: list[list[str]] = []

            def snapshot_download(
                name: str, *, allow_patterns: list[str], local_files_only: bool = False, **_: Any
            ) -> str:
                if local_files_only:
                    raise LocalEntryNotFoundError("not here")
                asked.append(allow_patterns)
                if isinstance(answer, Exception):
                    raise answer
                return str(answer)

            monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
            return asked

        return install

    def test_whole_model(self, client: Callable[[Any], list[list[str]]], model_folder: Folders) -> None:
        asked = client(model_folder("qwen2-vl"))
        assert registry.resolve("someone/a-model").family == "qwen2-vl"
        assert [("*.safetensors" in patterns) for patterns in asked] == [False, True]
        assert not any("bin" in pattern or "py" in pattern for patterns in asked for pattern in patterns)

    def test_weights_of_an_unusable_model_are_not_fetched(
        self, client: Callable[[Any], list[list[str]]], tmp_path: Path
    ) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        asked = client(tmp_path)
        with pytest.raises(ModelError, match="not supported"):
            registry.resolve("someone/a-model")
        assert asked == [["*.json"]]

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (errors.GatedRepoError, "accepted its terms.*hf auth login"),
            (errors.RepositoryNotFoundError, "no model someone/a-model on the hub"),
            (errors.RevisionNotFoundError, "no model someone/a-model on the hub"),
        ],
    )
    def test_refusals(self, error: type, words: str, client: Callable[[Any], list[list[str]]]) -> None:
        client(error("no", response=httpx.Response(404, request=httpx.Request("GET", "https://hub.test"))))
        with pytest.raises(ModelError, match=words):
            registry.resolve("someone/a-model")

    @pytest.mark.parametrize("error", [httpx.ConnectError("no route"), ConnectionError(), httpx.ReadTimeout("slow")])
    def test_no_network(self, error: Exception, client: Callable[[Any], list[list[str]]]) -> None:
        client(error)
        with pytest.raises(ModelError, match="hub cannot be reached") as caught:
            registry.resolve("someone/a-model")
        assert "`mini`" in caught.value.hint

    def test_full_disk(self, client: Callable[[Any], list[list[str]]]) -> None:
        client(OSError(28, "No space left on device"))
        with pytest.raises(ModelError, match=r"download of someone/a-model failed: .*No space left"):
            registry.resolve("someone/a-model")


class TestFolders:
    def refuses(self, folder: Path, words: str) -> None:
        with pytest.raises(ModelError, match=words) as caught:
            registry.resolve(folder)
        assert caught.value.hint

    def test_empty(self, tmp_path: Path) -> None:
        self.refuses(tmp_path, "holds no model")

    def test_other_architecture(self, copy: Path) -> None:
        (copy / "config.json").write_text('{"model_type": "bert"}')
        self.refuses(copy, r"of type 'bert', which is not supported.*qwen3_vl")

    def test_broken_config(self, copy: Path) -> None:
        (copy / "config.json").write_text("{")
        self.refuses(copy, "cannot be read as JSON")
        (copy / "config.json").write_text("[]")
        self.refuses(copy, "does not hold a JSON object")

    def test_no_tokenizer(self, copy: Path) -> None:
        (copy / "tokenizer.json").unlink()
        self.refuses(copy, r"lacks tokenizer\.json")

    def test_no_weights(self, copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        self.refuses(copy, "holds no weights")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.pth"])
    def test_pickled_weights(self, name: str, copy: Path) -> None:
        (copy / "model.safetensors").rename(copy / name)
        self.refuses(copy, "pickled .*run any code.*safetensors")

    def test_missing_shard(self, copy: Path) -> None:
        names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (copy / "model.safetensors").rename(copy / names["a"])
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        self.refuses(copy, r"lacks 1 of its 2 weight files, model-00002-of-00002\.safetensors")

    def test_shard_outside_the_folder(self, copy: Path) -> None:
        (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
        self.refuses(copy, "lacks 1 of its 1 weight files, passwd")

    def test_plain_adapter(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text("{}")
        self.refuses(tmp_path, "adapter")


class TestFingerprint:
    def test_place_and_shards_do_not_matter(self, model_folder: Folders, copy: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(copy / "model.safetensors")
        names = sorted(tensors)
        shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
        for file, part in shards.items():
            save_file({name: tensors[name] for name in part}, copy / file)
        (copy / "model.safetensors").unlink()
        index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        assert registry.resolve(copy).fingerprint == registry.resolve(model_folder("qwen2-vl")).fingerprint

    @pytest.mark.parametrize("file", ["tokenizer.json", "preprocessor_config.json"])
    def test_processor_matters(self, file: str, model_folder: Folders, copy: Path) -> None:
        (copy / file).write_text((copy / file).read_text() + " ")
        assert registry.resolve(copy).fingerprint != registry.resolve(model_folder("qwen2-vl")).fingerprint

    def test_one_tensor_matters(self, model_folder: Folders, copy: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(copy / "model.safetensors")
        name = next(name for name in tensors if name.endswith("up_proj.weight"))
        save_file(tensors | {name: tensors[name] * 1.001}, copy / "model.safetensors")
        assert registry.resolve(copy).fingerprint != registry.resolve(model_folder("qwen2-vl")).fingerprint

    def test_config_matters_but_not_who_wrote_it(self, model_folder: Folders, copy: Path) -> None:
        before = registry.resolve(copy).fingerprint
        edit(copy / "config.json", transformers_version="4.45.0", torch_dtype="float16")
        assert registry.resolve(copy).fingerprint == before
        edit(copy / "config.json", some_scale=2)
        assert registry.resolve(copy).fingerprint != before

    def test_recipe_matters(self, model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
        before = registry.resolve(model_folder("qwen2-vl")).fingerprint
        monkeypatch.setattr(families, "PIPELINE_VERSION", 99)
        assert registry.resolve(model_folder("qwen2-vl")).fingerprint != before
