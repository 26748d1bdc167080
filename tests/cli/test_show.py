"""`tsembed show`: a hit by its number, path or id, for people, pipes and programs; no model is loaded."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from typer.testing import Result

from helpers import colours
from helpers.tiny_pdf import Page, pdf
from tsembed_search.cli.render.hits import Drawer, half_blocks
from tsembed_search.cli.show import draw_passage
from tsembed_search.index import Index
from tsembed_search.model.embedder import Embedder

Run = Callable[..., Result]
NOTES = "".join(f"line {number} says red\n" if number == 7 else f"line {number}\n" for number in range(1, 13))
MANUAL = (
    "---\ntitle: x\n---\n# Tools\n\nAbout \u202ered[/] saws.\n\n## More\n\n" + "Of other saws. " * 60 + "\n\nThe end.\n"
)
HOSTILE = "a \x1b[31m[bold]\u202e:7.txt"


def made(folder: Path) -> Path:
    """The folder of files; beside it a home in which they are indexed."""
    files = folder / "files"
    files.mkdir()
    (files / "notes.txt").write_text(NOTES)
    (files / "manual.md").write_text(MANUAL)
    (files / "page.html").write_text("<h1>Hens</h1><p>What hens eat.</p><h2>Eggs</h2><p>" + "Eggs are white. " * 40)
    (files / "two.pdf").write_bytes(pdf([Page(["first page", "of two"]), Page(["second page"])]))
    said = PngInfo()
    said.add_text("Title", "A red [/] field")
    Image.new("RGB", (30, 20), "red").save(files / "red.png", pnginfo=said)
    (files / HOSTILE).write_text("all about blue\n")
    store = f"edge:{folder / 'home' / 'indexes'}"
    with Index.create(store=store, embedder=Embedder(colours.ColourBackbone())) as index:
        assert index.add([files], workers=1).files.added == 6
    return files


def enter(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSEMBED_HOME", str(files.parent / "home"))
    monkeypatch.chdir(files)


def take_the_model_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, whatever loads it fails."""
    monkeypatch.setattr(colours, "load", lambda device="auto": pytest.fail("the model was loaded"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("shown"))


@pytest.fixture
def indexed(run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For tests that only read."""
    enter(shared, monkeypatch)
    take_the_model_away(monkeypatch)
    return shared


@pytest.fixture
def own(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For those that change files."""
    enter(files := made(tmp_path), monkeypatch)
    take_the_model_away(monkeypatch)
    return files


def told(run: Run, *arguments: object) -> dict:
    done = run("show", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def ids(path: str) -> list[str]:
    with Index.open() as index:
        records = [one for one in index.store.scroll() if one.payload["rel"] == path]
    return [one.id for one in sorted(records, key=lambda one: (one.payload["page"] or 0, one.payload["chunk"] or 0))]


class TestByPath:
    def test_all_of_a_text(self, run: Run, indexed: Path) -> None:
        assert run("show", "notes.txt").stdout == NOTES
        assert told(run, "notes.txt") | {"bytes": 0, "modified": 0} == {
            "path": str(indexed / "notes.txt"), "id": None, "kind": "text", "page": None, "page_label": None,
            "headings": [], "lines": [1, 12], "total_lines": 12, "text": NOTES, "before": "", "after": "",
            "source": "file", "state": "same", "marks": [], "also_at": [], "width": None, "height": None, "bytes": 0,
            "modified": 0, "taken": None, "concepts": [], "title": None,
        }  # fmt: skip
        assert run("show", indexed / "manual.md").stdout.endswith("The end.\n")

    @pytest.mark.parametrize(
        ("arguments", "lines"),
        [
            (["notes.txt:2-3"], [2, 3]), (["notes.txt:5"], [5, 5]), (["notes.txt", "--lines", "11-"], [11, 12]),
            (["notes.txt", "--lines", "12-99"], [12, 12]), (["./notes.txt:4", "--lines", "1-2"], [1, 2]),
        ],
    )  # fmt: skip
    def test_some_lines(self, run: Run, indexed: Path, arguments: list[str], lines: list[int]) -> None:
        found = told(run, *arguments)
        assert found["lines"] == lines and found["total_lines"] == 12
        assert found["text"] == "".join(NOTES.splitlines(keepends=True)[lines[0] - 1 : lines[1]])
        assert run("show", *arguments).stdout == found["text"]

    def test_lines_around(self, run: Run, indexed: Path) -> None:
        found = told(run, "notes.txt:2-3", "--context", 2)
        assert (found["before"], found["after"]) == ("line 1\n", "line 4\nline 5\n")
        assert run("show", "notes.txt:2-3", "--context", 2).stdout == found["before"] + found["text"] + found["after"]

    def test_pages(self, run: Run, indexed: Path) -> None:
        assert told(run, "two.pdf")["page"] == 1
        second = told(run, "two.pdf", "--page", 2)
        assert (second["page"], second["text"].strip()) == (2, "second page")
        assert told(run, "two.pdf", "--lines", 2)["text"].strip() == "of two"

    def test_pages_of_html_are_read_as_people_do(self, run: Run, indexed: Path) -> None:
        found = told(run, "page.html")
        assert found["text"].startswith("Hens\n\nWhat hens eat.\n\nEggs\n\nEggs are white.")

    def test_a_picture(self, run: Run, indexed: Path) -> None:
        found = told(run, "red.png")
        assert (found["kind"], found["width"], found["height"], found["text"]) == ("image", 30, 20, "")
        assert found["id"] == ids("red.png")[0]
        assert "A red [/] field" in found["title"]
        lines = run("show", "red.png").stdout.splitlines()
        assert lines[:2] == ["red.png", "30 × 20 pixels"] and lines[-1] == found["title"]

    def test_a_name_with_a_colon_and_a_number(self, run: Run, indexed: Path) -> None:
        """It is the file of that name. Nothing in it reaches a terminal."""
        done = run("show", HOSTILE)
        assert (done.exit_code, done.stdout) == (0, "all about blue\n")
        assert told(run, f"{HOSTILE}:1")["text"] == "all about blue\n"
        assert "\x1b" not in run("show", f"{HOSTILE}x").stderr


class TestByNumberAndId:
    def test_a_hit_of_the_last_search(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        enter(made(tmp_path), monkeypatch)
        hits = json.loads(run("search", "says red", "--json").stdout)["hits"]
        take_the_model_away(monkeypatch)
        number = next(hit["rank"] for hit in hits if hit["path"].endswith("notes.txt"))
        found = told(run, number)
        assert (found["id"], found["lines"]) == (hits[number - 1]["id"], hits[number - 1]["lines"])
        assert {found["text"][start:end] for start, end in found["marks"]} == {"says", "red"}
        assert run("show", number, "--lines", "1-2").stdout == "line 1\nline 2\n"
        second = next(hit["rank"] for hit in hits if hit["path"].endswith("two.pdf") and hit["page"] == 2)
        assert told(run, second)["id"] and not told(run, second, "--page", 2)["id"]
        assert told(run, second, "--page", 1)["text"].strip().endswith("of two")
        kept = Path(os.environ["TSEMBED_HOME"]) / "last-search.json"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    def test_a_passage_stands_in_its_file(self, run: Run, indexed: Path) -> None:
        first, *_, last = ids("manual.md")
        found = told(run, first)
        assert found["lines"] == [4, 10] and found["headings"] == ["Tools"]
        assert found["text"].startswith("# Tools\n\nAbout ") and found["before"] == "---\ntitle: x\n---\n"
        assert told(run, last, "--context", 0)["after"] == ""
        assert told(run, last)["headings"] == ["Tools", "More"]
        whole = "".join(told(run, last, "--context", 99)[part] for part in ("before", "text", "after"))
        assert whole == run("show", "manual.md").stdout
        page = ids("two.pdf")[0]
        assert told(run, page)["text"].strip() == run("show", "two.pdf").stdout.strip()
        eggs = told(run, ids("page.html")[-1])
        assert eggs["headings"] == ["Hens", "Eggs"] and "Eggs are white." in eggs["text"]

    def test_hits_that_are_gone_are_said_to_be(self, run: Run, own: Path) -> None:
        none = run("show", "1")
        assert none.exit_code == 2 and "no last search" in none.stderr
        kept = Path(os.environ["TSEMBED_HOME"]) / "last-search.json"
        known = {"query": "x", "index": "default", "folder": str(kept.parent / "indexes/default")}
        for told_, said in (
            (known | {"ids": ["00000000-0000-5000-8000-000000000000"]}, "is no longer in the index 'default'"),
            (known | {"ids": []}, "(for 'x') found 0"),
            (known | {"ids": ["x"], "index": "other"}, "was in another index ('other')"),
            ([], "no last search"),
            ({"query": 1}, "no last search"),
        ):
            kept.write_text(json.dumps(told_))
            done = run("show", "1")
            assert done.exit_code == 2 and said in done.stderr, done.stderr
        kept.write_bytes(b"\xff{")
        assert "no last search" in run("show", "1").stderr


class TestChangedFiles:
    def test_a_passage_that_moved_is_found(self, run: Run, own: Path) -> None:
        (id,) = ids("notes.txt")
        (own / "notes.txt").write_text("new\n" + NOTES)
        found = told(run, id)
        assert (found["state"], found["source"], found["lines"]) == ("changed", "file", [2, 13])
        assert "changed since it was indexed" in run("show", id).stderr
        assert "tsembed index" in run("show", "notes.txt").stderr
        assert run("show", "notes.txt", "--quiet").stderr == ""

    def test_one_that_only_has_another_time_is_the_same(self, run: Run, own: Path) -> None:
        os.utime(own / "notes.txt", (1e9, 1e9))
        assert told(run, "notes.txt")["state"] == "same"

    @pytest.mark.parametrize("gone", [True, False])
    def test_what_is_no_more_in_the_file_comes_from_the_index(self, run: Run, own: Path, gone: bool) -> None:
        *_, last = ids("manual.md")
        if gone:
            (own / "manual.md").unlink()
        else:
            (own / "manual.md").write_text("something else")
        found = told(run, last)
        assert (found["state"], found["source"]) == ("gone" if gone else "changed", "index")
        assert found["text"].startswith("Of other saws.") and found["text"].endswith("The end.")
        done = run("show", last)
        assert "text that the index has" in done.stderr
        if gone:
            assert "Of other saws. Of other saws." in told(run, "manual.md")["text"]
            assert told(run, "manual.md:5")["text"].startswith("Tools")
            assert "no text of these lines" in run("show", "manual.md:999").stderr

    def test_a_disk_that_is_away(self, run: Run, own: Path) -> None:
        own.rename(own.with_name("elsewhere"))
        own.mkdir()
        assert told(run, own / "notes.txt")["state"] == "offline"
        assert "its disk is away" in run("show", own / "notes.txt").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing.txt"], 2, ["neither the id of an item nor an indexed path", "tsembed ls"]),
        (["notes.txt:99"], 2, ["no line 99", "12 lines"]),
        (["notes.txt", "--lines", "9-2"], 2, ["'9-2' are no lines", "--lines 40-60"]),
        (["notes.txt", "--lines", "x"], 2, ["'x' are no lines"]),
        (["notes.txt", "--context", "-1"], 2, ["counts lines from 0"]),
        (["notes.txt", "--page", "1"], 2, ["has no pages", "--lines"]),
        (["two.pdf", "--page", "3"], 1, ["There is no page 3", "1 to 2"]),
        (["two.pdf", "--page", "0"], 2, ["counts pages from 1"]),
        (["red.png", "--lines", "1"], 2, ["is a picture"]),
        (["notes.txt", "--index", "none"], 1, ["no index called 'none'"]),
    ],
)
def test_what_cannot_be_shown_says_why(
    run: Run, indexed: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    done = run("show", *arguments)
    assert (done.exit_code, done.stdout) == (code, ""), done.stderr
    for word in words:
        assert word in done.stderr


def test_a_broken_file_is_said_to_be(run: Run, own: Path) -> None:
    (own / "two.pdf").write_bytes(b"%PDF-1.7 no")
    done = run("show", "two.pdf")
    assert done.exit_code == 1 and "two.pdf: The PDF is damaged" in done.stderr


def test_open_hands_the_file_to_the_desktop(run: Run, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("tsembed_search.cli.desktop.open_file", opened.append)
    assert run("show", "red.png", "--open").exit_code == 0
    assert opened == [str(indexed / "red.png")]


@pytest.mark.parametrize("width", [30, 100])
def test_a_terminal_gets_numbers_and_marks_and_no_control_codes(run: Run, indexed: Path, width: int) -> None:
    screen = Console(width=width, record=True, force_terminal=True, color_system="truecolor", file=io.StringIO())
    with Index.open() as index:
        passage = index.show(ids("manual.md")[0], context=2, query="saws")
        picture = index.show(str(indexed / "red.png"))
        name = index.show(str(indexed / HOSTILE))
    draw_passage(screen, passage)
    draw_passage(screen, picture, Drawer(half_blocks))
    draw_passage(screen, name)
    styles = {segment.text.strip(): str(segment.style) for segment in screen._record_buffer}
    assert "yellow" in styles["saws"] and "dim" in styles["4"]
    drawn = screen.export_text()
    lines = [line.split() for line in drawn.splitlines()]
    assert ["2", "title:", "x"] in lines and ["4", "#", "Tools"] in lines
    assert "lines 4-10 of" in drawn and "\\u202ered[/]" in drawn and "30 × 20 pixels" in drawn and "▀" in drawn
    assert "\x1b" not in drawn and "\u202e" not in drawn
    assert all(len(line) <= width for line in drawn.splitlines())


def test_a_line_without_an_end_is_not_shown_as_a_whole(run: Run, fresh: Path) -> None:
    (fresh / "long.txt").write_text("all about red " * 8_000)
    assert run("index", ".", "--model", "colours", "--workers", "1").exit_code == 0
    found = told(run, ids("long.txt")[3])
    assert found["lines"] == [1, 1] and 50 < len(found["text"]) < 5000
    assert len(run("show", "long.txt").stdout) == 112_000
