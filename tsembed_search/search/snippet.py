"""The part of a found text that answers the query best, with the query's words marked in it."""

from __future__ import annotations

import math
import re
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Final

from tsembed_search.items import one_form
from tsembed_search.ranking.words import EMPTY_WORDS, STROKES, UNSPACED, UNSPACED_SCRIPTS

WIDTH: Final = 200
"""The default length of a snippet in characters: about three lines of a terminal."""

Span = tuple[int, int]

_WORD = re.compile(r"\w+")
_SPACED_WORD = re.compile(rf"[^\W{UNSPACED_SCRIPTS}]+")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
# A character with what belongs to it: accents, voice marks of kana, what nobody sees.
_BELONGS = "[\u0300-\u036f\u3099\u309a\uff9e\uff9f\u00ad\u200b\u2060]"
_CLUSTER = re.compile(f"([\x00-\x7f]+)(?!{_BELONGS})|.{_BELONGS}*", re.DOTALL)
_LEAD = 0.3


@dataclass(frozen=True)
class Snippet:
    """`text` on one line, with `…` where it was cut; `marks` are the (start, end) of matching words in it."""

    text: str
    marks: tuple[Span, ...] = ()


def snippets(query: str, texts: Sequence[str], width: int = WIDTH) -> list[Snippet | None]:
    """Return of each text the stretch of at most about `width` characters that has the most of the query's words.

    A word that few of the texts contain tells more. Case, accents and English endings do not matter (Porter's stemmer
    for English, as Snowball has it). Among equals the earliest stretch wins; without a match it is the text's
    beginning. No word is cut in two. None for an empty text.
    """
    stems, pairs = _wanted(query)
    flat = [" ".join(text.split()) for text in texts]
    found = [sorted(_find(text, stems, pairs)) if stems or pairs else [] for text in flat]
    holding = [{word for _, word in own} for own in found]
    weights = {
        word: math.log(1 + (len(texts) + 1) / (sum(word in own for own in holding) + 1)) for word in (*stems, *pairs)
    }
    rows = zip(texts, flat, found, strict=True)
    return [_snippet(text, own, weights, width) if whole else None for whole, text, own in rows]


def marked(query: str, text: str) -> list[Span]:
    """Return the (start, end) of the query's words in all of a text, as `snippets` knows them."""
    return _merged([span for span, _ in _find(text, *_wanted(query))])


def _wanted(query: str) -> tuple[dict[str, str], list[str]]:
    """The stems of a query's words, each with how words begin that have it, and its pairs of unspaced letters."""
    words = _words(query)
    pairs = [word for word in words if UNSPACED.fullmatch(word)]
    # An ending changes the last letter of a stem at most, or makes dying of die.
    stems = {
        stem: stem[: -2 if stem.endswith("ie") else -1] or stem
        for stem in (_stem(word) for word in words if word not in pairs)
    }
    return stems, pairs


def _find(text: str, stems: Mapping[str, str], pairs: Iterable[str]) -> Iterator[tuple[Span, str]]:
    """The places of the query's words in a text: by stems (and how words begin that have them), or by pairs."""
    folded, spans = _folded(text)
    places = [
        (span, stem)
        for stem, beginning in stems.items()
        if beginning in folded
        for span in _with_stem(folded, stem, beginning)
    ]
    places += [(one.span(), pair) for pair in pairs for one in re.finditer(re.escape(pair), folded)]
    for (start, end), word in places:
        yield ((start, end) if spans is None else (spans[start][0], spans[end - 1][1])), word


def _with_stem(folded: str, stem: str, beginning: str) -> Iterator[Span]:
    at = 0
    while (at := folded.find(beginning, at)) >= 0:
        inside = at and _SPACED_WORD.match(folded, at - 1, at)
        word = None if inside else _SPACED_WORD.match(folded, at)
        if word and _stem(word[0]) == stem:
            yield word.span()
        at = word.end() if word else at + 1


