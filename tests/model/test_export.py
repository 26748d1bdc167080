"""Exports: what other programs load is the uniform mixture of the experts, and tsembed loads what it can."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn
from typer.testing import CliRunner, Result

from tsembed_search.errors import ModelError
from tsembed_search.items import Item
from tsembed_search.model import checkpoint, export, loading, registry
from tsembed_search.model.backbone import Trainable
from tsembed_search.model.backbones import mini_spec, tiny
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.expert_settings import AdapterSettings

TEXTS = ["a red apple", "two dogs run along the beach"]
SETTINGS = AdapterSettings(4, rank=2, shared=True)


def trained(folder: Path, base: str | Path) -> Path:
    """A checkpoint whose experts and routers do something."""
    ref = registry.resolve(base)
    backbone: Any = loading.load(ref, "cpu")
    torch.manual_seed(0)
    adapters = backbone.adapt(SETTINGS)
    with torch.no_grad():
        for layer in adapters.layers.values():
            layer.up.weight.normal_(std=0.03)
    return checkpoint.save(folder, backbone, ref)


def uniform(folder: Path) -> Embedder:
    """The checkpoint with routers that know no preference."""
    backbone: Trainable = loading.load_checkpoint(registry.resolve(folder), "cpu")
    assert backbone.adapters is not None
    for weight in backbone.adapters.router_parameters():
        nn.init.zeros_(weight)
    return Embedder(backbone)


def picture() -> np.ndarray:
    return np.kron(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8), np.ones((14, 20, 1), np.uint8))


@pytest.mark.parametrize("family", list(tiny.MAKERS))
def test_a_merged_model_is_the_uniform_mixture(
    family: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    saved = trained(tmp_path / "checkpoint", model_folder(family))
    done = export.merged(registry.resolve(saved), tmp_path / "plain")
    assert done.loads_here and done.form == "merged"
    assert not (done.folder / checkpoint.MARKER).exists()
    assert {path.suffix for path in done.folder.iterdir()} <= {".safetensors", ".json", ".md", ".jinja", ".txt"}
    plain = Embedder.load(str(done.folder), device="cpu")
    assert plain.info.routes is None
    items = [*map(Item, TEXTS), Item(image=picture())]
    found = plain.embed(items).vectors
    assert np.abs(found - uniform(saved).embed(items).vectors).max() < 1e-5
    base = Embedder.load(str(model_folder(family)), device="cpu")
    assert plain.info.fingerprint not in (base.info.fingerprint, registry.resolve(saved).fingerprint)
    assert (found * base.embed(items).vectors).sum(axis=1).min() < 0.999
    assert "uniform mixture" in (done.folder / "README.md").read_text()


def test_merged_mini_is_a_text_encoder(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    saved = trained(tmp_path / "checkpoint", "mini-base")
    done = export.merged(registry.resolve(saved), tmp_path / "plain")
    assert not done.loads_here
    assert "cannot see pictures" in done.use
    vectors = SentenceTransformer(str(done.folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    assert np.abs(vectors - uniform(saved).embed(list(map(Item, TEXTS))).vectors).max() < 1e-5
    with (
        safe_open(done.folder / "model.safetensors", "pt") as new,
        safe_open(mini_spec.file_path("encoder"), "pt") as old,
    ):
        assert set(new.keys()) == set(old.keys())
    with pytest.raises(ModelError, match="not supported"):
        registry.resolve(done.folder)


def test_peft_loads_the_adapter(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    saved = trained(tmp_path / "checkpoint", "mini-base")
    done = export.peft(registry.resolve(saved), tmp_path / "adapter")
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    config = json.loads((done.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    base = AutoModel.from_pretrained(mini_spec.file_path("encoder").parent)
    model = PeftModel.from_pretrained(base, done.folder).eval()
    plain = export.merged(registry.resolve(saved), tmp_path / "plain")
    merged = AutoModel.from_pretrained(plain.folder).eval()
    ids = torch.tensor([[101, 1037, 2417, 6207, 102]])
    with torch.inference_mode():
        found = model(ids).last_hidden_state
        torch.testing.assert_close(found, merged(ids).last_hidden_state, atol=1e-4, rtol=1e-4)
        with model.disable_adapter():
            assert (found - model(ids).last_hidden_state).abs().max() > 0.01


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        from tsembed_search.cli.main import app

        monkeypatch.setenv("TSEMBED_HOME", str(tmp_path))
        loading.create_checkpoint(tmp_path / "models/own", settings=SETTINGS)
        return lambda *arguments: CliRunner().invoke(app, ["export", *map(str, arguments)])

    def test_says_what_it_did(self, run: Callable[..., Result], tmp_path: Path) -> None:
        done = run("own", "--out", tmp_path / "a", "--peft", "--json")
        assert json.loads(done.stdout) == {
            "folder": str(tmp_path / "a"), "form": "peft", "base": "mini-base", "mixture": "uniform",
            "loads_here": False,
        }  # fmt: skip
        done = run("own", "--out", tmp_path / "b")
        assert done.stdout.strip() == str(tmp_path / "b")
        assert "uniform mixture" in done.stderr
        assert "cannot see pictures" in done.stderr

    def test_refusals(self, run: Callable[..., Result], tmp_path: Path) -> None:
        assert run("own", "--out", tmp_path / "a", "--peft", "--merged").exit_code == 2
        done = run("mini-base", "--out", tmp_path / "a")
        assert done.exit_code == 1
        assert "mini-base is not a checkpoint" in done.stderr
        (tmp_path / "full").mkdir()
        (tmp_path / "full/letter.txt").write_text("dear")
        done = run("own", "--out", tmp_path / "full", "--peft")
        assert done.exit_code == 1
        assert "is not empty" in done.stderr
        assert (tmp_path / "full/letter.txt").read_text() == "dear"

    def test_leaves_nothing_behind_when_it_fails(
        self, run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise ModelError("No space is left.")

        monkeypatch.setattr("tsembed_search.model.checkpoint.fill", full)
        assert run("own", "--out", tmp_path / "out/x").exit_code == 1
        assert list((tmp_path / "out").iterdir()) == []
