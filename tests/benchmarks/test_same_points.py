"""The comparison of two versions: it sees the last bit, and its files come from the seed alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import same_points

NOW = 1_750_000_000
"""Files that lie as they were written may differ in their times: all are from after this."""


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ({"hits": [{"score": 0.1}]}, {"hits": [{"score": math.nextafter(0.1, 1)}]}, "hits[0].score: "),
        ({"a": 0.0}, {"a": -0.0}, "a: 0.0 became -0.0"),
        ({"a": 1}, {"a": 1.0}, "a: 1 became 1.0"),
        ({"a": 1, "b": 2}, {"a": 1}, "keys: gone ['b'], new []"),
        ([1, 2], [1, 2, 3], "length: 2 values became 3"),
        ({"text": "\u00e9"}, {"text": "e\u0301"}, "text: "),
    ],
)
def test_the_smallest_difference_is_seen(before: Any, after: Any, place: str) -> None:
    assert same_points.first_difference(before, after).startswith(place)
    assert not same_points.first_difference(before, before)


def test_items_with_the_same_vector_may_stand_for_one_another() -> None:
    twins = same_points.twins_of(
        {"a": {"vector": [1.0, 0.0]}, "b": {"vector": [0.0, 1.0]}, "c": {"vector": [1.0, 0.0]}}
    )
    assert twins == {"a": "a", "c": "a"}


def test_files_come_from_the_seed(tmp_path: Path) -> None:
    made = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        folder = tmp_path / name / "files"
        same_points.make_files(folder, seed, 60)
        same_points.change_files(folder, seed)
        made.append(
            {
                path.relative_to(folder).as_posix(): (path.read_bytes(), min(path.stat().st_mtime, NOW))
                for path in folder.rglob("*")
                if path.is_file() and not path.is_symlink()
            }
        )
    assert len(made[0]) > 60 and {path.suffix for path in map(Path, made[0])} >= {
        ".png",
        ".pdf",
        ".md",
        ".html",
        ".txt",
    }
    assert made[0] == made[1]
    assert made[0].keys() != made[2].keys()
