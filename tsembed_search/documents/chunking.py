"""Cutting text into chunks that fit a model: along headings, then paragraphs, then sentences, then words.

A loader gives `Block`s in order; `Chunker.chunks` gives `Chunk`s whose `text` is the source from `start` to `end`.
Everything streams: no more than one chunk and one block are held.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from tsembed_search.items import one_form

if TYPE_CHECKING:
    from tsembed_search.items import TextSpec

TARGET_TOKENS: Final = 384
"""The most tokens of a chunk, whatever the model can read: a longer passage is about too many things to be found."""

LONGEST_BLOCK: Final = 8192
"""In characters. Loaders cut longer paragraphs, so that a file without a line break streams too."""

# A section shorter than this share of a chunk may be joined by the next one.
_SHORT: Final = 1 / 6
# A paragraph is kept whole by starting a new chunk when the one before is at least this full.
_HALF: Final = 1 / 2
# Headings may take up to this share of what the model reads.
_CONTEXT: Final = 1 / 6
# Sentences end as in Western and East Asian writing, with their closing quotes and brackets; a single letter before the
# stop is an initial ("J. Smith").
_SENTENCES: Final = re.compile(r"(?<![.!?…])(?<!\b[A-Za-z])[.!?…]++[\"'”’»)\]]*+\s+|[。！？]+[」』）]*\s*")
_PARAGRAPHS: Final = re.compile(r"\n[ \t]*\n\s*")
_LINES: Final = re.compile(r"\n\s*")
_WORDS: Final = re.compile(r"\s+")
_WORDS_APART: Final = re.compile(r"\S+\s*|\s+")


class FileLines(NamedTuple):
    """For each line of a text, the `first` and the `last` line of the file, from 1, that it stands on."""

    first: Sequence[int]
    last: Sequence[int]


@dataclass(frozen=True)
class Block:
    """A paragraph, a heading, a list item, a table ...: text from `start` (in characters of the source), with what
    separates it from the next block.

    `heading`: its level, 0 for none, and `title` its words without markup. `lines`: its line breaks mean something
    (lists, tables, code). `glued`: it is the rest of the block before, which was cut for its length. `rows`: where its
    lines are in the file, if that is known.
    """

    start: int
    text: str
    heading: int = 0
    title: str = ""
    lines: bool = False
    glued: bool = False
    rows: FileLines | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Chunk:
    """`text` is the source's characters `start` to `end`; `headings` are those it stands under, outermost first.

    `most`: the tokens that it has at most, where that is known. `lines`: the first and the last line of the file, from
    1, that it stands on, where these are known.
    """

    start: int
    end: int
    text: str
    headings: tuple[str, ...] = ()
    most: int | None = field(default=None, compare=False)
    lines: tuple[int, int] | None = field(default=None, compare=False)


class _Atom(NamedTuple):
    """A piece that is not cut any more: a sentence, a line, or part of one that is too long for a chunk. It begins in
    the line `line`, from 0, of the block with these `rows`.
    """

    start: int
    text: str
    tokens: int
    line: int = 0
    rows: FileLines | None = None


class _Pack:
    """The chunk being filled. Its first `carried` atoms are the end of the chunk before."""

    def __init__(self) -> None:
        self.atoms: list[_Atom] = []
        self.tokens = 0
        self.carried = 0
        self.headings: tuple[str, ...] = ()

    def add(self, atom: _Atom, headings: tuple[str, ...]) -> None:
        """Appends. The headings are those of the chunk's first new atom."""
        if len(self.atoms) == self.carried:
            self.headings = headings
        self.atoms.append(atom)
        self.tokens += atom.tokens

    def take(self, overlap: int = 0) -> Chunk | None:
        """The chunk, without surrounding blanks, or None if it has nothing new; then begins anew with its last atoms,
        up to `overlap` tokens of them (the very last may have twice as many, for long sentences).
        """
        chunk = None
        if any(not atom.text.isspace() for atom in self.atoms[self.carried :]):
            text = "".join(atom.text for atom in self.atoms)
            chunk = _stripped(self.atoms[0].start, text, self.headings, self._most(), self._lines())
        kept: list[_Atom] = []
        size = 0
        for atom in reversed(self.atoms[1:]):
            if size + atom.tokens > (overlap if kept else 2 * overlap):
                break
            kept.insert(0, atom)
            size += atom.tokens
        self.atoms, self.carried, self.tokens = kept, len(kept), size
        return chunk

    def _most(self) -> int | None:
        """The tokens that the chunk has at most; None where words may be cut in its middle. Tokens keep within words,
        so only the first and the last can be read otherwise than in their blocks.
        """
        if not all(atom.text[-1].isspace() for atom in self.atoms[:-1]):
            return None
        first, last = self.atoms[0].text.split(maxsplit=1), self.atoms[-1].text.rsplit(maxsplit=1)
        return self.tokens + sum(len(word.encode()) for word in (*first[:1], *last[-1:]))

    def _lines(self) -> tuple[int, int] | None:
        """The lines of the file on which the chunk, without surrounding blanks, begins and ends."""
        written = [atom for atom in self.atoms if not atom.text.isspace()]
        first, last = written[0], written[-1]
        if first.rows is None or last.rows is None:
            return None
        blanks = len(first.text) - len(first.text.lstrip())
        begin, end = first.text.count("\n", 0, blanks), last.text.rstrip().count("\n")
        return first.rows.first[first.line + begin], last.rows.last[last.line + end]


