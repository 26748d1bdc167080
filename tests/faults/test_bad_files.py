"""A folder full of bad files: each is told with the right reason, the good neighbours are indexed, memory stays low."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers.bad_files import GOOD, KINDS, READ, write_corpus
from helpers.indexing import Indexing
from helpers.killable import Killable

MOST_MEMORY = 1500 << 20


@pytest.mark.usefixtures("cold_decoders")
def test_every_bad_file_has_its_reason_and_no_good_one_suffers(indexing: Indexing) -> None:
    expected = write_corpus(indexing.files)
    assert len(expected) >= 60
    with Killable() as process:
        answer = process.run(indexing.files, indexing.home, options={"time_limit": 20.0})
    reasons: dict[str, str] = {}
    for skipped in answer["report"]["skipped"]:
        reasons.setdefault(Path(skipped["path"]).name, skipped["reason"])
    indexed = set(indexing.paths())
    wrong = {}
    for name, pattern in expected.items():
        if name in reasons:
            fits = re.search(pattern.strip("|"), reasons[name]) if pattern.strip("|") else None
        else:
            fits = name in indexed and (pattern == READ or pattern.startswith("|"))
        if not fits:
            wrong[name] = (pattern, reasons.get(name), name in indexed)
    assert wrong == {}
    assert set(GOOD) <= indexed and not set(GOOD) & set(reasons)
    assert [reason for reason in reasons.values() if not reason.endswith(".")] == [], "reasons are sentences"
    files = answer["report"]["files"]
    assert files["seen"] == files["added"] + files["skipped"] == len(expected) + len(GOOD)
    assert answer["memory"] < MOST_MEMORY
    again = indexing.run()
    assert again.items.embedded == 0 and again.files.skipped == files["skipped"]


@pytest.mark.parametrize("kind", ["one-line.txt", "unbroken.txt"])
def test_what_reads_well_enough_is_read_to_its_end(indexing: Indexing, kind: str) -> None:
    content, _ = KINDS[kind]
    assert isinstance(content, bytes)
    indexing.write(kind, content)
    assert indexing.run().files.added == 1
    assert max(record.payload["end"] for record in indexing.records()) == len(content.strip())
