"""Checkpoints: what is saved comes back, PEFT reads it too, and what cannot be right is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tsembed_search.errors import ModelError
from tsembed_search.items import Item
from tsembed_search.model import checkpoint, loading, registry
from tsembed_search.model.backbone import ModelRef
from tsembed_search.model.backbones import mini_spec
from tsembed_search.model.backbones.mini_encoder import MiniEncoder
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.ranking.scores import Calibration, Logistic

SETTINGS = AdapterSettings(4, "sequence", 0.3, rank=2, alpha=4.0, dropout=0.1)
CALIBRATION = Calibration({("text", "image"): Logistic(12.0, -3.0)}, "made up")


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((70, 50), Image.Resampling.NEAREST)


def items() -> list[Item]:
    texts = ["a red apple", "the committee met on Tuesday to discuss the drainage of the lower fields " * 3, "é"]
    return [Item(t) for t in texts] + [Item(image=picture(1)), Item(image=picture(2)), Item("in blue", picture(3))]


def trained(base: str | Path = "mini-base", settings: AdapterSettings = SETTINGS) -> Any:
    """A backbone as training might leave it: B has moved, and a mean was measured."""
    backbone: Any = loading.load(registry.resolve(base), "cpu")
    torch.manual_seed(0)
    adapters = backbone.adapt(settings)
    with torch.no_grad():
        for name, tensor in adapters.expert_state().items():
            if "lora_B" in name:
                tensor.normal_(std=0.03)
        adapters.mean.copy_(torch.rand(adapters.mean.shape))
    return backbone


@pytest.fixture(scope="module")
def backbone() -> Any:
    return trained()


@pytest.fixture(scope="module")
def saved(backbone: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read it; copy it before changing it."""
    return checkpoint.save(
        tmp_path_factory.mktemp("checkpoints") / "mine",
        backbone,
        registry.resolve("mini-base"),
        route_weight=0.25,
        calibration=CALIBRATION,
        data={"tasks": ["one"]},
        recipe={"steps": 3},
        metrics={"hit@1": 0.5},
    )


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "copy")


