"""Rows as files hold them: whatever is in a file, a row comes out of it or a problem with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsembed_search.data.layouts import RowReader
from tsembed_search.data.records import BadRow, Images, ItemMaker, Problem, RowFile, RowRecord, image_roots, parse_line
from tsembed_search.data.rows import kept
from tsembed_search.data.sources import TaskFile, has_rows, meta_task, task_files
from tsembed_search.errors import UsageError

FIELDS = (
    "qry", "qry_image_path", "qry_inst", "pos_text", "pos_image_path", "neg_text", "neg_image_path", "qry_text",
    "qry_img_path", "tgt_text", "tgt_img_path", "query", "positive", "negatives", "negative", "identity", "group",
    "task", "text", "image", "instruction",
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(
    ["", "a.png", "images/a.png", "<|image_1|>\nFind it", "../../etc/passwd", "\0", "\ud800"]
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=6),
    max_leaves=12,
)
ROWS = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=8)
NO_IMAGES = Images([])
fast = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fast
@given(fields=ROWS)
def test_any_object_is_a_row_or_a_bad_one(fields: dict[str, Any]) -> None:
    try:
        read = RowReader(NO_IMAGES).read(fields)
        row, (keys, _) = read.row(), kept(read, {})
    except BadRow as error:
        assert error.message
        return
    assert row.query.text and row.positive.text  # there are no images to find
    assert keys[0] == int(row.identity, 16) > 0
    assert all(negative.text for negative in row.negatives)


@fast
@given(lines=st.lists(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()), max_size=8))
def test_any_file_streams_as_records_and_problems_with_their_lines(tmp_path: Path, lines: list[bytes]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(lines))
    data = file.read_bytes()
    whole = data.split(b"\n")
    for found in RowFile(file):
        assert 1 <= found.line <= len(whole)
        if isinstance(found, Problem):
            assert str(found).startswith(f"{file}:{found.line}: ") and found.fault == "json"
            with pytest.raises(BadRow):
                parse_line(whole[found.line - 1])
        else:
            # The offset is where the line can be read again.
            assert data[found.offset :].split(b"\n")[0] == whole[found.line - 1]
            assert json.dumps(parse_line(data[found.offset :].split(b"\n")[0])) == json.dumps(dict(found.fields))
    told = {found.line for found in RowFile(file)}
    assert told == {number for number, line in enumerate(whole, 1) if line.strip(b" \t\r\n\xef\xbb\xbf")}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1]", "a JSON object was expected, not a list"),
        (b'{"a": }', "not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number is too long"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line: bytes, reason: str) -> None:
    with pytest.raises(BadRow, match=reason) as caught:
        parse_line(line)
    assert caught.value.fault == "json"


def test_mmebs_fields_make_items(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    items = ItemMaker(Images([tmp_path]))
    item = items.joined("<|image_1|>\nFind it: a cat\n", "images/a.png")
    assert (item.text, item.image, item.instruction) == ("Find it: a cat", tmp_path / "images/a.png", None)
    assert items.joined("<|image_1|>\n", "images/a.png").modality == "image"
    assert items.joined("a cat", "").modality == "text"
    assert items.joined("<|image_1|> <|image_2|>\nboth", None).text == "both"


@pytest.mark.parametrize("text", ["Find it: a cat", "a cat"])
@pytest.mark.parametrize(
    ("mode", "words", "told"),
    [("text", "Find it: a cat", None), ("field", "a cat", "Find it:"), ("none", "a cat", None)],
)
def test_an_instruction_goes_where_it_is_wanted(text: str, mode: Any, words: str, told: str | None) -> None:
    item = ItemMaker(NO_IMAGES, mode).joined(text, None, "Find it:")
    assert (item.text, item.instruction) == (words, told)


def test_plain_items_are_texts_or_objects() -> None:
    items = ItemMaker(NO_IMAGES)
    assert items.of(" a cat ").text == "a cat"
    assert items.of({"text": "cat", "instruction": "Find"}).instruction == "Find"
    for wrong in (7, None, [], {}, {"text": ""}, {"text": 1}, {"txet": "cat"}, {"text": "cat", "image": 3}):
        with pytest.raises(BadRow):
            items.of(wrong)


@pytest.mark.parametrize("listing", [True, False])
def test_images_are_found_in_the_first_root_that_has_them(tmp_path: Path, listing: bool) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "both.png").touch()
    (tmp_path / "second/one.png").touch()
    images = Images([tmp_path / "first", tmp_path / "second"], listing=listing)
    assert images.find("both.png") == tmp_path / "first/both.png"
    assert images.find("one.png") == tmp_path / "second/one.png"
    assert images.find(str(tmp_path / "second/one.png")) == tmp_path / "second/one.png"
    with pytest.raises(BadRow, match=r"there is no image none\.png") as caught:
        images.find("none.png")
    assert caught.value.fault == "image"


def test_roots_reach_up_to_the_source(tmp_path: Path) -> None:
    file = tmp_path / "set/train/cats.jsonl"
    assert image_roots(file, tmp_path / "set") == [tmp_path / "set/train", tmp_path / "set"]
    assert image_roots(file, file)[:3] == [tmp_path / "set/train", tmp_path / "set", tmp_path]
    assert image_roots(file, tmp_path / "set", [Path("/images")])[0] == Path("/images")


def test_files_are_named_for_task_and_split(tmp_path: Path) -> None:
    names = (
        "train/wordnet.jsonl", "validation/wordnet.jsonl", "MSCOCO/train-00000-of-00002.parquet",
        "MSCOCO/original-00001-of-00002.parquet", "MSCOCO/diverse_instruction-00000-of-00001.parquet", "plain.jsonl",
        "images/none.jsonl", ".hidden/none.jsonl", "unseen_test/cats.jsonl", "readme.txt",
    )  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "tasks.json").write_text(json.dumps({"tasks": {"wordnet": {"meta": "retrieval"}}}))
    found = {(file.task, file.split): file for file in task_files(tmp_path)}
    assert set(found) == {
        ("wordnet", "train"), ("wordnet", "validation"), ("MSCOCO", "train"), ("MSCOCO", "diverse_instruction"),
        ("plain", ""), ("cats", "unseen_test"),
    }  # fmt: skip
    assert found["wordnet", "train"].meta == "retrieval"
    assert found["MSCOCO", "train"].meta == "grounding" == meta_task("RefCOCO")
    one = tmp_path / "train/wordnet.jsonl"
    assert task_files(one) == [TaskFile(one, "wordnet", "train", one, "retrieval")]
    assert has_rows(tmp_path) and has_rows(one) and not has_rows(tmp_path / ".hidden/other")


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").touch()
    for source, words in (("nowhere", "There is no"), ("empty", "holds no file of rows"), ("a.csv", "no file of rows")):
        with pytest.raises(UsageError, match=words):
            task_files(tmp_path / source)
    with pytest.raises(UsageError, match="names no data set"):
        task_files("hub:only-a-name")


def test_a_hub_data_set_comes_out_of_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    snapshot = tmp_path / "datasets--owner--set/snapshots/0123456789012345678901234567890123456789"
    (snapshot / "MSCOCO").mkdir(parents=True)
    (snapshot / "WebQA").mkdir()
    (snapshot / "images/MSCOCO").mkdir(parents=True)
    (snapshot / "images/MSCOCO/a.png").touch()
    for task in ("MSCOCO", "WebQA"):
        row = {"qry": "cat", "pos_text": "<|image_1|>\n", "pos_image_path": "images/MSCOCO/a.png"}
        (snapshot / task / "train.jsonl").write_text(json.dumps(row))
    refs = tmp_path / "datasets--owner--set/refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    import huggingface_hub

    original = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: original(*a, cache_dir=tmp_path, **k))
    assert [file.task for file in task_files("hub:owner/set")] == ["MSCOCO", "WebQA"]
    (one,) = task_files("hub:owner/set/MSCOCO")
    (record,) = RowFile(one.path)
    assert isinstance(record, RowRecord)
    row = RowReader(Images(image_roots(one.path, one.source))).read(record.fields)
    assert row.positive.image == one.source / "images/MSCOCO/a.png"
    with pytest.raises(UsageError, match="owner/other is not on this machine"):
        task_files("hub:owner/other")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="needs pyarrow") as caught:
        RowFile.opened(tmp_path / "rows.parquet")
    assert "tsembed-search[data]" in caught.value.hint


def parquet_file(path: Path, **columns: Any) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=3)
    return path


def test_a_damaged_row_of_a_table_costs_itself(tmp_path: Path) -> None:
    import pyarrow

    words = pyarrow.array([b"one", b"\xff\xfe", b"three", b"four", b"five"]).view(pyarrow.string())
    file = RowFile.opened(parquet_file(tmp_path / "rows.parquet", query=words, positive=list("abcde")))
    one, bad, *others = file
    assert isinstance(bad, Problem) and str(bad).startswith(f"{tmp_path}/rows.parquet:2: the row cannot be read")
    assert isinstance(one, RowRecord) and one.fields == {"query": "one", "positive": "a"}
    for record in others:
        assert isinstance(record, RowRecord) and file.fields(record.offset) == record.fields
    assert [record.line for record in others] == [3, 4, 5]


def test_a_table_has_columns_that_no_json_has(tmp_path: Path) -> None:
    """Nothing reads them; they only must not keep the others from being read."""
    import datetime
    import decimal

    import pyarrow

    columns = {
        "query": ["a", "b"],
        "map": pyarrow.array([[("k", 1)], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        "day": [datetime.date(2024, 1, 2), None],
        "price": [decimal.Decimal("1.50"), None],
        "kind": pyarrow.array(["x", "y"]).dictionary_encode(),
        "raw": [b"\xff\x00", b"text"],
    }
    first, second = RowFile.opened(parquet_file(tmp_path / "rows.parquet", **columns))
    assert isinstance(first, RowRecord) and isinstance(second, RowRecord)
    assert first.fields == {
        "query": "a", "map": [["k", 1]], "day": "2024-01-02", "price": "1.50", "kind": "x", "raw": b"\xff\x00"
    }  # fmt: skip
    assert second.fields == {"query": "b", "map": None, "day": None, "price": None, "kind": "y", "raw": "text"}


def test_a_picture_in_a_table_is_a_file_once_it_is_used(tmp_path: Path) -> None:
    data = [b"\x89PNG one", b"\x89PNG two"]
    file = RowFile.opened(parquet_file(tmp_path / "rows.parquet", image=data))
    assert file.copy is not None
    rows = [row.fields for row in file if isinstance(row, RowRecord)]
    assert not list(file.copy.parent.rglob("*.png"))
    image = ItemMaker(NO_IMAGES).of(rows[1]["image"]).image
    assert list(file.copy.parent.rglob("*.png")) == [image] and image.read_bytes() == data[1]
