"""What a browser shows of a page is what is read, in the encoding that its label means to a browser."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsembed_search.documents.formats.html import declared_codecs, page_text
from tsembed_search.documents.html_page import shown_page

SEEN = "The heron nests behind the old paper mill."
MORE = "<p>Other words that stand on the page and fill it a little.</p>"
FULL = "<p>" + "Other words fill the page, and there are many of them. " * 20 + "</p>"

SHOWN = {
    "a form around everything": f"<form><h1>Birds</h1><p>{SEEN}</p></form>",
    "a form around some": f"{FULL}<form><p>{SEEN}</p></form>",
    "a body that a script shows": f'<body style="display:none"><p>{SEEN}</p></body>',
    "a wrapper that a script shows": f"<div style='visibility: hidden'><p>{SEEN}</p></div><p>Loading</p>",
    "a main part behind a dialog": f"<div aria-hidden=true><p>{SEEN}</p></div><div role=dialog>We use cookies</div>",
    "an attribute written otherwise": f"<body STYLE=' DISPLAY : None !important '>{SEEN}",
    "a hidden wrapper": f"<main hidden>{SEEN}</main>",
    "what is said last": f"{FULL}<p style='display:none;display:block'>{SEEN}</p>",
    "hidden until found": f"{FULL}<p hidden=until-found>{SEEN}</p>",
    "a shadow tree": f"<x-card><template shadowrootmode=open><p>{SEEN}</p></template></x-card>",
    "a shadow tree in a shadow tree": "<x-a><template shadowrootmode=open><x-b><template shadowrootmode=closed>"
    f"<p>{SEEN}</p></template></x-b></template></x-a>",
    "what stands in a slot": f"<x-a><template shadowrootmode=open><slot></slot></template><p>{SEEN}</p></x-a>",
    "a page within the page": f'<iframe srcdoc="&lt;p&gt;{SEEN}&lt;/p&gt;"></iframe>',
    "a page within a page within": f"<iframe srcdoc=\"<iframe srcdoc='<p>{SEEN}</p>'></iframe>\"></iframe>",
    "an open dialog": f"{FULL}<dialog open><p>{SEEN}</p></dialog>",
    "navigation that tells something": f"{FULL}<nav><p>{SEEN}</p></nav>",
    "nothing but links": f"<nav><ul><li><a href=a>{SEEN}</a></li></ul></nav>",
    "an aside": f"{FULL}<aside><p>{SEEN}</p></aside>",
    "a header": f"{FULL}<header>{SEEN}</header>",
    "a footer": f"{FULL}<footer>{SEEN}</footer>",
    "a long label on a button": f"{FULL}<button>{SEEN}</button>",
    "what was typed": f"{FULL}<textarea>{SEEN}</textarea>",
    "what was typed in a line": f"{FULL}<input value='{SEEN}'>",
    "what was chosen": f"{FULL}<select><option>no</option><option selected>{SEEN}</option></select>",
    "closed details": f"{FULL}<details><summary>More</summary>{SEEN}</details>",
    "instead of an object": f"{FULL}<object data=x.swf>{SEEN}</object>",
    "words in a drawing": f"{FULL}<svg><title>no</title><text>{SEEN}</text></svg>",
    "words in a formula": f"{FULL}<math><mtext>{SEEN}</mtext></math>",
    "beside the main part": f"<main>{FULL}</main><p>{SEEN}</p>",
    "a page saved without scripts": f"<div id=app></div><noscript><p>{SEEN * 3}</p></noscript>",
    "XML that closes its elements": "<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><head><title/>"
    f"<script src='a.js'/></head><body><a name='top'/><p>{SEEN}</p></body></html>",
    "XML with a section of text": "<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><body>"
    f"<p><![CDATA[{SEEN}]]></p></body></html>",
}
UNSHOWN = {
    "a script": f"<script>{SEEN}</script>",
    "a style": f"<style>{SEEN}</style>",
    "a comment": f"<!-- {SEEN} -->",
    "a template": f"<template>{SEEN}</template>",
    "a hidden part": f"<p hidden>{SEEN}</p>",
    "a part that is not displayed": f"<p style='color:red; display:none'>{SEEN}</p>",
    "an important rule": f"<p style='display:none !important; display:block'>{SEEN}</p>",
    "a closed dialog": f"<dialog>{SEEN}</dialog>",
    "a popover": f"<div popover>{SEEN}</div>",
    "links in a menu": f"<nav><a href=a>{SEEN}</a><a href=b>Home</a></nav>",
    "a field that is not shown": f"<input type=hidden value='{SEEN}'><input type=password value='{SEEN}'>",
    "what was not chosen": f"<select><option>yes</option><option>{SEEN}</option></select>",
    "instead of a film": f"<video>{SEEN}</video>",
    "what asks for scripts": f"<noscript>{SEEN}</noscript>",
    "the source of a formula": f"<math><mi>x</mi><annotation>{SEEN}</annotation></math>",
}


def words(source: str) -> str:
    body = shown_page(source).tree.body
    return " ".join(body.text(separator=" ").split()) if body is not None else ""


class TestShown:
    @pytest.mark.parametrize("kind", SHOWN)
    def test_what_a_browser_shows(self, kind: str) -> None:
        assert SEEN in words(SHOWN[kind])

    @pytest.mark.parametrize("kind", UNSHOWN)
    def test_what_a_browser_does_not_show(self, kind: str) -> None:
        assert SEEN not in words(FULL + UNSHOWN[kind])
        assert "fill the page" in words(FULL + UNSHOWN[kind])

    def test_a_line_that_asks_for_scripts_is_not_the_page(self) -> None:
        assert words("<noscript>You need to enable JavaScript to run this app.</noscript><div id=root></div>") == ""

    def test_hidden_words_are_counted(self) -> None:
        page = shown_page(FULL + f"<p hidden>{SEEN}</p>")
        assert page.hidden == 8 and page.words == 20 * 11 + 8

    def test_the_title_is_the_pages_own(self) -> None:
        page = shown_page(f"<svg><title>no</title></svg><title> The\n mill </title>{MORE}")
        assert page.title == "The mill"

    @pytest.mark.parametrize(
        "page",
        [
            "<div hidden>" * 9000 + SEEN,
            "<nav>" * 9000 + SEEN,
            "<template shadowrootmode=open>" * 2000 + SEEN,
            "<input value=x>" * 9000,
            "<p>" + "<a " * 9000,
        ],
    )
    def test_hostile_nesting_ends(self, page: str) -> None:
        shown_page(page)
        shown_page("<?xml version='1.0'?>" + page)

    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(st.sampled_from([*SHOWN.values(), *UNSHOWN.values(), "</div>", "<b>", "<table>", "<p"])).map("".join)
    )
    def test_any_mixture_is_read(self, page: str) -> None:
        found = shown_page(page)
        assert 0 <= found.hidden <= found.words


LABELS = [
    ("iso-8859-1", "cp1252", "The baker’s “night loaf”… 3 €"),
    ("latin1", "cp1252", "it’s – done"),
    ("us-ascii", "cp1252", "it’s – done"),
    ("x-user-defined", "cp1252", "it’s – done"),
    ("iso-8859-9", "cp1254", "İşçi “bekle” – 5 €"),
    ("iso-8859-11", "cp874", "เรือออกจากท่า…"),
    ("tis-620", "cp874", "เรือออกจากท่า…"),
    ("x-sjis", "cp932", "①番の切符で駅へ行きます。"),
    ("shift_jis", "cp932", "①番の切符で駅へ行きます。"),
    ("windows-31j", "cp932", "①番の切符で駅へ行きます。"),
    ("x-gbk", "gb18030", "今天下雨。"),
    ("gb2312", "gb18030", "今天很囍。"),
    ("x-x-big5", "big5hkscs", "今天下雨。"),
    ("ks_c_5601-1987", "cp949", "똠방각하 펲시"),
    ("ksc5601", "cp949", "오늘은 비가 온다."),
    ("x-euc-jp", "euc_jp", "駅へ行きます。"),
    ("iso-2022-jp", "iso2022_jp", "駅へ行きます。"),
    ("x-mac-cyrillic", "mac_cyrillic", "Сегодня дождь."),
    ("x-mac-roman", "mac_roman", "Der Bär, “so”"),
    ("koi8-ru", "koi8_u", "Сьогодні дощ, їжак."),
    ("logical", "iso8859_8", "שלום עולם"),
    ("iso-8859-8-i", "iso8859_8", "שלום עולם"),
    ("greek", "iso8859_7", "Το πλοίο."),
    ("csISOLatinArabic", "iso8859_6", "اليوم مطر"),
    ("dos-874", "cp874", "เรือออกจากท่า"),
    ("unicode-1-1-utf-8", "utf-8", "Grüße, 駅"),
    ("utf-16", "utf-8", "Grüße, 駅"),
]


def page(head: str, words: str, encoding: str) -> str:
    return page_text(io.BytesIO(f"<html><head>{head}</head><body><p>{words}</p></body></html>".encode(encoding)))


class TestLabels:
    @pytest.mark.parametrize(("label", "encoding", "words"), LABELS)
    def test_a_label_means_what_it_means_to_a_browser(self, label: str, encoding: str, words: str) -> None:
        for meta in (
            f"<meta charset={label}>",
            f"<META CONTENT='text/html; Charset = {label.upper()}' HTTP-EQUIV=content-type />",
        ):
            assert f"<p>{words}</p>" in page(meta, words, encoding)

    def test_where_a_label_stands(self) -> None:
        cyrillic, wrong = "<meta charset=' Windows-1251 '>", "<meta charset=iso-8859-7>"
        for head in (
            cyrillic + wrong,
            f"<!-- {wrong} -->{cyrillic}",
            f"<script>'{wrong}'</script><title>{wrong}</title>{cyrillic}",
            f"<meta name=a content='charset=iso-8859-7'>{cyrillic}",
            f"<meta name=a content='>' data-x=\"{'y' * 3000}\">{cyrillic}",
            f"<meta charset=no-such-encoding>{cyrillic}",
        ):
            assert "<p>Сегодня дождь.</p>" in page(head, "Сегодня дождь.", "cp1251")

    def test_the_declaration_of_xml(self) -> None:
        source = '<?xml version="1.0" encoding="iso-8859-7"?><html><p>Το πλοίο.</p></html>'
        assert page_text(io.BytesIO(source.encode("iso8859-7"))) == source

    def test_marks_and_valid_utf8_beat_a_label(self) -> None:
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
            assert "Grüße, 駅" in page("<meta charset=iso-8859-1>", "Grüße, 駅", encoding)

    def test_a_wrong_label_is_not_believed(self) -> None:
        assert "Größe über alles, schön" in page("<meta charset=utf-8>", "Größe über alles, schön", "cp1252")
        assert "Сегодня дождь в порту" in page("<meta charset=euc-jp>", "Сегодня дождь в порту", "cp1251")

    def test_no_label(self) -> None:
        assert declared_codecs(b"<p>words</p>") == declared_codecs(b"<meta charset=utf-8>") == ()
