"""The words that a misspelt word may mean: all that are one slip of the keyboard away, the likeliest first.

A slip is a letter too many, a letter too few, another letter, or two letters in each other's place. Such slips are most
of all spelling mistakes: Damerau, *A technique for computer detection and correction of spelling errors*, 1964. Two
slips are looked for only where people often make both: letters around another in each other's place (`bycicle`), and
two wrong double letters (`tommorow`).
"""

from __future__ import annotations

from typing import Final

SHORTEST: Final = 4
"""The letters that a word has at least. Of a shorter one, nearly every change makes another word."""
_LONGEST: Final = 32
# As `words.folded` leaves them: lower case, without accents.
_ALPHABETS: Final = (
    "abcdefghijklmnopqrstuvwxyz",
    "абвгдежзиклмнопрстуфхцчшщъыьэюяєіјљњћђџ",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "אבגדהוזחטיךכלםמןנסעףפץצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهويةىءپچژگ",
)


def may_be_misspelt(word: str) -> bool:
    """Tell whether a folded word is one that is respelled: letters alone, of a script that has an alphabet, and enough
    of them. A wrong figure makes another number, and nothing tells which was meant.
    """
    return SHORTEST <= len(word) <= _LONGEST and word.isalpha() and bool(_alphabet(word))


def respellings(word: str) -> list[list[str]]:
    """Return the words that are one slip away from a folded word, in groups, the likeliest group first.

    First two letters in each other's place, and a double letter for a single one or the other way round; then all other
    slips behind the first letter, which is seldom the wrong one; then those at the first letter; last the few words
    that are two slips away.
    """
    letters = _alphabet(word)
    ends = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    swapped = [a + b[1] + b[0] + b[2:] for a, b in ends if len(b) > 1]
    around = [a + b[2] + b[1] + b[0] + b[3:] for a, b in ends if len(b) > 2]
    doubled = _doubled(word)
    less = [(at, a + b[1:]) for at, (a, b) in enumerate(ends) if b]
    more = [(at, a + letter + b) for at, (a, b) in enumerate(ends) for letter in letters]
    other = [(at, a + letter + b[1:]) for at, (a, b) in enumerate(ends) if b for letter in letters]
    slips = [*less, *more, *other]
    twice = [other for one in doubled for other in _doubled(one)]
    groups = [swapped + doubled, [w for at, w in slips if at], [w for at, w in slips if not at], around + twice]
    seen = {word}
    found = []
    for group in groups:
        found.append([one for one in dict.fromkeys(group) if one not in seen and len(one) >= SHORTEST - 1])
        seen.update(group)
    return found


def _doubled(word: str) -> list[str]:
    """The word with a double letter for a single one, or a single one for a double letter."""
    ends = [(word[:at], word[at:]) for at in range(len(word))]
    return [a + b[1:] for a, b in ends if b[:1] == b[1:2]] + [a + b[0] + b for a, b in ends]


def _alphabet(word: str) -> str:
    """The letters that a word of the script may have; empty for a script that is not known."""
    return next((letters for letters in _ALPHABETS if word[:1] and word[0] in letters), "")
