"""A format of another package is one file and one line of its own: it is crawled, read in a worker, and trained on."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from helpers.indexing import Indexing
from tsembed_search.data.folder import folder_rows
from tsembed_search.documents.document import FORMATS, extensions, format_of

SOURCE = """
import zipfile

from tsembed_search.documents.chunking import tiled
from tsembed_search.documents.document import Format, Section
from tsembed_search.documents.html_page import readable, shown_page


def chapters(document):
    with zipfile.ZipFile(document.file) as book:
        return [shown_page(book.read(name).decode()) for name in sorted(book.namelist())]


def units(document):
    for number, page in enumerate(chapters(document), 1):
        yield from document.text_units(tiled(readable(page.tree.body)), page.title, number)


def sections(document):
    for number, page in enumerate(chapters(document), 1):
        yield Section((page.title,), page.tree.body.text(), number)


FORMAT = Format("epub", 3, frozenset({"epub"}), units, (b"PK\\x03\\x04",), sections=sections)
"""
LONG = "The red lighthouse by the harbour was painted again this spring, and nobody in the town liked it. "


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that adds EPUB, installed beside ours."""
    site = tmp_path / "site"
    (site / "books-1.0.dist-info").mkdir(parents=True)
    (site / "tsembed_books.py").write_text(SOURCE)
    (site / "books-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: books\nVersion: 1.0\n")
    (site / "books-1.0.dist-info" / "entry_points.txt").write_text("[tsembed.formats]\nepub = tsembed_books:FORMAT\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr(FORMATS, "_entries", dict(FORMATS._entries))
    monkeypatch.setattr(FORMATS, "_searched", False)


def book(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number, title in enumerate(("Spring at the harbour", "Summer on the island"), 1):
            file.writestr(f"{number}.xhtml", f"<html><title>{title}</title><body><p>{LONG * 2}</p></body></html>")


@pytest.mark.usefixtures("foreign", "cold_decoders")
def test_a_format_from_another_package(indexing: Indexing) -> None:
    assert FORMATS.names() == ["image", "pdf", "html", "markdown", "text", "epub"]
    assert "epub" in extensions() and format_of("txt", b"PK\x03\x04").name == "epub"
    book(indexing.files / "lighthouse.epub")
    indexing.write("notes.txt", "all about blue")
    assert indexing.run().files.added == 2
    pages = sorted(record.payload["page"] for record in indexing.records() if record.payload["path"].endswith("epub"))
    assert pages == [1, 2]
    again = indexing.run()
    assert (again.files.unchanged, again.items.embedded) == (2, 0)
    rows, problems = folder_rows(indexing.files)
    assert not problems
    assert [one.query.text for one in rows["passages"]] == ["Spring at the harbour", "Summer on the island"]


def test_without_it_such_files_are_passed_over(indexing: Indexing) -> None:
    book(indexing.files / "lighthouse.epub")
    report = indexing.run()
    assert (report.files.added, report.files.skipped) == (0, 0)
