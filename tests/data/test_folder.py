"""What a folder of a person's own files offers to train on."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.tiny_pdf import Page, pdf
from tsembed_search.data.folder import folder_rows, passage, sidecar_caption, telling_name
from tsembed_search.data.rows import Row
from tsembed_search.data.training import load
from tsembed_search.documents.document import Document, Figure, Format, Section
from tsembed_search.documents.formats.html import FORMAT as HTML
from tsembed_search.documents.formats.markdown import FORMAT as MARKDOWN
from tsembed_search.errors import LoadError, UsageError

LONG = "Water the roses in the early morning, before the sun stands high, and never on the leaves themselves. "


def picture(path: Path, colour: str = "red") -> Path:
    """A small picture on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def pairs(rows: list[Row]) -> list[tuple[str | None, object]]:
    """Query text and target of each row."""
    return [(one.query.text, one.positive.image or one.positive.text) for one in rows]


def sections(format: Format, text: str) -> list[Section | Figure]:
    """What a document of that text gives for training."""
    assert format.sections is not None
    return list(format.sections(Document(io.BytesIO(text.encode("utf-8", "replace")))))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Holiday_in-Rome (2)", "Holiday in Rome"), ("redBicycle", "red Bicycle"),
        ("grandmas-garden_2019", "grandmas garden"),
        ("IMG_1234", ""), ("DSC00012", ""), ("PXL_20230504_101010123", ""), ("20190704_153012", ""), ("P1010042", ""),
        ("Screenshot 2024-01-02 at 10.11.12", ""), ("a3f29bc01d77e8f0", ""), ("WhatsApp Image 2020-01-01", ""),
        ("image (3)", ""), ("IMG_2041 old lighthouse", "old lighthouse"), ("東京タワー", "東京タワー"),
        ("x", ""), ("", ""),
    ],
)  # fmt: skip
def test_names_are_cleaned_and_dull_ones_dropped(name: str, words: str) -> None:
    assert telling_name(name) == words


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=120))
def test_any_name_and_any_page_is_read(text: str) -> None:
    cleaned = telling_name(text)
    assert len(cleaned) <= 80 and cleaned == cleaned.strip()
    figure = f"<figure><img src='{text}' alt=a>{text}"
    try:
        parts = [*sections(HTML, f"x{text}"), *sections(MARKDOWN, f"x{text}"), *sections(HTML, figure)]
    except LoadError as error:  # what looks like binary data
        assert error.message
        return
    for part in parts:
        if isinstance(part, Figure):
            assert part.source and part.caption
        elif (found := passage(part)) is not None:
            assert all(found)


def test_side_car_captions_of_every_kind(tmp_path: Path) -> None:
    texts = {
        "a.txt": "An old lighthouse.\n", "b.jpg.txt": "Two  boats\nat sea", "c.caption": "a red hen",
        "d.json": json.dumps({"title": "d.jpg", "description": "the harbour at night"}),
        "e.xmp": "<x><dc:title><rdf:Alt><rdf:li xml:lang='x-default'>Our garden</rdf:li></rdf:Alt></dc:title></x>",
        "f.txt": "IMG_0001", "g.json": json.dumps({"title": "IMG_12.jpg"}),
    }  # fmt: skip
    for name, text in texts.items():
        picture(tmp_path / f"{name[0]}.jpg")
        (tmp_path / name).write_text(text)
    found, problems = folder_rows(tmp_path)
    assert pairs(found["captions"]) == [
        ("An old lighthouse.", tmp_path / "a.jpg"), ("Two boats at sea", tmp_path / "b.jpg"),
        ("a red hen", tmp_path / "c.jpg"), ("the harbour at night", tmp_path / "d.jpg"),
        ("Our garden", tmp_path / "e.jpg"),
    ]  # fmt: skip
    assert not problems
    assert sidecar_caption(tmp_path / "z.jpg", set()) == ""


