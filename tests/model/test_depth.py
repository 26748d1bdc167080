"""Models that stop early: `mini-base:3blocks`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from tsembed_search import Embedder, Index, Item
from tsembed_search.errors import IndexMismatchError, ModelError, UsageError
from tsembed_search.items import Embeddings
from tsembed_search.model import loading, registry
from tsembed_search.model.backbones import hf, mini, mini_graph
from tsembed_search.model.backbones.mini_cpu import MiniOnCpu
from tsembed_search.model.backbones.tiny import MAKERS
from tsembed_search.model.checkpoint import save
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.shortened import check_depth, stop_after
from tsembed_search.model.unloaded import unloaded

PICTURE = np.kron(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
TEXTS = [Item("a red bicycle"), Item("of"), Item("the history of a lighthouse on an island " * 5)]
ITEMS = [*TEXTS, Item(image=PICTURE), Item("a picture of it", PICTURE)]
SETTINGS = [
    AdapterSettings(experts=4, rank=2),
    AdapterSettings(experts=3, rank=2, level="token", shared=True, tokens="last"),
    AdapterSettings(experts=4, rank=2, top_k=2, blocks=(1, 2, 5), projections=("*.dense",)),
]


def in_torch(name: str | Path) -> Embedder:
    return Embedder(loading.load(registry.resolve(name), "cpu"))


def agree(found: Embeddings, expected: Embeddings) -> None:
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-4)
    np.testing.assert_allclose(found.routes, expected.routes, atol=1e-4)


def trained(folder: Path, settings: AdapterSettings) -> Path:
    """A checkpoint whose experts do something, with a routing mean that is not uniform."""
    base = registry.resolve("mini-base")
    backbone: Any = loading.load(base, "cpu")
    torch.manual_seed(0)
    adapters = backbone.adapt(settings)
    for layer in adapters.layers.values():
        torch.nn.init.normal_(layer.up.weight, std=0.05)
    adapters.mean = torch.rand(len(adapters.mean)) / settings.experts
    return save(folder, backbone, base)


@pytest.mark.parametrize("name", ["mini", "mini-base"])
def test_all_blocks_are_the_whole_model(name: str) -> None:
    whole, stopped = Embedder.load(name, "cpu"), Embedder.load(f"{name}:6blocks", "cpu")
    agree(stopped.embed(ITEMS, "query"), whole.embed(ITEMS, "query"))
    agree(in_torch(f"{name}:6blocks").embed(ITEMS), in_torch(name).embed(ITEMS))
    assert stopped.info.parameters == whole.info.parameters and stopped.info.routes == whole.info.routes


def test_the_vector_is_the_mean_over_what_the_last_block_gives() -> None:
    """Computed by hand, from the blocks of the whole model."""
    backbone = mini.load("cpu")
    ids = torch.tensor([backbone.prepare(TEXTS[0]).data.ids])
    first, last = backbone.ends
    words = backbone.encoder.words(torch.cat([torch.tensor([[first]]), ids, torch.tensor([[last]])], 1))
    hidden = backbone.encoder.embeddings(words)
    for depth, block in enumerate(backbone.blocks, 1):
        hidden = block(hidden, None)
        expected = torch.nn.functional.normalize(hidden.mean(1), dim=-1).numpy()
        found = Embedder.load(f"mini-base:{depth}blocks", "cpu").embed(TEXTS[:1], "query")
        np.testing.assert_allclose(found.vectors, expected, atol=1e-5)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_engine_computes_what_torch_computes(
    settings: AdapterSettings, depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # so that the first query of a process is computed in NumPy
    name = f"{trained(tmp_path / 'made', settings)}:{depth}blocks"
    quick, slow = Embedder.load(name, "cpu"), in_torch(name)
    assert isinstance(quick.backbone, MiniOnCpu)
    expected = slow.embed(ITEMS, "query")
    agree(quick.embed(ITEMS, "query"), expected)
    again: Any = Embedder.load(name, "cpu")
    assert again.backbone._first is not None
    agree(again.embed(ITEMS[:1], "query"), slow.embed(ITEMS[:1], "query"))
    for fact in ("name", "fingerprint", "dim", "parameters", "routes", "calibration", "route_weight", "classes"):
        assert getattr(quick.info, fact) == getattr(slow.info, fact), fact
    adapted = range(6) if settings.blocks is None else settings.blocks
    assert quick.info.routes == (sum(block < depth for block in adapted), settings.experts)
    assert quick.info.calibration is None and quick.info.classes == 0
    assert expected.routes.shape[1] == np.prod(quick.info.routes)
    assert unloaded(registry.resolve(name)).info.routes == quick.info.routes


def test_blocks_that_are_not_run_are_not_built() -> None:
    pytest.importorskip("openvino")
    from tsembed_search.model import files
    from tsembed_search.model.backbones import mini_spec

    arrays = files.arrays(mini_spec.verified("encoder"))
    counts = [
        sum(one.get_type_name() == "MatMul" for one in mini_graph.encoder(arrays, None, depth).get_ops())
        for depth in (1, 2, 3, 6)
    ]
    assert counts[1] - counts[0] == counts[2] - counts[1] == (counts[3] - counts[2]) / 3 > 0


@pytest.mark.parametrize("load", [Embedder.load, in_torch])
def test_an_item_is_the_same_alone_and_in_a_batch(load: Callable[[str], Embedder]) -> None:
    embedder = load("mini:3blocks")
    together = embedder.embed(ITEMS, "query")
    for row, item in enumerate(ITEMS):
        alone = embedder.embed([item], "query")
        np.testing.assert_allclose(alone.vectors[0], together.vectors[row], atol=1e-4)
        np.testing.assert_allclose(alone.routes[0], together.routes[row], atol=1e-4)


def test_both_cuts_together() -> None:
    stopped = Embedder.load("mini:3blocks", "cpu").embed(ITEMS, "query")
    both = Embedder.load("mini:3blocks:64", "cpu")
    found = both.embed(ITEMS, "query")
    first = stopped.vectors[:, :64]
    np.testing.assert_allclose(found.vectors, first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(found.routes, stopped.routes, atol=1e-5)
    assert both.info.dim == 64 and both.info.routes == (3, 4) and both.info.name == "mini:3blocks:64"


def test_names_and_fingerprints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("mini", "mini:3blocks", "mini:4blocks", "mini:3", "mini:3blocks:64", "mini:64")
    refs = [registry.resolve(name) for name in names]
    assert len({ref.fingerprint for ref in refs}) == len(names)
    assert [ref.name for ref in refs] == list(names) and {ref.uncut for ref in refs} == {refs[0]}
    assert registry.named("mini:3blocks:64", dim=128) == "mini:3blocks:128"
    assert registry.named("mini:64", depth=4) == "mini:4blocks:64"
    assert registry.named("mini") == "mini"
    monkeypatch.chdir(tmp_path)
    loading.create_checkpoint("made:3blocks")  # a folder may be called like that
    assert registry.resolve("made:3blocks").whole is None
    assert registry.resolve("made:3blocks:2blocks").whole == registry.resolve("made:3blocks")


def test_depths_that_there_are_not_are_refused(tmp_path: Path) -> None:
    for load in (Embedder.load, in_torch, lambda name: unloaded(registry.resolve(name))):
        with pytest.raises(ModelError, match="mini has 6 blocks, not 7") as caught:
            load("mini:7blocks")  # type: ignore[operator]
        assert caught.value.hint == "Use a depth of 6 or less."
    with pytest.raises(UsageError, match="cannot stop after 0 blocks"):
        registry.resolve("mini:0blocks")
    late = trained(tmp_path / "late", AdapterSettings(experts=2, rank=2, blocks=(3, 4)))
    for load in (Embedder.load, in_torch, lambda name: unloaded(registry.resolve(name))):
        with pytest.raises(ModelError, match="no experts in its first 3 blocks") as caught:
            load(f"{late}:3blocks")  # type: ignore[operator]
        assert caught.value.hint == "Use a depth of 4 or more."
        load(f"{late}:4blocks")  # type: ignore[operator]
    with pytest.raises(ModelError, match="cannot carry adapters"):
        loading.create_checkpoint(tmp_path / "made", "mini-base:3blocks")
    with pytest.raises(ModelError, match="cannot stop early"):
        stop_after(Embedder.load("mini", "cpu").backbone, 3)
    assert check_depth("it", 3, 6, None) == 0


def test_an_index_remembers_its_depth(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in {"bike": "A red bicycle in the snow.", "law": "The terms of payment are thirty days."}.items():
        (texts / f"{name}.txt").write_text(text)
    with Index.create("stopped", model="mini", depth=3, dim=64, device="cpu") as index:
        index.add(texts)
    with Index.open("stopped", device="cpu") as index:
        assert index.metadata.model == "mini:3blocks:64" and index.metadata.routes == (3, 4)
        assert Path(index.search("a bicycle", words="never").hits[0].path).name == "bike.txt"
        assert index.add(texts).files.unchanged == 2
    for same in ({"depth": 3}, {"dim": 64}, {"depth": 3, "dim": 64}):
        with Index.open("stopped", device="cpu", **same) as index:  # type: ignore[arg-type]
            assert index.add(texts).files.unchanged == 2
    for other in ({"depth": 2}, {"depth": 6}, {"model": "mini:64"}, {"model": "mini"}):
        with pytest.raises(IndexMismatchError, match="mini:3blocks:64"):
            Index.open("stopped", device="cpu", **other)  # type: ignore[arg-type]


def test_the_commands_say_the_depth(tmp_path: Path) -> None:
    from tsembed_search.cli.main import app

    (tmp_path / "bike.txt").write_text("A red bicycle in the snow.")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [*map(str, arguments), "--index", "shallow"])

    made = run("index", tmp_path, "--model", "mini-base", "--depth", 3, "--dim", 128, "--device", "cpu")
    assert made.exit_code == 0, made.stderr
    assert "mini-base:3blocks:128 (128 dimensions)" in run("status").stdout
    assert "bike.txt" in run("search", "a bicycle", "--device", "cpu").stdout
    for depth, words in ((4, "mini-base:3blocks:128"), (0, "0")):
        refused = run("index", tmp_path, "--depth", depth)
        assert refused.exit_code != 0 and words in refused.stderr
    too_many = CliRunner().invoke(app, ["index", str(tmp_path), "--index", "other", "--depth", "7"])
    assert too_many.exit_code != 0 and "mini has 6 blocks, not 7.\nUse a depth of 6 or less." in too_many.stderr


@pytest.mark.parametrize("family", sorted(MAKERS))
def test_any_transformers_model_stops_early(family: str, model_folder: Callable[[str], Path]) -> None:
    """Its final norm stays: the vector is what the whole model's own parts make of the last token there."""
    folder = model_folder(family)
    whole, every, first = (Embedder.load(f"{folder}{cut}", "cpu") for cut in ("", ":2blocks", ":1blocks"))
    np.testing.assert_allclose(every.embed(ITEMS).vectors, whole.embed(ITEMS).vectors, atol=1e-5)
    backbone: Any = whole.backbone
    backbone.adapt(AdapterSettings(experts=2, rank=2))
    backbone.adapters.depths = (1,)
    batch = [backbone.prepare(item) for item in ITEMS]
    traced = backbone.trace(batch)
    np.testing.assert_allclose(traced.shallow[:, 0].detach().numpy(), first.embed(ITEMS).vectors, atol=1e-4)
    np.testing.assert_allclose(traced.vectors.detach().numpy(), every.embed(ITEMS).vectors, atol=1e-4)
    assert first.info.parameters < every.info.parameters == whole.info.parameters
    for row, item in enumerate(ITEMS):
        np.testing.assert_allclose(first.embed([item]).vectors[0], first.embed(ITEMS).vectors[row], atol=1e-4)


