"""Words first: a run without the model stores words, and the next one adds the vectors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from helpers.indexing import Indexing, fill
from tsembed_search.documents.decoders import Decoder
from tsembed_search.errors import UsageError
from tsembed_search.index import Index
from tsembed_search.indexer import mending
from tsembed_search.indexer.report import Interrupted, Meter
from tsembed_search.items import Item
from tsembed_search.ranking.words import query_words
from tsembed_search.store.base import Search, Store
from tsembed_search.store.schema import WORDS_LEFT


def with_vectors(indexing: Indexing) -> tuple[int, int]:
    """(points that have a vector, all points)."""
    store = opened(indexing)
    try:
        return store.count_vectors(), store.count()
    finally:
        store.close()


def opened_metadata(indexing: Indexing) -> dict[str, object]:
    store = opened(indexing)
    try:
        return store.metadata
    finally:
        store.close()


def opened(indexing: Indexing) -> Store:
    store = indexing.open(None)
    assert store is not None
    return store


def make_old(indexing: Indexing) -> None:
    """What was changed just now is looked into again."""
    for path in filter(Path.is_file, indexing.files.rglob("*")):
        os.utime(path, (1.7e9, 1.7e9))


def test_a_run_stores_all_words_before_the_first_vector(indexing: Indexing) -> None:
    fill(indexing)
    indexing.write("broken.pdf", "%PDF-1.4 no more")
    whole = indexing.picture("sub/green.jpg", "green", (200, 200)).read_bytes()
    indexing.write("sub/green.jpg", whole[: len(whole) - 200])  # by its words it can be stored
    make_old(indexing)
    expected = indexing.scratch()
    once = indexing.run()
    shutil.rmtree(indexing.home)
    report = indexing.run(words_first=1)
    stages = [one.stage for one in indexing.sink.updates]
    assert stages.index("storing words") < stages.index("loading the model") < stages.index("embedding")
    assert indexing.points() == expected
    assert not any({"vectorless", "reads"} & record.payload.keys() for record in indexing.records())
    assert not opened_metadata(indexing).get(WORDS_LEFT)
    assert vars(report.files) == vars(once.files) and set(report.skipped) == set(once.skipped)
    assert set(indexing.sink.skips) == set(once.skipped) and len(report.skipped) == len(once.skipped) == 2
    assert report.items.stored == len(expected) + 1 and report.items.embedded == once.items.embedded == len(expected)
    again = indexing.run(words_first=1)
    assert again.items.stored == again.items.embedded == 0 and again.files.unchanged == once.files.added


def test_a_picture_that_cannot_be_embedded_was_not_added(indexing: Indexing) -> None:
    fill(indexing)
    make_old(indexing)
    good = indexing.run().files.added
    whole = indexing.picture("sub/green.jpg", "green", (200, 200)).read_bytes()
    indexing.write("sub/green.jpg", whole[: len(whole) - 200])
    indexing.write("late.txt", "A late word.")
    files = indexing.run(words_first=1).files
    assert (files.added, files.updated, files.skipped, files.unchanged) == (1, 0, 1, good)


def test_few_new_files_are_embedded_at_once(indexing: Indexing) -> None:
    fill(indexing)
    make_old(indexing)
    assert indexing.run(words_first=6).items.stored == 0
    indexing.write("late.txt", "A late word.")
    assert indexing.run(words_first=2).items.stored == 0
    indexing.write("later.txt", "A later word.")
    report = indexing.run(words_first=1)
    assert (report.items.stored, report.items.embedded, report.files.added) == (1, 1, 1)


def test_texts_that_are_stored_are_not_read_again(indexing: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
    indexing.write("notes.md", "# Bees\n\nThey dance.\n\n# Wasps\n\nThey do not.\n")
    indexing.write("plain.txt", "coal and iron")
    expected = indexing.scratch()
    indexing.run(words_only=True)
    monkeypatch.setattr(Decoder, "units", lambda *asked: pytest.fail("it was read again"))
    indexing.run()
    assert indexing.points() == expected


def test_what_has_vectors_keeps_them_while_words_are_stored(indexing: Indexing) -> None:
    """After the manifest was lost everything is looked into again, and nothing is embedded again."""
    fill(indexing)
    indexing.run()
    mending.forget_manifest(indexing.home)
    report = indexing.run(words_first=1)
    assert (report.items.stored, report.items.embedded) == (0, 0)
    assert indexing.points() == indexing.scratch()


def test_files_that_change_while_words_are_stored(indexing: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(indexing)
    again = Meter.again

    def change(meter: Meter) -> None:
        again(meter)
        (indexing.files / "red.png").unlink()
        (indexing.files / "notes.txt").rename(indexing.files / "renamed.txt")
        indexing.write("page.html", "<p>Quite another text.</p>")
        indexing.write("late.txt", "A late word.")

    monkeypatch.setattr(Meter, "again", change)
    report = indexing.run(words_first=1)
    assert indexing.points() == indexing.scratch()
    assert report.files.seen == len(indexing.paths()) and report.files.removed == 2


def test_stopped_while_the_vectors_are_made(indexing: Indexing, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(indexing)
    again = Meter.again

    def stop(meter: Meter) -> None:
        again(meter)
        indexing.stop.set()

    monkeypatch.setattr(Meter, "again", stop)
    with pytest.raises(Interrupted, match="were stored by their words, and 0 got their vectors") as stopped:
        indexing.run(words_first=1)
    files = stopped.value.report.files
    assert files.added == files.seen == 5 and with_vectors(indexing) == (0, len(indexing.scratch()))
    indexing.stop.clear()
    indexing.run()
    assert indexing.points() == indexing.scratch()


def test_words_are_found_before_there_are_vectors(indexing: Indexing) -> None:
    fill(indexing)
    report = indexing.run(words_only=True)
    assert indexing.loads == 0 and indexing.backbone.embedded == 0
    have, total = with_vectors(indexing)
    assert have == 0 and total == report.items.total == len(indexing.scratch())
    store = opened(indexing)
    try:
        for term in ("coal", "hill", "red"):  # in a text, and in names of files
            assert store.find([Search(query_words([term]), 10)])[0], term
    finally:
        store.close()


def test_the_next_run_adds_the_vectors_and_nothing_else(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run(words_only=True)
    report = indexing.run()
    expected = indexing.scratch()
    assert indexing.points() == expected
    assert report.items.embedded == len(expected) == with_vectors(indexing)[0]
    assert report.files.unchanged == 5 and report.files.added == 0
    assert not any("vectorless" in record.payload for record in indexing.records())
    assert indexing.run().items.embedded == 0


def test_a_second_run_for_words_has_nothing_to_do(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run(words_only=True)
    again = indexing.run(words_only=True)
    assert again.items.stored == 0 and again.files.unchanged == 5


def test_a_damaged_picture_leaves_with_the_vectors(indexing: Indexing) -> None:
    """For its words, only its size is read; then it turns out that it cannot be shown."""
    fill(indexing)
    whole = indexing.picture("sub/green.jpg", "green", (200, 200)).read_bytes()
    indexing.write("sub/green.jpg", whole[: len(whole) - 200])
    report = indexing.run(words_only=True)
    assert report.skipped == [] and "sub/green.jpg" in {record.payload["rel"] for record in indexing.records()}
    report = indexing.run()
    assert [Path(one.path).name for one in report.skipped] == ["green.jpg"]
    assert indexing.points() == indexing.scratch()


def test_the_newest_files_get_their_vectors_first(indexing: Indexing) -> None:
    for number in range(40):
        path = indexing.write(f"{number:02}.txt", f"word number {number:02}")
        os.utime(path, (1.7e9 + number * 7 % 40,) * 2)  # not in the order of names
    indexing.run(words_only=True)
    indexing.run()
    records = sorted(indexing.records(), key=lambda record: float(record.payload["indexed_at"]))
    times = [record.payload["mtime"] for record in records]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 40


def test_words_after_vectors_keep_them(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run()
    had = with_vectors(indexing)[0]
    indexing.write("late.txt", "A late word.")
    assert indexing.run(words_only=True).items.stored == 1
    assert with_vectors(indexing) == (had, had + 1)
    indexing.run()
    assert indexing.points() == indexing.scratch()


def test_files_that_change_between_the_runs(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run(words_only=True)
    (indexing.files / "red.png").unlink()
    (indexing.files / "notes.txt").rename(indexing.files / "renamed.txt")
    indexing.write("page.html", "<p>Quite another text.</p>")
    indexing.write("copy.md", (indexing.files / "sub/guide.md").read_bytes())
    indexing.run()
    assert indexing.points() == indexing.scratch()


def test_a_lost_manifest_does_not_lose_what_needs_vectors(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run(words_only=True)
    mending.forget_manifest(indexing.home)
    indexing.run()
    assert indexing.points() == indexing.scratch()


def test_files_are_removed_before_they_have_vectors(indexing: Indexing) -> None:
    fill(indexing)
    indexing.run(words_only=True)
    store = opened(indexing)
    try:
        amount = mending.remove_files(indexing.home, store, [str(indexing.files / "notes.txt")])
        assert amount.files == 1 and amount.items > 1
    finally:
        store.close()
    assert "notes.txt" not in indexing.paths()
    indexing.run()
    assert indexing.points() == indexing.scratch()


@pytest.mark.parametrize("store", ["edge", "memory"])
def test_an_index_of_mini(store: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The zebra sleeps in the barn.")
    with Index.open("words-" + store, store=store, create=_settings(), device="cpu") as index:
        index.add(tmp_path, words_only=True)
        status = index.status()
        assert status.with_vectors == 0 and status.items == {"text": 1}
        (hit,) = index.search("zebra", words="only").hits
        assert hit.path.endswith("a.txt") and hit.similarity == 0
        found = index.search("zebra")
        assert [hit.path for hit in found.hits] == [hit.path] and (found.items, found.with_vectors) == (1, 0)
        assert index.search("zebra", words="never").hits == []
        assert index.search(Item(image=tmp_path / "none.png")).hits == []
        assert [len(hits) for hits in index.search_many(["zebra", "lion"])] == [1, 0]
        assert index._model.loaded is False, "where nothing has a vector, a model finds nothing"
        if index.metadata.routes is not None:
            why = index.explain("zebra", "1")
            assert why.agreement is None and list(why.hit.channels) == ["words"] and why.hit.words == why.hit.score
            assert [one.word for one in why.why.words] == ["zebra"] and "blocks" not in why.to_json()
            with pytest.raises(UsageError, match="no vector yet"):
                index.explain("lion", hit.path)
            assert not index._model.loaded
        index.add(tmp_path)
        assert index.status().with_vectors == 1
        assert index.search("an animal in a building").hits[0].similarity > 0
        assert index._model.loaded
    with Index.open("once-" + store, store=store, create=_settings(), device="cpu") as once:
        once.add(tmp_path)
        assert once.metadata.routes == index.metadata.routes and once.metadata.dim == index.metadata.dim


def _settings() -> object:
    from tsembed_search.store.base import StoreSettings

    return StoreSettings(0)
