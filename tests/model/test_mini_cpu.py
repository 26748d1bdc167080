"""Mini on the engine: what it computes without torch is what it computes in torch."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tsembed_search.errors import ModelError
from tsembed_search.items import Embeddings, Item
from tsembed_search.model import engine, loading, registry
from tsembed_search.model.backbones import mini_cpu, mini_encoder, mini_eye, mini_graph
from tsembed_search.model.backbones.mini import Mini
from tsembed_search.model.backbones.mini_cpu import MiniOnCpu
from tsembed_search.model.checkpoint import save
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.expert_settings import AdapterSettings, Tokens
from tsembed_search.model.path_settings import PathSettings

pytest.importorskip("openvino")

_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "абвгдежзиклмнопрст",
    "日本語文字検索画像犬猫",
    "ابتثجحخد",
    "कखगघङचछ",
    "😀🚲🐈",
    "?!.,-",
)
_SETTINGS = [
    AdapterSettings(experts=4, rank=2),
    AdapterSettings(experts=3, rank=3, level="token", shared=True, temperature=0.7),
    AdapterSettings(experts=4, rank=2, top_k=2, tokens="last"),
    AdapterSettings(experts=2, rank=2, level="token", top_k=1, tokens="image", projections=("query", "value")),
    AdapterSettings(experts=4, rank=2, blocks=(0, 2), projections=("*.dense",), tokens="text", projector=True),
]


@pytest.fixture(autouse=True)
def graphs() -> None:
    """Here each home has its own."""


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "graphs"
    monkeypatch.setenv("TSEMBED_HOME", str(folder))
    return folder


@pytest.fixture
def three_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mini with half of its blocks, where each of them is treated alike."""
    monkeypatch.setattr(mini_encoder, "_LAYERS", 3)
    monkeypatch.setattr(mini_graph, "LAYERS", 3)


def odd_texts(count: int) -> Iterator[str]:
    """Texts of every script and length, from one character to more than the model takes."""
    chance = random.Random(0)
    yield from ("x", "[SEP]", "word " * 900, "x" * 5000, "\u200b.", "ｆｕｌｌ width")
    for _ in range(count):
        letters = chance.choice(_ALPHABETS)
        lengths = (chance.randint(1, 9) for _ in range(chance.choice((1, 3, 10, 40))))
        yield " ".join("".join(chance.choices(letters, k=length)) for length in lengths)


