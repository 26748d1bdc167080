"""Markdown is read as CommonMark shows it, by its tokens: nothing that is shown gets lost, and no markup is read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsembed_search.documents.chunking import tiled
from tsembed_search.documents.formats.markdown import blocks, front_matter, parse


def shown(source: str) -> str:
    return "".join(block.text for block in tiled(blocks(parse(source)[0]))).strip()


SHOWN = {
    "a footnote": ("A rind.[^1]\n\n[^1]: The cellar stays cool.\n", "A rind.[^1]\n\n[^1]: The cellar stays cool."),
    "a footnote of one word": ("A rind.[^1]\n\n[^1]: Ibidem.\n", "A rind.[^1]\n\n[^1]: Ibidem."),
    "a transcript": ("[Anna]: It rains.\n\n[Boris]: Still?\n", "[Anna]: It rains.\n\n[Boris]: Still?"),
    "a transcript of single words": ("[Anna]: Rain?\n[Boris]: Yes.\n\nEnd.", "[Anna]: Rain?\n[Boris]: Yes.\n\nEnd."),
    "tasks": ("[x]: feed the parrot\n[ ]: water the ferns\n", "[x]: feed the parrot\n[ ]: water the ferns"),
    "a list of tasks": ("- [x] feed\n- [ ] water\n", "- [x] feed\n- [ ] water"),
    "a comment mark in code": ("Write `<!--` first.\n\nThen words.\n", "Write <!-- first.\n\nThen words."),
    "a comment mark in a block of code": ("    <!-- x\n\nThen words.\n", "<!-- x\n\nThen words."),
    "a comment mark in a fence": ("```html\n<!-- x\n```\n\nThen words.\n", "<!-- x\n\nThen words."),
    "tags in code": ("Use `<b>` and `[a](b)`.\n", "Use <b> and [a](b)."),
    "escapes": ("\\*not\\* \\[a]\\(b) &amp; &copy; &#8364;\n", "*not* [a](b) & © €"),
    "links": ("[a](http://b.c/d_e 'f') <http://g.h> [i][j]\n\n[j]: http://k.l\n", "a http://g.h i"),
    "links with brackets": ("[a [b] c](d(e)f) and ![g *h*](i.png)\n", "a [b] c and g h"),
    "emphasis": ("**a *b* c** __d__ snake_case_name 2*3*4\n", "a b c d snake_case_name 234"),
    "headings": ("Setext\n===\n\n## ATX ##\n\nwords\n", "Setext\n\nATX\n\nwords"),
    "nested lists": ("- a\n  - b\n\n    c\n1. d\n2. e\n", "- a\n  - b\n    c\n\n1. d\n2. e"),
    "quotations": ("> a\n> b\n>\n> > c\n", "a\nb\n\nc"),
    "deep quotations": (">" * 40 + " deep words\n", "deep words"),
    "a table": ("| a | *b* |\n|---|---|\n| 1 | `2` |\n", "| a | b |\n| 1 | 2 |"),
    "breaks": ("a  \nb\\\nc<br>d\n", "a\nb\nc\nd"),
    "tags in a line": ("a <b>b</b> <!-- c --> d\n", "a b  d"),
    "a block of tags": ("<div align=center>\n<p>a <b>b</b></p>\n</div>\n\nc\n", "a b\n\nc"),
    "text between tags": ("<details><summary>a</summary>\n\nb *c*\n\n</details>\n", "a\n\nb c"),
    "a comment": ("a\n\n<!-- b\n\nc -->\n\nd\n", "a\n\nd"),
    "rules around words": ("---\nThe ferry leaves.\n---\nmore\n", "The ferry leaves.\n\nmore"),
    "settings": ("---\ntitle: T\ntags: [a, b]\nlist:\n  - c\n---\nwords\n", "words"),
    "nothing but settings": ("---\ntitle: The mill\n---\n", "title: The mill"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHOWN)
def test_what_commonmark_shows(kind: str) -> None:
    source, text = SHOWN[kind]
    assert shown(source) == text


def test_the_title_in_the_settings() -> None:
    assert parse('---\nlayout: x\ntitle: "The Manual"\n---\nwords\n')[1] == "The Manual"
    assert front_matter("words\n---\na: b\n---\n") == ("", "words\n---\na: b\n---\n")


def test_odd_line_separators_move_no_heading() -> None:
    parts = list(blocks(parse("a\fb\u2028c\n\n# Title\n\nbody\n")[0]))
    assert [part.text for part in parts] == ["a\fb\u2028c", "Title", "body"]
    assert [part.heading for part in parts] == [0, 1, 0]


_MARKUP = [
    "# a\n", "text\n", "\n", "- x\n", "  - y\n", "> q\n", "```\n", "a\n===\n", "|a|\n|-|\n", "    code\n", "\t", 
    "\f", "\u2028", "1. n\n", "***\n", "<div>\n", "é", "[a]: b\n", "[^1]: c d\n", "<!--",
    "-->\n", "[a]", "`", "---\n", "&amp;", "\\*",
]  # fmt: skip

_BETWEEN = [" ", "\n", "\n\n", "\n\n> ", "\n\n- ", "\n\n# ", "\n\n[Anna]: ", "\n[x]: ", " `<!--` ", " * "]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(_MARKUP), max_size=30).map("".join))
def test_any_markdown_is_cut_into_blocks(source: str) -> None:
    at = 0
    for block in tiled(blocks(parse(source)[0])):
        assert block.start == at and block.text.strip()
        at += len(block.text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8), min_size=2, max_size=12),
    st.lists(st.sampled_from(_BETWEEN)),
)  # fmt: skip
def test_no_word_is_lost(words: list[str], between: list[str]) -> None:
    source = words[0] + "".join(mark + word for mark, word in zip(between, words[1:], strict=False))
    text = shown(source)
    assert all(word in text for word in words[: len(between) + 1])
