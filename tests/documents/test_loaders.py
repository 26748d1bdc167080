"""What each loader finds in a file, and how it refuses one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.reading import read
from helpers.tiny_pdf import Page, pdf, photo
from tsembed_search.documents.chunking import tiled
from tsembed_search.documents.document import Format, Unit, extension_of, format_of
from tsembed_search.documents.encoding import find_encoding, read_text
from tsembed_search.documents.formats.html import FORMAT as HTML
from tsembed_search.documents.formats.image import FORMAT as IMAGE
from tsembed_search.documents.formats.markdown import FORMAT as MARKDOWN
from tsembed_search.documents.formats.markdown import blocks, parse
from tsembed_search.documents.formats.pdf import FORMAT as PDF
from tsembed_search.documents.formats.text import FORMAT as TEXT
from tsembed_search.errors import LoadError


def load(
    format: Format, data: bytes | str, *, pages: bool = False, notes: list[str] | None = None, memory: int = 1 << 28
) -> list[Unit]:
    return read(
        format, data.encode() if isinstance(data, str) else data, pages=pages, notes=notes, memory=memory, side=40
    )


def texts(units: list[Unit]) -> list[str | None]:
    return [unit.text for unit in units]


WORDS = {
    "cp1252": "Der Bär läuft über die Straße. Größe und Übung machen den Meister – „schön“.",
    "iso8859-1": "Le café est fermé à Noël, l'été dernier nous étions déjà là où le garçon mangeait.",
    "iso8859-15": "Mostly English text with few accents, so naïve guesses go wrong easily in a café.",
    "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy. Všichni lidé se rodí svobodní.",
    "iso8859-2": "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi w swej godności.",
    "cp1251": "Привет, мир! Это обычный русский текст о погоде и природе в нашей стране.",
    "koi8-r": "Привет, мир! Это обычный русский текст о погоде и природе в нашей стране.",
    "cp1253": "Αυτό είναι ένα ελληνικό κείμενο για τον καιρό και τη φύση στη χώρα μας.",
    "cp1254": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Şimdi gidiyoruz.",
    "cp1255": "זהו טקסט בעברית על מזג האוויר והטבע בארץ שלנו.",
    "cp1256": "هذا نص باللغة العربية عن الطقس والطبيعة في بلادنا.",
    "shift_jis": "これは日本語のテキストです。今日は天気がいいので散歩に行きましょう。",
    "euc_jp": "これは日本語のテキストです。今日は天気がいいので散歩に行きましょう。",
    "gb18030": "这是一个中文文本文件。今天天气很好，我们去公园散步吧。",
    "big5": "這是一個中文文字檔案。今天天氣很好，我們去公園散步吧。",
    "euc_kr": "이것은 한국어 텍스트입니다. 오늘은 날씨가 좋아서 산책하러 갑시다.",
    "utf-8": "Grüße, 日本語, 🍎",
    "utf-8-sig": "Grüße, 日本語, 🍎",
    "utf-16": "Grüße, 日本語, 🍎",
    "utf-32": "Grüße, 日本語, 🍎",
    "utf-16-le": "Just some English words without a mark.",
    "utf-16-be": "Just some English words without a mark.",
    "utf-32-le": "Just some English words without a mark.",
    "utf-32-be": "Just some English words without a mark.",
}


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "head", "expected"),
        [
            ("a.jpg", b"\xff\xd8\xff\xe0", IMAGE),
            ("a.txt", b"\x89PNG\r\n\x1a\n", IMAGE),
            ("a.txt", b"%PDF-1.7", PDF),
            ("a.pdf", b"\n\n%PDF-1.7", PDF),
            ("a.txt", b"  <!DOCTYPE HTML><p>", HTML),
            ("a.pdf", b"\xef\xbb\xbf<html>", HTML),
            ("a.md", b"# Title", MARKDOWN),
            ("a.jpg", b"words", IMAGE),
            ("a.webp", b"RIFF\0\0\0\0WEBP", IMAGE),
            ("a.txt", b"RIFF\0\0\0\0WAVE", TEXT),
            ("a.txt", b"BM is a short text", TEXT),
            ("a.heic", b"\0\0\0\x18ftypheic", IMAGE),
            ("script.py", b"print()", TEXT),
        ],
    )
    def test_content_decides_then_the_name(self, name: str, head: bytes, expected: Format) -> None:
        assert format_of(extension_of(name), head) is expected

    def test_extensions(self) -> None:
        names = {"a.JPG": "jpg", "README": "txt", "x/.hidden": "hidden", ".hidden": "", "noext": "", "a.tar.gz": "gz"}
        assert {name: extension_of(name) for name in names} == names


class TestText:
    def test_chunks_and_offsets(self) -> None:
        source = "First part. " * 60 + "\r\n\r\nLast part."
        units = load(TEXT, source)
        plain = source.replace("\r\n", "\n")
        assert [unit.chunk for unit in units] == list(range(len(units))) and len(units) > 2
        assert all(plain[unit.start : unit.end] == unit.text for unit in units)
        assert units[-1].text.endswith("Last part.")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty"),
            (b" \n\n\t ", "no text"),
            (bytes(range(256)) * 40, "binary"),
            (b"\x7fELF" + b"\0" * 2000, "binary"),
            (np.random.default_rng(1).integers(0, 256, 5000, np.uint8).tobytes(), "binary"),
        ],
    )
    def test_refusals(self, data: bytes, reason: str) -> None:
        with pytest.raises(LoadError, match=reason):
            load(TEXT, data)

    @pytest.mark.parametrize("encoding", WORDS)
    def test_every_encoding_a_user_meets(self, encoding: str) -> None:
        words = WORDS[encoding]
        assert "".join(read_text(io.BytesIO(words.encode(encoding)))) == words

    def test_an_encoding_that_shows_late(self) -> None:
        late = b"plain words. " * 40_000 + "später".encode("cp1252")
        assert find_encoding(io.BytesIO(late)) != "utf-8"
        cut = ("日本語" * 100_000).encode()[:-1]
        assert "".join(read_text(io.BytesIO(cut))).startswith("日本語日本語")

    @settings(max_examples=80, deadline=None)
    @given(st.binary(min_size=1, max_size=300))
    def test_any_bytes_are_text_or_refused(self, data: bytes) -> None:
        try:
            assert "".join(read_text(io.BytesIO(data))) is not None
        except LoadError as error:
            assert error.message


class TestMarkdown:
    SOURCE = (
        "---\ntitle: The Manual\n---\n# Start\n\nSome *nice* words and a [link](http://example.org/a_b).\n\n"
        "## Setup\n\n- one item that says a lot about this and that, so that it fills a chunk\n- two\n\n"
        "```python\nprint('hello')\n```\n\n## Use <!-- secret -->\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        '![A red apple](apple.png "x") and ![x][ref]\n\n[ref]: http://example.org\n'
    )

    def test_chunks_are_slices_of_what_is_shown(self) -> None:
        units = load(MARKDOWN, self.SOURCE)
        whole = "".join(block.text for block in tiled(blocks(parse(self.SOURCE)[0])))
        assert all(whole[unit.start : unit.end] == unit.text for unit in units)
        assert units[0].text.startswith("Start\n\nSome nice words") and "title:" not in "".join(map(str, texts(units)))

    def test_the_model_reads_headings_and_words_but_no_markup(self) -> None:
        units = load(MARKDOWN, self.SOURCE)
        reads = "\n".join(unit.reads or "" for unit in units)
        assert units[0].reads.startswith("The Manual\nStart")
        for gone in ("http", "**", "*nice*", "secret", "```", "apple.png", "](", "##"):
            assert gone not in reads
        for there in ("nice words and a link", "print('hello')", "A red apple", "| 1 | 2 |"):
            assert there in reads

    def test_headings_have_titles(self) -> None:
        parts = blocks(parse(self.SOURCE)[0])
        assert [part.title for part in parts if part.heading] == ["Start", "Setup", "Use"]

    def test_a_page_of_comments_has_no_text(self) -> None:
        with pytest.raises(LoadError, match="no text"):
            load(MARKDOWN, "<!-- nothing -->\n")


class TestHtml:
    PAGE = """<!doctype html><html><head><title> Great &amp; small </title><style>p{}</style><meta charset=utf-8></head>
    <body><header><nav><a href=/>Home</a></nav><h1>Animals</h1></header><script>var secret = 1</script>
    <main><p>The <b>red</b> fox&nbsp;jumps.<br>Far.</p><p style="display:none">unseen</p>
    <h2>Birds</h2><ul><li>Owl</li><li>Wren <ul><li>Jenny</li></ul></li></ul>
    <pre>  two
    lines</pre><table><tr><th>a<td>b</tr><tr><td>1<td>2</table><p hidden>no</p><div aria-hidden="true">no</div>
    <template>no</template></main><aside>Advert</aside><footer>Imprint</footer></body></html>"""

    def test_readable_text_only(self) -> None:
        units = load(HTML, self.PAGE)
        text = "\n\n".join(map(str, texts(units)))
        for gone in ("Home", "secret", "unseen", "Advert", "Imprint", "no", "p{}"):
            assert gone not in text.split()
        for there in ("The red fox jumps.\nFar.", "Birds", "Owl\nWren", "Jenny", "  two\n", "a b", "1 2"):
            assert there in text

    def test_the_model_reads_title_and_headings(self) -> None:
        page = "<title>Zoo</title><h1>Animals</h1>" + "<p>The fox jumps over the dog.</p>" * 30
        units = load(HTML, page)
        assert units[0].reads.startswith("Zoo\nAnimals") and units[-1].reads.startswith("Zoo\nAnimals\nThe fox")

    def test_offsets_are_in_the_readable_text(self) -> None:
        page = "<p>" + "</p><p>".join(f"Sentence number {n} is here." for n in range(60)) + "</p>"
        units = load(HTML, page)
        whole = "\n\n".join(f"Sentence number {n} is here." for n in range(60))
        assert len(units) > 3 and all(whole[unit.start : unit.end] == unit.text for unit in units)

    def test_much_that_is_hidden_is_noted(self) -> None:
        notes: list[str] = []
        shown, hidden = "<p>Some words stand here. " * 25, "<p hidden>More words hide here. "
        load(HTML, shown + hidden * 15, notes=notes)
        assert notes == ["Hidden parts of the page were left out: about 60 of 160 words."]
        load(HTML, shown + hidden)

    def test_declared_encodings(self) -> None:
        page = '<html><meta charset="windows-1251"><p>Привет</p>'
        assert texts(load(HTML, page.encode("cp1251"))) == ["Привет"]
        assert texts(load(HTML, "<html><p>Grüße</p>".encode("utf-16"))) == ["Grüße"]

    @pytest.mark.parametrize("page", ["<html><script>x</script>", "<html>", "<title>only</title>"])
    def test_pages_without_text_are_refused(self, page: str) -> None:
        with pytest.raises(LoadError, match="no text"):
            load(HTML, page)

    def test_deep_nesting(self) -> None:
        assert texts(load(HTML, "<div>" * 20_000 + "deep")) == ["deep"]

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                [
                    "<p>",
                    "</p>",
                    "word ",
                    "<ul>",
                    "<li>",
                    "</ul>",
                    "<pre>",
                    "</pre>",
                    "\n",
                    "<br>",
                    "<h2>",
                    "</h2>",
                    "<td>",
                    "&amp;",
                    "<!--",
                    "-->",
                    "<b",
                    ">",
                ]
            ),
            min_size=1,
            max_size=40,
        ).map("".join)
    )
    def test_any_tag_soup(self, page: str) -> None:
        try:
            units = load(HTML, page)
        except LoadError:
            return
        assert all(unit.text and unit.text == unit.text.strip() for unit in units)


class TestPdf:
    def test_text_per_page(self) -> None:
        units = load(PDF, pdf([Page(["Hello red world.", "Second line."]), Page(["On page two."])]))
        assert [(unit.page, unit.chunk, unit.text) for unit in units] == [
            (1, 0, "Hello red world.\nSecond line."),
            (2, 0, "On page two."),
        ]

    def test_offsets_are_in_the_pages_text(self) -> None:
        lines = [f"This is line number {n} of the page." for n in range(50)]
        units = load(PDF, pdf([Page(lines)]))
        whole = "\n".join(lines)
        assert len(units) > 5 and all(whole[unit.start : unit.end] == unit.text for unit in units)

    def test_pictures_continue_the_numbers_of_their_page(self) -> None:
        units = load(PDF, pdf([Page(["Words."], [photo(), photo((40, 200, 40))]), Page([], [photo((40, 40, 200))])]))
        assert [(unit.kind, unit.page, unit.chunk) for unit in units] == [
            ("text", 1, 0), ("image", 1, 1), ("image", 1, 2), ("image", 2, 0),
        ]  # fmt: skip
        red = units[1]
        assert (red.width, red.height) == (200, 150) and red.pixels.shape == (40, 40, 3)
        assert np.abs(red.pixels[20, 20].astype(int) - (200, 40, 40)).max() < 15

    def test_icons_repeats_and_blanks_are_left_out(self) -> None:
        tiny, blank, strip = photo(size=(40, 40)), Image.new("RGB", (200, 200), "white"), photo(size=(900, 70))
        pages = [Page(["Words."], [photo(), tiny, blank, strip]), Page(["More."], [photo()])]
        assert [unit.kind for unit in load(PDF, pdf(pages))] == ["text", "image", "text"]

    def test_pages_as_pictures(self) -> None:
        units = load(PDF, pdf([Page(["Words."]), Page()]), pages=True)
        assert [(unit.kind, unit.page, unit.chunk) for unit in units] == [
            ("text", 1, 0), ("page", 1, None), ("page", 2, None),
        ]  # fmt: skip
        assert units[1].pixels.shape == (40, 40, 3) and units[1].pixels.min() < 250

    @pytest.mark.parametrize("size", [(1, 14_400), (200_000, 200_000), (0.01, 0.01), (5, 1e7)])
    def test_pages_of_absurd_size(self, size: tuple[float, float]) -> None:
        units = load(PDF, pdf([Page(["x"], size=size)]), pages=True)
        assert all(unit.pixels is None or unit.pixels.shape == (40, 40, 3) for unit in units)

    def test_a_picture_that_would_explode_is_noted(self) -> None:
        notes: list[str] = []
        data = pdf([Page(["Words."], [photo()])], claim=(60_000, 60_000))
        assert [unit.kind for unit in load(PDF, data, notes=notes)] == ["text"]
        assert len(notes) == 1 and "60,000 x 60,000 pixels on page 1" in notes[0]

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (pdf([Page(["x"])], encrypted=True), "password"),
            (b"%PDF-1.4\nnothing", "damaged"),
            (b"", "damaged"),
            (pdf([Page(["x"])])[:120], "damaged"),
            (pdf([Page()]), "no text and no picture"),
        ],
    )
    def test_refusals(self, data: bytes, reason: str) -> None:
        with pytest.raises(LoadError, match=reason):
            load(PDF, data)

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_damage_anywhere(self, data: st.DataObject) -> None:
        good = bytearray(pdf([Page(["Some words."], [photo(size=(80, 80))]), Page(["More words."])]))
        for _ in range(data.draw(st.integers(1, 5))):
            good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
        try:
            load(PDF, bytes(good), notes=[], pages=True)
        except LoadError as error:
            assert error.message
