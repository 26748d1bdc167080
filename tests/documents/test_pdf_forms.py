"""What a viewer shows on a page of a PDF beside its content: fields, typed comments, stamps. And what it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.reading import looks_like, pictures, read, words
from helpers.tiny_pdf import Annotation, Stream, pixels_of, sheet
from tsembed_search.data.folder import folder_rows
from tsembed_search.documents.decoders import thumbnails
from tsembed_search.documents.formats.pdf import FORMAT as PDF
from tsembed_search.errors import LoadError

WIDGET = b"/Subtype /Widget /DA (/F1 12 Tf 0 g) "
Rect = tuple[float, float, float, float]
WIDE: Rect = (120, 195, 370, 215)
TALL: Rect = (120, 60, 370, 215)


def look(text: bytes) -> bytes:
    return b"/Tx BMC BT /F1 12 Tf 2 4 Td (%s) Tj ET EMC" % text


def field(kind: bytes, looks: bytes | None = None, *, flags: int = 4, rect: Rect = WIDE) -> Annotation:
    entries = WIDGET + b"/T (field) /F %d " % flags + kind
    return Annotation(entries, None if looks is None else look(looks), rect)


TEXT, CHOICE, BUTTON = b"/FT /Tx ", b"/FT /Ch /Opt [(Badger) (Otter) (Stoat)] ", b"/FT /Btn "

SHOWN = {
    "a field with its appearance": ([field(TEXT + b"/V (Badger sett)", b"Badger sett")], b""),
    "a field that shows its value in another form": ([field(TEXT + b"/V (1234.5)", b"Badger 1,234.50")], b""),
    "a field without appearance": ([field(TEXT + b"/V (Badger sett)")], b""),
    "a field to be drawn anew": ([field(TEXT + b"/V (Badger sett)", b"Stale")], b"/NeedAppearances true"),
    "a field of several lines": ([field(TEXT + b"/Ff 4096 /V (Old\\nBadger sett)", rect=TALL)], b""),
    "a value that is longer than its field": (
        [field(TEXT + b"/V (The sett by the long lane is home of one Badger)", b"The sett", rect=(350, 195, 395, 215))],
        b"",
    ),
    "a value in UTF-16": ([field(TEXT + b"/V <" + "\ufeffBadger".encode("utf-16-be").hex().encode() + b">")], b""),
    "a combo box": ([field(CHOICE + b"/Ff 131072 /V (Badger)")], b""),
    "a combo box that keeps a number": (
        [field(b"/FT /Ch /Ff 131072 /Opt [[(1) (Badger)] [(2) (Otter)]] /V (1)")], b"",
    ),
    "a list box": ([field(CHOICE + b"/V (Otter)", rect=TALL)], b""),
    "two fields of one name": (
        [field(TEXT + b"/V (Badger sett)"), field(TEXT + b"/V (Badger sett)", rect=(120, 95, 370, 115))], b"",
    ),
    "a comment with its appearance": (
        [Annotation(b"/Subtype /FreeText /F 4 /Contents (Badger) /DA (/F1 12 Tf 0 g)", look(b"Badger"))], b"",
    ),
    "a comment without appearance": (
        [Annotation(b"/Subtype /FreeText /F 4 /Contents (Badger) /DA (/F1 12 Tf 0 g)")], b"",
    ),
    "a comment drawn in outlines": (
        [Annotation(b"/Subtype /FreeText /F 4 /Contents (Badger) /DA (/F1 12 Tf 0 g)", b"0 0 20 9 re f")], b"",
    ),
    "a stamp": ([Annotation(b"/Subtype /Stamp /F 4", look(b"Badger"))], b""),
    "a watermark": ([Annotation(b"/Subtype /Watermark /F 4", look(b"Badger"))], b""),
}  # fmt: skip
HIDDEN = {
    "a hidden field": [field(TEXT + b"/V (Badger)", b"Badger", flags=2)],
    "a field for print only": [field(TEXT + b"/V (Badger)", b"Badger", flags=36)],
    "a hidden comment": [Annotation(b"/Subtype /FreeText /F 2 /Contents (Badger)", look(b"Badger"))],
    "a password": [field(TEXT + b"/Ff 8192 /V (Badger)")],
    "a password that is drawn as stars": [field(TEXT + b"/Ff 8192 /V (Badger)", b"******")],
    "a password that is drawn in clear": [field(TEXT + b"/Ff 8192 /V (Badger)", b"Badger")],
    "a box that is not ticked": [field(BUTTON + b"/V /Off /AS /Off", rect=(120, 195, 140, 215))],
    "a note behind an icon": [Annotation(b"/Subtype /Text /F 4 /Contents (Badger)")],
}  # fmt: skip
PAGE = b"BT /F1 12 Tf 40 250 Td (Survey of the wood) Tj ET"


def made(annotations: list[Annotation], form: bytes = b"", content: bytes = PAGE) -> bytes:
    return sheet(content, annotations=annotations, form=form)


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_text_of_its_page(name: str) -> None:
    annotations, form = SHOWN[name]
    units = read(PDF, made(annotations, form))
    assert "Badger" in words(units) and words(units).startswith("Survey of the wood")
    assert {unit.page for unit in units} == {1}
    assert "Badger" in words(read(PDF, made(annotations, form, content=b""))), "a page of nothing else"


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_not_shown_is_no_text(name: str) -> None:
    data = made(HIDDEN[name])
    assert words(read(PDF, data)) == "Survey of the wood"
    with pytest.raises(LoadError, match="no text and no picture"):
        read(PDF, made(HIDDEN[name], content=b""))


def test_the_value_that_a_field_shows_comes_once() -> None:
    text = words(read(PDF, made([field(TEXT + b"/V (Badger sett)", b"Badger sett")])))
    assert text.count("Badger") == 1


def ink(pixels: np.ndarray) -> float:
    return float((255 - pixels.astype(int)).mean())


@pytest.mark.parametrize(
    "name", ["a field without appearance", "a field with its appearance", "a stamp", "a combo box"]
)
def test_the_picture_of_a_page_shows_them_too(name: str, tmp_path: Path) -> None:
    annotations, form = SHOWN[name]
    path, plain = tmp_path / "form.pdf", tmp_path / "plain.pdf"
    path.write_bytes(made(annotations, form))
    plain.write_bytes(made([]))
    drawn = [read(PDF, one.read_bytes(), pages=True)[-1] for one in (path, plain)]
    assert [unit.kind for unit in drawn] == ["page", "page"]
    assert ink(drawn[0].pixels) > 1.2 * ink(drawn[1].pixels), "as the model sees it"
    previews = thumbnails([(path, 1), (plain, 1)])
    assert ink(previews[path, 1]) > 1.2 * ink(previews[plain, 1]), "as a person sees it"


@pytest.mark.parametrize("name", ["a hidden field", "a field for print only", "a password that is drawn in clear"])
def test_the_picture_of_a_page_shows_nothing_that_is_hidden(name: str) -> None:
    drawn = [read(PDF, made(annotations), pages=True)[-1].pixels for annotations in (HIDDEN[name], [])]
    assert (drawn[0] == drawn[1]).all()


def test_a_highlighter_hides_no_words() -> None:
    mark = Annotation(
        b"/Subtype /Highlight /F 4 /C [1 1 0] /QuadPoints [40 262 140 262 40 246 140 246]", rect=(40, 246, 140, 262)
    )
    marked, plain = (read(PDF, made(annotations), pages=True) for annotations in ([mark], []))
    assert words(marked) == words(plain)
    assert (marked[-1].pixels != plain[-1].pixels).any() and marked[-1].pixels.min() < 150


def test_a_picture_in_a_stamp_is_a_picture_of_the_page() -> None:
    photo = Image.linear_gradient("L").resize((200, 150))
    stamp = Annotation(b"/Subtype /Stamp /F 4", b"q 200 0 0 150 0 0 cm /I0 Do Q", rect=(100, 20, 300, 170))
    found = pictures(read(PDF, sheet(PAGE, {"I0": pixels_of(photo)}, [stamp])))
    assert len(found) == 1 and looks_like(found[0], photo)


def test_training_rows_are_made_of_the_same_words(tmp_path: Path) -> None:
    value = b"The hedgehog sanctuary in Bristol takes in animals that were found hurt, and sets them free in spring."
    wide = field(TEXT + b"/Ff 4096 /V (" + value + b")", rect=TALL)
    (tmp_path / "form.pdf").write_bytes(made([wide]))
    rows, problems = folder_rows(tmp_path)
    (row,) = rows["passages"]
    assert not problems
    assert row.query.text == "Survey of the wood" and "hedgehog sanctuary" in (row.positive.text or "")


def test_a_form_that_only_one_program_shows_is_told_of() -> None:
    notes: list[str] = []
    packet = Stream(b"", b"<xdp/>")
    data = sheet(
        b"BT /F1 12 Tf 40 250 Td (Please wait) Tj ET", {"X": packet},
        form=b"/XFA {X}", catalogue=b"/NeedsRendering true",
    )  # fmt: skip
    assert words(read(PDF, data, notes=notes)) == "Please wait"
    assert len(notes) == 1 and "XFA" in notes[0]
