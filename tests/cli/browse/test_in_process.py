"""The browser's source on a real index, and the browser on that source."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from textual.pilot import Pilot

from helpers.browsing import played, screen_lines, until
from helpers.colours import COLOURS, ColourBackbone
from helpers.indexing import Sink
from tsembed_search.cli.browse import in_process
from tsembed_search.cli.browse.app import Browser
from tsembed_search.cli.browse.in_process import InProcess
from tsembed_search.cli.browse.source import Wish
from tsembed_search.errors import IndexBusyError, StoreError
from tsembed_search.index import Index
from tsembed_search.indexer import access
from tsembed_search.model.embedder import Embedder
from tsembed_search.ownership import owned
from tsembed_search.store.base import StoreSettings


def opened() -> Index:
    return Index.open(embedder=Embedder(ColourBackbone(experts=True)), create=StoreSettings(0))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Pictures of one colour each, from a year each, and a long text."""
    folder = tmp_path / "files"
    (folder / "pictures").mkdir(parents=True)
    for year, (colour, rgb) in enumerate(COLOURS.items(), 2018):
        path = folder / "pictures" / f"{colour}.png"
        Image.new("RGB", (40, 30), rgb).save(path)
        changed = time.mktime((year, 6, 1, 12, 0, 0, 0, 0, -1))
        os.utime(path, (changed, changed))
    paragraphs = [f"Paragraph {number} is about {'turnips' if number == 20 else 'nothing'}." for number in range(60)]
    (folder / "long.txt").write_text("\n\n".join(paragraphs))
    os.utime(folder / "long.txt", (1.4e9, 1.4e9))
    with opened() as index:
        index.add(folder)
    return folder


@pytest.fixture
def source(files: Path) -> Iterator[InProcess]:
    made = InProcess(opened())
    yield made
    made.close()


def names(hits: Any) -> list[str]:
    return [Path(hit.path).name for hit in hits]


