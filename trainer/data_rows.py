"""A row of any layout as a training row, and what ties it to other rows."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from tsembed_search.evaluation.layouts import Fields
from tsembed_search.evaluation.sameness import Copies, content, picture_content, question
from tsembed_search.trainer.rows import Row

KEYS: Final = 5
"""So many keys tie a row to others at most; see `Ties`."""
MARKS: Final = 3
"""So many numbers say what a row holds; see `kept`."""


@dataclass(frozen=True)
class Ties:
    """What ties a row to others, as 64-bit hashes, 0 for none. `identity`: of the target. `query_image`, `image`: of
    its two images. `query`: of a query that is text alone. `group`: what the row says that it belongs to.
    """

    identity: int
    query_image: int
    image: int
    query: int
    group: int

    @property
    def keys(self) -> tuple[int, int, int, int, int]:
        """All of them, `KEYS` numbers."""
        return self.identity, self.query_image, self.image, self.query, self.group


def hashed(*parts: object) -> int:
    """64 bits of some texts, never 0."""
    data = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") or 1


def row_of(fields: Fields, *, origin: str = "") -> Row:
    """The training row that the fields make. A row that brings its own candidates trains on the right one of them."""
    negatives = () if fields.own else fields.negatives
    return Row(fields.query, fields.positive, f"{_identity(fields):016x}", negatives, origin)


def kept(fields: Fields, copies: Copies) -> tuple[Ties, tuple[int, int, int]]:
    """What ties a row to others, and its marks: what it asks, what is right for that, and all that it holds, wherever
    its files lie; `MARKS` numbers. A picture is tied under the first name that `copies` knows it by.
    """
    query, positive = fields.query, fields.positive
    items = (query, positive, *fields.negatives)
    pictures = [picture_content(item.image) for item in items]
    asked, found = copies.first(query.image, pictures[0]), copies.first(positive.image, pictures[1])
    ties = Ties(
        identity=_identity(fields),
        query_image=hashed("image", asked) if asked else 0,
        image=hashed("image", found) if found else 0,
        query=hashed("text", query.text) if query.image is None else 0,
        group=hashed("group", fields.group) if fields.group else 0,
    )
    parts = (
        part for item, picture in zip(items, pictures, strict=True) for part in (item.text, picture, item.instruction)
    )
    marks = question(query, pictures[0]), content(positive, pictures[1]), hashed(fields.identity, *parts)
    return ties, marks


def _identity(fields: Fields) -> int:
    if fields.identity:
        return hashed("identity", fields.identity)
    return hashed("target", (fields.positive.text or "").casefold(), fields.positive.image or "")
