"""Where in its file a passage stands: lines of texts and Markdown, headings, pages and their labels."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.indexing import Indexing
from helpers.reading import read
from helpers.tiny_pdf import Page, pdf, photo, sheet
from tsembed_search.documents import decoders
from tsembed_search.documents.document import Format, Unit
from tsembed_search.documents.encoding import read_text
from tsembed_search.documents.formats.html import FORMAT as HTML
from tsembed_search.documents.formats.markdown import FORMAT as MARKDOWN
from tsembed_search.documents.formats.pdf import FORMAT as PDF
from tsembed_search.documents.formats.text import FORMAT as TEXT
from tsembed_search.errors import LoadError


def lines_of(data: bytes, unit: Unit) -> str:
    """The lines of a file on which a passage says that it stands."""
    assert unit.lines is not None
    first, last = unit.lines
    lines = "".join(read_text(io.BytesIO(data))).split("\n")
    assert 1 <= first <= last <= len(lines)
    return "\n".join(lines[first - 1 : last])


def place(units: list[Unit], words: str) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    (unit,) = (unit for unit in units if words in (unit.text or ""))
    return unit.headings, unit.lines


class TestText:
    def test_lines(self) -> None:
        data = b"\r\n\r\nfirst\r\n\r\n" + b"a long paragraph of many words. " * 30 + b"\r\nand more\r\n\r\n\r\nlast"
        units = read(TEXT, data)
        assert units[0].lines[0] == 3 and units[-1].lines[1] == 9
        assert all(unit.text in lines_of(data, unit) for unit in units)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from(["\n", "\n\n", " \n\t\n", "\r\n", "\r", "one two. ", "three! ", "x" * 150, "\f",
                                     "gar\x00\x00bled ", "\x1b[1m", "é ", "日本語。"]), max_size=80))  # fmt: skip
    def test_a_passage_is_in_its_lines(self, parts: list[str]) -> None:
        data = "".join(parts).encode()
        try:
            units = read(TEXT, data)
        except LoadError:
            return
        for unit in units:
            assert unit.text in lines_of(data, unit)
            # None to spare: it begins in the first of them, and ends in the last.
            assert unit.lines[1] - unit.lines[0] == unit.text.count("\n")

    def test_a_long_file_in_pieces(self) -> None:
        data = "".join(f"line {number} of the file\n" + "\n" * (number % 7 == 0) for number in range(60_000)).encode()
        units = read(TEXT, data)
        for unit in units[:: len(units) // 50]:
            assert unit.text in lines_of(data, unit)


class TestMarkdown:
    SOURCE = (
        "---\ntitle: The Manual\nauthor: me\n---\n# Start\n\nSome *nice* words\nand more of them.\n\n## Setup\n\n"
        + "- an item that says a lot about this and that, and fills a passage of its own\n" * 3
        + "\n### In code\n\n```python\n\nprint('hello')\n" + "call(1, 2, 3, 4)\n" * 40 + "```\n\n## Use\n\n"
        "| a | b |\n|---|---|\n" + "| one | two and more of it |\n" * 30 + "\nSetext\n===\n\nthe end"
    )  # fmt: skip

    def test_lines_and_headings(self) -> None:
        units = read(MARKDOWN, self.SOURCE.encode())
        lines = self.SOURCE.split("\n")
        assert place(units, "nice words") == (("Start",), (5, 13))  # a short section, joined by the next one
        headings, (first, last) = place(units, "print('hello')")
        assert headings == ("Start", "Setup", "In code") and lines[first - 1] == "### In code"
        assert lines[last - 1] == "call(1, 2, 3, 4)"
        assert place(units, "the end")[0] == ("Setext",)

    def test_parts_of_code_and_of_a_table_have_their_own_lines(self) -> None:
        units = read(MARKDOWN, self.SOURCE.encode())
        code = [unit for unit in units if "call(" in unit.text]
        assert len(code) > 2
        for unit in code[1:-1]:
            assert lines_of(self.SOURCE.encode(), unit).split() == unit.text.split()
        rows = [unit for unit in units if "two and more" in unit.text]
        assert len(rows) > 2 and rows[-1].lines[0] > rows[0].lines[1] - 5

    WORDS = st.lists(st.text("abcdefgh", min_size=5, max_size=9), min_size=1, max_size=60, unique=True)
    MARKS = (
        *("", "# ", "## ", "- ", "  - ", "> ", "> - ", "    ", "1. ", "```\n", "| ", "<b>", "<!-- x -->\n", "~~~\n\n"),
        *("===\n", "---\n", "a<br>"),
    )
    ENDS = ("\n", "\n\n", " ", " | ", "\\\n", "  \n", "\n\n\n", " <!--\n-->", "\n|-|-|\n")

    @settings(max_examples=150, deadline=None)
    @given(WORDS, st.lists(st.tuples(st.sampled_from(MARKS), st.sampled_from(ENDS)), min_size=60, max_size=60))
    def test_every_word_of_a_passage_is_in_its_lines(self, words: list[str], marks: list[tuple[str, str]]) -> None:
        source = "".join(mark + word + end for word, (mark, end) in zip(words, marks, strict=False))
        try:
            units = read(MARKDOWN, source.encode())
        except LoadError:
            return
        for unit in units:
            if unit.lines is not None:
                there = lines_of(source.encode(), unit)
                assert all(word in there for word in re.findall(r"[a-h]{5,}", unit.text or ""))

    def test_long_and_odd_headings_are_cut(self) -> None:
        (unit,) = read(MARKDOWN, b"# " + b"word " * 5000 + b"\n## a `b`  **c**\n\ntext")[-1:]
        assert unit.headings[-1] == "a b c"
        assert len(unit.headings[0]) <= 120 and unit.headings[0].endswith(" …")


class TestPages:
    def test_headings_of_html(self) -> None:
        data = b"<title>T</title><h1>One</h1><p>first text of it</p><h2>Two\n<br>b</h2><p>second text" + b" more" * 120
        units = read(HTML, data)
        assert units[0].headings == ("One",) and units[-1].headings == ("One", "Two b")
        assert all(unit.lines is None for unit in units)

    LABELS = b"/PageLabels << /Nums [0 << /S /r /P (%s) >>] >>"

    @pytest.mark.parametrize(
        ("prefix", "label"),
        [(b"", "i"), (b"A\\n-", "A -i"), (b"x" * 500, "x" * 23 + "…"), (b"\\376\\377 .", "\u202ei")],
    )
    def test_a_label_of_a_pdf(self, prefix: bytes, label: str) -> None:
        drawn = b"BT /F1 12 Tf 20 200 Td (some words) Tj ET"
        units = read(PDF, sheet(drawn, catalogue=self.LABELS % prefix), pages=True)
        assert [(unit.kind, unit.page, unit.page_label) for unit in units] == [("text", 1, label), ("page", 1, label)]

    def test_a_label_that_is_the_number_says_nothing(self) -> None:
        drawn = b"BT /F1 12 Tf 20 200 Td (some words) Tj ET"
        for catalogue in (b"", b"/PageLabels << /Nums [0 << /S /D >>] >>", b"/PageLabels 7"):
            assert [unit.page_label for unit in read(PDF, sheet(drawn, catalogue=catalogue))] == [None]
        units = read(PDF, pdf([Page(["words"], [photo()]), Page(["more"])]))
        assert [unit.page_label for unit in units] == [None, None, None]


class TestWholeTexts:
    """What people read of a file is what the offsets and lines of its passages are of."""

    @pytest.mark.parametrize(
        ("name", "format", "data"),
        [
            ("a.txt", TEXT, b"one\r\ntwo\r\n\r\n" + b"three and more. " * 60),
            ("a.html", HTML, b"<h1>One</h1><p>first text</p><ul><li>a<li>b</ul><p>" + b"second text " * 90),
            ("a.pdf", PDF, pdf([Page(["first words", "and second"])])),
        ],
    )
    def test_offsets(self, tmp_path: Path, name: str, format: Format, data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        whole = "".join(decoders.text(tmp_path / name))
        for unit in read(format, data):
            assert whole[unit.start : unit.end] == unit.text

    def test_markdown_is_its_source(self, tmp_path: Path) -> None:
        (tmp_path / "a.md").write_text(TestMarkdown.SOURCE)
        assert "".join(decoders.text(tmp_path / "a.md")) == TestMarkdown.SOURCE

    def test_what_cannot_be_read_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "a.pdf").write_bytes(pdf([Page(["words"])]))
        (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
        (tmp_path / "a.png").write_bytes(b"\x89PNG")
        for name, page, reason in (
            ("a.pdf", 2, "There is no page 2. The pages are 1 to 1."),
            ("broken.pdf", None, "damaged"),
            ("a.png", None, "no text to show"),
            ("gone.txt", None, "vanished"),
        ):
            with pytest.raises(LoadError, match=reason):
                list(decoders.text(tmp_path / name, page))


def test_places_are_stored_and_outlive_a_new_name(indexing: Indexing) -> None:
    """A file that is renamed gets another place; what else is known of its passages stays."""
    path = indexing.write("notes/a.md", "# Title\n\nsome words\n")
    indexing.run(indexing.files)
    path.rename(path.with_name("b.md"))
    report = indexing.run(indexing.files)
    assert report.files.renamed == 1 and report.items.embedded == 0
    (record,) = indexing.records()
    assert record.payload["path"].endswith("notes/b.md")
    assert (record.payload["headings"], record.payload["lines"]) == (["Title"], [1, 3])
    assert "page_label" not in record.payload