@pytest.mark.parametrize("name", ["mini-base", "qwen2-vl", "qwen3-vl"])
class TestShallowVectors:
    """What training takes on the way is what the model gives that stops there."""

    def make(self, name: str, folder: Callable[[str], Path]) -> tuple[Any, tuple[int, ...]]:
        depths = (2, 4) if name == "mini-base" else (1,)
        backbone: Any = mini.load("cpu") if name == "mini-base" else hf.load(registry.resolve(folder(name)), "cpu")
        torch.manual_seed(0)
        adapters = backbone.adapt(AdapterSettings(experts=4, rank=2))
        for layer in adapters.layers.values():
            torch.nn.init.normal_(layer.up.weight, std=0.05)
        adapters.depths = depths
        return backbone, depths

    def test_are_those_of_the_stopped_model(self, name: str, model_folder: Callable[[str], Path]) -> None:
        backbone, depths = self.make(name, model_folder)
        backbone.train(False)
        batch = [backbone.prepare(item) for item in ITEMS]
        with torch.no_grad():
            traced = backbone.trace(batch)
            assert backbone.trace(batch, losses=False).shallow is None
            backbone.adapters.depths = ()
            plain = backbone.trace(batch)
        assert plain.shallow is None and torch.equal(plain.vectors, traced.vectors)
        assert torch.equal(plain.routes, traced.routes) and torch.equal(plain.z, traced.z)
        for place, depth in reversed(list(enumerate(depths))):
            stop_after(backbone, depth)
            with torch.no_grad():
                torch.testing.assert_close(backbone.forward(batch).vectors, traced.shallow[:, place])
            assert backbone.info.routes == (depth, 4)

    def test_have_the_same_gradients_with_checkpointing(self, name: str, model_folder: Callable[[str], Path]) -> None:
        backbone, _ = self.make(name, model_folder)
        backbone.train()
        batch = [backbone.prepare(item) for item in ITEMS]
        parameters = list(backbone.adapters.expert_parameters())

        def gradients() -> tuple[torch.Tensor, ...]:
            shallow = backbone.trace(batch).shallow
            return torch.autograd.grad((shallow @ shallow.mT).square().sum(), parameters)

        plain = gradients()
        backbone.enable_gradient_checkpointing()
        for one, other in zip(gradients(), plain, strict=True):
            torch.testing.assert_close(one, other)
        assert plain[0].any() and not plain[-1].any()  # blocks beyond get none
