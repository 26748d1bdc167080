"""Killed while words are stored, or while their vectors are added: the next runs make the index whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.indexing import Indexing, copy_index, fill
from helpers.killable import Killable

_SPOTS = ("decode", "generation", "begin", "upsert", "commit", "close")
_WORDS = {"words_only": True}
_BOTH = {"words_first": 1}


@pytest.fixture(scope="module")
def killable() -> Iterator[Killable]:
    with Killable() as process:
        yield process


def test_kills_while_words_are_stored(indexing: Indexing, killable: Killable) -> None:
    fill(indexing)
    expected = indexing.scratch()
    for number, spot in enumerate(_SPOTS):
        shutil.rmtree(indexing.home, ignore_errors=True)
        kill = {"spot": spot, "call": 1 + number % 2 * (spot in ("decode", "upsert")), "after": number % 2 == 0}
        assert killable.run(indexing.files, indexing.home, kill, _WORDS)["status"] != 0, spot
        if number % 2:
            killable.run(indexing.files, indexing.home, options=_WORDS)
            assert set(indexing.points()) == set(expected), spot
        killable.run(indexing.files, indexing.home)
        assert indexing.points() == expected, spot


def test_kills_while_vectors_are_added(indexing: Indexing, killable: Killable, tmp_path: Path) -> None:
    fill(indexing)
    expected = indexing.scratch()
    killable.run(indexing.files, indexing.home, options=_WORDS)
    saved = tmp_path / "saved"
    copy_index(indexing.home, saved)
    for number, spot in enumerate((*_SPOTS, "embed", "upsert")):
        shutil.rmtree(indexing.home)
        copy_index(saved, indexing.home)
        kill = {"spot": spot, "call": 1 + (number == len(_SPOTS) + 1), "after": number % 2 == 1}
        assert killable.run(indexing.files, indexing.home, kill)["status"] != 0, spot
        if number % 3 == 0:  # a run for words in between takes nothing away for good
            killable.run(indexing.files, indexing.home, options=_WORDS)
        killable.run(indexing.files, indexing.home)
        assert indexing.points() == expected, spot
        assert killable.run(indexing.files, indexing.home)["calls"]["embed"] == 0, spot


def test_kills_of_a_run_that_stores_words_first(indexing: Indexing, killable: Killable) -> None:
    """The spots that both passes go through are met in the first, and then in the second."""
    fill(indexing)
    expected = indexing.scratch()
    whole = killable.run(indexing.files, indexing.home, options=_BOTH)["calls"]
    assert indexing.points() == expected
    for number, spot in enumerate(("crawl", *_SPOTS, "embed")):
        for call in sorted({1, whole[spot]}):
            shutil.rmtree(indexing.home, ignore_errors=True)
            kill = {"spot": spot, "call": call, "after": number % 2 == 0}
            assert killable.run(indexing.files, indexing.home, kill, _BOTH)["status"] != 0, (spot, call)
            killable.run(indexing.files, indexing.home, options=_BOTH if number % 3 else None)
            assert indexing.points() == expected, (spot, call)
            assert killable.run(indexing.files, indexing.home)["calls"]["embed"] == 0, (spot, call)
