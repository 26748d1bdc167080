"""What is shown: nothing in a file name or a text can act on a terminal, and lists look right in any width."""

from __future__ import annotations

import io
import json
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from tsembed_search import wording
from tsembed_search.cli.render import hits as pictures
from tsembed_search.cli.render import text as render
from tsembed_search.cli.render.hits import hit_text, print_hits
from tsembed_search.cli.render.protocols import fit
from tsembed_search.cli.search import plain_lines
from tsembed_search.errors import UsageError
from tsembed_search.search.results import Hit

ANY_TEXT = st.text(st.characters(), max_size=60)
NASTY = [
    "a\x1b[31mred\x1b]8;;http://x\x07.txt", "line\nbreak\r.jpg", "\u202egpj.exe", "[bold]x[/bold].png", "\x9b31m",
    "\udcff\udc80raw.bin", "tab\t\x7f\x00", "\u2028\u2029", "\U0010eeee\u0305", "😀👩‍👩‍👧🏴󠁧󠁢󠁥󠁮󠁧󠁿.png", ":smile:",
]  # fmt: skip


def hit(path: str = "/pics/a.png", *, rank: int = 1, kind: str = "image", **more: object) -> Hit:
    fields = {"rank": rank, "score": 0.831, "similarity": 0.4, "route_similarity": 0.0, "id": "x", "kind": kind,
              "path": path, "page": None, "chunk": None, "snippet": None, **more}  # fmt: skip
    return Hit(**fields)  # type: ignore[arg-type]


def screen(width: int = 80) -> Console:
    return Console(
        file=io.StringIO(), width=width, record=True, force_terminal=True, color_system="truecolor",
        markup=False, highlight=False, emoji=False, legacy_windows=False,
    )  # fmt: skip


def is_inert(text: str) -> bool:
    """No character that moves a cursor, hides, or turns the direction of text; and it can be encoded."""
    text.encode()
    return all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in text) and not re.search(
        "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", text
    )


@given(ANY_TEXT)
@example("".join(NASTY))
def test_shown_text_is_inert_and_says_the_same_twice(text: str) -> None:
    assert is_inert(wording.shown(text))
    assert wording.shown(wording.shown(text)) == wording.shown(text)


@pytest.mark.parametrize("text", ["Grüße.txt", "写真 2024.jpg", "👩‍👩‍👧.png", "naïve café [final] (2).pdf", "मुंबई"])
def test_ordinary_names_are_left_alone(text: str) -> None:
    assert wording.shown(text) == text


def test_escapes_say_what_was_there() -> None:
    assert wording.shown("a\nb\x1b\u202e\udcff") == "a\\nb\\x1b\\u202e\\xff"


@given(ANY_TEXT, ANY_TEXT)
@example(NASTY[0], NASTY[1])
def test_terminal_list_holds_no_control_code_but_its_own(name: str, text: str) -> None:
    """Every escape sequence in the output is a colour or a link that the program made itself."""
    marks = [(0, 1)] if text else []
    on = screen()
    print_hits([hit("/" + name.replace("/", ""), snippet=text or None, marks=marks)], on=on)
    output = on.file.getvalue()  # type: ignore[attr-defined]
    own = re.compile(r"\x1b\[[0-9;]*m|\x1b\]8;(id=\d+)?;(file://[!-~]*)?\x1b\\")
    assert is_inert(own.sub("", output).replace("\n", ""))


@given(ANY_TEXT, ANY_TEXT)
def test_plain_lines_are_lines(name: str, text: str) -> None:
    lines = list(plain_lines([hit("/" + name, snippet=text or None)]))
    assert len(lines) == (2 if text else 1)
    assert all(map(is_inert, lines))


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("name", ["/pictures/very/" + "long" * 30 + ".jpg", "/写真/" + "林檎" * 40 + ".jpg", "/a.png"])
def test_no_line_is_wider_than_the_terminal(width: int, name: str) -> None:
    on = screen(width)
    hits = [
        hit(name, page=12, also_at=[name + "2", "/c"], top_experts=["b0e1", "b1e0"]),
        hit("/notes.txt", rank=2, kind="text", snippet="赤い林檎 " * 30 + "red", marks=[(0, 2)]),
    ]
    print_hits(hits, on=on)
    assert max(map(cell_len, on.export_text().splitlines())) <= width