_local = threading.local()


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    if not hasattr(_local, "stemmer"):
        from Stemmer import Stemmer  # one for each thread: they are not for several

        _local.stemmer = Stemmer("english", 0)
    stem: str = _local.stemmer.stemWord(word)
    return stem


def _snippet(text: str, found: Sequence[tuple[Span, str]], weights: Mapping[str, float], width: int) -> Snippet:
    start, end = _window(found, weights, len(text), width)
    start, end = _at_words(text, start, end)
    head, tail = ("… " if start else ""), (" …" if end < len(text) else "")
    marks = _merged([(a, b) for (a, b), _ in found if a >= start and b <= end])
    shift = len(head) - start
    return Snippet(head + text[start:end] + tail, tuple((a + shift, b + shift) for a, b in marks))


def _window(
    found: Sequence[tuple[Span, str]], weights: Mapping[str, float], length: int, width: int
) -> tuple[int, int]:
    """The best stretch, as (start, end): a match near its beginning, with some context before it."""
    if not found or length <= width:
        return 0, min(width, length)
    best, first = -1.0, 0
    for index, ((start, _), _) in enumerate(found):
        last = start + width
        near = takewhile(lambda one, last=last: one[0][0] < last, found[index : index + width])  # type: ignore[misc]
        gain = sum(weights[word] for word in {word for (_, end), word in near if end <= last})
        if gain > best + 1e-9:
            best, first = gain, index
    start = found[first][0][0]
    reach = max(end for (_, end), _ in found[first:] if end <= max(start + width, found[first][0][1]))
    start = max(0, min(start - int(width * _LEAD), length - width))
    return max(start, reach - width), min(length, max(start + width, reach))


def _at_words(text: str, start: int, end: int) -> Span:
    """Moves both ends to the nearest space within the stretch, if one is near: a long word is cut after all."""
    if start > 0 and not text[start - 1].isspace():
        space = text.find(" ", start, start + 30)
        start = space + 1 if space >= 0 else start
    if end < len(text) and not text[end].isspace():
        space = text.rfind(" ", max(start, end - 30), end)
        end = space if space > start else end
    return start, end


def _words(query: str) -> list[str]:
    """The distinct words to look for, folded; a run of an unspaced script becomes its overlapping pairs."""
    words: dict[str, None] = {}
    for word in _WORD.findall(_folded(query)[0]):
        for run in UNSPACED.findall(word):
            words.update(dict.fromkeys(run[i : i + 2] for i in range(max(1, len(run) - 1))))
        words.update(dict.fromkeys(_SPACED_WORD.findall(word)))
    return [word for word in words if word not in EMPTY_WORDS] or list(words)


@lru_cache(maxsize=4096)
def _folded_cluster(cluster: str) -> str:
    decomposed = unicodedata.normalize("NFD", one_form(cluster).casefold().translate(STROKES))
    return "".join(part for part in decomposed if not unicodedata.combining(part))


@lru_cache(maxsize=4096)
def _one_for_one(character: str) -> str:
    """The one character that takes the place of another wherever it stands; nothing if there is none."""
    folded = _folded_cluster(character)
    alone = len(folded) == 1 and folded == _folded_cluster(folded) == folded.lower()
    return folded if alone and not re.match(_BELONGS, character) else ""


def _folded(text: str) -> tuple[str, list[Span] | None]:
    """The text in one form, without case and accents, and the span in `text` of each of its characters (None: where
    they are).
    """
    others = {} if text.isascii() else {one: _one_for_one(one) for one in set(_BEYOND_ASCII.findall(text))}
    if all(others.values()):
        for one, other in others.items():
            text = text.replace(one, other)
        return text.lower(), None
    parts: list[str] = []
    spans: list[Span] = []
    for found in _CLUSTER.finditer(text):
        if plain := found[1]:
            parts.append(plain.lower())
            spans += [(at, at + 1) for at in range(found.start(), found.end())]
            continue
        folded = _folded_cluster(found[0])
        parts.append(folded)
        spans += [found.span()] * len(folded)
    return "".join(parts), spans


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Overlapping and touching spans as one, in order."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
