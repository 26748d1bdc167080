"""Words as numbers: the terms of a text, their weights by BM25, and what a query asks of words.

A term is a word without case and accents, English words by their stem; a pair of characters where a script has no
blanks; the parts of a code (`INV-2024-01013`: `inv`, `2024`, `01013`), and the code as a whole, in one piece, so that
another hyphen or none makes no difference. A term is stored as a number of 32 bits, the CRC of its letters.

    weight = tf · (k1 + 1) / (tf + k1 · (1 - b + b · length / average))

The engine multiplies it with the term's rarity, log(1 + (N - n + 1/2) / (n + 1/2)), and adds up the terms that query
and text share. Robertson and Zaragoza, *The Probabilistic Relevance Framework: BM25 and Beyond*, 2009. The average
length is a constant, so that a text's weights do not depend on the others.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from tsembed_search.items import one_form

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

K1: Final = 1.2
B: Final = 0.75
AVERAGE_LENGTH: Final = 80
"""The length in words of a passage that is neither long nor short."""
MOST_TERMS: Final = 64
"""The most terms of a query; a longer text is a passage, whose first words say enough."""

# Scripts written without blanks: a word may begin anywhere, so two neighbouring characters stand for one.
UNSPACED_SCRIPTS: Final = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNSPACED: Final = re.compile(f"[{UNSPACED_SCRIPTS}]+")
# Words that signs without a blank join: codes, names of files, addresses, dates, o'clock.
# Vowel signs of Indic scripts are no letters to Python.
_SIGNS = r"\u0900-\u0963\u0971-\u0e00"
_RUN = re.compile(rf"[\w{_SIGNS}]+(?:[-./:@#'’&+–—][\w{_SIGNS}]+)*")
_PART = re.compile(rf"[{UNSPACED_SCRIPTS}]+|(?:[{_SIGNS}]|[^\W\d_{UNSPACED_SCRIPTS}])+|\d+")
_PIECE = re.compile(rf"(?:[{_SIGNS}]|[^\W_])+")
_MOST_PARTS = 3
_LONGEST_CODE = 64
# HelloWorld, HTMLPage: names of files are often written so.
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Letters with a stroke or joined, which Unicode does not take apart, as they are typed without.
STROKES = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th"}
)
# English words that tell nothing about a text; a query of nothing else keeps them.
EMPTY_WORDS: Final = frozenset(
    "a an and are as at be by can did do does for from had has have how i in is it its my of on or our that the their "
    "there these they this to was we were what when where which who why will with you your".split()
)


class Words(NamedTuple):
    """A sparse vector of terms: `terms` [T] uint32, in order and each once, and their `weights` [T] float32."""

    terms: NDArray[np.uint32]
    weights: NDArray[np.float32]


def folded(text: str) -> str:
    """Return a text in one form, without case and accents: letters as they are typed in a hurry."""
    if text.isascii():
        return text.lower()
    composed = unicodedata.normalize("NFC", text)
    return "".join(map(_folded_word, re.split(r"(\s+)", one_form(composed))))


@lru_cache(maxsize=16384)
def _folded_word(word: str) -> str:
    if word.isascii():
        return word.lower()
    parts = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", word).casefold().translate(STROKES))
    # Marks of kana and vowel signs are letters to those who write them; NFC puts them back.
    return unicodedata.normalize("NFC", "".join(part for part in parts if not _is_accent(part)))


def _is_accent(letter: str) -> bool:
    return unicodedata.combining(letter) != 0 and letter not in "\u3099\u309a" and not "\u0900" <= letter <= "\u0fff"


def terms_of(text: str) -> tuple[list[str], list[str]]:
    """Return the terms of a text in order, and its codes as a whole."""
    parts, wholes = parts_of(folded(text))
    return stems_of(parts), wholes


def stems_of(words: Sequence[str]) -> list[str]:
    """Return the terms of folded words, one for each."""
    from Stemmer import Stemmer  # a new one for each call: they are not for several threads

    stems: list[str] = Stemmer("english").stemWords(list(words))
    return stems


def parts_of(text: str) -> tuple[list[str], list[str]]:
    """Return the words of a folded text, and its codes, whole."""
    words: list[str] = []
    wholes: list[str] = []
    for run in _RUN.findall(text):
        if run.isalpha() and run.isascii():
            words.append(run)
            continue
        pieces = _PIECE.findall(run)
        parts = [part for piece in pieces for part in _split(piece)]
        for part in parts:
            words += _pairs(part) if UNSPACED.match(part) else [part]
        whole = "".join(pieces)
        if len(parts) > 1 and len(whole) <= _LONGEST_CODE and not UNSPACED.search(whole):
            wholes.append(whole)
    return words, wholes


def _split(piece: str) -> list[str]:
    """The letters and the figures of `img2024`; a number such as 0x80f7a5 is one word."""
    parts = _PART.findall(piece)
    return parts if len(parts) <= _MOST_PARTS or UNSPACED.search(piece) else [piece]


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(max(1, len(run) - 1))]


def name_words(path: str) -> str:
    """Return a path's parts as text to be found by: as they are, and with `HelloWorld` taken apart."""
    apart = _HUMP.sub(" ", path)
    return path if apart == path else f"{path} {apart}"


