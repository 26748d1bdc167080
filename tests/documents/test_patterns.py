"""Exclusions exclude however they are written, or the run stops and names what it cannot make sense of."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tsembed_search.data.folder import folder_rows
from tsembed_search.documents.crawl import IGNORE_FILE, Crawl, Found, Selection
from tsembed_search.errors import UsageError

PRIVATE = ("private/codes.txt", "private/deep/codes.txt")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`docs`, in the home folder, with something private and something public; the current folder."""
    docs = tmp_path / "docs"
    for name in (*PRIVATE, "public/fair.txt"):
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(docs)
    return docs


def walk(root: Path, **selection: object) -> list[str]:
    """What a run would find, relative to the root."""
    crawl = Crawl([root], Selection(**selection))  # type: ignore[arg-type]
    return sorted(os.path.relpath(each.path, root) for each in crawl if isinstance(each, Found))


MARKS = {
    "utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE,
}  # fmt: skip


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
@pytest.mark.parametrize("before", ["", "# mine\n", "other/\n\n"])
def test_an_ignore_file_in_any_encoding_that_it_names(folder: Path, encoding: str, end: str, before: str) -> None:
    text = before.replace("\n", end or "\n") + "private/" + end
    (folder / IGNORE_FILE).write_bytes(MARKS[encoding] + text.encode(encoding))
    assert walk(folder) == ["public/fair.txt"]


WRITTEN = [
    "private", "private/", "/private", "./private", "private/**", "**/private/", "private//", "./private/../private/",
    "../docs/private", "~/docs/private", " private", "private/ ", "private\t", "private/\u00a0", "private/ # mine",
    '"private/"', "'private'", "private\\codes.txt\nprivate\\deep\\", ".\\private", "private\\*", "\u200bprivate/",
    "\ufeffprivate", "*/codes.txt\n*/deep/codes.txt", "priv?te", "[p]rivate", "private\x1a",
]  # fmt: skip


@pytest.mark.parametrize("pattern", WRITTEN)
def test_a_pattern_excludes_however_it_is_written(folder: Path, pattern: str) -> None:
    (folder / IGNORE_FILE).write_text(f"# head\n{pattern}", encoding="utf-8")
    assert walk(folder) == ["public/fair.txt"]
    (folder / IGNORE_FILE).write_text(f"{folder}/private\n")
    assert walk(folder) == ["public/fair.txt"], "a whole path"


@pytest.mark.parametrize("pattern", [one for one in WRITTEN if "\n" not in one and "\x1a" not in one])
def test_the_option_excludes_however_it_is_written(folder: Path, pattern: str) -> None:
    assert walk(folder, exclude=(pattern,)) == ["public/fair.txt"]


@pytest.mark.parametrize(
    ("here", "pattern"),
    [
        ("..", "docs/private"), ("..", "./docs/private/"), ("..", "./private"), ("..", "docs/private/**"),
        ("public", "../private"), ("public", "./../private"), ("public", "private"),
    ],
)  # fmt: skip
def test_the_option_counts_from_the_current_folder_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, here: str, pattern: str
) -> None:
    monkeypatch.chdir(folder / here)
    assert walk(folder, exclude=(pattern,)) == ["public/fair.txt"]
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert walk(link, exclude=(f"{folder}/private",)) == ["public/fair.txt"], "the root was named by a link"


def test_what_is_meant_by_the_letter_stays_so(folder: Path) -> None:
    names = ["#1.txt", "!a.txt", "a b.txt", "star*.txt", "starry.txt", "x # y.txt"]
    for name in names:
        (folder / name).write_text("x")
    for pattern, gone in {
        "\\#1.txt": "#1.txt", "\\!a.txt": "!a.txt", "a\\ b.txt": "a b.txt", "star\\*.txt": "star*.txt",
        "x # y.txt": "x # y.txt",
    }.items():  # fmt: skip
        (folder / IGNORE_FILE).write_text(pattern + "\n")
        assert [name for name in names if name not in walk(folder)] == [gone], pattern
    (folder / IGNORE_FILE).unlink()
    assert "#1.txt" not in walk(folder, exclude=("#1.txt",)), "a command line has no comments"
    (folder / IGNORE_FILE).write_text("*.txt\n!fair.txt\n!./a b.txt\n")
    assert walk(folder) == ["a b.txt", "public/fair.txt"], "what was excluded can be taken back"


@pytest.mark.parametrize(
    "pattern", ["../other", "..", ".", "./", "/", "public/../..", "~/elsewhere/../../x", "[z-a]", "[", "a[b"]
)
def test_a_pattern_that_can_match_nothing_stops_the_run(folder: Path, pattern: str) -> None:
    (folder / IGNORE_FILE).write_text(f"public/\n{pattern}\n")
    with pytest.raises(UsageError, match="tsembedignore"):
        walk(folder)
    with pytest.raises(UsageError, match="exclude"):
        walk(folder, exclude=(pattern,))


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ("*\n!*/\n!fair.txt\n", ["public/fair.txt"]),
        ("*\n!/public\n!/public/fair.txt\n", ["public/fair.txt"]),
        ("/*\n!/public/\n", ["public/fair.txt"]),
        ("private/\n!codes.txt\n", ["public/fair.txt"]),
        ("*.txt\n!private/\n", []),
        ("private/*\n!private/deep\n", ["private/deep/codes.txt", "public/fair.txt"]),
        ("**\n!**/\n!fair.*\n", ["public/fair.txt"]),
    ],
)
def test_the_last_pattern_that_names_a_path_decides_as_in_git(folder: Path, patterns: str, found: list[str]) -> None:
    (folder / IGNORE_FILE).write_text(patterns)
    assert walk(folder) == found


@pytest.mark.parametrize("pattern", ["", " ", "\t", "!private"])
def test_an_option_that_excludes_nothing_is_refused(folder: Path, pattern: str) -> None:
    for option in ("include", "exclude"):
        with pytest.raises(UsageError):
            walk(folder, **{option: (pattern,)})


def fifo(path: Path) -> None:
    os.mkfifo(path)


def giant(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


MADE: dict[str, Callable[[Path], object]] = {
    "a pipe": fifo,
    "a folder": Path.mkdir,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a loop": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "something giant": giant,
    "an old code page": lambda path: path.write_bytes(b"private/\nprivat\xe9/\n"),
    "utf-16 without a mark": lambda path: path.write_bytes("private/\n".encode("utf-16-le")),
    "half of a utf-16 file": lambda path: path.write_bytes("private/\n".encode("utf-16")[:-1]),
    "binary": lambda path: path.write_bytes(b"private/\n\x00\x01\x02"),
    "garbled": lambda path: path.write_text("priv\ufffdte/\n", encoding="utf-8"),
    "a file that goes on for ever": lambda path: path.symlink_to("/dev/urandom"),
}


@pytest.mark.parametrize("what", MADE)
@pytest.mark.parametrize("place", ["", "public"])
def test_an_ignore_file_that_cannot_be_read_stops_the_run(folder: Path, what: str, place: str) -> None:
    path = folder / place / IGNORE_FILE
    MADE[what](path)
    with pytest.raises(UsageError, match=str(path)) as caught:
        walk(folder)
    assert "what it excludes would be read" in caught.value.hint
    with pytest.raises(UsageError, match=str(path)):
        folder_rows(folder)
