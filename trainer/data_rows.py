"""A record of any layout as a training row, and what ties it to other rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from tsembed_search.evaluation.records import BadRow, Images, Instructions, mmeb_item, plain_item
from tsembed_search.items import Item
from tsembed_search.trainer.rows import Row

LAYOUTS: Final = (
    "MMEB's (qry, qry_image_path, pos_text, pos_image_path), MMEB's for evaluation (qry_text, qry_img_path, tgt_text, "
    "tgt_img_path), or query and positive"
)
KEYS: Final = 5
"""So many keys tie a row to others at most; see `Ties`."""


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


def row_of(
    fields: Mapping[str, Any], images: Images, *, origin: str = "", instructions: Instructions | None = None
) -> Row:
    """The training row that the fields make, in whichever layout they are. A row of MMEB-eval trains on its first
    target, the right one. `instructions`: where they go; None: as the layout has it.

    Raises `BadRow`.
    """
    if "query" in fields or "positive" in fields:
        query, positive, negatives = _plain(fields, images, instructions or "field")
    elif "tgt_text" in fields or "tgt_img_path" in fields:
        query, positive, negatives = _mmeb_eval(fields, images, instructions or "text")
    elif "qry" in fields or "qry_image_path" in fields:
        query, positive, negatives = _mmeb_train(fields, images, instructions or "text")
    else:
        names = ", ".join(sorted(map(str, fields))[:8]) or "nothing"
        raise BadRow(f"a row has the fields of {LAYOUTS}; this one has {names}")
    return Row(query, positive, _identity(fields, positive), negatives, origin)


def ties(row: Row, fields: Mapping[str, Any]) -> Ties:
    """What ties a row to others."""
    group = _name(fields, "group")
    return Ties(
        identity=int(row.identity, 16),
        query_image=_image_key(row.query),
        image=_image_key(row.positive),
        query=hashed("text", row.query.text) if row.query.image is None else 0,
        group=hashed("group", group) if group else 0,
    )


def task_name(fields: Mapping[str, Any]) -> str:
    """The task that a row itself names, or "". Raises `BadRow`."""
    return _name(fields, "task")


def _identity(fields: Mapping[str, Any], positive: Item) -> str:
    told = _name(fields, "identity")
    key = hashed("identity", told) if told else hashed("target", (positive.text or "").casefold(), positive.image or "")
    return f"{key:016x}"


def _image_key(item: Item) -> int:
    return hashed("image", item.image) if item.image is not None else 0


def _name(fields: Mapping[str, Any], field: str) -> str:
    value = fields.get(field)
    if value is None:
        return ""
    if not isinstance(value, str | int):
        raise BadRow(f"{field} should be a text")
    return str(value).strip()


def _plain(
    fields: Mapping[str, Any], images: Images, instructions: Instructions
) -> tuple[Item, Item, tuple[Item, ...]]:
    for name in ("query", "positive"):
        if fields.get(name) is None:
            raise BadRow(f"a row needs a {name}")
    found = fields.get("negatives", fields.get("negative"))
    negatives = found if isinstance(found, list) else [] if found is None else [found]
    return (
        plain_item(fields["query"], images, instructions=instructions),
        plain_item(fields["positive"], images, instructions=instructions),
        tuple(plain_item(one, images, instructions=instructions) for one in negatives),
    )


def _mmeb_train(
    fields: Mapping[str, Any], images: Images, instructions: Instructions
) -> tuple[Item, Item, tuple[Item, ...]]:
    def item(text: object, image: object, told: str) -> Item:
        return mmeb_item(text, image, images, fields.get(told), instructions=instructions)

    query = item(fields.get("qry"), fields.get("qry_image_path"), "qry_inst")
    positive = item(fields.get("pos_text"), fields.get("pos_image_path"), "pos_inst")
    texts, pictures = _listed(fields.get("neg_text")), _listed(fields.get("neg_image_path"))
    pairs = [
        (texts[place] if place < len(texts) else None, pictures[place] if place < len(pictures) else None)
        for place in range(max(len(texts), len(pictures)))
    ]
    return query, positive, tuple(item(text, image, "neg_inst") for text, image in pairs if text or image)


def _mmeb_eval(
    fields: Mapping[str, Any], images: Images, instructions: Instructions
) -> tuple[Item, Item, tuple[Item, ...]]:
    query = mmeb_item(
        fields.get("qry_text"), fields.get("qry_img_path"), images, fields.get("qry_inst"), instructions=instructions
    )
    texts, pictures = _listed(fields.get("tgt_text")), _listed(fields.get("tgt_img_path"))
    first = mmeb_item(
        texts[0] if texts else None, pictures[0] if pictures else None, images, fields.get("tgt_inst"),
        instructions=instructions,
    )  # fmt: skip
    return query, first, ()


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
