"""What training reads: rows of a query and what it should find, in named tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tsembed_search.items import Item


@dataclass(frozen=True)
class Row:
    """A query, its positive, and hard negatives if the data names some.

    `identity`: what the positive is. Rows of one identity never serve each other as negatives, never meet in one batch,
    and all fall on the same side of a split, unless it is a label (see `data_split`). `origin`: file and line, for
    messages. `answers`: the contents (`sameness.content`) that are right for the query, where other rows name some
    more; none of them is a negative. Images are paths, not yet opened.
    """

    query: Item
    positive: Item
    identity: str
    negatives: tuple[Item, ...] = ()
    origin: str = ""
    answers: frozenset[int] = frozenset()


class Task(Protocol):
    """Rows of one kind. `meta`: its meta-task (`classification`, `vqa`, `retrieval`, `grounding`), or "". `weight`:
    how often it is drawn, relative to the others.
    """

    @property
    def name(self) -> str: ...

    @property
    def meta(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Row: ...

    def identity(self, row: int) -> str:
        """The row's identity, without building the row."""
        ...