def test_the_newest_come_first_also_of_many(source: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    newest_first = [f"{colour}.png" for colour in reversed(COLOURS)]
    assert names(source.search(Wish(), 60, words_only=True).hits) == [*newest_first, "long.txt"]
    # So few that not all are read: the moment since which there are enough is found by counting.
    few = source.search(Wish(), 1, words_only=True)
    assert names(few.hits) == newest_first[:1] and few.has_more
    only = source.search(Wish(where="modified<2021"), 2, words_only=True)
    assert names(only.hits) == ["blue.png", "green.png"]


def test_words_need_no_model_and_meaning_does(source: InProcess) -> None:
    by_words = source.search(Wish("turnips"), 60, words_only=True)
    assert names(by_words.hits) == ["long.txt"] and by_words.by == "by words" and not by_words.has_more
    source.warm()
    by_meaning = source.search(Wish("red"), 60, words_only=False)
    assert names(by_meaning.hits)[0] == "red.png" and len(by_meaning.hits) == 7
    like = source.search(Wish(like=by_meaning.hits[0].id), 60, words_only=True)
    assert "red.png" not in names(like.hits) and like.by == "by likeness"


def test_facets_count_what_the_filters_let_through(source: InProcess, files: Path) -> None:
    chunks = len(source.search(Wish(where="kind=text"), 60, words_only=True).hits)
    found = source.facets(Wish())
    kinds = {one.value: one.count for one in found["kind"]}
    assert kinds["image"] == 6 and kinds["text"] >= chunks
    assert [one.name for one in found["folder"]] == ["pictures"] and found["folder"][0].count == 6
    assert [one.value for one in found["year"]] == ["2023", "2022", "2021", "2020", "2019", "2018", "2014"]
    inside = Wish(chosen=(("folder", found["folder"][0].value), ("year", "2020")))
    narrowed = source.facets(inside)
    assert [one.value for one in narrowed["year"]][:2] == ["2023", "2022"], "its own choice does not narrow a facet"
    assert [(one.value, one.count) for one in narrowed["kind"]] == [("image", 1)]
    assert names(source.search(inside, 60, words_only=True).hits) == ["blue.png"]


def test_folders_count_what_is_there_after_files_were_taken_out(source: InProcess, files: Path) -> None:
    assert source.facets(Wish())["folder"][0].count == 6
    with opened() as index:
        index.remove([files / "pictures" / "blue.png"])
    assert [(one.name, one.count) for one in source.facets(Wish())["folder"]] == [("pictures", 5)]
    with opened() as index:
        index.remove([files / "pictures"])
    assert source.facets(Wish())["folder"] == []


def test_a_passage_comes_in_its_context_with_marks(source: InProcess) -> None:
    (hit,) = source.search(Wish("turnips"), 1, words_only=True).hits
    passage = source.detail(hit, "turnips").passage
    first, behind = passage.own
    assert 0 < first < behind < len(passage.lines), "there is text before and after it"
    marked = [line[start:end] for line, marks in zip(passage.lines, passage.marks, strict=True) for start, end in marks]
    assert marked == ["turnips"]
    lines = [line for line in passage.lines if line]
    assert len(lines) == len(set(lines)), "what two chunks share is shown once"


def test_a_reason_names_experts_and_what_they_are_for(source: InProcess) -> None:
    (hit, *_) = source.search(Wish("red"), 60, words_only=True).hits
    assert "once the model is loaded" in source.reason(Wish("red"), hit).remark
    source.warm()
    reason = source.reason(Wish("red"), hit)
    assert reason.experts and all(part > 0 for _, part, _ in reason.experts)
    assert reason.hit.similarity > 0


def test_pictures_are_drawn_and_texts_are_not(source: InProcess, files: Path) -> None:
    hits = {Path(hit.path).name: hit for hit in source.search(Wish(), 60, words_only=True).hits}
    drawn = source.picture(hits["red.png"])
    assert drawn is not None and tuple(drawn[0, 0]) == COLOURS["red"]
    assert source.picture(hits["long.txt"]) is None
    (files / "pictures/blue.png").write_bytes(b"\x89PNG broken")
    assert "damaged" in str(source.picture(hits["blue.png"]))


def test_files_can_be_indexed_while_it_is_browsed(
    source: InProcess, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process, "_IDLE_SECONDS", 0.02)
    before = source.stamp()
    source.search(Wish(), 60, words_only=True)
    time.sleep(0.2)
    (files / "new.txt").write_text("radishes")
    with opened() as other:
        assert other.add(files).files.added == 1
    assert source.stamp() != before
    assert names(source.search(Wish("radishes"), 60, words_only=True).hits) == ["new.txt"]


def test_a_run_waits_until_a_browser_lets_go_and_it_does(
    source: InProcess, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.search(Wish(), 60, words_only=True)
    folder = source._index.address.folder
    lets_go = threading.Thread(target=until_owned, args=(source, folder))
    (files / "new.txt").write_text("radishes")
    told = Sink()
    with opened() as other:
        lets_go.start()
        assert other.add(files, progress=told).files.added == 1
    lets_go.join()
    assert told.notes == ["Waiting for another process that searches or browses this index."]
    source.search(Wish(), 60, words_only=True)
    monkeypatch.setattr(access, "_READERS_LEAVE", 0.3)
    with opened() as other, pytest.raises(IndexBusyError, match="in use by another process"):
        other.add(files)


def until_owned(source: InProcess, folder: Path) -> None:
    """The look of the browser at whether the index has changed, until another owns it."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.2)
        try:
            source.stamp()
        except IndexBusyError:
            return


def test_an_owner_is_named_and_a_lost_index_is_said(source: InProcess, files: Path) -> None:
    folder = source._index.address.folder
    with owned(folder, "indexing"), pytest.raises(IndexBusyError, match=r"in use by process \d+ \(indexing\)"):
        source.stamp()
    with opened() as other:
        other.delete()
    with pytest.raises(StoreError, match="is gone"):
        source.stamp()


def test_the_browser_on_a_real_index(source: InProcess, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsembed_search.cli.browse.app._LOOKING", 0.05)
    monkeypatch.setattr(in_process, "_IDLE_SECONDS", 0.02)

    async def play(app: Browser, pilot: Pilot[list[str]]) -> None:
        await until(pilot, lambda: app.found.by == "newest first" and app._stamp is not None)
        await pilot.press(*"turnips", "enter")
        await until(pilot, lambda: app.found.by == "by meaning" and app.hit and app.hit.path.endswith("long.txt"))
        await until(pilot, lambda: any("Paragraph 20 is about turnips." in line for line in screen_lines(app)))
        (files / "turnips.txt").write_text("turnips")
        with opened() as other:
            other.add(files)
        await until(pilot, lambda: "turnips.txt" in names(app.desk.results.hits))
        await pilot.press("g", "space", "p")

    assert [Path(path).name for path in played(play, source, size=(160, 30))] == ["turnips.txt"]
