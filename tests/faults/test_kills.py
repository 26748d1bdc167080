"""Killed at any moment: one more run, and the index is what it would have been."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.indexing import Indexing, copy_index
from helpers.killable import SPOTS, Killable

# The full number of kills: TSEMBED_KILLS=100.
KILLS = int(os.environ.get("TSEMBED_KILLS", "20"))
BY_CLOCK = 0.25


@pytest.fixture(scope="module")
def killable() -> Iterator[Killable]:
    with Killable() as process:
        yield process


def first_files(indexing: Indexing) -> None:
    for number in range(6):
        indexing.picture(f"pictures/{number}.png", (40 * number, 90, 200 - 30 * number))
    for number in range(5):
        sentences = [f"Text {number} says in sentence {part} that the sky is blue." for part in range(4 * number + 1)]
        indexing.write(f"texts/{number}.md", f"# Title {number}\n\n" + " ".join(sentences))
    indexing.write("same/a.txt", "the same words")
    indexing.write("same/b.txt", "the same words")
    indexing.write("bad.png", b"not a picture")


def changed_files(indexing: Indexing) -> None:
    """Of every kind of change something."""
    files = indexing.files
    indexing.picture("pictures/0.png", "yellow")
    (files / "pictures/1.png").rename(files / "pictures/renamed.png")
    (files / "pictures/2.png").unlink()
    shutil.copy(files / "pictures/3.png", files / "pictures/copy.png")
    indexing.write("texts/4.md", "Much shorter now, and red.")
    indexing.write("texts/1.md", "# Longer\n\n" + "Green grass grows here. " * 60)
    shutil.move(files / "texts/3.md", files / "moved.md")
    (files / "same/a.txt").unlink()
    indexing.picture("new.png", "green")
    indexing.write("new.txt", "New words about nothing. " * 30)
    indexing.picture("bad.png", "black")


def knew_what_was_begun(run: dict[str, Any]) -> bool:
    """Whether only what the killed run had begun was looked at again, and not the whole index: a last resort, which
    mends the rest as well.
    """
    return not any("do not agree" in note for note in run["notes"])


@pytest.fixture
def prepared(indexing: Indexing, killable: Killable) -> Indexing:
    """An index of the first files, whose files have changed since."""
    first_files(indexing)
    killable.run(indexing.files, indexing.home)
    changed_files(indexing)
    return indexing


def test_kills_at_every_stage(prepared: Indexing, killable: Killable, tmp_path: Path) -> None:
    expected = prepared.scratch()
    saved = tmp_path / "saved"
    copy_index(prepared.home, saved)
    calls = killable.run(prepared.files, prepared.home)["calls"]
    assert prepared.points() == expected
    assert all(calls.values()), "each spot is passed, or killing there proves nothing"
    chance = random.Random(KILLS)
    spots = list(SPOTS)
    killed = 0
    for number in range(KILLS):
        shutil.rmtree(prepared.home)
        copy_index(saved, prepared.home)
        if chance.random() < BY_CLOCK:
            kill = {"seconds": chance.uniform(0.0, 0.6)}
        else:
            spot = spots[number % len(spots)]
            kill = {"spot": spot, "call": chance.randint(1, calls[spot]), "after": chance.random() < 0.5}
        killed += killable.run(prepared.files, prepared.home, kill)["status"] != 0
        assert knew_what_was_begun(killable.run(prepared.files, prepared.home)), kill
        assert prepared.points() == expected, kill
        assert killable.run(prepared.files, prepared.home)["calls"]["embed"] == 0, "and now there is nothing to do"
    assert killed >= KILLS * 0.6


def test_kills_while_a_new_index_is_made(indexing: Indexing, killable: Killable) -> None:
    first_files(indexing)
    expected = indexing.scratch()
    chance = random.Random(1)
    for spot in ("generation", "begin", "upsert", "commit", "optimize")[: 2 + KILLS // 20]:
        shutil.rmtree(indexing.home, ignore_errors=True)
        killable.run(indexing.files, indexing.home, {"spot": spot, "call": 1, "after": chance.random() < 0.5})
        killable.run(indexing.files, indexing.home)
        assert indexing.points() == expected, spot


def test_killed_again_and_again(prepared: Indexing, killable: Killable) -> None:
    """No run gets far, but each keeps what it has done, so that in the end all is done."""
    expected = prepared.scratch()
    for _ in range(60):
        if killable.run(prepared.files, prepared.home, {"spot": "commit", "call": 2, "after": False})["status"] == 0:
            break
    else:
        pytest.fail("there was no progress")
    assert prepared.points() == expected


def test_files_that_change_after_the_kill(prepared: Indexing, killable: Killable) -> None:
    """What the killed run began for a content that is then gone must not stay."""
    for spot in ("upsert", "place", "delete", "places"):
        killable.run(prepared.files, prepared.home, {"spot": spot, "call": 1, "after": True})
        prepared.write("texts/1.md", f"Something else altogether after {spot}. " * 20)
        prepared.picture("new.png", (10, len(spot) * 9, 77))
        (prepared.files / "moved.md").unlink(missing_ok=True)
    killable.run(prepared.files, prepared.home)
    assert prepared.points() == prepared.scratch()