def test_list_shows_rank_score_kind_path_page_and_marked_words() -> None:
    on = screen()
    found = hit(
        "/papers/report.pdf",
        kind="text",
        page=3,
        snippet="of a red bicycle",
        marks=[(5, 8), (9, 16)],
        also_at=["/b.pdf"],
    )
    print_hits([found], on=on)
    text = on.export_text(clear=False)
    for part in ("1 ", "0.83", "text", "/papers/report.pdf", "page 3", "also at /b.pdf", "of a red bicycle"):
        assert part in text
    styled = on.export_text(styles=True)
    assert "\x1b]8;" in styled and "file:///papers/report.pdf" in styled
    assert re.search(r"\x1b\[[0-9;]*103mred\x1b\[0m", styled)


def test_marks_stay_on_their_words_when_escapes_lengthen_the_text() -> None:
    on = screen()
    on.print(hit_text(hit(kind="text", snippet="\x1b\x1bred x", marks=[(2, 5)]), 1))
    assert re.search(r"\\x1b\\x1b\x1b\[[0-9;]*mred", on.export_text(styles=True))


@pytest.mark.parametrize(("score", "cells"), [(0.0, 0), (0.05, 1), (0.5, 5), (0.999, 10), (1.0, 10), (1.7, 10)])
def test_bar_is_as_long_as_the_score(score: float, cells: int) -> None:
    bar = render.bar(score, 10)
    assert len(bar.rstrip()) == cells
    assert cell_len(bar) == 10


def test_paths_under_the_current_folder_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert next(plain_lines([hit(f"{tmp_path}/sub/a.png")])).endswith("  sub/a.png")
    assert next(plain_lines([hit(f"{tmp_path}x/a.png")])).endswith(f"{tmp_path}x/a.png")


