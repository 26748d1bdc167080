"""Where the tokens of a batch of `mini` go: rows of similar length together, laid out on the CPU and moved at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CAPTION_TOKENS = 4
"""Tokens of a soft caption."""


@dataclass(frozen=True)
class Part:
    """A group of a plan: its `rows` of the batch, the length of its longest, where its numbers `start`, and whether it
    is `full`, without padding.
    """

    rows: list[int]
    longest: int
    start: int
    full: bool


class Plan:
    """Where the tokens of a batch go, in one array `numbers` of int64, so that one copy brings it to the device.

    ids of all tokens that are words, a padding first | the batch's order among the groups' rows
    | of each group, [G, T] each: the place of each token among words, captions and suffixes; whether it is real; of an
    image; and with suffixes, of which path it is, from 1
    """

    def __init__(
        self,
        texts: Sequence[list[int]],
        pictured: Sequence[bool],
        ends: Sequence[int],
        paths: int = 0,
        length: int = 0,
    ) -> None:
        """`texts`: the word pieces of each row; `pictured`: whether it has a picture; `ends`: the special tokens;
        `paths`: suffixes after each row, of `length` tokens each.
        """
        first, last = ends
        words = [[first, *ids, last] for ids in texts]
        after = paths * length
        self.kinds = 4 if after else 3
        lengths = [len(own) + CAPTION_TOKENS * has + after for own, has in zip(words, pictured, strict=True)]
        starts = np.cumsum([1, *map(len, words)])
        self.sources = int(starts[-1])
        captions = self.sources + CAPTION_TOKENS * (np.cumsum(pictured) - 1)
        suffix = self.sources + CAPTION_TOKENS * sum(pictured) + np.arange(after)
        groups = _alike(lengths)
        order = np.argsort([row for rows in groups for row in rows])
        numbers = [np.array([0, *(id_ for own in words for id_ in own)], np.int64), order.astype(np.int64)]
        self.parts: list[Part] = []
        start = self.sources + len(texts)
        for rows in groups:
            longest = max(lengths[row] for row in rows)
            kinds = np.zeros((self.kinds, len(rows), longest), np.int64)
            places, real, image = kinds[:3]
            for at, row in enumerate(rows):
                own = np.arange(starts[row], starts[row + 1])
                if pictured[row]:
                    own = np.concatenate([own[:1], captions[row] + np.arange(CAPTION_TOKENS), own[1:]])
                    image[at, 1 : 1 + CAPTION_TOKENS] = 1
                if after:
                    own = np.concatenate([own, suffix])
                    kinds[3, at, len(own) - after : len(own)] = 1 + np.arange(after) // length
                places[at, : len(own)], real[at, : len(own)] = own, 1
            self.parts.append(Part(rows, longest, start, bool(real.all())))
            start += kinds.size
            numbers.append(kinds.ravel())
        self.numbers = np.concatenate(numbers)


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Places of similar lengths together: in each part the longest is at most a quarter and two above the shortest."""
    parts: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if not parts or lengths[place] > 1.25 * lengths[parts[-1][0]] + 2:
            parts.append([])
        parts[-1].append(place)
    return parts