def document_words(text: str, names: Sequence[str] = ()) -> Words:
    """Return the words of an item: of its text, and of its `names`, such as its path and its title."""
    terms: list[str] = []
    codes: list[str] = []
    for part in document_texts(text, names):
        words, wholes = terms_of(part)
        terms += words
        codes += wholes
    spread = K1 * (1 - B + B * len(terms) / AVERAGE_LENGTH)
    return _words((number, tf * (K1 + 1) / (tf + spread)) for number, tf in _counted([*terms, *codes]))


def document_texts(text: str, names: Sequence[str] = ()) -> list[str]:
    """Return all texts that an item's words are made of."""
    return [*map(name_words, dict.fromkeys(names)), text]


def query_words(terms: Sequence[str], weighted: Mapping[str, float] | None = None) -> Words:
    """Return the words of a query, each of the `terms` with weight 1, and those that are `weighted` with less."""
    weights = {_number(term): weight for term, weight in (weighted or {}).items()}
    return _words({**weights, **dict.fromkeys(map(_number, terms), 1.0)}.items())


def query_terms(text: str) -> tuple[list[str], list[str]]:
    """Return the distinct terms that a query looks for, without words that tell nothing if there are others; and its
    codes as a whole.
    """
    words, wholes = _query_forms(text)
    return list(words), wholes


def _query_forms(text: str) -> tuple[dict[str, str], list[str]]:
    """As `query_terms`, each term with the word, folded, that it is the stem of."""
    parts, wholes = parts_of(folded(text))
    words: dict[str, str] = {}
    for term, part in zip(stems_of(parts), parts, strict=True):
        words.setdefault(term, part)
    telling = [term for term in words if term not in EMPTY_WORDS] or list(words)
    return {term: words[term] for term in telling[:MOST_TERMS]}, list(dict.fromkeys(wholes))[:MOST_TERMS]


def _number(term: str) -> int:
    return zlib.crc32(term.encode("utf-8", "surrogatepass"))


def _counted(terms: Sequence[str]) -> Iterator[tuple[int, int]]:
    yield from Counter(map(_number, terms)).items()


def _words(pairs: Iterable[tuple[int, float]]) -> Words:
    import numpy as np

    ordered = sorted(pairs)
    terms = np.array([term for term, _ in ordered], dtype=np.uint32)
    return Words(terms, np.array([weight for _, weight in ordered], dtype=np.float32))


@dataclass(frozen=True)
class Asked:
    """The wishes about words in a query: `terms` to look for, of which the first `plain` are words and the others codes
    as a whole, and `required` belong to phrases; `phrases` that must occur and words (`without`) that must not, each as
    folded words with blanks around. `forms` are the plain terms as the query has them, folded. `text` is what is left
    for a model to read.
    """

    text: str = ""
    terms: tuple[str, ...] = ()
    plain: int = 0
    required: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()

    @staticmethod
    def of(query: str) -> Asked:
        """Read a query: `"words in quotes"` must occur, as they stand; a `-word` must not. -5 is a number."""
        without = [quoted or word for quoted, word in _EXCLUDED.findall(query)]
        left = _EXCLUDED.sub(" ", query)
        phrases = _QUOTED.findall(left)
        text = " ".join(_QUOTED.sub(r" \1 ", left).split()) if without or phrases else query
        required = tuple(dict.fromkeys(term for phrase in phrases for term in query_terms(phrase)[0]))
        quoted, excluded = (tuple(filter(str.strip, map(_spelled, texts))) for texts in (phrases, without))
        words, wholes = _query_forms(text)
        forms = tuple(words.values())
        return Asked(text, (*words, *wholes), len(words), required, quoted, excluded, forms)

    @property
    def strict(self) -> bool:
        """True when not every item is allowed."""
        return bool(self.phrases or self.without)

    def allows(self, texts: Sequence[str]) -> bool:
        """Tell whether the phrases all occur in an item's texts, and the words that must not do not."""
        spelled = [_spelled(text) for text in texts]
        return all(any(phrase in text for text in spelled) for phrase in self.phrases) and not any(
            word in text for word in self.without for text in spelled
        )


_QUOTED = re.compile(r'["“”„«]([^"“”„«»]+)["“”»]')
_EXCLUDED = re.compile(r'(?<!\S)-(?:["“„]([^"“”]+)["“”]|([^\W\d]\S*))')


def _spelled(text: str) -> str:
    """The words of a text, folded, with one blank around each."""
    return f" {' '.join(parts_of(folded(text))[0])} "
