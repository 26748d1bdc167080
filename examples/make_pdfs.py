"""Writes the two PDFs of the corpus: `python examples/make_pdfs.py`. Their pictures come from the corpus itself."""

from __future__ import annotations

import ctypes
import io
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c
from PIL import Image

CORPUS = Path(__file__).parent / "corpus"
WIDTH, HEIGHT, MARGIN = 420, 595, 48  # A5, in points
LEADING = 14


@dataclass(frozen=True)
class Page:
    """One page: a heading, paragraphs, and a picture of the corpus that stands below them."""

    heading: str
    paragraphs: tuple[str, ...]
    picture: str | None = None


TELESCOPE = (
    Page(
        "A first telescope",
        (
            "This booklet belongs to the club's small refractor: an objective of 70 mm, a focal length of 700 mm, and "
            "an altazimuth mount on an aluminium tripod. It fits on a bicycle.",
            "Never point it at the sun. An instant is enough to blind an eye for good, and the finder is no safer than "
            "the main tube. Children observe at night and with somebody who has read this page.",
        ),
        "tools/telescope.webp",
    ),
    Page(
        "Setting up",
        (
            "Spread the tripod on firm ground, one leg towards the north, and hang your bag between the legs: a heavy "
            "tripod does not shake. Let the tube cool for half an hour outdoors. Warm air inside makes the stars boil.",
            "Magnification is the focal length of the telescope divided by that of the eyepiece. The 25 mm eyepiece "
            "gives 28 times and is the one to begin with; the 10 mm gives 70 times. More than 140 times shows "
            "nothing but a larger blur.",
            "Align the finder by day: aim the main tube at a chimney far away, then turn the finder's screws until the "
            "cross stands on the same chimney.",
        ),
    ),
    Page(
        "The moon",
        (
            "Do not wait for full moon. Then the light falls straight down and the craters have no shadows. Around "
            "first quarter, along the line between day and night, every rim and ridge stands out.",
            "Begin with the Sea of Crises near the eastern edge, then walk south along the terminator to Tycho, whose "
            "bright rays reach across half the disc.",
        ),
        "camera/IMG_2044.jpg",
    ),
    Page(
        "Care",
        (
            "Dew is normal. Let it dry indoors with the cap off; never wipe a wet lens. Dust does less harm than "
            "cleaning: a blower first, then a soft brush, and a cloth with two drops of alcohol once a year at most.",
            "If the image is doubled or the stars have tails, the objective has lost its alignment. Do not unscrew "
            "the cell. Bring the telescope to the Friday meeting.",
        ),
    ),
)

SAILING = (
    Page(
        "Sailing in three afternoons",
        (
            "Lesson one: the boat. The mainsail hangs on the mast and the boom, the jib on the forestay. Sheets pull "
            "sails in, halyards pull them up. The board under the keel keeps the boat from sliding sideways.",
            "No boat sails straight into the wind. Closer than about 45 degrees the sails flap; that is how you stop.",
        ),
        "vehicles/sailing-boat.tif",
    ),
    Page(
        "Tacking and jibing",
        (
            "Lesson two: turning. To tack, push the tiller towards the sail, let the jib go when it flaps, change "
            "sides, and pull it in on the other. Say 'ready about' first, and wait for an answer.",
            "A jibe turns the stern through the wind. The boom comes across fast: haul the mainsheet in to the middle "
            "before, and keep your head down. In more than four Beaufort, tack instead.",
        ),
    ),
    Page(
        "Right of way and lights",
        (
            "Lesson three: others. Port gives way to starboard; the windward boat gives way to the leeward one; "
            "whoever overtakes keeps clear. Ferries and ships in a channel cannot stop for you, whatever the law.",
            "A lighthouse is known by its rhythm. Count the seconds from one flash to the same flash again and look it "
            "up in the chart: Fl(2) 10s means two flashes every ten seconds.",
        ),
        "buildings/lighthouse.png",
    ),
    Page(
        "If you capsize",
        (
            "Stay with the boat: it floats and is easier to see than a head. Count your crew. One swims to the board "
            "and hangs on it, the other lies along the mast side in the water and is scooped up as the boat rises.",
            "Wear the life jacket from the jetty to the jetty. Cold water takes the strength out of hands within ten "
            "minutes, also in May, also out of good swimmers.",
        ),
    ),
)


def write_pdf(path: Path, pages: tuple[Page, ...]) -> None:
    """Lays `pages` out, one each, and saves them."""
    pdf = pdfium.PdfDocument.new()
    for number, content in enumerate(pages, start=1):
        page = pdf.new_page(WIDTH, HEIGHT)
        y = HEIGHT - MARGIN - 18.0
        add_line(pdf, page, content.heading, "Helvetica-Bold", 18, MARGIN, y)
        y -= 2 * LEADING
        for paragraph in content.paragraphs:
            for line in textwrap.wrap(paragraph, 62):
                add_line(pdf, page, line, "Helvetica", 10.5, MARGIN, y)
                y -= LEADING
            y -= LEADING / 2
        if content.picture:
            add_picture(pdf, page, CORPUS / "pictures" / content.picture, top=y)
        add_line(pdf, page, str(number), "Helvetica", 9, WIDTH / 2, MARGIN / 2)
        page.gen_content()
    pdf.save(path)


def add_line(
    pdf: pdfium.PdfDocument, page: pdfium.PdfPage, text: str, font: str, size: float, x: float, y: float
) -> None:
    """Puts `text` on `page` with its baseline starting at (`x`, `y`) points from the bottom left."""
    line = pdfium_c.FPDFPageObj_NewTextObj(pdf, font.encode(), size)
    encoded = (text + "\0").encode("utf-16-le")
    characters = ctypes.cast(ctypes.create_string_buffer(encoded), ctypes.POINTER(ctypes.c_ushort))
    pdfium_c.FPDFText_SetText(line, characters)
    pdfium_c.FPDFPageObj_Transform(line, 1, 0, 0, 1, x, y)
    pdfium_c.FPDFPage_InsertObject(page, line)


def add_picture(pdf: pdfium.PdfDocument, page: pdfium.PdfPage, path: Path, top: float) -> None:
    """Puts the picture under `top`, centred, as a JPEG on white within the margins."""
    with Image.open(path) as source:
        layer = source.convert("RGBA")
    flat = Image.new("RGB", layer.size, "white")
    flat.paste(layer, mask=layer)
    jpeg = io.BytesIO()
    flat.save(jpeg, "JPEG", quality=88)

    scale = min((WIDTH - 2 * MARGIN) / flat.width, (top - 1.5 * MARGIN) / flat.height, 1.0)
    width, height = flat.width * scale, flat.height * scale
    picture = pdfium.PdfImage.new(pdf)
    picture.load_jpeg(jpeg, autoclose=True)
    picture.set_matrix(pdfium.PdfMatrix().scale(width, height).translate((WIDTH - width) / 2, top - height))
    page.insert_obj(picture)


if __name__ == "__main__":
    documents = CORPUS / "documents"
    write_pdf(documents / "astronomy" / "telescope-manual.pdf", TELESCOPE)
    write_pdf(documents / "sailing" / "sailing-course.pdf", SAILING)
