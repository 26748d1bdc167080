"""Random files of every format, each changed in a random way: each is found by its own words, or is listed with a
reason that is true.
"""

from __future__ import annotations

import io
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.colours import COLOURS, ColourBackbone, text_vector, unit
from helpers.indexing import Indexing, fast_folder
from helpers.random_files import CHANGES, FORMATS, Changed, change_file
from tsembed_search.items import Item
from tsembed_search.paths import indexed_form
from tsembed_search.ranking.reranking import Query
from tsembed_search.search.results import SearchOptions
from tsembed_search.search.searcher import Searcher

ALIKE = 0.8
"""The least cosine of a file to what it says. One whose letters are read wrongly stays below .3."""
EXAMPLES = int(os.environ.get("TSEMBED_RANDOM_TREES", "6"))
FILES = st.lists(
    st.tuples(st.sampled_from(sorted(FORMATS)), st.sampled_from(CHANGES), st.integers(0, 1 << 32)),
    min_size=1, max_size=40,
)  # fmt: skip


def test_every_format_is_found_as_it_is() -> None:
    """What the property rests on: each kind of file is read when nothing was done to it."""
    judge([(format, "nothing", 7 + number) for number, format in enumerate(sorted(FORMATS))])


@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 20, suppress_health_check=list(HealthCheck))
@given(FILES)
def test_any_file_is_found_or_listed_with_a_true_reason(files: list[tuple[str, str, int]]) -> None:
    judge(files)


def judge(files: list[tuple[str, str, int]]) -> None:
    """Makes a tree of these files, indexes it, and looks for each of them."""
    with fast_folder() as folder:
        indexing = Indexing(folder)
        there = []
        for number, (format, change, seed) in enumerate(files):
            chance = random.Random(seed)
            made = FORMATS[format](chance)
            there += change_file(indexing.files, number, made, change, chance)
        report = indexing.run()
        reasons = {one.path: one.reason for one in report.skipped}
        found = search_for_each(indexing, there)
        wrong = {
            str(one.path): (one.change, one.made.format, reasons.get(str(one.path)))
            for one in there
            if not fits(one, reasons.get(str(one.path)), found[str(one.path)])
        }
        assert wrong == {}
        strangers = set(reasons) - {str(one.path) for one in there}
        assert not strangers, "a reason for a file that is not there"
        assert report.files.seen == len(there)
        assert indexing.run().items.embedded == 0


def fits(one: Changed, reason: str | None, found: bool) -> bool:
    """Whether what the index says of the file is true: it is found, or the reason why it is not holds."""
    if reason is None:
        return found or not says_it(one)
    if one.harmless:
        return False
    if re.search(r"^Pages? .*cannot be read", reason):
        # A remark about a part of a file: the rest of it is found.
        return found and one.change in ("cut", "flipped")
    for pattern, holds in TRUE_WHEN.items():
        if re.search(pattern, reason):
            return holds(one)
    return False


def search_for_each(indexing: Indexing, there: list[Changed]) -> dict[str, bool]:
    """Whether a search for what each file says, or for the picture that it shows, finds it."""
    backbone = ColourBackbone()
    store = indexing.open(None)
    if store is None:
        return {str(one.path): False for one in there}
    try:
        queries = []
        for one in there:
            shown = pixels(one.data) if one.made.is_picture else None
            if shown is None:
                queries.append(Query(unit(text_vector(one.made.says)), np.zeros(0, np.float32), "text", one.made.says))
            else:
                vector = backbone.prepare(Item(image=shown)).data
                queries.append(Query(vector, np.zeros(0, np.float32), "image", ""))
        options = SearchOptions(k=len(there) * 3, min_score=0.0)
        results = Searcher(store).search(queries, options)
    finally:
        store.close()
    found = {}
    for one, hits in zip(there, results, strict=True):
        near = [hit for hit in hits if hit.similarity > ALIKE]
        found[str(one.path)] = any(indexed_form(one.path) in (hit.path, *hit.also_at) for hit in near)
    return found


# What is true of a file, told without the code that is tested.


