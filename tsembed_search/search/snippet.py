"""The part of a found text that answers the query best, with the query's words marked in it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tsembed_search.text_form import one_form

WIDTH = 200
"""The default length of a snippet in characters: about three lines of a terminal."""

Span = tuple[int, int]

_WORD = re.compile(r"\w+")
# Scripts written without spaces: a word may begin anywhere, so two neighbouring characters stand for one.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)
# A character with what belongs to it: accents, voice marks of kana, what nobody sees.
_BELONGS = "[\u0300-\u036f\u3099\u309a\uff9e\uff9f\u00ad\u200b\u2060]"
_CLUSTER = re.compile(f"([\x00-\x7f]+)(?!{_BELONGS})|.{_BELONGS}*", re.DOTALL)
# English words that tell nothing about a text; a query of nothing else keeps them.
_EMPTY = frozenset(
    "a an and are as at be by can did do does for from had has have how i in is it its my of on or our that the their "
    "there these they this to was we were what when where which who why will with you your".split()
)
_LEAST_PREFIX = 3
_MOST_ENDING = 4
_LEAD = 0.3


@dataclass(frozen=True)
class Snippet:
    """`text` on one line, with `…` where it was cut; `marks` are the (start, end) of matching words in it."""

    text: str
    marks: tuple[Span, ...] = ()


def weigh(query: str, texts: Sequence[str]) -> dict[str, float]:
    """The query's words and how much each tells: a word that few of `texts` contain tells more."""
    weights: dict[str, float] = {}
    for word in _words(query):
        holding = sum(bool(_find(word, text)) for text in texts)
        weights[word] = math.log(1 + (len(texts) + 1) / (holding + 1))
    return weights


def snippet(text: str, weights: Mapping[str, float], width: int = WIDTH) -> Snippet:
    """The stretch of at most about `width` characters of `text` that covers the most of the words' weight.

    Among equals the earliest wins; without a match it is the text's beginning. No word is cut in two.
    """
    flat = " ".join(text.split())
    found = sorted((span, word) for word in weights for span in _find(word, flat))
    start, end = _window(found, weights, len(flat), width)
    start, end = _at_words(flat, start, end)
    head, tail = ("… " if start else ""), (" …" if end < len(flat) else "")
    marks = _merged([(a, b) for (a, b), _ in found if a >= start and b <= end])
    shift = len(head) - start
    return Snippet(head + flat[start:end] + tail, tuple((a + shift, b + shift) for a, b in marks))


def _window(
    found: Sequence[tuple[Span, str]], weights: Mapping[str, float], length: int, width: int
) -> tuple[int, int]:
    """The best stretch, as (start, end): a match near its beginning, with some context before it."""
    best, first = -1.0, 0
    for index, ((start, _), _) in enumerate(found):
        inside = {word for (_, end), word in found[index:] if end <= start + width}
        gain = sum(weights[word] for word in inside)
        if gain > best + 1e-9:
            best, first = gain, index
    if not found or length <= width:
        return 0, min(width, length)
    start = found[first][0][0]
    reach = max(end for (_, end), _ in found[first:] if end <= max(start + width, found[first][0][1]))
    start = max(0, min(start - int(width * _LEAD), length - width))
    return max(start, reach - width), min(length, max(start + width, reach))


def _at_words(text: str, start: int, end: int) -> tuple[int, int]:
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
        for run in _UNSPACED.findall(word):
            words.update(dict.fromkeys(run[i : i + 2] for i in range(max(1, len(run) - 1))))
        words.update(dict.fromkeys(rest for rest in _UNSPACED.split(word) if rest))
    return [word for word in words if word not in _EMPTY] or list(words)


def _find(word: str, text: str) -> list[Span]:
    """Where a folded word occurs in `text`: as a word or with another ending; anywhere in an unspaced script."""
    folded, spans = _folded(text)
    if _UNSPACED.fullmatch(word):
        found = [match.span() for match in re.finditer(re.escape(word), folded)]
    else:
        found = [match.span() for match in _WORD.finditer(folded) if _same_stem(word, match[0])]
    return found if spans is None else [(spans[start][0], spans[end - 1][1]) for start, end in found]


def _same_stem(one: str, other: str) -> bool:
    """Whether two folded words are the same up to a short ending: apple, apples; city, cities; bake, baking."""
    if one == other:
        return True
    short, long = sorted((one, other), key=len)
    if len(short) < _LEAST_PREFIX or not short.isalpha() or len(long) - len(short) > _MOST_ENDING:
        return False
    if long.startswith(short):
        return True
    stem, changed = short[:-1], {"e": ("i",), "y": ("i",)}.get(short[-1], ())
    return len(stem) >= _LEAST_PREFIX and long.startswith(tuple(stem + letter for letter in changed))


@lru_cache(maxsize=4096)
def _folded_cluster(cluster: str) -> str:
    decomposed = unicodedata.normalize("NFD", one_form(cluster).casefold())
    return "".join(part for part in decomposed if not unicodedata.combining(part))


@lru_cache(maxsize=64)
def _folded(text: str) -> tuple[str, list[Span] | None]:
    """The text in one form, without case and accents, and the span in `text` of each of its characters (None: where
    they are).
    """
    if text.isascii():
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
