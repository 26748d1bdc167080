"""Fixtures of several folders of tests. A folder's `conftest.py` imports those that it wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.indexing import Indexing, fast_folder
from tsembed_search.model.backbone import Trainable
from tsembed_search.model.expert_settings import AdapterSettings

if TYPE_CHECKING:
    from tsembed_search.model.backbone import Trainable
    from tsembed_search.model.expert_settings import AdapterSettings


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads on tiny tensors cost more than they bring, and sums in another order are other numbers."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def indexing() -> Iterator[Indexing]:
    """An empty index and an empty folder of files."""
    with fast_folder() as folder:
        yield Indexing(folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny model, made once. Read it; copy it before changing it."""
    from tsembed_search.model.backbones import tiny

    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tiny.make(family, tmp_path_factory.mktemp("models") / family)
        return made[family]

    return folder


@pytest.fixture(scope="module")
def small_base() -> Iterator[None]:
    """Mini with two of its six layers, and small pictures: how a run begins, goes on and ends depends neither on how
    deep a model is nor on how much it sees.
    """
    from tsembed_search.model import engine
    from tsembed_search.model.backbones import mini_encoder, mini_spec

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini_encoder, "_LAYERS", 2)
        patch.setattr(mini_spec, "IMAGE_SIZE", 96)
        for asked in ("openvino", "facts"):
            patch.setattr(engine, asked, lambda: None)  # the engine's graph has all layers
        yield


@pytest.fixture(scope="module")
def one_block(small_base: None) -> Iterator[None]:
    """One layer alone, where a run's files, words and end are all that is asked for."""
    from tsembed_search.model.backbones import mini_encoder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini_encoder, "_LAYERS", 1)
        yield


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outlasts a test."""
    monkeypatch.setenv("TSEMBED_HOME", str(tmp_path / "home"))


@pytest.fixture
def adapted() -> Callable[[AdapterSettings], Trainable]:
    """Makes mini with adapters that do something: B is not zero. Always with the same weights."""
    import torch

    from tsembed_search.model.backbones import mini

    def make(settings: AdapterSettings) -> Trainable:
        backbone: Trainable = mini.load("cpu")
        torch.manual_seed(0)
        adapters = backbone.adapt(settings)
        with torch.no_grad():
            for layer in adapters.layers.values():
                layer.up.weight.normal_(std=0.02)
        return backbone

    return make
