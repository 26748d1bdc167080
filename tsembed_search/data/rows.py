"""Rows: as training reads them, a query and what it should find; as evaluation does, queries and their candidates.

And the one notion of the same content. Two items have it when their texts are the same but for case, forms of letters
and blanks, and their pictures are the same file, byte by byte, under whatever names. So all right answers of a query
are known, of whatever rows they are: none of them is a negative of that query.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from tsembed_search.items import Item, one_form

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.uint64]

KEYS: Final = ("target", "query image", "target image", "query", "group")
"""The ties of a row to others; see `kept`."""
Distribution = Literal["in", "out", ""]
"""Models are usually trained on data like the task's (`in`) or not (`out`), where the benchmark says so."""

_WHOLE: Final = 256 << 10
_PART: Final = 16 << 10
_PARTS: Final = 8
_PLAIN_PIXELS: Final = (b"BM", b"II", b"MM", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
"""BMP, TIFF and Netpbm may hold pixels as they are: there, two pictures can differ in one place alone."""
_REMEMBERED: Final = 1 << 17


@dataclass(frozen=True)
class Row:
    """A query, its positive, and hard negatives if the data names some.

    `identity`: what the positive is. Rows of one identity never serve each other as negatives, never meet in one batch,
    and all fall on the same side of a split, unless it is a label (see `split`). `origin`: file and line, for messages.
    `answers`: the contents (`content`) that are right for the query, where other rows name some more; none of them is a
    negative. `group`: as the data says, or "". Images are paths, not yet opened.
    """

    query: Item
    positive: Item
    identity: str
    negatives: tuple[Item, ...] = ()
    origin: str = ""
    answers: frozenset[int] = frozenset()
    group: str = ""


@dataclass(frozen=True)
class Fields:
    """A row of any layout: `query`, `positive`, which is right, and `negatives`, which are not. `own`: these are all
    that the query is to be ranked against. `task`, `identity`, `group`, `batch`: as the row says, or "".
    """

    query: Item
    positive: Item
    negatives: tuple[Item, ...] = ()
    own: bool = False
    task: str = ""
    identity: str = ""
    group: str = ""
    batch: str = ""

    def row(self, origin: str = "") -> Row:
        """Return the training row. One that brings its own candidates trains on the right one of them."""
        negatives = () if self.own else self.negatives
        return Row(self.query, self.positive, f"{self.target():016x}", negatives, origin, group=self.group)

    def target(self) -> int:
        """Return 64 bits that are the same for rows with the same target."""
        if self.identity:
            return hashed("identity", self.identity)
        return hashed("target", (self.positive.text or "").casefold(), self.positive.image or "")


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

    def batch(self, row: int) -> int:
        """Return the number of the batch that the row wants to be in, with all others of that number; 0 for none."""
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


def content(item: Item, picture: str | None = None) -> int:
    """Return 63 bits of what an item shows: its text and its picture. Its instruction does not count.

    `picture`: the `picture_content` of its picture, where that is known already.
    """
    return number("content", _folded(item.text), picture_content(item.image) if picture is None else picture)


def question(item: Item, picture: str | None = None) -> int:
    """Return 63 bits of what a query asks: its content, and the instruction that says what to look for."""
    picture = picture_content(item.image) if picture is None else picture
    return number("question", _folded(item.text), picture, _folded(item.instruction))


def number(*parts: str) -> int:
    """Return 63 bits that stand for texts, the same in every process and run."""
    data = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") >> 1


def _folded(text: str | None) -> str:
    return " ".join(one_form(text).casefold().split()) if text else ""


def picture_content(image: Any) -> str:
    """Return a hash of a picture's file, "" without one. A file that is empty or cannot be read is known by its name
    alone, and a picture in memory by its pixels.
    """
    if image is None:
        return ""
    if isinstance(image, Path):
        try:
            path = str(image)
            found = os.stat(path)  # noqa: PTH116 - three times as fast, and there may be millions
            if found.st_size:
                return _of_file(path, found.st_size, found.st_mtime_ns, found.st_ino)
        except OSError:
            pass  # opening it will say why
        return f"file {image}"
    import numpy as np

    pixels = np.asarray(image)
    return blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()


@lru_cache(_REMEMBERED)
def _of_file(path: str, size: int, changed: int, inode: int) -> str:
    """The hash of a file. Of a large one only some parts are read: compressed data that differs anywhere differs in
    length or from there on.
    """
    digest = blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as above
        start = file.read(size if size <= _WHOLE else _PART) or b""
        digest.update(start)
        if size > _WHOLE and start.startswith(_PLAIN_PIXELS):
            while block := file.read(1 << 20):
                digest.update(block)
        elif size > _WHOLE:
            for part in range(1, _PARTS):
                file.seek((size - _PART) * part // (_PARTS - 1))
                digest.update(file.read(_PART) or b"")
    return digest.hexdigest()


def kept(fields: Fields, first: dict[str, str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the hashes that tie a row to others, as `KEYS` has them and 0 for none, and its marks: `question`, the
    `content` that is right for it, all that it holds, wherever its files lie, and its batch.

    `first`: under which name each picture was met first, by its `picture_content`; it is tied under that one. A query
    is tied by its text if it has no picture.
    """
    query, positive = fields.query, fields.positive
    items = (query, positive, *fields.negatives)
    pictures = [picture_content(item.image) for item in items]
    asked, found = (
        hashed("image", first.setdefault(picture, str(item.image))) if item.image is not None else 0
        for item, picture in zip((query, positive), pictures, strict=False)
    )
    text = hashed("text", query.text) if query.image is None else 0
    keys = (fields.target(), asked, found, text, hashed("group", fields.group) if fields.group else 0)
    parts = (
        part for item, picture in zip(items, pictures, strict=True) for part in (item.text, picture, item.instruction)
    )
    whole = hashed(fields.identity, fields.batch, *parts)
    batch = hashed("batch", fields.batch) if fields.batch else 0
    return keys, (question(query, pictures[0]), content(positive, pictures[1]), whole, batch)


class Answers:
    """Of N rows, the `question` of each, the identity of its target and its content, `[N]` each.

    Right for a query are the targets of all rows that ask the same, and whatever has the identity of one of these.
    """

    def __init__(self, asked: Numbers, identities: Numbers, contents: Numbers) -> None:
        self._identities = _distinct(asked, identities)
        self._contents = _distinct(identities, contents)

    def of(self, asked: int) -> frozenset[int]:
        """Return the contents that are right for a query; empty where its one row says it all."""
        identities = _values(self._identities, asked)
        found = {content for identity in identities for content in _values(self._contents, identity)}
        return frozenset(found) if len(found) > 1 else frozenset()


def _distinct(keys: Numbers, values: Numbers) -> Numbers:
    """The distinct pairs of key and value, `[2, N]`, by key."""
    import numpy as np

    return np.ascontiguousarray(np.unique(np.stack([keys, values], axis=1), axis=0).T)


def _values(pairs: Numbers, key: int) -> list[int]:
    start, end = (int(pairs[0].searchsorted(pairs.dtype.type(key), side)) for side in ("left", "right"))
    found: list[int] = pairs[1, start:end].tolist()
    return found
