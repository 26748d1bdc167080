"""Models whose vectors are cut: `mini-base:64`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tsembed_search import Embedder, Index, Item
from tsembed_search.errors import IndexMismatchError, ModelError, UsageError
from tsembed_search.model import registry
from tsembed_search.model.loading import checked_weights, create_checkpoint
from tsembed_search.model.shortened import shortened

ITEMS = [Item("a red bicycle"), Item("terms of payment"), Item("the history of a lighthouse on an island")]


def test_a_cut_model_gives_the_first_numbers_of_the_whole_one() -> None:
    whole = Embedder.load("mini-base", "cpu").embed(ITEMS).vectors
    cut = Embedder.load("mini-base:64", "cpu")
    found = cut.embed(ITEMS).vectors
    assert cut.info.dim == found.shape[1] == 64
    expected = whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_arrays_and_tensors_are_cut_alike() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    np.testing.assert_allclose(shortened(torch.from_numpy(vectors), 7).numpy(), shortened(vectors, 7), atol=1e-6)


def test_a_vector_of_zeros_stays_finite() -> None:
    assert not shortened(np.zeros((1, 8), np.float32), 4).any()


def test_each_size_is_a_model_of_its_own() -> None:
    refs = [registry.resolve(name) for name in ("mini-base", "mini-base:64", "mini-base:128")]
    assert len({ref.fingerprint for ref in refs}) == 3
    assert registry.resolve("mini-base:64").fingerprint == refs[1].fingerprint
    assert checked_weights(refs[1]) == checked_weights(refs[0])


def test_a_folder_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create_checkpoint("made:12")
    ref = registry.resolve("made:12")
    assert ref.whole is None
    assert registry.resolve("made:12:16").whole == ref


def test_more_numbers_than_there_are_is_refused() -> None:
    with pytest.raises(ModelError, match="have 384 numbers, not 1000"):
        Embedder.load("mini-base:1000", "cpu")
    with pytest.raises(UsageError, match="cannot be cut to 0"):
        registry.resolve("mini-base:0")


def test_a_cut_model_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot carry adapters"):
        create_checkpoint(tmp_path / "made", "mini-base:64")


def test_an_index_of_cut_vectors_needs_no_word_about_it_later(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in {"bike": "A red bicycle in the snow.", "law": "The terms of payment are thirty days."}.items():
        (texts / f"{name}.txt").write_text(text)
    with Index.create("cut", model="mini-base", dim=64, device="cpu") as index:
        index.add(texts)
    with Index.open("cut", device="cpu") as index:
        assert index.metadata.dim == 64
        assert Path(index.search("cycling in winter", words="never").hits[0].path).name == "bike.txt"
        assert index.add(texts).files.unchanged == 2
    with Index.open("cut", dim=64, device="cpu") as index:
        assert index.add(texts).files.unchanged == 2
    for other in ({"dim": 32}, {"model": "mini-base"}):
        with pytest.raises(IndexMismatchError, match="mini-base:64"):
            Index.open("cut", device="cpu", **other)  # type: ignore[arg-type]
