"""The words that files say about themselves, clean and cut, whatever they hold."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from helpers.indexing import Indexing
from helpers.tiny_pdf import Page, pdf
from tsembed_search.documents.pictures import open_pages
from tsembed_search.documents.said import LONGEST, joined, picture_words
from tsembed_search.ranking.words import query_terms, query_words
from tsembed_search.store.base import Search
from tsembed_search.store.schema import texts_of

PICTURE = Image.new("RGB", (60, 40), (200, 30, 30))
XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><rdf:Description><dc:title><rdf:Alt><rdf:li xml:lang='x-default'>"
    b"R&amp;B night</rdf:li></rdf:Alt></dc:title><dc:subject><rdf:Bag><rdf:li>jetty</rdf:li><rdf:li>gull</rdf:li>"
    b"</rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def saved(format: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    PICTURE.save(file, format, **options)
    file.seek(0)
    return file


def exif(**more: object) -> bytes:
    made = Image.Exif()
    made[0x010E], made[0x0110], made[0x013B], made[0x0112] = "Harbour at night", "Camera 5", "Ada", 6
    made[0x9C9E] = "kingfisher;reeds\0".encode("utf-16-le")
    return made.tobytes()


def texts(**values: str) -> PngInfo:
    info = PngInfo()
    for key, value in values.items():
        info.add_text(key, value)
    return info


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (saved("JPEG", exif=exif()), "Harbour at night; Camera 5; Ada; kingfisher;reeds"),
        (saved("WEBP", exif=exif()), "Harbour at night; Camera 5; Ada; kingfisher;reeds"),
        (saved("TIFF", description="A plan", artist="Ada"), "A plan; Ada"),
        (saved("PNG", pnginfo=texts(Title="A plan", Software="Paint", Author="Ada")), "A plan; Ada"),
        (saved("JPEG", xmp=XMP), "R&B night; jetty; gull"),
        (saved("JPEG", comment=b"caf\xe9"), "café"),
        (saved("PNG"), ""),
    ],
)
@pytest.mark.parametrize("pixels", [True, False])
def test_pictures(file: io.BytesIO, said: str, pixels: bool) -> None:
    (page,) = open_pages(file, None, pixels=pixels)
    assert getattr(page, "said", page) == said


def test_only_the_size_is_read() -> None:
    """A picture whose pixels are cut off is measured, upright."""
    data = saved("JPEG", exif=exif()).getvalue()
    (page,) = open_pages(io.BytesIO(data[:-20]), None, pixels=False)
    assert (page.width, page.height, page.pixels.size) == (40, 60, 0)  # type: ignore[union-attr]


def test_it_is_clean_and_cut() -> None:
    assert joined(["a\x1b[31m\u202eb\x00c", "  ", "x\ny", "x y", "\ud800"]) == "a [31m b c; x y"
    assert len(joined([f"{n} " + "long " * 1000 for n in range(50)])) <= LONGEST


@pytest.mark.parametrize(
    "xmp",
    [
        b"<dc:title>never closed" * 5000,
        b"<!DOCTYPE r [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><dc:title><rdf:li>&a;</rdf:li></dc:title>",
        b"<dc:title>" + b"<" * 100_000,
        b"\xff\xfe\0\0",
    ],
)
def test_hostile_xmp(xmp: bytes) -> None:
    image = Image.new("RGB", (2, 2))
    image.info["xmp"] = xmp
    assert "root:" not in picture_words(image)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_costs_nothing_else() -> None:
    image = Image.open(saved("PNG", pnginfo=texts(Title="A plan")))
    image.info["exif"] = b"Exif\0\0II*\0\xff\xff\xff\xff"
    assert picture_words(image) == "A plan"


def test_pages_and_properties_become_titles(indexing: Indexing) -> None:
    """A picture, a PDF and a page of HTML are found by what they say about themselves, with a model and before it."""
    indexing.files.mkdir(exist_ok=True)
    (indexing.files / "p.jpg").write_bytes(saved("JPEG", exif=exif()).getvalue())
    (indexing.files / "d.pdf").write_bytes(pdf([Page(["Plain text of a page."])], title="Cormorant census"))
    indexing.write("h.html", "<title>Wombat weekly</title><p>Another text.</p>")
    wanted = {"kingfisher": "p.jpg", "cormorant": "d.pdf", "wombat": "h.html"}
    for words_only in (True, False):
        indexing.run(words_only=words_only)
        store = indexing.open(None)
        assert store is not None
        for word, name in wanted.items():
            terms, _ = query_terms(word)
            (hit,) = store.find([Search(query_words(terms), 10)])[0]
            (record,) = store.retrieve([hit.id])
            assert record.payload["rel"] == name and word in record.payload["title"].lower()
        store.close()
    assert all(record.vector is not None for record in indexing.records())


def test_a_new_name_makes_no_embedding(indexing: Indexing) -> None:
    indexing.files.mkdir(exist_ok=True)
    (indexing.files / "p.jpg").write_bytes(saved("JPEG", exif=exif()).getvalue())
    indexing.run()
    (indexing.files / "p.jpg").rename(indexing.files / "heron.jpg")
    assert indexing.run().items.embedded == 0
    (record,) = indexing.records()
    assert "heron.jpg" in texts_of(record.payload) and record.payload["title"].startswith("Harbour")
