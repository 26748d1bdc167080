"""Pictures pass the frozen tower once, and give the same numbers as ever."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.training_data import Listed, job, same, small, weights
from tsembed_search import private
from tsembed_search.data.rows import Row
from tsembed_search.errors import LoadError
from tsembed_search.items import Item, Role
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.model.backbones import mini
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.trainer.batches.features import Preparer, preparer_for
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.loop import train
from tsembed_search.trainer.settings import Recipe

pytestmark = pytest.mark.usefixtures("one_block")

Make = Callable[[AdapterSettings], Trainable]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    files = []
    for seed in range(6):
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        files.append(tmp_path / f"{seed}.png")
        Image.fromarray(coarse).resize((64, 48), Image.Resampling.NEAREST).save(files[-1])
    return files


def vectors(backbone: Trainable, prepared: list[Prepared | LoadError]) -> torch.Tensor:
    with torch.no_grad():
        return backbone.trace([one for one in prepared if isinstance(one, Prepared)], losses=False).vectors


def counting(backbone: mini.Mini, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures pass the tower, call by call."""
    passed: list[int] = []
    logits = backbone.tower.logits

    def count(pixels: torch.Tensor) -> torch.Tensor:
        passed.append(len(pixels))
        return logits(pixels)

    monkeypatch.setattr(backbone.tower, "logits", count)
    return passed


def test_same_vectors_with_and_without(pictures: list[Path], adapted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = adapted(replace(Recipe().adapter, rank=2))
    backbone.train(False)
    wanted: list[tuple[Item, Role]] = [(Item(image=one), "document") for one in pictures]
    wanted += [(Item("red", pictures[0]), "query"), (Item("a"), "query")]
    plain = vectors(backbone, Preparer(backbone, 1).prepare(wanted))
    assert isinstance(backbone, mini.Mini)
    passed = counting(backbone, monkeypatch)
    caching = preparer_for(backbone, "base", workers=2)
    first = vectors(backbone, caching.prepare(wanted))
    assert passed == [8], "six pictures, filled up to whole slices; one of them came twice"
    torch.testing.assert_close(first, plain, atol=1e-5, rtol=0)
    assert torch.equal(vectors(backbone, caching.prepare(wanted)), first)
    caching.close()
    from_disk = preparer_for(backbone, "base", workers=2)
    assert torch.equal(vectors(backbone, from_disk.prepare(wanted)), first)
    assert passed == [8], "neither again in this run nor in the next one"
    preparer_for(backbone, "another", workers=2).prepare(wanted)
    assert passed == [8, 8], "another model's features are its own"


def test_a_picture_has_the_same_bits_in_any_company(pictures: list[Path], adapted: Make) -> None:
    """So a run that is resumed, and asks for pictures in other groups, computes the same."""
    backbone = adapted(replace(Recipe().adapter, rank=2))
    assert isinstance(backbone, mini.Mini)
    prepared = [backbone.prepare(Item(image=one)) for one in pictures]
    together = backbone.look(prepared)
    for one, caption in zip(prepared, together, strict=True):
        alone = backbone.look([one])[0]
        assert caption is not None and alone is not None and torch.equal(alone, caption)
    assert backbone.look([backbone.prepare(Item("words"))]) == [None]


def test_changed_files_are_looked_at_again(pictures: list[Path], adapted: Make) -> None:
    backbone = adapted(replace(Recipe().adapter, rank=2))
    backbone.train(False)
    caching = preparer_for(backbone, "base", workers=1)
    before = vectors(backbone, caching.prepare([(Item(image=pictures[0]), "document")]))
    pictures[0].write_bytes(pictures[1].read_bytes() + b" ")
    after = vectors(backbone, caching.prepare([(Item(image=pictures[0]), "document")]))
    assert not torch.allclose(before, after, atol=1e-3)


def test_what_cannot_be_read(pictures: list[Path], tmp_path: Path, adapted: Make) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    caching = preparer_for(adapted(replace(Recipe().adapter, rank=2)), "base", workers=1)
    places = [pictures[0], tmp_path / "bad.png", tmp_path / "gone.png", pictures[1]]
    found = caching.prepare([(Item(image=place), "document") for place in places])
    assert [isinstance(one, Prepared) for one in found] == [True, False, False, True]


class Full(sqlite3.Connection):
    """A database on a disk that is full."""

    def executemany(self, *_: Any) -> sqlite3.Cursor:
        raise sqlite3.OperationalError("database or disk is full")


class Broken(sqlite3.Connection):
    """A database with damaged pages."""

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        if query.startswith("SELECT"):
            raise sqlite3.DatabaseError("database disk image is malformed")
        return super().execute(query, *values)


@pytest.mark.parametrize("harm", ["a file in its place", "no database", "full", "broken", "read-only", "half a row"])
def test_a_cache_that_cannot_be_used_costs_time_alone(
    harm: str, pictures: list[Path], adapted: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said once; the numbers are the same."""
    backbone = adapted(replace(Recipe().adapter, rank=2))
    backbone.train(False)
    wanted: list[tuple[Item, Role]] = [(Item(image=one), "document") for one in pictures]
    first = preparer_for(backbone, "base", workers=1)
    expected = vectors(backbone, first.prepare(wanted))
    first.close()
    folder = tmp_path / "home" / "cache"
    file = next(folder.glob("*.sqlite"))
    if harm == "a file in its place":
        shutil.rmtree(folder)
        folder.write_text("mine")
    if harm == "no database":
        file.write_bytes(b"mine" * 5000)
    if harm == "half a row":
        with sqlite3.connect(file) as base:
            base.execute("UPDATE seen SET data = x'0102'")
    if harm in ("full", "broken"):
        connect = sqlite3.connect
        kind = {"full": Full, "broken": Broken}[harm]
        file.unlink()
        monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: connect(*given, factory=kind, **named))
    if harm == "read-only":

        def refuse(made: Path) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(made))

        monkeypatch.setattr(private, "make_folder", refuse)
    again = preparer_for(backbone, "base", workers=1)
    for _ in range(2):
        assert torch.equal(vectors(backbone, again.prepare(wanted)), expected)
    again.prepare([(Item(image=pictures[0]), "query")])
    again.close()
    said = [line for line in again.remarks if "That costs time, nothing else" in line and str(folder) in line]
    assert len(said) == len(again.remarks) == (harm != "half a row")


def test_training_on_pictures(pictures: list[Path], tmp_path: Path) -> None:
    """The same model with the cache on disk, from it, and without."""
    rows = [Row(Item(f"number {at}"), Item(image=one), str(at)) for at, one in enumerate(pictures)]
    tasks = [Listed("pictures", rows)]

    def run(name: str, *overrides: str) -> dict[str, torch.Tensor]:
        settings = small("steps=3", "batch.size=4", *overrides)
        train(Job(settings, tasks, tasks, tmp_path / name, "cpu"))
        return weights(tmp_path / name / "model")

    first = run("first")
    assert same(first, run("again")) and same(first, run("without", "cache=false"))
    assert len(list((tmp_path / "home" / "cache").glob("*.sqlite"))) == 1
    assert job(tmp_path / "x").recipe.run.cache