def test_a_calibration_can_be_given_later(copy: Path) -> None:
    before = registry.resolve(copy).fingerprint
    calibration = Calibration({("image", "text"): Logistic(3.0, 1.5)}, "measured later")
    checkpoint.calibrate(copy, calibration)
    assert checkpoint.read(copy).calibration == calibration and registry.resolve(copy).fingerprint == before
    assert Embedder.load(str(copy), "cpu").info.calibration == calibration
    assert not list(copy.glob(".*"))


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestRoundTrip:
    def test_same_vectors_and_routes(self, backbone: Any, saved: Path) -> None:
        again = loading.load(registry.resolve(saved), "cpu")
        before, after = Embedder(backbone).embed(items()), Embedder(again).embed(items())
        assert np.array_equal(before.vectors, after.vectors)
        assert np.array_equal(before.routes, after.routes)
        plain = Embedder.load("mini-base", "cpu").embed(items())
        assert (plain.vectors * after.vectors).sum(axis=1).max() < 0.999, "the adapters do nothing"
        assert plain.routes.shape == (6, 0)

    def test_what_the_model_says(self, saved: Path) -> None:
        info = Embedder.load(str(saved), "cpu").info
        assert info.name == str(saved)
        assert info.fingerprint == registry.resolve(saved).fingerprint
        assert info.routes == (6, 4)
        assert info.route_weight == 0.25
        assert info.calibration == CALIBRATION
        experts = 6 * 8 * (4 * (384 + 384) + 2 * (384 + 1536)) + 6 * 4 * 384
        assert info.parameters == mini_spec.PARAMETERS + experts
        assert info.notes["base"] == "mini-base"

    def test_files(self, saved: Path) -> None:
        names = {"adapter_config.json", "adapter_model.safetensors", "router.safetensors", "tsembed.json", "README.md"}
        assert {path.name for path in saved.iterdir()} == names
        said = json.loads((saved / "tsembed.json").read_text())
        assert said["base"] == {
            "name": "mini-base", "family": "mini", "fingerprint": mini_spec.FINGERPRINT, "revision": None,
        }  # fmt: skip
        assert said["method"]["router"]["experts"] == 4
        assert len(said["routing_mean"]) == 24
        assert (said["lambda"], said["data"], said["metrics"]) == (0.25, {"tasks": ["one"]}, {"hit@1": 0.5})
        card = (saved / "README.md").read_text()
        assert "not trained" not in card
        for fact in ("| base model | mini-base |", "per sequence, temperature 0.3", '"hit@1": 0.5'):
            assert fact in card

    def test_saving_again_replaces(self, backbone: Any, copy: Path) -> None:
        before = registry.resolve(copy).fingerprint
        checkpoint.save(copy, backbone, registry.resolve("mini-base"), route_weight=0.5)
        assert checkpoint.read(copy).route_weight == 0.5
        assert registry.resolve(copy).fingerprint == before, "lambda decides no vector"
        assert [path.name for path in copy.parent.iterdir()] == ["copy"]

    def test_a_failure_leaves_the_old_one(self, backbone: Any, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = {path.name: path.read_bytes() for path in copy.iterdir()}

        def full(*_: object, **__: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(OSError, match="no space"):
            checkpoint.save(copy, backbone, registry.resolve("mini-base"), route_weight=0.5)
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
        assert [path.name for path in copy.parent.iterdir()] == ["copy"]

    def test_untrained(self, tmp_path: Path) -> None:
        folder = loading.create_checkpoint(tmp_path / "fresh", settings=SETTINGS, seed=7)
        made, plain = Embedder.load(str(folder), "cpu").embed(items()), Embedder.load("mini-base", "cpu").embed(items())
        assert np.abs(made.vectors - plain.vectors).max() < 1e-6
        assert (made.routes @ made.routes.T).min() < 0.9
        assert "not trained" in (folder / "README.md").read_text()
        again = loading.create_checkpoint(tmp_path / "again", settings=SETTINGS, seed=7)
        assert registry.resolve(again).fingerprint == registry.resolve(folder).fingerprint
        other = loading.create_checkpoint(tmp_path / "other", settings=SETTINGS, seed=8)
        assert registry.resolve(other).fingerprint != registry.resolve(folder).fingerprint


class TestPeft:
    @pytest.mark.parametrize("changes", [{}, {"shared": True, "projections": ("query", "dense"), "blocks": (1, 4)}])
    def test_uniform_mixture(self, changes: dict[str, Any], tmp_path: Path) -> None:
        """PEFT, with the encoder that it is given, does what ours does when every gate is uniform."""
        from peft import PeftModel

        backbone = trained(settings=AdapterSettings(4, rank=2, alpha=4.0, **changes))
        folder = checkpoint.save(tmp_path / "saved", backbone, registry.resolve("mini-base"))
        for weight in backbone.adapters.router_parameters():
            torch.nn.init.zeros_(weight)
        plain = MiniEncoder.from_state(load_file(mini_spec.verified("encoder")))
        words = plain.words(torch.tensor([[101, 2417, 6207, 102], [101, 4937, 102, 0]]))
        real = torch.tensor([[True] * 4, [True] * 3 + [False]])
        base = plain(words, real)
        theirs = PeftModel.from_pretrained(plain, folder).eval()
        with torch.inference_mode(), backbone.adapters.tracing(real):
            ours = backbone.encoder(words, real)
            torch.testing.assert_close(theirs(words, real), ours, atol=1e-5, rtol=1e-5)
        assert (ours - base).abs().max() > 1e-3


class TestMini:
    @pytest.mark.parametrize("level", ["token", "sequence"])
    def test_alone_as_in_a_batch(self, level: Any) -> None:
        """Texts, pictures, and both: two groups in one forward pass, and each row gets its own route."""
        embedder = Embedder(trained(settings=AdapterSettings(4, level, rank=2)))
        together, backwards = embedder.embed(items()), embedder.embed(items()[::-1])
        alone = [embedder.embed([item]) for item in items()]
        assert together.routes.shape == (6, 24)
        assert np.allclose(np.linalg.norm(together.routes, axis=1), 1, atol=1e-5)
        for row, one in enumerate(alone):
            for other in (together, backwards):
                at = row if other is together else 5 - row
                assert one.vectors[0] @ other.vectors[at] > 0.9999
                assert one.routes[0] @ other.routes[at] > 0.9999
        assert (together.routes @ together.routes.T).min() < 0.99

    def test_dropout_and_noise_are_off(self) -> None:
        noisy = AdapterSettings(4, noise=2.0, rank=2, dropout=0.5)
        embedder = Embedder(trained(settings=noisy))
        first, second = embedder.embed(items()[:2]), embedder.embed(items()[:2])
        assert np.array_equal(first.vectors, second.vectors)
        assert np.array_equal(first.routes, second.routes)

    def test_nothing_is_imported_in_vain(self, saved: Path) -> None:
        """Without adapters nothing of them, and with them neither transformers nor peft."""
        code = (
            "import sys; from tsembed_search import Embedder, Item\n"
            "Embedder.load('mini-base', 'cpu').embed([Item('a cat')])\n"
            "print([m for m in sys.modules if m.endswith(('moe_lora', 'model.routing'))])\n"
            f"assert Embedder.load({str(saved)!r}, 'cpu').embed([Item('a cat')]).routes.shape == (1, 24)\n"
            "print([m for m in ('transformers', 'peft', 'huggingface_hub') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines() == ["[]", "[]"], done.stderr


class TestNames:
    def test_resolving_is_light(self, saved: Path) -> None:
        code = (
            f"import sys; from tsembed_search.model import registry; ref = registry.resolve({str(saved)!r})\n"
            "assert ref.family == 'mini'\n"
            "print([m for m in ('torch', 'transformers', 'peft', 'numpy') if m in sys.modules])"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"

    def test_found_by_name_at_home(self, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TSEMBED_HOME", str(tmp_path))
        shutil.copytree(saved, tmp_path / "models" / "mine")
        shutil.copytree(saved, tmp_path / "models" / "broken")
        (tmp_path / "models" / "broken" / "tsembed.json").write_text("{")
        (tmp_path / "models" / "nothing").mkdir()
        assert registry.resolve("mine").fingerprint == registry.resolve(saved).fingerprint
        known = {model.name: model for model in registry.known_models()}
        assert known["mine"] == registry.KnownModel("mine", "mini", "on this machine", "mini-base")
        assert known["broken"].where == "unreadable"
        assert "nothing" not in known

    def test_fingerprint_is_of_what_decides_vectors_and_routes(self, saved: Path, copy: Path) -> None:
        own = registry.resolve(saved).fingerprint
        assert registry.resolve(copy).fingerprint == own
        said = json.loads((copy / "tsembed.json").read_text())
        change_json(copy / "tsembed.json", metrics={}, method=said["method"] | {"dropout": 0.9})
        assert registry.resolve(copy).fingerprint == own
        for change in (
            {"method": said["method"] | {"alpha": 5.0}},
            {"routing_mean": said["routing_mean"][::-1]},
            {"base": said["base"] | {"fingerprint": "another"}},
        ):
            change_json(copy / "tsembed.json", **(said | change))
            assert registry.resolve(copy).fingerprint != own
        change_json(copy / "tsembed.json", **said)
        routers = load_file(copy / "router.safetensors")
        next(iter(routers.values()))[0, 0] += 1
        save_file(routers, copy / "router.safetensors", metadata={"format": "pt"})
        assert registry.resolve(copy).fingerprint != own


class TestRefusals:
    def load(self, folder: Path) -> None:
        loading.load(registry.resolve(folder), "cpu")

    def test_another_base(self, copy: Path) -> None:
        base = json.loads((copy / "tsembed.json").read_text())["base"]
        change_json(copy / "tsembed.json", base=base | {"fingerprint": "0123456789abcdef"})
        with pytest.raises(ModelError, match=r"made for another base model: mini-base was 0123456789abcdef"):
            self.load(copy)

    def test_a_base_that_is_gone(self, copy: Path) -> None:
        base = json.loads((copy / "tsembed.json").read_text())["base"]
        change_json(copy / "tsembed.json", base=base | {"name": "/no/such/model"})
        with pytest.raises(ModelError, match=r"needs its base model, /no/such/model.*write its new place"):
            self.load(copy)

    def test_adapters_on_adapters(self, copy: Path, saved: Path, backbone: Any) -> None:
        ref = registry.resolve(saved)
        change_json(copy / "tsembed.json", base={"name": str(saved), "family": "mini", "fingerprint": ref.fingerprint})
        with pytest.raises(ModelError, match="has adapters already"):
            self.load(copy)

    @pytest.mark.parametrize("number", [float("nan"), float("inf")])
    def test_numbers_that_are_not_finite(self, copy: Path, number: float) -> None:
        experts = load_file(copy / "adapter_model.safetensors")
        next(iter(experts.values()))[0, 0] = number
        save_file(experts, copy / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match="not finite"):
            self.load(copy)

    def test_numbers_that_are_not_finite_are_not_saved(self, tmp_path: Path) -> None:
        backbone = trained()
        with torch.no_grad():
            next(backbone.adapters.router_parameters())[0, 0] = torch.nan
        with pytest.raises(ModelError, match="not saved"):
            checkpoint.save(tmp_path / "new", backbone, registry.resolve("mini-base"))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"router": {"experts": 4, "top_k": 5}}, "cannot choose 5 of 4 experts"),
            ({"router": {"experts": "four"}}, "not those of adapters"),
            ({"router": {"experts": 4, "colour": "red"}}, "not those of adapters"),
            ({"rank": 0}, "rank 0"),
            ({"blocks": [0, 1]}, "does not fit"),
            ({"rank": 3}, "does not fit"),
        ],
    )
    def test_settings(self, copy: Path, change: dict[str, Any], words: str) -> None:
        method = json.loads((copy / "tsembed.json").read_text())["method"]
        change_json(copy / "tsembed.json", method=method | change)
        with pytest.raises(ModelError, match=words):
            self.load(copy)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"format": 2}, "Update tsembed-search"),
            ({"routing_mean": [float("nan")] * 24}, "not finite"),
            ({"lambda": 1.5}, "lambda of 1.5"),
            ({"base": None}, "not what it should be"),
            ({"routing_mean": [0.5] * 7}, "does not fit"),
        ],
    )
    def test_tsembed_json(self, copy: Path, change: dict[str, Any], words: str) -> None:
        change_json(copy / "tsembed.json", **change)
        with pytest.raises(ModelError, match=words):
            self.load(copy)

    def test_pickles(self, copy: Path) -> None:
        experts = load_file(copy / "adapter_model.safetensors")
        (copy / "adapter_model.safetensors").unlink()
        torch.save(experts, copy / "adapter_model.bin")
        with pytest.raises(ModelError, match=r"pickled \(adapter_model.bin\)"):
            registry.resolve(copy)
        (copy / "adapter_model.bin").rename(copy / "adapter_model.safetensors")
        with pytest.raises(ModelError, match="not a readable safetensors file"):
            registry.resolve(copy)

    def test_missing_and_cut_files(self, copy: Path) -> None:
        whole = (copy / "router.safetensors").read_bytes()
        (copy / "router.safetensors").write_bytes(whole[:-4])
        with pytest.raises(ModelError, match="header promises"):
            registry.resolve(copy)
        (copy / "router.safetensors").unlink()
        with pytest.raises(ModelError, match=r"without router\.safetensors"):
            registry.resolve(copy)

    def test_a_folder_of_something_else(self, backbone: Any, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(ModelError, match="is not a checkpoint"):
            checkpoint.save(tmp_path, backbone, registry.resolve("mini-base"))
        assert (tmp_path / "thesis.txt").exists()

    def test_no_adapters(self, tmp_path: Path) -> None:
        plain: Any = loading.load(registry.resolve("mini-base"), "cpu")
        with pytest.raises(ModelError, match="no adapters to save"):
            checkpoint.save(tmp_path / "new", plain, registry.resolve("mini-base"))


class TestTransformers:
    """One family here; that adapters work on all of them is `test_moe_lora.py`'s business."""

    def test_round_trip(self, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
        base = model_folder("qwen2-vl")
        backbone = trained(base)
        folder = checkpoint.save(tmp_path / "saved", backbone, registry.resolve(base))
        ref = registry.resolve(folder)
        assert ref.family == "qwen2-vl"
        before, after = Embedder(backbone).embed(items()), Embedder(loading.load(ref, "cpu")).embed(items())
        assert np.array_equal(before.vectors, after.vectors)
        assert np.array_equal(before.routes, after.routes)
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)

    def test_a_hub_base_is_named_by_its_commit(self) -> None:
        folder = Path("/cache/models--someone--a-model/snapshots/0123abc")
        found = checkpoint.Base.of(ModelRef("someone/a-model", "qwen2-vl", "f", folder))
        assert found == checkpoint.Base("someone/a-model", "qwen2-vl", "f", "0123abc")