def pixels(data: bytes) -> np.ndarray | None:
    """The picture's pixels, uint8 [height, width, 3]; None where Pillow itself cannot decode all of them."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except Exception:  # noqa: BLE001 - whatever it is, it is no picture to Pillow
        return None


def pdf_text(data: bytes) -> str | None:
    """The text of all pages that pdfium can open; None where it opens none of the document."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
        return " ".join(page.get_textpage().get_text_bounded() for page in document)
    except pypdfium2.PdfiumError:
        return None


def lines_left(one: Changed) -> int:
    """How often the line of a text still stands in it, whole."""
    codes = ("utf-8", "utf-16-le", "utf-16-be", "cp1251", "cp1252", "koi8-r", "shift_jis", "gb18030")
    counts = [0]
    for code in codes:
        try:
            counts.append(one.data.count(one.made.says.encode(code)))
        except UnicodeEncodeError:
            continue
    return max(counts)


def says_it(one: Changed) -> bool:
    """Whether enough of the file is left that it must be found."""
    if one.made.is_picture:
        return pixels(one.data) is not None
    if one.made.format == "pdf":
        return (pdf_text(one.data) or "").count(one.made.says) >= 3
    if one.made.whole is None or one.change == "cut":
        return lines_left(one) >= 4
    return lines_left(one) >= 10


def markup_changed(one: Changed) -> bool:
    """Whether bytes outside of the text itself differ: then it may be that nothing of a page is shown."""
    first, last = one.made.whole or (0, 0)
    return one.data[:first] != one.made.data[:first] or one.data[last:] != one.made.data[last:]


def is_wrongly_named(one: Changed) -> bool:
    """Whether its name says that it is a picture, or a PDF, and it is neither."""
    return one.path.suffix.lower() in (".jpg", ".png", ".gif", ".tif", ".webp", ".pdf") and not one.made.is_picture


def is_broken_picture(one: Changed) -> bool:
    """Whether a part of the file was changed or is missing, and its pixels cannot be decoded."""
    return one.change in ("cut", "flipped") and pixels(one.data) is None


TRUE_WHEN: dict[str, Callable[[Changed], bool]] = {
    r"is empty": lambda one: not one.data,
    r"link to a file that does not exist": lambda one: one.path.is_symlink() and not one.path.exists(),
    r"cannot be examined": lambda one: one.path.is_symlink() and not one.path.exists(),
    r"[Nn]o text": lambda one: not says_it(one) or markup_changed(one),
    r"not a picture": lambda one: is_broken_picture(one) or (pixels(one.data) is None and is_wrongly_named(one)),
    r"The picture is (cut short|damaged)": is_broken_picture,
    r"pixels": is_broken_picture,
    r"PDF is damaged|is not a PDF|or it is none": lambda one: (
        not (pdf_text(one.data) or "").strip() and (one.change in ("cut", "flipped") or is_wrongly_named(one))
    ),
    r"no text and no picture": lambda one: not (pdf_text(one.data) or "").strip(),
    r"binary data": lambda one: not says_it(one) and (one.made.is_picture or one.change in ("cut", "flipped")),
}
"""For each reason that may be given: when it is true. A reason that is not here is wrong."""


def test_the_judge_can_tell(tmp_path: Path) -> None:
    """It refuses a false reason, a reason that it does not know, and a file that is not found."""
    chance = random.Random(1)
    text = next(iter(change_file(tmp_path, 1, FORMATS["plain"](chance), "nothing", chance)))
    cut = Changed(text.path, text.made, "cut", text.data[: len(text.data) // 2], harmless=False)
    picture = next(iter(change_file(tmp_path, 2, FORMATS["png"](chance), "padded", chance)))
    assert set(COLOURS) >= {picture.made.says}
    assert fits(text, None, True) and not fits(text, None, False)
    assert not fits(text, "The file is empty.", False) and not fits(cut, "It holds binary data, not text.", False)
    assert not fits(cut, "Reading it failed (ValueError).", False)
    assert not fits(picture, "The picture is damaged.", False)
