"""Embedding what tasks hold: once each, in any order, on disk when it is much."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.colour_index import solid
from helpers.colours import COLOURS, ColourBackbone
from tsembed_search.evaluation import evaluate as embedding
from tsembed_search.evaluation.evaluate import Distinct, embed_items
from tsembed_search.items import Item
from tsembed_search.model.embedder import Embedder


def distinct(*items: Item) -> Distinct:
    found = Distinct("document")
    found.rows_of(items)
    return found


def test_equal_items_share_a_row(tmp_path: Path) -> None:
    pixels = solid(1, 2, 3)
    path = tmp_path / "a.png"
    items = [Item("a"), Item("a", instruction="x"), Item(image=path), Item("a", image=path), Item(image=pixels)]
    items += [Item("a"), Item(image=str(path)), Item(image=pixels), Item(image=pixels.copy())]
    assert Distinct("query").rows_of(items).tolist() == [0, 1, 2, 3, 4, 0, 2, 4, 5]


def test_rows_are_those_of_the_items_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Item(f"word {n}") for n in range(50)]
    embedder = Embedder(ColourBackbone(experts=True))
    expected = embedder.embed(items)
    monkeypatch.setattr(embedding, "_LOOKAHEAD", 7)
    seen: list[int] = []
    found = embed_items(embedder, distinct(*items), seen.append)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)
    np.testing.assert_allclose(found.routes, expected.routes, atol=1e-6)
    assert seen[-1] == 50 and seen == sorted(seen) and not found.failed


def test_much_lies_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_IN_MEMORY", 100)
    items = [Item(f"word {n}") for n in range(20)]
    embedder = Embedder(ColourBackbone())
    found = embed_items(embedder, distinct(*items))
    assert isinstance(found.vectors, np.memmap) and found.routes.shape == (20, 0)
    np.testing.assert_allclose(found.vectors, embedder.embed(items).vectors, atol=1e-6)


def test_pictures_are_read_beside_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = []
    for number in range(40):
        path = tmp_path / f"{number}.png"
        Image.fromarray(solid(*COLOURS["red" if number % 2 else "blue"])).save(path)
        items.append(Item(image=path))
    (tmp_path / "7.png").write_bytes(b"broken")
    threads: set[int] = set()

    class Watching(ColourBackbone):
        def prepare(self, item: Item, role: str = "document") -> object:  # type: ignore[override]
            threads.add(threading.get_ident())
            return super().prepare(item)

    backbone = Watching()
    backbone.info = replace(backbone.info, device="cuda:0")
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    found = embed_items(Embedder(backbone), distinct(*items))  # type: ignore[arg-type]
    assert list(found.failed) == [7] and "7.png" in found.failed[7]
    assert threading.get_ident() not in threads
    np.testing.assert_allclose(found.vectors[9], found.vectors[1], atol=1e-6)
    assert not np.allclose(found.vectors[8], found.vectors[9]) and not found.vectors[7].any()
