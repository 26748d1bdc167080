"""Which files a walk finds, and what it says of the rest."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tsembed_search.documents.crawl import Crawl, Found, Selection, Unreachable, is_ignored
from tsembed_search.errors import UsageError


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def walk(*roots: Path, follow_links: bool = False, skip: Path | None = None, **selection: object) -> list[str]:
    crawl = Crawl(roots, Selection(**selection), follow_links=follow_links, skip=skip)  # type: ignore[arg-type]
    return [os.path.relpath(each.path, roots[0]) for each in crawl if isinstance(each, Found)]


def test_known_kinds_in_a_stable_order(tmp_path: Path) -> None:
    make(
        tmp_path,
        "b.txt",
        "a.PNG",
        "sub/c.md",
        "sub/deep/d.pdf",
        "x.exe",
        "README",
        "noext",
        ".hidden.txt",
        ".git/e.txt",
    )
    assert walk(tmp_path) == ["README", "a.PNG", "b.txt", "sub/c.md", "sub/deep/d.pdf"]
    crawl = Crawl([tmp_path], Selection())
    assert len(list(crawl)) == 5 and crawl.ignored == 3
    assert walk(tmp_path, hidden=True)[0] == ".hidden.txt" and ".git/e.txt" in walk(tmp_path, hidden=True)


def test_roots_may_be_files_and_may_overlap(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "sub/b.txt", ".odd/c.xyz")
    assert walk(tmp_path / "sub", tmp_path / ".odd/c.xyz") == ["b.txt", "../.odd/c.xyz"]
    assert set(walk(tmp_path, tmp_path / "sub")) == {"a.txt", "sub/b.txt"}
    (found,) = Crawl([tmp_path / "a.txt"], Selection())
    assert isinstance(found, Found) and found.root == str(tmp_path)
    with pytest.raises(UsageError, match="no file or folder"):
        Crawl([tmp_path / "nothing"], Selection())


def test_include_and_exclude(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "a.py", "sub/b.txt", "sub/b.py", "old/c.txt")
    assert walk(tmp_path, include=("*.py",)) == ["a.py", "sub/b.py"]
    assert walk(tmp_path, include=("sub/**",)) == ["sub/b.py", "sub/b.txt"]
    assert walk(tmp_path, exclude=("old/", "b.*")) == ["a.txt"]
    assert walk(tmp_path, include=("*.py",), exclude=("/a.*",)) == ["sub/b.py"]


def test_ignore_files_as_git_reads_them(tmp_path: Path) -> None:
    make(
        tmp_path,
        "a.txt",
        "keep.txt",
        "build/x.txt",
        "sub/a.txt",
        "sub/keep.txt",
        "sub/more/b.txt",
        "top.md",
        "sub/top.md",
    )
    (tmp_path / ".tsembedignore").write_text("# drafts\n*.txt\n!keep.txt\nbuild/\n/top.md\n")
    (tmp_path / "sub/.tsembedignore").write_text("!a.txt\nkeep.txt\n")
    assert walk(tmp_path) == ["keep.txt", "sub/a.txt", "sub/top.md"]
    root = str(tmp_path)
    ignored = {
        name: is_ignored(f"{root}/{name}", root)
        for name in ("a.txt", "keep.txt", "build/x.txt", "sub/a.txt", "sub/keep.txt")
    }
    assert ignored == {"a.txt": True, "keep.txt": False, "build/x.txt": True, "sub/a.txt": False, "sub/keep.txt": True}
    (tmp_path / ".tsembedignore").write_text("[z-a]\n")
    with pytest.raises(UsageError, match="tsembedignore"):
        walk(tmp_path)


def test_links(tmp_path: Path) -> None:
    make(tmp_path, "real/a.txt", "outside/b.txt")
    root = tmp_path / "real"
    (root / "file.txt").symlink_to(tmp_path / "outside/b.txt")
    (root / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to(root)
    (root / "broken.txt").symlink_to(root / "nothing")
    (root / "self.txt").symlink_to(root / "self.txt")
    assert walk(root) == ["a.txt", "file.txt"]
    followed = walk(root, follow_links=True)
    assert len(followed) == len(set(followed)) <= 8 and any("outside" in name for name in followed)
    problems = {
        Path(each.path).name: each.reason for each in Crawl([root], Selection()) if isinstance(each, Unreachable)
    }
    assert set(problems) == {"broken.txt", "self.txt"} and "does not exist" in problems["broken.txt"]


def test_pipes_and_sockets_are_named_when_they_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        problems = {
            Path(each.path).name: each.reason
            for each in Crawl([tmp_path], Selection())
            if isinstance(each, Unreachable)
        }
    assert problems == {
        "pipe.txt": "It is a named pipe, not a file.", "socket.jpg": "It is a socket, not a file.",
    }  # fmt: skip
    assert [each.reason for each in Crawl([Path("/dev/null")], Selection())] == ["It is a device, not a file."]  # type: ignore[union-attr]


def test_the_index_itself_is_not_indexed(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "home/indexes/default/b.txt")
    assert walk(tmp_path, skip=tmp_path / "home/indexes/default") == ["a.txt"]


def test_a_folder_that_vanishes_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/x.txt", "b/y.txt")
    listing = os.scandir

    def racing(path: str) -> object:
        if str(path).endswith("/b"):
            raise FileNotFoundError(path)
        return listing(path)

    monkeypatch.setattr(os, "scandir", racing)
    assert walk(tmp_path) == ["a/x.txt"]
