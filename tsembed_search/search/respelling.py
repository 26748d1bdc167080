"""The words of the index that a misspelt word of a query may have been meant to be.

A word of which the index has nothing may be misspelt. All words that are one slip away are then asked for at once, and
the items found say which of them there are. A word of the English language is right as it is, though no text has it:
`boat` finds pictures of boats, and must not find a goat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from tsembed_search.ranking.spelling import may_be_misspelt, respellings
from tsembed_search.ranking.words import folded, parts_of, query_words, stems_of
from tsembed_search.store.base import Record, Search, Store
from tsembed_search.store.schema import WORD_FIELDS, texts_of

MOST_WORDS: Final = 4
"""So many words of a query are respelled at most."""
_LIKELY: Final = 3
_LOOKED_AT: Final = 4
_ENDINGS: Final = ("s", "es", "d", "ed", "r", "er", "ing", "ly", "n", "al")


class Respelled(NamedTuple):
    """A word that no item has, the words in its place, likeliest first, and their terms."""

    word: str
    forms: tuple[str, ...]
    terms: tuple[str, ...]


def respelled(store: Store, words: Sequence[str]) -> dict[str, Respelled]:
    """Return what these folded words may have been meant to be, each that has a word one slip away in the index.

    No item of the store may have them.
    """
    asked = [word for word in words if may_be_misspelt(word) and not is_english(word)][:MOST_WORDS]
    groups = [(word, group) for word in asked for group in respellings(word) if group]
    stems = [stems_of(group) for _, group in groups]
    found = store.find([Search(query_words(own), _LOOKED_AT) for own in stems])
    ids = dict.fromkeys(record.id for records in found for record in records)
    texts = {one.id: texts_of(one.payload) for one in store.retrieve(list(ids), fields=WORD_FIELDS)} if ids else {}
    there: dict[str, Respelled] = {}
    for (word, group), own, records in zip(groups, stems, found, strict=True):
        if word not in there and (best := _occurring(word, group, own, records, texts)):
            there[word] = best
    return there


def _occurring(
    word: str, group: Sequence[str], stems: Sequence[str], records: Sequence[Record], texts: dict[str, list[str]]
) -> Respelled | None:
    """The words of a group that occur in the records: terms are stored as numbers, which several may share."""
    wanted: dict[str, list[str]] = {}
    for form, stem in zip(group, stems, strict=True):
        wanted.setdefault(stem, []).append(form)
    seen: dict[str, str] = {}
    for record in records:
        parts = [part for text in texts.get(record.id, ()) for part in parts_of(folded(text))[0]]
        for part, stem in zip(parts, stems_of(parts), strict=True):
            # A word is told as a text has it, if that is one slip away, too.
            if stem in wanted and (stem not in seen or part in wanted[stem]):
                seen[stem] = part if part in wanted[stem] else wanted[stem][0]
    likely = sorted(seen, key=lambda stem: group.index(seen[stem]))[:_LIKELY]
    return Respelled(word, tuple(seen[stem] for stem in likely), tuple(likely)) if likely else None


@lru_cache(maxsize=1)
def _vocabulary() -> frozenset[bytes]:
    """The words that MiniLM knows. Its file is not read as JSON, which takes several times as long."""
    from tsembed_search.model.backbones.mini_spec import file_path

    return frozenset(re.findall(rb'"([a-z]{3,})":', file_path("tokenizer").read_bytes()))


def is_english(word: str) -> bool:
    """Tell whether a folded word, or what it is a usual form of, is known to be one."""
    roots = [word, *(word.removesuffix(ending) for ending in _ENDINGS if word.endswith(ending))]
    if word.endswith("ies"):
        roots.append(word[:-3] + "y")
    if word.endswith("ing"):
        roots.append(word[:-3] + "e")
    return any(root.encode() in _vocabulary() for root in roots)