def picture(seed: int = 0) -> Any:
    """Shapes and some noise, uint8 `[90, 120, 3]`."""
    numbers = np.random.default_rng(seed)
    coarse = numbers.integers(0, 200, (9, 12, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    return coarse + numbers.integers(0, 56, coarse.shape, np.uint8)


def in_torch(name: str | Path) -> Embedder:
    return Embedder(loading.load(registry.resolve(name), "cpu"))


def by_engine(quick: Embedder) -> bool:
    """Whether the engine has computed a query."""
    return not vars(quick.backbone).keys().isdisjoint({"_exact", "_short"})


def each_first(name: str | Path, items: list[Item]) -> Embeddings:
    """Each as the first query of a process, which NumPy computes."""
    parts = []
    for item in items:
        quick: Any = Embedder.load(name, "cpu")
        assert quick.backbone._first is not None
        parts.append(quick.embed([item], "query"))
        assert not by_engine(quick), "the engine has computed it"
    return Embeddings(*(np.concatenate(one) for one in zip(*((e.vectors, e.routes) for e in parts), strict=True)))


def agree(found: Embeddings, expected: Embeddings) -> None:
    assert np.abs(found.vectors - expected.vectors).max() < 1e-4
    assert np.abs(found.routes - expected.routes).max(initial=0) < 1e-4
    assert (found.vectors * expected.vectors).sum(1).min() > 0.9999
    assert found.routes.shape == expected.routes.shape


@pytest.mark.parametrize("name", ["mini", "mini-base"])
@pytest.mark.parametrize("count", [24, pytest.param(3000, marks=pytest.mark.slow)])
def test_vectors_and_routes_are_those_of_torch(name: str, count: int) -> None:
    items = [Item(text) for text in odd_texts(count)]
    quick = Embedder.load(name, "cpu")
    assert isinstance(quick.backbone, MiniOnCpu)
    expected = in_torch(name).embed(items)
    agree(quick.embed(items, "query"), expected)
    alone = [quick.embed([item], "query") for item in items]
    agree(
        Embeddings(*(np.concatenate(one) for one in zip(*((e.vectors, e.routes) for e in alone), strict=True))),
        expected,
    )
    indexed = quick.embed(items)
    assert (indexed.vectors * expected.vectors).sum(1).min() > 0.9997
    assert np.median((indexed.vectors * expected.vectors).sum(1)) > 0.9999


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command sets for NumPy."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


@pytest.mark.parametrize("name", ["mini", "mini-base"])
@pytest.mark.parametrize("count", [6, pytest.param(600, marks=pytest.mark.slow)])
def test_the_first_query_is_that_of_torch(name: str, count: int, one_thread: None) -> None:
    items = [Item(text) for text in odd_texts(count)]
    Embedder.load(name, "cpu").embed(items[:2], "query")  # makes the graph, after which its weights are trusted
    agree(each_first(name, items), in_torch(name).embed(items))


def test_only_the_first_query_is_computed_without_the_engine(one_thread: None) -> None:
    quick: Any = Embedder.load("mini", "cpu")
    quick.embed([Item("dog"), Item("cat")], "query")
    assert by_engine(quick)
    again: Any = Embedder.load("mini", "cpu")
    first = again.embed([Item("a dog")], "query")
    assert not by_engine(again)
    assert np.abs(again.embed([Item("a dog")], "query").vectors - first.vectors).max() < 1e-5
    assert by_engine(again)


@pytest.mark.parametrize("threads", [None, "2"])
def test_threads_of_numpy_compute_nothing(threads: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    Embedder.load("mini", "cpu").embed([Item("dog"), Item("cat")], "query")
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if threads:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    quick: Any = Embedder.load("mini", "cpu")
    quick.embed([Item("a dog")], "query")
    assert by_engine(quick)


@pytest.mark.usefixtures("three_blocks")
@pytest.mark.parametrize("settings", _SETTINGS)
def test_whatever_the_settings_of_a_checkpoint(settings: AdapterSettings, tmp_path: Path, one_thread: None) -> None:
    base = registry.resolve("mini-base")
    trained: Any = loading.load(base, "cpu")
    torch.manual_seed(0)
    adapters = trained.adapt(settings)
    for layer in adapters.layers.values():
        torch.nn.init.normal_(layer.up.weight, std=0.05)
    for tensor in adapters.projector_parameters():
        torch.nn.init.normal_(tensor, std=0.02)
    folder = save(tmp_path / "trained", trained, base)
    items = [*(Item(text) for text in odd_texts(3)), Item(image=picture(0)), Item("a boat " * 40, picture(1))]
    quick = Embedder.load(folder, "cpu")
    assert isinstance(quick.backbone, MiniOnCpu)
    assert quick.info.routes == trained.info.routes
    expected = in_torch(folder).embed(items)
    agree(quick.embed(items, "query"), expected)
    agree(each_first(folder, items), expected)
    seen = Embedder.load(folder, "cpu").embed(items).classes
    assert seen is not None and expected.classes is not None and np.abs(seen - expected.classes).max() < 1e-5


@pytest.mark.usefixtures("three_blocks")
@pytest.mark.parametrize("tokens", ["all", "last"])
@pytest.mark.parametrize("paths", [PathSettings("suffix", 3, 2), PathSettings("suffix", 1, 1, "mean")])
def test_a_path_that_is_a_suffix(paths: PathSettings, tokens: Tokens, tmp_path: Path) -> None:
    base = registry.resolve("mini-base")
    trained: Any = loading.load(base, "cpu")
    torch.manual_seed(0)
    for layer in trained.adapt(AdapterSettings(experts=3, rank=2, tokens=tokens)).layers.values():
        torch.nn.init.normal_(layer.up.weight, std=0.05)
    trained.add_paths(paths)
    torch.nn.init.normal_(trained.adapters.paths.gates)
    folder = save(tmp_path / "trained", trained, base)
    items = [Item(text) for text in odd_texts(6)]
    quick = Embedder.load(folder, "cpu")
    assert isinstance(quick.backbone, MiniOnCpu)
    agree(quick.embed(items, "query"), in_torch(folder).embed(items))
    trained.adapters.paths.settings = replace(paths, combine="mean")
    several = save(tmp_path / "several", trained, base)
    assert isinstance(Embedder.load(several, "cpu").backbone, MiniOnCpu) == (paths.count == 1)


@pytest.mark.parametrize("name", ["mini", "mini-base"])
@pytest.mark.parametrize("count", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_pictures_and_texts_in_one_batch(name: str, count: int) -> None:
    pictures = [picture(seed) for seed in range(count)]
    texts = [Item("dog"), Item("a long story " * 60), Item("cat")]
    joint = [Item("a cat", pictures[0]), Item("a long story " * 60, pictures[1])]
    items = [texts[0], *(Item(image=one) for one in pictures), *joint, *texts[1:]]
    quick, expected = Embedder.load(name, "cpu"), in_torch(name).embed(items)
    agree(quick.embed(items, "query"), expected)
    found = quick.embed(items)
    if quick.info.dtype == "float32":
        agree(found, expected)
    assert found.classes is not None and expected.classes is not None
    assert np.abs(found.classes - expected.classes).max() < 1e-5
    alone = quick.embed([items[1]])
    assert np.abs(alone.vectors[0] - found.vectors[1]).max() < 1e-5, "others of its batch do not change a picture"


@pytest.mark.usefixtures("three_blocks")
@pytest.mark.parametrize("damage", ["missing", "shape", "not finite"])
def test_a_projector_that_does_not_fit_is_refused(damage: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = registry.resolve("mini-base")
    trained: Any = loading.load(base, "cpu")
    trained.adapt(AdapterSettings(experts=2, rank=2, projector=True))
    folder = save(tmp_path / "trained", trained, base)
    file = folder / "projector.safetensors"
    state = load_file(file)
    bias = state.pop("part.bias")
    if damage != "missing":
        state["part.bias"] = bias[:-1].clone() if damage == "shape" else torch.full_like(bias, torch.nan)
    save_file(state, file)
    with pytest.raises(ModelError):
        Embedder.load(folder, "cpu").embed([Item(image=picture())])


def test_a_tower_that_the_engine_does_not_take_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise RuntimeError("no such operation")

    quick = Embedder.load("mini", "cpu")
    monkeypatch.setattr(mini_eye, "tower", refuse)
    monkeypatch.setattr(engine, "_read", lambda file: None)
    with pytest.raises(ModelError, match="pip uninstall openvino"):
        quick.embed([Item(image=picture())])


def test_what_it_says_is_what_torch_says() -> None:
    for name in ("mini", "mini-base"):
        quick, whole = Embedder.load(name, "cpu").info, in_torch(name).info
        assert quick.engine.startswith("OpenVINO ") and whole.engine == "PyTorch"
        for fact in ("name", "fingerprint", "dim", "parameters", "device", "routes", "calibration", "notes"):
            assert getattr(quick, fact) == getattr(whole, fact), fact
        assert quick.route_weight == whole.route_weight


@pytest.mark.parametrize("longest", [9, 18, 250])
def test_texts_of_like_lengths_are_computed_together(longest: int) -> None:
    chance = random.Random(longest)
    lengths = {row: chance.randint(3, longest) for row in range(64)}
    groups = list(mini_cpu._alike(lengths))
    assert sorted(row for own in groups for row in own) == sorted(lengths)
    assert len(groups) <= max(4, sum(lengths.values()) / 300), "each costs something"
    padded = sum(len(own) * mini_cpu._rounded(max(lengths[row] for row in own)) for own in groups)
    rounded = sum(map(mini_cpu._rounded, lengths.values()))
    assert padded <= 1.125 * rounded + mini_cpu._WASTE * len(groups)


@pytest.mark.usefixtures("three_blocks")
class TestKept:
    def vector(self) -> Any:
        return Embedder.load("mini-base", "cpu").embed([Item("a red bicycle"), Item("a boat")], "query").vectors

    def file(self, home: Path) -> Path:
        (file,) = (home / "cache" / "engine").glob("mini-*.graph")
        return file

    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("TSEMBED_HOME", str(tmp_path))
        return tmp_path

    def test_it_is_made_once(self, home: Path) -> None:
        first = self.vector()
        file = self.file(home)
        made = file.stat()
        assert np.array_equal(self.vector(), first)
        assert (self.file(home), file.stat().st_mtime_ns, file.stat().st_ino) == (file, made.st_mtime_ns, made.st_ino)
        assert made.st_mode & 0o077 == 0 or os.name == "nt"

    @pytest.mark.parametrize("damage", ["changed", "cut", "empty"])
    def test_a_damaged_one_is_made_again(self, home: Path, damage: str) -> None:
        first = self.vector()
        file = self.file(home)
        whole = bytearray(file.read_bytes())
        whole[len(whole) // 2] ^= 1
        file.write_bytes({"changed": bytes(whole), "cut": bytes(whole[:-9]), "empty": b""}[damage])
        assert np.array_equal(self.vector(), first)
        assert engine._read(self.file(home)) is not None

    def test_one_of_another_cpu_is_made_again(self, home: Path) -> None:
        first = self.vector()
        file = self.file(home)
        whole = file.read_bytes()[:-32].replace(b"isa=", b"isa=Other ", 1)
        file.write_bytes(whole + hashlib.sha256(whole).digest())
        assert np.array_equal(self.vector(), first)
        assert b"isa=Other" not in self.file(home).read_bytes()

    def test_those_who_make_it_at_once_do_not_disturb_each_other(self, home: Path) -> None:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda _: self.vector(), range(3)))
        assert all(np.array_equal(one, found[0]) for one in found)
        assert self.file(home) and not list((home / "cache" / "engine").glob("*.partial"))

    def test_of_one_model_only_the_newest_is_kept(self, home: Path) -> None:
        self.vector()
        file = self.file(home)
        file.rename(file.with_name(file.name.replace("-f32", "_-f32")))
        self.vector()
        assert self.file(home) == file

    def test_it_works_where_nothing_can_be_written(self, home: Path) -> None:
        (home / "cache").write_text("no folder")
        assert self.vector().shape == (2, 384)


def test_vectors_in_bfloat16_are_near_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a CPU that is slower in it."""
    if not engine.has_bfloat16():
        pytest.skip("the CPU has no bfloat16")
    monkeypatch.setattr(engine, "facts", lambda: engine.Facts("OpenVINO", "bf16"))
    items = [Item(text) for text in odd_texts(60)]
    quick = Embedder.load("mini", "cpu")
    assert quick.info.dtype == "bfloat16"
    whole = in_torch("mini").embed(items).vectors
    for _ in range(2):  # made now, and as it was kept
        again = Embedder.load("mini", "cpu")
        assert np.einsum("nd,nd->n", again.embed(items).vectors, whole).min() > 0.9997
    agree(quick.embed(items[:4], "query"), in_torch("mini").embed(items[:4]))
    cosines = (quick.embed(items).vectors * whole).sum(1)
    assert 0.9997 < cosines.min() < 0.99999 and np.median(cosines) > 0.9999
    assert (quick.embed(items, "query").vectors * in_torch("mini").embed(items).vectors).sum(1).min() > 0.999999


@pytest.mark.parametrize(("f32", "bf16", "faster"), [(2, 1, "bf16"), (1, 1, "f32"), (1, 2, "f32")])
def test_bfloat16_must_be_worth_it(monkeypatch: pytest.MonkeyPatch, f32: int, bf16: int, faster: str) -> None:
    def product(precision: engine.Precision) -> Callable[[], object]:
        return lambda: sum(range({"f32": f32, "bf16": bf16}[precision] * 100_000))

    monkeypatch.setattr(engine, "_product", product)
    monkeypatch.setattr(engine, "has_bfloat16", lambda: True)
    assert engine.fast_precision.__wrapped__() == faster
    monkeypatch.setattr(engine, "has_bfloat16", lambda: False)
    assert engine.fast_precision.__wrapped__() == "f32"


class TestFacts:
    def test_the_engine_is_asked_once(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TSEMBED_HOME", str(home / "new"))
        known = engine.facts()
        assert known == (engine.name(), engine.fast_precision())
        monkeypatch.setattr(engine, "openvino", lambda: pytest.fail("it was asked again"))
        assert engine.facts() == known

    @pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}'])
    def test_what_is_damaged_is_asked_again(self, home: Path, damage: str) -> None:
        known = engine.facts()
        file = home / "cache" / "engine" / "facts.json"
        whole = file.read_text()
        file.write_text(damage)
        assert engine.facts() == known
        assert file.read_text() == whole

    def test_another_cpu_is_asked_for_itself(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        engine.facts()
        monkeypatch.setattr(engine, "_cpu", lambda: "another")
        monkeypatch.setattr(engine, "fast_precision", lambda: "f32")
        monkeypatch.setattr(engine, "name", lambda: "OpenVINO 9")
        assert engine.facts() == ("OpenVINO 9", "f32")

    def test_it_is_said_without_loading_the_engine(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        known = engine.facts()
        assert known is not None
        monkeypatch.setattr(engine, "openvino", lambda: pytest.fail("it was loaded"))
        texts = {"bf16": "bfloat16", "f32": "float32"}[known.precision]
        said = loading.computed_by(registry.resolve("mini"), "cpu")
        assert said == f"{known.name}, queries and pictures in float32, texts in {texts}"

    def test_an_engine_that_does_not_run_is_asked_each_time(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TSEMBED_HOME", str(home / "none"))
        monkeypatch.setattr(engine, "openvino", lambda: None)
        assert engine.facts() is None and not (home / "none").exists()


class TestWithoutTheEngine:
    def test_torch_does_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "facts", lambda: None)
        assert isinstance(Embedder.load("mini", "cpu").backbone, Mini)
        assert loading.computed_by(registry.resolve("mini"), "cpu") == "PyTorch"

    def test_a_graph_that_it_does_not_take_is_said(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*given: object) -> None:
            raise RuntimeError("no such operation")

        monkeypatch.setattr(engine, "Graph", refuse)
        monkeypatch.setattr(engine, "is_kept", lambda *given: False)
        assert isinstance(Embedder.load("mini", "cpu").backbone, Mini)
        assert "does not take mini" in caplog.text


def test_neither_torch_nor_what_reports_over_the_network_is_imported(home: Path) -> None:
    Embedder.load("mini", "cpu").embed([Item(image=picture())])  # torch reads the tower's weights, once
    program = (
        "import sys\n"
        "import numpy as np\n"
        "from tsembed_search import Embedder, Item\n"
        "Embedder.load('mini').embed([Item('a red bicycle')], 'query')\n"
        "Embedder.load('mini').embed([Item('a red bicycle ' * 40), Item('', np.zeros((9, 9, 3), np.uint8))])\n"
        "print(*sorted({'torch', 'transformers', 'openvino_telemetry', 'peft', 'openvino'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["openvino"]


def test_a_search_from_the_command_line_imports_neither_and_by_text_no_engine(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    Image.fromarray(picture()).save(files / "picture.png")
    for number, text in enumerate(("a red bicycle", "bread from an oven", "a boat at sea")):
        (files / f"{number}.txt").write_text(text)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TSEMBED_HOME": str(tmp_path / "home")}
    program = (
        "import sys\n"
        "from tsembed_search.cli.main import run\n"
        "try:\n"
        "    run()\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'openvino_telemetry', 'openvino'} & set(sys.modules)\n"
        "    print(*sorted(heavy), file=sys.stderr)\n"
    )
    environment.pop("OMP_NUM_THREADS", None)
    for arguments, needed in (
        (["index", str(files), "--quiet"], ["openvino", "torch"]),
        (["search", "--image", str(files / "picture.png"), "-k", "1", "--json"], ["openvino"]),
        (["search", "bicycle", "-k", "1", "--json"], []),
    ):
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert done.stderr.split() == needed
    assert "0.txt" in done.stdout
