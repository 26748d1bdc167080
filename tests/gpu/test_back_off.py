"""When memory runs out: a batch is halved as often as it must be and no oftener, and one item too large fails alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.device_simulation import SimulatedGPU
from tsembed_search.errors import ModelError, TooLargeError
from tsembed_search.evaluation.evaluate import Distinct, embed_items
from tsembed_search.index import Index
from tsembed_search.items import Embeddings, Item
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import Prepared
from tsembed_search.model.embedder import Embedder, in_fitting_parts

FAMILIES = ["qwen2-vl", "qwen2.5-vl", "qwen3-vl", "smolvlm", "idefics3", "llava-onevision"]
SMALL = [Item(f"text {number:02}") for number in range(32)]
LARGE = Item("a very long text " * 60)


@contextmanager
def room_for(embedder: Embedder, gpu: SimulatedGPU, items: Sequence[Prepared]) -> Iterator[list[int]]:
    """Limits the GPU to what these items take at once; gives the sizes of the batches that are tried."""
    embedder.encode(items)
    gpu.reset()
    embedder.encode(items)
    gpu.limit = gpu.peak
    sizes: list[int] = []
    forward = embedder.backbone.forward

    def counted(batch: Sequence[Prepared]) -> object:
        sizes.append(len(batch))
        return forward(batch)

    embedder.backbone.forward = counted  # type: ignore[method-assign, assignment]
    yield sizes
    gpu.limit = 2**40


@pytest.mark.parametrize("family", [*FAMILIES, "mini"])
def test_a_batch_twice_too_large_is_halved_once(family: str, tiny: Callable[[str], str]) -> None:
    with SimulatedGPU() as gpu:
        embedder = Embedder(loading.load(registry.resolve(family if family == "mini" else tiny(family))))
        items = [embedder.prepare(item) for item in SMALL]
        with room_for(embedder, gpu, items[:16]) as sizes:
            found = embedder.encode(items)
        assert sizes == [32, 16, 16]
        np.testing.assert_allclose(found.vectors, embedder.encode(items).vectors, atol=0.02)


@pytest.mark.parametrize("family", ["qwen2-vl", "smolvlm", "mini"])
def test_one_item_too_large_fails_alone(family: str, tiny: Callable[[str], str]) -> None:
    with SimulatedGPU() as gpu:
        embedder = Embedder(loading.load(registry.resolve(family if family == "mini" else tiny(family))))
        items = [embedder.prepare(item) for item in (*SMALL[:3], LARGE, *SMALL[3:6])]
        small = [*items[:3], *items[4:]]
        with room_for(embedder, gpu, small):
            parts = list(embedder.embed_stream([list(enumerate(items))]))
            with pytest.raises(TooLargeError, match=f"One item of {items[3].tokens} tokens does not fit"):
                embedder.encode(items)
        assert [keys for keys, found in parts if isinstance(found, TooLargeError)] == [[3]]
        assert [key for keys, _ in parts for key in keys] == list(range(7))
        vectors = np.concatenate([found.vectors for _, found in parts if not isinstance(found, TooLargeError)])
        np.testing.assert_allclose(vectors, embedder.encode(small).vectors, atol=0.02)


def test_indexing_goes_on(tmp_path: Path, tiny: Callable[[str], str]) -> None:
    """A file that does not fit is left out with its reason; the others are found."""
    with SimulatedGPU() as gpu:
        embedder = Embedder.load(tiny("qwen2-vl"))
        items = [embedder.prepare(item) for item in SMALL[:6]]
        files = tmp_path / "files"
        files.mkdir()
        for at in range(6):
            (files / f"{at}.txt").write_text(f"text {at:02}")
        (files / "large.txt").write_text(LARGE.text or "")
        index = Index.create("tiny", store=f"edge:{tmp_path / 'index'}", embedder=embedder)
        with index, room_for(embedder, gpu, items):
            report = index.add(files, workers=1)
    assert report.files.added == 6
    assert [Path(skip.path).name for skip in report.skipped] == ["large.txt"]
    assert "does not fit in the memory" in report.skipped[0].reason


def test_evaluation_goes_on(tiny: Callable[[str], str]) -> None:
    with SimulatedGPU() as gpu:
        embedder = Embedder.load(tiny("qwen2-vl"))
        wanted = Distinct("document")
        wanted.rows_of([*SMALL[:4], LARGE])
        with room_for(embedder, gpu, [embedder.prepare(item) for item in SMALL[:4]]):
            found = embed_items(embedder, wanted)
    assert list(found.failed) == [4] and "does not fit" in found.failed[4]
    assert np.allclose(np.linalg.norm(found.vectors[:4], axis=1), 1, atol=0.01)


@pytest.mark.parametrize(
    "words",
    ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", "MPS backend out of memory"],
)
def test_other_words_for_no_memory(words: str) -> None:
    def work(part: Sequence[int]) -> int:
        if len(part) > 1:
            raise RuntimeError(words)
        return part[0]

    assert [found for _, found in in_fitting_parts(work, [1, 2, 3])] == [1, 2, 3]


def test_other_errors_are_raised() -> None:
    def work(part: Sequence[int]) -> int:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_fitting_parts(work, [1, 2]))


def test_a_broken_model_still_ends_a_run() -> None:
    """Only what is too large is an item's own fault."""

    class Broken(Embedder):
        def _encoded(self, batch: Sequence[Prepared]) -> Embeddings:
            raise ModelError("It gave vectors that are not finite.")

    from tsembed_search.indexer.stages import _encoded

    broken = Broken(Embedder.load("mini-base", "cpu").backbone)
    entry = object()
    with pytest.raises(ModelError, match="finite"):
        list(_encoded(broken, [(entry, Prepared(1, torch.ones(1)))]))  # type: ignore[list-item]
