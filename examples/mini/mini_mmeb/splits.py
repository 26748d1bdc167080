"""Which side of the set a thing falls on: by a hash of what it is, so that what shows it or names it stays together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

TRAIN: Final = "train"
VALIDATION: Final = "validation"
TEST: Final = "test"
UNSEEN_VALIDATION: Final = "unseen_validation"
UNSEEN_TEST: Final = "unseen_test"
SPLITS: Final = (TRAIN, VALIDATION, TEST, UNSEEN_VALIDATION, UNSEEN_TEST)
"""Train; validation and test of the same kinds; validation and test of kinds of picture that training never sees."""

_VALIDATION_SHARE: Final = 0.08
_TEST_SHARE: Final = 0.12

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Sides:
    """The sides for one seed."""

    seed: int = 0

    def draw(self, *name: object) -> float:
        """A number from 0 up to 1 that only the seed and the name decide."""
        text = "\0".join(map(str, (self.seed, *name)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64

    def of(self, identity: str) -> str:
        """`train`, `validation` or `test`."""
        at = self.draw("side", identity)
        return VALIDATION if at < _VALIDATION_SHARE else TEST if at < _VALIDATION_SHARE + _TEST_SHARE else TRAIN

    def unseen(self, identity: str) -> str:
        """`unseen_validation` or `unseen_test`, half and half."""
        return UNSEEN_VALIDATION if self.draw("unseen", identity) < 0.5 else UNSEEN_TEST

    def order(self, things: Sequence[Thing], *name: object) -> list[Thing]:
        """The things shuffled."""
        order = sorted(range(len(things)), key=lambda place: self.draw("order", *name, place))
        return [things[place] for place in order]
