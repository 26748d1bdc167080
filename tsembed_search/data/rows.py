"""Rows: as training reads them, a query and what it should find; as evaluation does, queries and their candidates.

All right answers of a query are known, of whatever rows they are: none of them is a negative of that query.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal, Protocol

from tsembed_search.data.layouts import Fields
from tsembed_search.data.sameness import Copies, content, picture_content, question
from tsembed_search.items import Item

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.uint64]

KEYS: Final = ("target", "query image", "target image", "query", "group")
"""The ties of a row to others; see `kept`."""
MARKS: Final = 3
"""So many numbers say what a row holds; see `kept`."""
Distribution = Literal["in", "out", ""]
"""Models are usually trained on data like the task's (`in`) or not (`out`), where the benchmark says so."""


@dataclass(frozen=True)
class Row:
    """A query, its positive, and hard negatives if the data names some.

    `identity`: what the positive is. Rows of one identity never serve each other as negatives, never meet in one batch,
    and all fall on the same side of a split, unless it is a label (see `split`). `origin`: file and line, for messages.
    `answers`: the contents (`sameness.content`) that are right for the query, where other rows name some more; none of
    them is a negative. Images are paths, not yet opened.
    """

    query: Item
    positive: Item
    identity: str
    negatives: tuple[Item, ...] = ()
    origin: str = ""
    answers: frozenset[int] = frozenset()


class Task(Protocol):
    """Rows of one kind."""

    @property
    def name(self) -> str:
        """The task's name."""
        ...

    @property
    def meta(self) -> str:
        """Its meta-task (`classification`, `vqa`, `retrieval`, `grounding`), or ""."""
        ...

    @property
    def weight(self) -> float:
        """Its share of the draws, relative to the others."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Row: ...

    def identity(self, row: int) -> str:
        """Return the row's identity, without building the row."""
        ...


@dataclass(frozen=True)
class RankingTask:
    """Q queries over C candidates. `meta`: the meta-task that this one belongs to, or "".

    `choices`: for each query the places in `candidates` that are ranked for it; None when all are, for every query.
    `correct`: for each query the places of its right candidates, at least one. `left_out`: for each query the places
    that are not ranked for it: the query itself, among what other rows bring. None: there are none.
    """

    name: str
    meta: str
    queries: Sequence[Item]
    candidates: Sequence[Item]
    correct: Sequence[frozenset[int]]
    choices: Sequence[Sequence[int]] | None = None
    distribution: Distribution = ""
    left_out: Sequence[frozenset[int]] | None = None


def ranking_task(task: Task, rows: Sequence[int]) -> RankingTask:
    """Return some rows of a training task as queries, in their order, over the distinct targets of these rows.

    Right are the targets of a query's own identity, and all that other rows name for the same query.
    """
    own = [task[row] for row in rows]
    targets: dict[tuple[int, str], Item] = {}
    right: dict[int, set[int]] = defaultdict(set)
    identities: dict[int, set[str]] = defaultdict(set)
    for row in own:
        asked, shown = question(row.query), content(row.positive)
        targets.setdefault((shown, row.identity), row.positive)
        right[asked] |= {shown, *row.answers}
        identities[asked].add(row.identity)
    of_content: dict[int, set[int]] = defaultdict(set)
    of_identity: dict[str, set[int]] = defaultdict(set)
    for place, (shown, identity) in enumerate(targets):
        of_content[shown].add(place)
        of_identity[identity].add(place)
    correct, left_out = [], []
    for row in own:
        asked = question(row.query)
        by_content = (of_content.get(one, set()) for one in right[asked])
        by_identity = (of_identity.get(one, set()) for one in identities[asked])
        correct.append(frozenset().union(*by_content, *by_identity))
        left_out.append(frozenset(of_content.get(content(row.query), ())) - correct[-1])
    queries = [row.query for row in own]
    return RankingTask(task.name, task.meta, queries, list(targets.values()), correct, left_out=left_out)


def hashed(*parts: object) -> int:
    """Return 64 bits of some texts, never 0."""
    data = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") or 1


def row_of(fields: Fields, *, origin: str = "") -> Row:
    """Return the training row of the fields. A row that brings its own candidates trains on the right one of them."""
    negatives = () if fields.own else fields.negatives
    return Row(fields.query, fields.positive, f"{_identity(fields):016x}", negatives, origin)


def kept(fields: Fields, copies: Copies) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Return the hashes that tie a row to others, as `KEYS` has them and 0 for none, and its marks: `question`, the
    `content` that is right for it, and all that it holds, wherever its files lie.

    A picture is tied under the first name that `copies` knows it by, a query by its text if it has no picture.
    """
    query, positive = fields.query, fields.positive
    items = (query, positive, *fields.negatives)
    pictures = [picture_content(item.image) for item in items]
    asked, found = copies.first(query.image, pictures[0]), copies.first(positive.image, pictures[1])
    keys = (
        _identity(fields),
        hashed("image", asked) if asked else 0,
        hashed("image", found) if found else 0,
        hashed("text", query.text) if query.image is None else 0,
        hashed("group", fields.group) if fields.group else 0,
    )
    parts = (
        part for item, picture in zip(items, pictures, strict=True) for part in (item.text, picture, item.instruction)
    )
    return keys, (question(query, pictures[0]), content(positive, pictures[1]), hashed(fields.identity, *parts))


def _identity(fields: Fields) -> int:
    if fields.identity:
        return hashed("identity", fields.identity)
    return hashed("target", (fields.positive.text or "").casefold(), fields.positive.image or "")


class Answers:
    """Of N rows, the `question` of each, the identity of its target and its content, `[N]` each.

    Right for a query are the targets of all rows that ask the same, and whatever has the identity of one of these.
    """

    def __init__(self, asked: Numbers, identities: Numbers, contents: Numbers) -> None:
        self._identities = _Values(asked, identities)
        self._contents = _Values(identities, contents)

    def of(self, asked: int) -> frozenset[int]:
        """Return the contents that are right for a query; empty where its one row says it all."""
        found = {content for identity in self._identities.of(asked) for content in self._contents.of(identity)}
        return frozenset(found) if len(found) > 1 else frozenset()


class _Values:
    """The distinct values of each key."""

    def __init__(self, keys: Numbers, values: Numbers) -> None:
        import numpy as np

        pairs = np.unique(np.stack([keys, values], axis=1), axis=0)
        self._keys, self._values = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])

    def of(self, key: int) -> list[int]:
        import numpy as np

        start, end = (int(np.searchsorted(self._keys, np.uint64(key), side)) for side in ("left", "right"))
        found: list[int] = self._values[start:end].tolist()
        return found
