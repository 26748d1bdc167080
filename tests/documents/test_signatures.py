"""A few bytes that look like a signature make no text another format, and no other format a text."""

from __future__ import annotations

import html
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.reading import INPUTS
from helpers.tiny_pdf import Page, pdf
from tsembed_search.documents.decoders import Decoder, Request
from tsembed_search.documents.document import Unit, extension_of, formats_of
from tsembed_search.errors import LoadError

SENTENCE = "The harbour office keeps paper copies for ten years."
SIGNATURES = [
    "%PDF-", "%PDF-1.7", "%PDF-1.4 is how it begins.", "GIF89a", "GIF87a", "8BPS", "qoif", "II*", "MM*", "BM", "P6",
    "RIFF1234WEBP", "PK", "\x7fELF", "<svg", "ftyp", "1234ftypheic", "\xff\xd8\xff", "ÿØÿ", "яШя", "ID3", "OTTO",
    "<!doctype html>", "<html>",
]  # fmt: skip
NAMES = ["notes.md", "mail.txt", "table.csv", "page.html", "README", "run.log"]


def picture(format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 40, 40)).save(file, format)
    return file.getvalue()


PICTURES = {format: picture(format) for format in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000")}
DOCUMENT = pdf([Page([SENTENCE])])


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    made = Decoder(INPUTS, memory=1 << 30, time_limit=60, on_note=lambda path, text: None)
    yield made
    made.close()


def load(decoder: Decoder, path: Path, data: bytes) -> list[Unit]:
    path.write_bytes(data)
    facts = path.stat()
    names = tuple(format.name for format in formats_of(extension_of(path.name), data[:1024]))
    return list(decoder.units(Request(str(path), names, (facts.st_size, facts.st_mtime_ns, facts.st_ino))))


class TestTexts:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_text_may_speak_of_formats(self, decoder: Decoder, tmp_path: Path, name: str) -> None:
        for signature in map(html.escape, SIGNATURES) if name == "page.html" else SIGNATURES:
            for source in (
                f"{signature} {SENTENCE}\n",
                f"{SENTENCE}\n{signature}\n",
                f"First comes {signature}: {SENTENCE}\n",
            ):
                units = load(decoder, tmp_path / name, source.encode())
                assert SENTENCE in units[0].text, source

    def test_a_lesson_about_pdf_is_no_pdf(self, decoder: Decoder, tmp_path: Path) -> None:
        lesson = f"# How a PDF begins\n\n{SENTENCE}\n\n```\n".encode() + DOCUMENT[:400] + b"\n```\n"
        assert SENTENCE in load(decoder, tmp_path / "lesson.md", lesson)[0].text


class TestOthers:
    @pytest.mark.parametrize("name", ["scan.txt", "scan.md", "scan.html", "scan.jpg"])
    def test_a_document_is_one_under_any_name(self, decoder: Decoder, tmp_path: Path, name: str) -> None:
        for before in (b"", b"\n\n", b"\xef\xbb\xbf"):
            units = load(decoder, tmp_path / name, before + DOCUMENT)
            assert [(unit.page, unit.text) for unit in units] == [(1, SENTENCE)]

    @pytest.mark.parametrize("format", PICTURES)
    def test_a_picture_is_one_under_any_name(self, decoder: Decoder, tmp_path: Path, format: str) -> None:
        for name in ("scan.txt", "scan.md", "scan.pdf"):
            assert [unit.kind for unit in load(decoder, tmp_path / name, PICTURES[format])] == ["image"]

    @pytest.mark.parametrize("name", ["scan.txt", "scan.md"])
    def test_what_is_broken_keeps_its_reason(self, decoder: Decoder, tmp_path: Path, name: str) -> None:
        for format, data in PICTURES.items():
            with pytest.raises(LoadError) as caught:
                pytest.fail(f"half a {format} was read: {load(decoder, tmp_path / name, data[: len(data) // 2])}")
            assert "picture" in str(caught.value), format
        for data in (DOCUMENT[:200], DOCUMENT.replace(b"/Kids", b"/Nope")[:-40]):
            with pytest.raises(LoadError, match="PDF"):
                load(decoder, tmp_path / name, data)

    @settings(max_examples=40, deadline=None)
    @given(
        st.binary(min_size=200, max_size=2000),
        st.sampled_from([b"GIF89a", b"8BPS", b"qoif", b"%PDF-1.4", b"\xff\xd8\xff", b"II*\0"]),
    )
    def test_noise_behind_a_signature_is_no_text(
        self, decoder: Decoder, tmp_path_factory: pytest.TempPathFactory, noise: bytes, signature: bytes
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "noise.txt"
        try:
            units = load(decoder, path, signature + noise)
        except LoadError as error:
            assert error.message
        else:
            assert all(unit.text or unit.pixels is not None for unit in units)
