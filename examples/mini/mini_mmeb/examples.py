"""What a task consists of: examples of a query and what it should find."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Side:
    """A query or a target. `image` is a path inside the set; `instruction` says what is wanted of the query."""

    text: str = ""
    image: str = ""
    instruction: str = ""


@dataclass(frozen=True)
class Example:
    """A query and what it should find. `identity`: what the target is, the same for all examples that have it.

    `group`: what the example is about; all of a group are in one split. `split`: one of `splits.SPLITS`.
    `negatives`: what the query should not find although it might.
    """

    query: Side
    positive: Side
    identity: str
    group: str
    split: str
    negatives: tuple[Side, ...] = ()