def test_damaged_side_cars_are_told_and_not_fatal(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.jpg")
    (tmp_path / "a.json").write_text("{not json")
    (tmp_path / "b.txt").write_text("a fine caption")
    (tmp_path / "empty.png").touch()
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    found, problems = folder_rows(tmp_path)
    assert len(found["captions"]) == 1
    assert {problem.path.name: problem.reason for problem in problems} == {
        "a.jpg": "its side-car a.json cannot be used: it is not valid JSON", "empty.png": "the picture's file is empty",
        "broken.pdf": "The PDF is damaged, or it is none.",
    }  # fmt: skip
    assert all(str(problem).startswith(f"{problem.path}: ") for problem in problems)


def test_pages_and_captions_are_decoded_as_for_indexing(tmp_path: Path) -> None:
    words = "Маяк в порту починили вчера вечером."
    for name in ("a", "b", "c"):
        picture(tmp_path / f"{name}.jpg")
    (tmp_path / "a.txt").write_bytes(words.encode("cp1251"))
    (tmp_path / "b.txt").write_bytes(words.encode("utf-16-le"))
    page = f"<meta charset=x-mac-cyrillic><form><img src=c.jpg alt='{words}'></form><template>no</template>"
    (tmp_path / "page.html").write_bytes(page.encode("mac_cyrillic"))
    found, problems = folder_rows(tmp_path)
    assert not problems
    assert [query for task in ("captions", "alt_texts") for query, _ in pairs(found[task])] == [words] * 3


def test_pages_tell_of_their_pictures_and_sections(tmp_path: Path) -> None:
    for name in ("rose.png", "img/tool.png", "IMG_1.png", "my boat.png"):
        picture(tmp_path / name)
    (tmp_path / "page.html").write_text(
        "<h1>Roses</h1><figure><img src='rose.png' alt='x'><figcaption>A rose in June</figcaption></figure>"
        f"<img src='img/tool.png' alt='A pair of scissors'><img src='http://else.where/a.png' alt='far away'>"
        f"<img src='/etc/a.png' alt='absolute'><h2>Watering</h2><p>{LONG}</p><script>var x = 'no words'</script>"
    )
    (tmp_path / "notes.md").write_text(
        f"---\ntitle: x\n---\n# Boats\n\n![My first boat](my%20boat.png)\n\n"
        f"## Sails\n\n{LONG}*{LONG}*\n\n## Short\n\nno.\n"
    )
    found, problems = folder_rows(tmp_path)
    assert not problems
    assert pairs(found["alt_texts"]) == [
        ("My first boat", tmp_path / "my boat.png"),
        ("A rose in June", tmp_path / "rose.png"),
        ("A pair of scissors", tmp_path / "img/tool.png"),
    ]
    headings = [query for query, _ in pairs(found["passages"])]
    assert headings == ["Sails", "Watering"]
    assert str(found["passages"][0].positive.text).startswith("Water the roses")
    assert "file_names" not in found  # all that have a name have words of their own


def test_pdf_pages_give_headings_and_text(tmp_path: Path) -> None:
    pages = [Page(["Setting up the telescope", *[LONG[:60]] * 4]), Page(["too short"]), Page([LONG[:60]] * 5)]
    (tmp_path / "manual.pdf").write_bytes(pdf(pages))
    found, problems = folder_rows(tmp_path)
    assert not problems
    (row,) = found["passages"][:1]
    assert row.query.text == "Setting up the telescope"
    assert str(row.positive.text).startswith("Water the roses")
    assert passage(Section((), "Heading\nshort", 1)) is None
    assert passage(Section((), LONG + LONG, 1)) is None  # a sentence is no heading
    text = " ".join((LONG + LONG).split())
    assert passage(Section(("1", "Roses", "June"), "Roses\n" + LONG + LONG, 1)) == ("Roses", text)
    assert passage(Section((), "Roses\n" + LONG + LONG)) is None  # only a page begins with its heading


def test_names_of_files_and_folders(tmp_path: Path) -> None:
    for name in ("lighthouse.jpg", "IMG_1234.jpg", "DCIM/IMG_1.jpg", "DCIM/IMG_2.jpg"):
        picture(tmp_path / name)
    for trip in ("Holiday in Rome", "Grandmas garden"):
        for number in range(3):
            picture(tmp_path / trip / f"IMG_{number}.jpg")
    picture(tmp_path / "Alone/IMG_9.jpg")
    picture(tmp_path / ".hidden/secret place.jpg")
    picture(tmp_path / "private/our bedroom.jpg")
    picture(tmp_path / "blurred lamp.jpg")
    (tmp_path / ".tsembedignore").write_text("private/\nblurred*\n")
    found, _ = folder_rows(tmp_path)
    assert pairs(found["file_names"]) == [("lighthouse", tmp_path / "lighthouse.jpg")]
    assert {target for _, target in pairs(found["folder_names"])} == {"Holiday in Rome", "Grandmas garden"}
    assert len(found["folder_names"]) == 6


def test_a_folder_loads_like_any_data(tmp_path: Path) -> None:
    for number in range(40):
        picture(tmp_path / f"{number}.jpg", f"hsl({9 * number}, 80%, 50%)")
        (tmp_path / f"{number}.txt").write_text(f"caption of thing {number}")
    data = load([tmp_path], validation=0.25)
    assert [task.name for task in data.train] == ["captions"]
    assert 1 <= len(data.validation[0]) <= 20 and len(data.train[0]) + len(data.validation[0]) == 40
    row = data.train[0][0]
    assert row.positive.image is not None and Path(row.origin).exists()
    assert load([tmp_path], only=["cap*"]).train
    with pytest.raises(UsageError, match="is called nothing"):
        load([tmp_path], weights={"nothing": 2})


def test_a_folder_that_offers_nothing_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "IMG_1.jpg")
    with pytest.raises(UsageError, match="offers nothing to train on") as caught:
        load([tmp_path])
    assert "cat.txt" in caught.value.hint
