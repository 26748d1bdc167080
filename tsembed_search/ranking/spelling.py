"""The words that a misspelt word may mean: all that are one slip of the keyboard away, the likeliest first.

A slip is a letter too many, a letter too few, another letter, or two letters in each other's place. Such slips are most
of all spelling mistakes: Damerau, *A technique for computer detection and correction of spelling errors*, 1964.
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
    slips behind the first letter, which is seldom the wrong one; then those at the first letter.
    """
    letters = _alphabet(word)
    ends = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    swapped = [a + b[1] + b[0] + b[2:] for a, b in ends if len(b) > 1]
    single = [a + b[1:] for a, b in ends if len(b) > 1 and b[0] == b[1]]
    double = [a + b[0] + b for a, b in ends if b]
    less = [(at, a + b[1:]) for at, (a, b) in enumerate(ends) if b]
    more = [(at, a + letter + b) for at, (a, b) in enumerate(ends) for letter in letters]
    other = [(at, a + letter + b[1:]) for at, (a, b) in enumerate(ends) if b for letter in letters]
    slips = [*less, *more, *other]
    groups = [swapped + single + double, [w for at, w in slips if at], [w for at, w in slips if not at]]
    seen = {word}
    found = []
    for group in groups:
        found.append([one for one in dict.fromkeys(group) if one not in seen and len(one) >= SHORTEST - 1])
        seen.update(group)
    return found


def _alphabet(word: str) -> str:
    """The letters that a word of the script may have; empty for a script that is not known."""
    return next((letters for letters in _ALPHABETS if word[:1] and word[0] in letters), "")