def test_json_is_one_ascii_line(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_json({"path": "".join(NASTY)})
    out = capsys.readouterr().out
    assert out.isascii() and out.count("\n") == 1
    assert json.loads(out)["path"] == "".join(NASTY).encode("utf-8", "backslashreplace").decode()


def test_paths_for_pipes_are_the_bytes_of_the_file_system(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    render.print_paths(["/a\nb.txt", "/\\udcff.txt", "/林檎"], end="\0")
    assert capfdbinary.readouterr().out == b"/a\nb.txt\0/\xff.txt\0" + "/林檎\0".encode()


def test_links_are_encoded() -> None:
    assert render.link_to("/a b/\\udcff\x1b;#.png") == "file:///a%20b/%FF%1B%3B%23.png"


def test_complaints_are_one_block_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    render.complain("bad \x1b[1m file\nnamed so", "do this")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: bad \\x1b[1m file\nnamed so\ndo this\n"


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0123, "12 ms"), (1.26, "1.3 s"), (59, "59 s"), (61, "1 min 1 s"), (3599.9, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations_for_people(value: float, words: str) -> None:
    assert wording.time_words(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (123456, "123 kB"), (5e12, "5.0 TB")]
)
def test_sizes_for_people(value: float, words: str) -> None:
    assert wording.size_words(value) == words


@pytest.mark.parametrize(("width", "height"), [(1, 1), (4000, 10), (10, 4000), (300, 200), (200, 300)])
def test_thumbnails_fit_and_keep_their_shape(width: int, height: int) -> None:
    columns, rows = fit(width, height, 2.0, pictures.COLUMNS, pictures.ROWS)
    assert 1 <= columns <= pictures.COLUMNS and 1 <= rows <= pictures.ROWS
    if min(width, height) > 100:
        assert columns / (rows * 2) == pytest.approx(width / height, rel=0.2)


def test_half_blocks_draw_two_pixels_per_cell() -> None:
    on = screen()
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0], pixels[1] = (255, 0, 0), (0, 0, 255)
    on.print(pictures.cells(pixels))
    styled = on.export_text(styles=True, clear=False)
    assert "38;2;255;0;0;48;2;0;0;255" in styled
    assert on.export_text() == "▀▀▀\n"


def test_pictures_stand_beside_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    red = np.full((60, 60, 3), (255, 0, 0), np.uint8)
    monkeypatch.setattr(pictures, "thumbnails", lambda hits: {1: red})
    on = screen()
    hits = [hit(), hit("/notes.txt", rank=2, kind="text", snippet="words")]
    print_hits(hits, pictures.Drawer(pictures.half_blocks), on)
    lines = on.export_text().splitlines()
    assert sum("▀" in line for line in lines) == pictures.ROWS
    first, second = (next(line for line in lines if path in line) for path in ("/pics/a.png", "/notes.txt"))
    assert first.index("/pics") > first.rindex("▀")
    assert first.index("/pics") == second.index("/notes")


@pytest.mark.parametrize("words", [0, 200])
def test_pictures_drawn_over_text_return_to_the_line_below(monkeypatch: pytest.MonkeyPatch, words: int) -> None:
    """For sixel: the cursor goes up over the words to draw, and back down below the longer of words and picture."""
    red = np.full((60, 60, 3), (255, 0, 0), np.uint8)
    monkeypatch.setattr(pictures, "thumbnails", lambda hits: {1: red})
    on = screen()
    print_hits([hit(snippet="word " * words or None)], pictures.Drawer(pictures.half_blocks, overlays=True), on)
    output = on.file.getvalue()  # type: ignore[attr-defined]
    lines_of_words = output[: output.rindex("word") if words else output.index("image")].count("\n") + 1
    row = output.count("\n")
    row += sum(int(n or 1) for n in re.findall(r"\x1b\[(\d*)B", output))
    row -= sum(int(n or 1) for n in re.findall(r"\x1b\[(\d*)A", output))
    assert row == max(lines_of_words, pictures.ROWS) + 1
    assert "A" in output


def test_thumbnails_of_pictures_and_pages_but_not_of_what_is_gone_or_broken(tmp_path: Path) -> None:
    Image.new("RGB", (900, 300), "red").save(tmp_path / "wide.png")
    Image.new("RGB", (200, 300), "blue").save(tmp_path / "book.pdf", resolution=72)
    (tmp_path / "broken.png").write_bytes(b"no")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 no")
    names = [("wide.png", None), ("book.pdf", 1), ("book.pdf", 7), ("broken.png", None), ("broken.pdf", 1), ("gone", 2)]
    hits = [hit(str(tmp_path / name), rank=rank, page=page) for rank, (name, page) in enumerate(names, 1)]
    found = pictures.thumbnails([*hits, hit(str(tmp_path / "wide.png"), rank=9, kind="text")])
    assert sorted(found) == [1, 2]
    assert tuple(found[1].mean(axis=(0, 1)).round()) == (255, 0, 0)
    assert found[2].mean(axis=(0, 1)) == pytest.approx((0, 0, 255), abs=3)
    assert found[2].shape[0] > found[2].shape[1]
    assert max(found[1].size, found[2].size) < 3 * 520 * 520


def test_terminals_too_narrow_for_pictures_get_none() -> None:
    on = screen(30)
    print_hits([hit("/nothing.png")], pictures.Drawer(pictures.half_blocks), on)
    assert "▀" not in on.export_text()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_pictures_without_a_terminal_are_off_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert pictures.drawer(None) is None
    with pytest.raises(UsageError):
        pictures.drawer(True)


def test_a_terminal_that_cannot_answer_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output to a terminal, input from elsewhere: half blocks, and nothing is written to find out."""
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    found = pictures.drawer(None)
    assert found is not None and found.draw is pictures.half_blocks
    assert pictures.drawer(False) is None
    monkeypatch.setenv("NO_COLOR", "1")
    assert pictures.drawer(None) is None
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("NO_COLOR")
    assert pictures.drawer(None) is None
    assert out.getvalue() == ""


def test_current_folder_that_is_gone_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert render.shortened("/a/b") == "/a/b"
    os.chdir(tmp_path)
