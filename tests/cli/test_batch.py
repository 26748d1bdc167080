"""Queries that are no valid text, number or JSON: one bad line costs one line, and every answer is valid JSON."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tsembed_search.cli.render import text as render
from tsembed_search.errors import UsageError
from tsembed_search.items import Item
from tsembed_search.search.where import parse_where

Run = Callable[..., Result]
GOOD = b'{"id": "good", "text": "all about red"}'
BAD = {
    "latin-1": b'{"id": 2, "text": "caf\xe9"}',
    "a lone continuation": b'{"id": 2, "text": "\x80"}',
    "a surrogate in UTF-8": b'{"id": 2, "text": "\xed\xa0\x80"}',
    "half a pair as id": b'{"id": "\\ud83d", "text": "red"}',
    "NaN": b'{"id": NaN, "text": "red"}',
    "infinity": b'{"id": -Infinity, "text": "red"}',
    "a number too large": b'{"id": 1e999, "text": "red"}',
    "an integer too long": b'{"id": ' + b"9" * 5000 + b', "text": "red"}',
    "too deep": b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b', "text": "red"}',
    "twice": b'{"text": "red", "text": "blue"}',
    "a list": b"[1, 2]",
    "a word": b"null",
    "NUL": b"\0\0\0",
    "a NUL in a path": b'{"image": "a\\u0000b.png"}',
    "no path": b'{"image": "\\ud83d.png"}',
    "two on one line": b'{"text": "red"} {"text": "blue"}',
    "cut off": b'{"text": "re',
}


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def answers(output: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=no_constant) for line in output.splitlines()]


def test_an_answer_says_what_was_looked_for_in_place_of_a_misspelt_word(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"id": 1, "text": "abuot red"}\n{"id": 2, "text": "about red"}\n')
    misspelt, spelt = answers(run("search", "--queries", file, "-k", 1).stdout)
    assert misspelt["respelled"] == {"abuot": ["about"]} and "respelled" not in spelt
    assert misspelt["respelled"] == json.loads(run("search", "abuot red", "--json").stdout)["respelled"]


@pytest.mark.parametrize("what", BAD)
def test_a_bad_line_is_reported_by_its_number_and_the_others_are_answered(run: Run, tmp_path: Path, what: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_bytes(GOOD + b"\n" + BAD[what] + b"\n" + GOOD)
    done = run("search", "--queries", file, "-k", 1)
    assert [answer["id"] for answer in answers(done.stdout)] == ["good", "good"], done.stderr
    assert done.exit_code == 1 and f"{file}:2: " in done.stderr and "fault in" not in done.stderr
    assert all(answer["hits"][0]["path"].endswith("/red.txt") for answer in answers(done.stdout))


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (b"", "utf-8"),
    ],
)
def test_queries_in_what_their_mark_says(run: Run, tmp_path: Path, mark: bytes, encoding: str) -> None:
    text = '{"id": "é", "text": "all about red"}\r\n{"id": 2, "text": "all about \\ud83d\\ude00 blue"}\n'
    (tmp_path / "q.jsonl").write_bytes(mark + text.encode(encoding))
    done = run("search", "--queries", tmp_path / "q.jsonl", "-k", 1)
    assert done.exit_code == 0, done.stderr
    assert [answer["id"] for answer in answers(done.stdout)] == ["é", 2]


def test_a_file_without_line_ends_is_refused(run: Run, tmp_path: Path) -> None:
    endless = tmp_path / "q.jsonl"
    with endless.open("wb") as file:
        file.truncate(1 << 40)
    done = run("search", "--queries", endless)
    assert done.exit_code == 2 and "more than" in done.stderr


@pytest.mark.parametrize("text", ["caf\udce9 red", "red \ud83d", "\udfff\ud800 red", "red\0", "red \U0010ffff\u202e"])
def test_what_is_no_character_is_replaced_in_a_query(run: Run, text: str) -> None:
    assert Item(text).text.encode()  # type: ignore[union-attr]
    done = run("search", text, "--json")
    assert done.exit_code == 0, done.stderr
    answers(done.stdout)
    nothing = run("search", text, "-w", "page=99")
    assert nothing.exit_code == 1 and "fault in" not in nothing.stderr


def test_halves_that_belong_together_are_one_character() -> None:
    assert Item("a \ud83d\ude00 b").text == "a 😀 b" and Item("\udce9").text == "\ufffd"


@pytest.mark.parametrize("value", ["caf\udce9", "\ud83d", "a\0b", "'\udfff x'", "1e999", "NaN", "9" * 5000])
def test_a_filter_of_anything_is_answered_in_words(run: Run, value: str) -> None:
    for field in ("path", "ext", "expert", "sha", "modified", "page", "kind"):
        for command in ("search red -w", "ls -w", "rm --dry-run -w"):
            done = run(*command.split(), f"{field}={value}")
            assert done.exit_code in (1, 2) and "fault in" not in done.stderr, done.stderr
    try:
        assert str(parse_where(f"path={value}")).encode()
    except UsageError as error:
        assert error.hint


@pytest.mark.parametrize(
    "value", ["\udcff", "a\ud83d", float("nan"), float("-inf"), {"\ud800": [float("inf"), ("\udc80",)]}, 10**400]
)
def test_a_document_is_valid_json_whatever_it_holds(capsys: pytest.CaptureFixture[str], value: object) -> None:
    render.print_json({"value": value})
    out = capsys.readouterr().out
    json.loads(out, parse_constant=no_constant)
    json.dumps(json.loads(out), ensure_ascii=False).encode()
