"""A bad file takes down itself, not the run: crashes, hangs, leaks and noise in a decoding process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers import ill_worker
from helpers.indexing import Indexing
from helpers.reading import INPUTS
from tsembed_search.documents import decoders as decoding
from tsembed_search.documents.decoders import Decoder, Request, Transient, Watch
from tsembed_search.documents.document import FORMATS
from tsembed_search.errors import LoadError, TsembedError


@pytest.fixture(autouse=True)
def ill_worker_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "WORKER", (str(Path(ill_worker.__file__)),))
    # A table of its own: others must not meet the format.
    monkeypatch.setattr(FORMATS, "_entries", {**FORMATS._entries, "ill": ill_worker.ILL})


@pytest.fixture
def decoder(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    # Only what never ends may meet its limit, however busy the machine is.
    endless = getattr(request.node, "callspec", None) and request.node.callspec.params.get("illness") in ENDLESS
    limit = 1.0 if endless else 60.0
    decoder = Decoder(INPUTS, memory=256 << 20, time_limit=limit, on_note=lambda path, text: None)
    watch = Watch([decoder])
    yield decoder
    watch.stop()
    decoder.close()


def request(path: Path, format: str = "ill") -> Request:
    facts = path.stat()
    return Request(str(path), (format,), (facts.st_size, facts.st_mtime_ns, facts.st_ino))


REASONS = {
    "crash": "crashed over it \\(SIGSEGV\\)",
    "abort": "crashed over it \\(SIGABRT\\)",
    "leave": "crashed over it \\(exit code 3\\)",
    "killed": "was killed, perhaps because memory ran out",
    "hang": "more than 1 second\\..*time limit",
    "spin": "more than 1 second\\.",
    "leak": "more memory",
    "recurse": "RecursionError",
}
ENDLESS = {"hang", "spin"}


@pytest.mark.parametrize("when", ["first", "later"])
@pytest.mark.parametrize("illness", REASONS)
def test_an_illness_is_one_files_reason(decoder: Decoder, tmp_path: Path, illness: str, when: str) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.write_text(f"{illness} {when}")
    good.write_text("healthy first")
    assert [unit.text for unit in decoder.units(request(good))] == ["healthy"]
    given = []
    with pytest.raises(LoadError, match=REASONS[illness]):
        given.extend(decoder.units(request(bad)))
    assert [unit.text for unit in given] == (["before"] if when == "later" else [])
    assert [unit.text for unit in decoder.units(request(good))] == ["healthy"], "the next file is read as ever"


def test_noise_does_not_get_between_the_messages(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "noisy"
    path.write_text("print_much later")
    assert [unit.text for unit in decoder.units(request(path))] == ["before", "print_much"]


def test_pixels_arrive_as_they_were(decoder: Decoder, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    (unit,) = decoder.units(request(path, "image"))
    assert unit.pixels is not None and (unit.pixels == pixels).all() and unit.pixels.flags.writeable


def test_files_that_change_vanish_or_are_no_files(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    asked = request(path, "text")
    path.write_text("longer")
    with pytest.raises(Transient, match="changed while it was read"):
        list(decoder.units(asked))
    path.unlink()
    with pytest.raises(Transient, match="vanished"):
        list(decoder.units(asked))
    path.mkdir()
    with pytest.raises(LoadError):
        list(decoder.units(asked))


def test_a_worker_that_cannot_start_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "WORKER", ("-c", "raise SystemExit('no such library')"))
    decoder = Decoder(INPUTS, memory=1 << 28, time_limit=1.0, on_note=lambda path, text: None)
    path = tmp_path / "a"
    path.write_text("x")
    with pytest.raises(TsembedError, match="cannot start: no such library") as raised:
        list(decoder.units(request(path)))
    assert not isinstance(raised.value, LoadError)
    decoder.close()


def test_a_run_with_all_illnesses_indexes_the_good_neighbours(indexing: Indexing) -> None:
    bad = [(illness, "first") for illness in REASONS] + [("crash", "later"), ("hang", "later")]
    for illness, when in bad:
        os.utime(indexing.write(f"{illness}-{when}.ill", f"{illness} {when}"), (1e9, 1e9))
    for number in range(10):
        indexing.write(f"good{number}.txt", f"good text {number}")
    limits = {"time_limit": 2.0, "memory": 256 << 20}
    report = indexing.run(workers=4, **limits)
    assert report.files.added == 10 and report.files.skipped == len(report.skipped) == len(bad)
    assert indexing.paths() == [f"good{number}.txt" for number in range(10)], "nothing of a half-read file is left"
    again = indexing.run(**limits)
    assert again.files.skipped == len(bad) and again.items.embedded == 0
    assert indexing.loads == 1, "what is known to be bad is not read again"
    indexing.write("hang-first.ill", "healed")
    indexing.run(**limits)
    assert indexing.loads == 2 and "hang-first.ill" in indexing.paths()


def test_what_could_not_be_read_is_read_again_on_demand(indexing: Indexing) -> None:
    os.utime(indexing.write("crash.ill", "crash first"), (1e9, 1e9))
    for retry, loads in ((False, 1), (False, 1), (True, 2)):
        assert indexing.run(retry_skipped=retry).files.skipped == 1
        assert indexing.loads == loads


def test_drawing_pages_gives_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that hangs costs some seconds, and what was drawn before is shown; one that crashes costs itself."""
    monkeypatch.setattr(decoding, "_PREVIEW_SECONDS", 2.0)
    crashes, hangs = tmp_path / "crashes.ill", tmp_path / "hangs.ill"
    crashes.write_text("crash first")
    hangs.write_text("hang first")
    drawn = decoding.thumbnails([(crashes, 2), (crashes, 1), (crashes, 3), (hangs, 2), (hangs, 1)])
    assert list(drawn) == [(crashes, 1), (crashes, 3)]
    assert drawn[crashes, 3].shape == (2, 2, 3) and int(drawn[crashes, 3].max()) == 3