def _stripped(
    start: int,
    text: str,
    headings: tuple[str, ...],
    most: int | None = None,
    lines: tuple[int, int] | None = None,
) -> Chunk:
    """The chunk of a text, without surrounding blanks."""
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Chunk(start, start + len(text), text, headings, most, lines)


class Chunker:
    """Cuts text for one model."""

    def __init__(self, spec: TextSpec) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(spec.tokenizer_file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._most = spec.max_tokens
        self._limit = min(spec.max_tokens, TARGET_TOKENS)
        self._overlap = min(spec.overlap, self._limit // 8)
        self._heading_size = lru_cache(self.count)

    def count(self, text: str) -> int:
        """Return the number of tokens that the model sees."""
        return len(self._tokenizer.encode_batch_fast([one_form(text)], add_special_tokens=False)[0])

    def with_headings(self, text: str, headings: Iterable[str], most: int | None = None) -> str:
        """The text below its headings, as many of the innermost as leave room for all of the text.

        `most`: the tokens that it has at most, where that is known.
        """
        room = round(self._limit * _CONTEXT)
        if most is None or most + room > self._most:
            room = min(self._most - self.count(text), room)
        kept: list[str] = []
        for heading in reversed([one for one in dict.fromkeys(headings) if one and one not in text]):
            room -= self._heading_size(heading) + 1
            if room < 0:
                break
            kept.insert(0, heading)
        return "\n".join([*kept, text])

    def chunks(self, blocks: Iterable[Block]) -> Iterator[Chunk]:
        """The chunks of a text, in order. A gap between two blocks is never inside a chunk."""
        end = -1
        for chunk in self._packed(blocks):
            # Halving a chunk that begins with the end of the one before may leave nothing new in its first half.
            if chunk.end > end:
                yield chunk
                end = chunk.end

    def _packed(self, blocks: Iterable[Block]) -> Iterator[Chunk]:
        pack = _Pack()
        path: dict[int, str] = {}
        for block in blocks:
            is_gap = pack.atoms and block.start != pack.atoms[-1].start + len(pack.atoms[-1].text)
            if is_gap or (pack.atoms and block.heading and pack.tokens >= self._limit * _SHORT):
                yield from self._fitted(pack.take())
            if block.heading:
                path = {level: text for level, text in path.items() if level < block.heading}
                path[block.heading] = block.title or block.text.strip()
            atoms = self._atoms(block)
            size = sum(atom.tokens for atom in atoms)
            whole = size <= self._limit and not block.glued
            if whole and pack.tokens + size > self._limit and pack.tokens >= self._limit * _HALF:
                yield from self._fitted(pack.take(min(self._overlap, self._limit - size)))
            for atom in atoms:
                if pack.tokens + atom.tokens > self._limit:
                    yield from self._fitted(pack.take(min(self._overlap, (self._limit - atom.tokens) // 2)))
                pack.add(atom, tuple(path.values()))
        yield from self._fitted(pack.take())

    def _atoms(self, block: Block) -> list[_Atom]:
        """The sentences or lines of a block; those too long for a chunk are cut at lines, then words, then tokens."""
        tokens = self._token_starts(block.text)

        def size(span: tuple[int, int]) -> int:
            return bisect_left(tokens, span[1]) - bisect_left(tokens, span[0])

        spans = list(_pieces(block.text, (0, len(block.text)), _LINES if block.lines else _SENTENCES))
        if len(tokens) > self._limit:
            for pattern in (_LINES, _SENTENCES, _WORDS):
                spans = [
                    part
                    for span in spans
                    for part in (_pieces(block.text, span, pattern) if size(span) > self._limit else (span,))
                ]
            spans = [part for span in spans for part in self._cut_at_tokens(span, tokens)]
        atoms, line = [], 0
        for span in spans:
            atoms.append(_Atom(block.start + span[0], block.text[slice(*span)], size(span), line, block.rows))
            line += block.text.count("\n", *span) if block.rows is not None else 0
        return atoms

    def _token_starts(self, text: str) -> list[int]:
        """Where the tokens that the model sees begin in `text`: exact at words, near within one that it reads longer or
        shorter than it is written.
        """
        formed = one_form(text)
        starts = [start for start, _ in self._tokenizer.encode(formed, add_special_tokens=False).offsets]
        if len(formed) == len(text):
            return starts
        words = [found.span() for found in _WORDS_APART.finditer(text)]
        begins = list(accumulate((len(one_form(text[left:right])) for left, right in words), initial=0))
        places = (min(bisect_right(begins, start), len(words)) - 1 for start in starts)
        return [
            min(words[place][0] + start - begins[place], words[place][1] - 1)
            for place, start in zip(places, starts, strict=True)
        ]

    def _cut_at_tokens(self, span: tuple[int, int], tokens: list[int]) -> Iterable[tuple[int, int]]:
        inside = tokens[bisect_left(tokens, span[0]) : bisect_left(tokens, span[1])]
        return pairwise([span[0], *dict.fromkeys(inside[self._limit :: self._limit]), span[1]])

    def _fitted(self, chunk: Chunk | None) -> Iterator[Chunk]:
        """Halves a chunk that is longer on its own than its parts were in their block, as can happen inside words."""
        if chunk is None:
            return
        fits = chunk.most is not None and chunk.most <= self._most
        if fits or self.count(chunk.text) <= self._most or len(chunk.text) < 2:
            yield chunk
            return
        middle = len(chunk.text) // 2
        blank = chunk.text.rfind(" ", middle // 2, middle)
        at = blank if blank > 0 else middle
        for half in (
            _stripped(chunk.start, chunk.text[:at], chunk.headings, lines=chunk.lines),
            _stripped(chunk.start + at, chunk.text[at:], chunk.headings, lines=chunk.lines),
        ):
            if half.text:
                yield from self._fitted(half)


@cache
def chunker(spec: TextSpec) -> Chunker:
    """The chunker for a model; its tokenizer is loaded once in a process."""
    return Chunker(spec)


def _pieces(text: str, span: tuple[int, int], pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Spans that tile `span`, each ending where the pattern does."""
    left = span[0]
    for found in pattern.finditer(text, *span):
        if left < found.end() < span[1]:
            yield left, found.end()
            left = found.end()
    if left < span[1]:
        yield left, span[1]


def paragraphs(pieces: Iterable[str], line: int | None = None) -> Iterator[Block]:
    """The paragraphs of plain text that comes in pieces. Long ones are cut at a line, a sentence or a blank.

    `line`: the number of the first line, where lines are counted.
    """
    start, rest, glued = 0, "", False

    def cut(text: str, most: int) -> Iterator[Block]:
        """Cuts blocks off a paragraph while it is longer than `most`."""
        nonlocal start, rest, glued, line
        while len(text) > most:
            at, rows = _cut_place(text), None
            if line is not None:
                numbers = range(line, line + text.count("\n", 0, at) + 1)
                rows, line = FileLines(numbers, numbers), numbers[-1]
            yield Block(start, text[:at], glued=glued, rows=rows)
            start, text, glued = start + at, text[at:], True
        rest = text

    for piece in pieces:
        text = rest + piece
        done = 0
        for found in _PARAGRAPHS.finditer(text):
            # What ends the text so far may go on with the next piece.
            if found.end() < len(text):
                yield from cut(text[done : found.end()], 0)
                done, glued = found.end(), False
        yield from cut(text[done:], 2 * LONGEST_BLOCK)
    yield from cut(rest, 0)


def _cut_place(text: str) -> int:
    """Where to cut: behind a text that is short enough, or within it after the last line, else sentence, else word."""
    if len(text) <= LONGEST_BLOCK:
        return len(text)
    for pattern in (_LINES, _SENTENCES, _WORDS):
        ends = [found.end() for found in pattern.finditer(text, LONGEST_BLOCK // 2, LONGEST_BLOCK)]
        if ends:
            return ends[-1]
    return LONGEST_BLOCK


def tiled(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks one after the other, as offsets in the text that they make together: a blank line between them, but
    none after a block that ends its line itself.
    """
    at = 0
    for block in blocks:
        text = block.text if block.text.endswith("\n") else block.text + "\n\n"
        own = block.rows
        if len(text) <= LONGEST_BLOCK or block.heading:
            yield Block(at, text, block.heading, block.title, block.lines, rows=own)
        else:
            for part in paragraphs([text], 0):
                rows = None
                if own is not None and part.rows is not None:
                    span = slice(part.rows.first[0], part.rows.first[-1] + 1)
                    rows = FileLines(own.first[span], own.last[span])
                yield Block(at + part.start, part.text, lines=block.lines, glued=part.glued, rows=rows)
        at += len(text)
