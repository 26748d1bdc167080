"""Parallel paths on mini and on tiny models of real architectures: what they leave alone, and what they change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tsembed_search.errors import ModelError
from tsembed_search.items import Item
from tsembed_search.model import checkpoint, export, loading, registry
from tsembed_search.model.backbone import Trainable
from tsembed_search.model.backbones import hf, mini, tiny
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.path_settings import PathSettings

pytestmark = pytest.mark.usefixtures("small_base")

EXPERTS = AdapterSettings(experts=4, rank=2, temperature=0.3)
KINDS = [PathSettings("suffix", 3, 2), PathSettings("prefix", 3, 2), PathSettings("expert", 3)]
BASES = ["mini", "qwen2-vl", "smolvlm"]
Load = Callable[..., Trainable]


def items() -> list[Item]:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((70, 50), Image.Resampling.NEAREST)
    words = "two dogs run along the beach " * 4
    return [Item("a red apple"), Item(image=image), Item(words, image), Item("a")]


@pytest.fixture
def load(model_folder: Callable[[str], Path]) -> Load:
    """A model with adapters that do something, with or without paths; always with the same weights."""

    def make(base: str, paths: PathSettings | None = None, experts: AdapterSettings = EXPERTS) -> Trainable:
        backbone: Any = (
            mini.load("cpu") if base == "mini" else hf.load(registry.resolve(model_folder(base)), "cpu", torch.float32)
        )
        torch.manual_seed(0)
        adapters = backbone.adapt(experts)
        with torch.no_grad():
            for layer in adapters.layers.values():
                layer.up.weight.normal_(std=0.05)
        if paths is not None:
            backbone.add_paths(paths)
            with torch.no_grad():
                for part in adapters.path_parameters():
                    part.add_(torch.randn_like(part) * 0.3)
        found: Trainable = backbone
        return found

    return make


def paths_of(backbone: Trainable, wanted: list[Item] | None = None) -> Tensor:
    with torch.inference_mode():
        found = backbone.trace([backbone.prepare(item) for item in wanted or items()]).paths
    assert found is not None
    return found


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("paths", KINDS, ids=lambda paths: paths.kind)
class TestEveryKind:
    def test_alone_as_in_a_batch(self, base: str, paths: PathSettings, load: Load) -> None:
        backbone = load(base, paths)
        together = paths_of(backbone)
        assert together.shape == (4, 3, backbone.info.dim)
        torch.testing.assert_close(together.norm(dim=-1), torch.ones(4, 3))
        alone = torch.cat([paths_of(backbone, [item]) for item in items()])
        assert functional.cosine_similarity(together, alone, dim=-1).min() >= 0.9999
        apart = functional.cosine_similarity(together[:, 0], together[:, 1], dim=-1)
        assert apart.max() < 0.9999, "two paths are the same"

    def test_inference_computes_the_paths_that_are_used(self, base: str, paths: PathSettings, load: Load) -> None:
        """And they are what they are among all of them."""
        backbone = load(base, paths)
        batch = [backbone.prepare(item) for item in items()]
        with torch.inference_mode():
            used, every = backbone.trace(batch, losses=False), backbone.trace(batch)
        assert used.paths is not None and every.paths is not None
        assert used.paths.shape[1] == 1 and every.paths.shape[1] == 3
        assert functional.cosine_similarity(used.vectors, every.paths[:, 0], dim=-1).min() >= 0.99999
        torch.testing.assert_close(used.routes, every.routes, atol=1e-5, rtol=1e-4)

    def test_equal_gradients_under_checkpointing(self, base: str, paths: PathSettings, load: Load) -> None:
        backbone = load(base, paths)
        batch = [backbone.prepare(item) for item in items()]
        assert backbone.adapters is not None
        parameters = [*backbone.adapters.expert_parameters(), *backbone.adapters.path_parameters()]
        results = []
        for checkpointed in (False, True):
            if checkpointed:
                backbone.enable_gradient_checkpointing()
            backbone.train()
            found = backbone.trace(batch).paths
            assert found is not None
            loss = (found[:2] * found[2:]).sum() + found[..., 0].sum()
            results.append(torch.autograd.grad(loss, parameters))
        for plain, again in zip(*results, strict=True):
            torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-3)
        learned = list(backbone.adapters.path_parameters())
        assert len(learned) == {"suffix": 2, "prefix": 2, "expert": 0}[paths.kind]
        for gradient in results[0][len(results[0]) - len(learned) :]:
            assert (gradient.flatten(1).abs().amax(1) > 0).all(), "a path has no gradient"

    def test_without_adapters_there_are_no_paths(self, base: str, paths: PathSettings, load: Load) -> None:
        backbone, plain = load(base, paths), load(base)
        batch = [backbone.prepare(item) for item in items()]
        torch.testing.assert_close(backbone.without_adapters(batch), plain.without_adapters(batch), atol=0, rtol=0)


@pytest.mark.parametrize("base", [name for name in tiny.MAKERS if name not in BASES])
@pytest.mark.parametrize("paths", KINDS[:2], ids=lambda paths: paths.kind)
def test_every_other_family(base: str, paths: PathSettings, load: Load) -> None:
    backbone = load(base, paths)
    alone = torch.cat([paths_of(backbone, [item]) for item in items()])
    assert functional.cosine_similarity(paths_of(backbone), alone, dim=-1).min() >= 0.9999


@pytest.mark.parametrize("base", BASES)
class TestSuffix:
    def test_leaves_the_input_and_its_routes_alone(self, base: str, load: Load) -> None:
        for level in ("token", "sequence"):
            for tokens in ("all", "last", "image"):
                experts = AdapterSettings(experts=4, rank=2, level=level, tokens=tokens)  # type: ignore[arg-type]
                with_paths, plain = load(base, KINDS[0], experts), load(base, None, experts)
                batch = [plain.prepare(item) for item in items()]
                with torch.inference_mode():
                    ours, theirs = with_paths.trace(batch), plain.trace(batch)
                torch.testing.assert_close(ours.routes, theirs.routes, atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(ours.probabilities, theirs.probabilities, atol=1e-5, rtol=1e-4)

    def test_no_path_sees_a_later_one(self, base: str, load: Load) -> None:
        """In mini no path sees another one at all."""
        backbone = load(base, KINDS[0])
        before = paths_of(backbone)
        assert backbone.adapters is not None and backbone.adapters.paths is not None
        with torch.no_grad():
            backbone.adapters.paths.tokens[0].normal_()
        moved = (paths_of(backbone) - before).abs().amax((0, 2)) > 1e-4
        assert moved.tolist() == [False, True, base != "mini"]


def test_a_prefix_is_what_a_cache_of_keys_and_values_is(load: Load) -> None:
    """transformers takes a prefix as a cache, which it drops under checkpointing: the same vectors without."""
    from transformers import DynamicCache

    backbone: Any = load("qwen2-vl", KINDS[1], AdapterSettings(experts=1, rank=2))
    ours = paths_of(backbone, items()[:1])[0]
    paths = backbone.adapters.paths
    prepared = backbone.prepare(items()[0])
    length = len(prepared.data.ids)
    for path in range(3):
        cache = DynamicCache()
        for layer in range(2):
            key, value = (one[path, layer].view(1, 2, 2, -1).transpose(1, 2) for one in (paths.keys, paths.values))
            cache.update(key, value, layer)
        backbone.model.config.get_text_config()._attn_implementation = "sdpa"
        with torch.inference_mode(), backbone.adapters.tracing(None):
            hidden = backbone.model(
                input_ids=torch.from_numpy(prepared.data.ids)[None],
                position_ids=torch.from_numpy(prepared.data.positions[:, None]),
                past_key_values=cache,
                use_cache=True,
                attention_mask=torch.ones(1, length + 2, dtype=torch.long),
            ).last_hidden_state
        assert functional.cosine_similarity(hidden[0, -1], ours[path], dim=0) >= 0.9999


@pytest.mark.parametrize("base", ["mini", "qwen2-vl"])
def test_a_path_of_an_expert_uses_that_expert_alone(base: str, load: Load) -> None:
    backbone = load(base, KINDS[2])
    before = paths_of(backbone)
    assert backbone.adapters is not None
    for layer in backbone.adapters.layers.values():
        with torch.no_grad():
            layer.up.weight[:, 2:4] += 0.2  # rank 2: expert 1
    moved = (paths_of(backbone) - before).abs().amax((0, 2)) > 1e-4
    assert moved.tolist() == [False, True, False]
    with pytest.raises(ModelError, match="cannot be 5 paths of kind expert with 4 experts"):
        load(base, PathSettings("expert", 5))


@pytest.mark.parametrize("base", ["qwen2-vl", "smolvlm"])
@pytest.mark.parametrize("paths", KINDS[1:], ids=lambda paths: paths.kind)
def test_the_vision_tower_runs_once(base: str, paths: PathSettings, load: Load) -> None:
    backbone: Any = load(base, paths)
    seen = []
    tower = getattr(backbone.model, "visual", None) or backbone.model.vision_model
    tower.register_forward_hook(lambda *_: seen.append(1))
    paths_of(backbone)
    assert len(seen) == 1


class TestCombine:
    def test_vectors(self, load: Load) -> None:
        every = paths_of(load("mini", KINDS[0]))
        for how, expected in {
            "first": every[:, 0],
            "mean": functional.normalize(every.sum(1), dim=-1),
            "concat": every.flatten(1) / 3**0.5,
        }.items():
            backbone = load("mini", PathSettings("suffix", 3, 2, how))  # type: ignore[arg-type]
            found = Embedder(backbone).embed(items())
            assert backbone.info.dim == expected.shape[1] == {"concat": 3 * 384}.get(how, 384)
            assert np.einsum("nd,nd->n", found.vectors, expected.numpy()).min() >= 0.9999

    def test_a_cosine_of_concat_is_the_mean_of_the_paths(self, load: Load) -> None:
        every = paths_of(load("mini", KINDS[0]))
        found = Embedder(load("mini", PathSettings("suffix", 3, 2, "concat"))).embed(items()).vectors
        means = torch.einsum("npd,mpd->pnm", every, every).mean(0)
        np.testing.assert_allclose(found @ found.T, means.numpy(), atol=1e-5)


class TestCheckpoint:
    @pytest.mark.parametrize("paths", KINDS, ids=lambda paths: paths.kind)
    def test_saved_and_loaded(self, paths: PathSettings, load: Load, tmp_path: Path) -> None:
        backbone = load("mini", paths)
        folder = checkpoint.save(tmp_path / "model", backbone, registry.resolve("mini-base"))
        assert (folder / "paths.safetensors").exists() == (paths.kind != "expert")
        assert f"| parallel paths | 3 of kind {paths.kind}, used: first |" in (folder / checkpoint.CARD).read_text()
        back = loading.load_to_embed(registry.resolve(folder), "cpu")
        assert back.info.engine == "PyTorch" and back.info.dim == 384
        batch = [backbone.prepare(item) for item in items()]
        with torch.inference_mode():
            ours, theirs = backbone.forward(batch), back.forward(batch)
        torch.testing.assert_close(theirs.vectors, ours.vectors, atol=0, rtol=0)
        for write in (export.merged, export.peft):
            with pytest.raises(ModelError, match="has parallel paths, which a plain model or a LoRA adapter cannot"):
                write(registry.resolve(folder), tmp_path / "out")

    def test_the_fingerprint_is_of_all_that_makes_the_vector(self, load: Load, tmp_path: Path) -> None:
        folder = checkpoint.save(tmp_path / "model", load("mini", KINDS[0]), registry.resolve("mini-base"))
        marker = folder / checkpoint.MARKER
        first = registry.resolve(folder).fingerprint
        said = json.loads(marker.read_text())
        said["method"]["paths"]["combine"] = "concat"
        marker.write_text(json.dumps(said))
        wide = registry.resolve(folder)
        assert wide.fingerprint != first
        assert loading.load(wide, "cpu").info.dim == 3 * 384
        other = checkpoint.save(
            tmp_path / "other", load("mini", PathSettings("suffix", 3, 3)), registry.resolve("mini-base")
        )
        assert registry.resolve(other).fingerprint != first

    def test_no_paths_is_the_base_to_the_last_bit(self, load: Load, tmp_path: Path) -> None:
        backbone = load("mini")
        folder = checkpoint.save(tmp_path / "model", backbone, registry.resolve("mini-base"))
        plain = registry.resolve(folder)
        assert "paths" not in json.loads((folder / checkpoint.MARKER).read_text())["method"]
        for count in (0,):
            marker = folder / checkpoint.MARKER
            said = json.loads(marker.read_text())
            said["method"]["paths"] = PathSettings(count=count).to_json()
            marker.write_text(json.dumps(said))
            back = loading.load(registry.resolve(folder), "cpu")
            for some in (items(), items()[:1]):
                batch = [backbone.prepare(item) for item in some]
                with torch.inference_mode():
                    ours, theirs = backbone.forward(batch), back.forward(batch)
                assert torch.equal(ours.vectors, theirs.vectors) and torch.equal(ours.routes, theirs.routes)  # type: ignore[arg-type]
        assert plain.name == str(folder)

    @pytest.mark.parametrize(
        ("paths", "words"),
        [
            ({"kind": "sideways", "count": 2}, "kind 'sideways'"),
            ({"count": "two"}, "count two"),
            ({"many": 2}, "settings of paths in"),
            ({"count": 100}, "count 100"),
            ({"count": 2, "length": 5}, "does not fit the model"),
        ],
    )
    def test_settings_of_no_paths(self, paths: dict[str, Any], words: str, load: Load, tmp_path: Path) -> None:
        folder = checkpoint.save(tmp_path / "model", load("mini", KINDS[0]), registry.resolve("mini-base"))
        marker = folder / checkpoint.MARKER
        said = json.loads(marker.read_text())
        said["method"]["paths"] = paths
        marker.write_text(json.dumps(said))
        with pytest.raises(ModelError, match=words):
            loading.load(registry.resolve(folder), "cpu")

    def test_a_file_that_is_missing(self, load: Load, tmp_path: Path) -> None:
        folder = checkpoint.save(tmp_path / "model", load("mini", KINDS[0]), registry.resolve("mini-base"))
        (folder / "paths.safetensors").unlink()
        with pytest.raises(ModelError, match=r"a checkpoint without paths\.safetensors"):
            registry.resolve(folder)


@pytest.mark.parametrize("base", BASES)
def test_suffixes_begin_as_the_model_itself(base: str, load: Load, model_folder: Callable[[str], Path]) -> None:
    """And the first goes on being that, whatever the others learn."""
    plain = load(base)
    with torch.inference_mode():
        alone = plain.trace([plain.prepare(item) for item in items()]).vectors
    for change in (0.0, 0.5):
        backbone: Any = load(base)
        backbone.add_paths(KINDS[0])
        with torch.no_grad():
            backbone.adapters.paths.gates += change
        paths = paths_of(backbone)
        as_alone = functional.cosine_similarity(paths, alone.unsqueeze(1), dim=-1)
        assert as_alone[:, 0].min() >= 0.99999
        assert (as_alone[:, 1:].min() >= 0.99999) == (not change)


def test_paths_that_do_not_fit_into_mini(load: Load) -> None:
    with pytest.raises(ModelError, match="would have 1268 tokens, and mini has places for 512"):
        load("mini", PathSettings("suffix", 64, 16))
