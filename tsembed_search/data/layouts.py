"""The table of layouts: whatever the layout, a row is read as a whole or refused as a whole, and fields that no one
reads are noted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tsembed_search.data.records import BadRow, Images, Instructions, ItemMaker, filled, listed
from tsembed_search.data.rows import Fields
from tsembed_search.items import Item
from tsembed_search.registry import Registry

Parts = tuple[Item, Item, Sequence[Item], bool]
"""(query, positive, negatives, own), as in `Fields`."""

_OF_ANY: Final = ("task", "identity", "group", "batch")
_NOTE: Final = "mined"
"""Where `tsembed data mine` notes how it found a row's negatives; for people."""


@dataclass(frozen=True)
class Layout:
    """A way to write rows.

    `signs`: a row that has one of these fields is in this layout. `fields`: regular expressions for the names of all
    fields that it reads. `read` makes the parts of a row; it raises `BadRow` where they make none.
    """

    name: str
    signs: tuple[str, ...]
    fields: tuple[str, ...]
    read: Callable[[Mapping[str, Any], ItemMaker], Parts]

    def reads(self, name: str) -> bool:
        """Tell whether anything reads a field of that name."""
        return name in (*_OF_ANY, _NOTE) or any(re.fullmatch(field, name) for field in self.fields)


def _plain(fields: Mapping[str, Any], items: ItemMaker) -> Parts:
    for name in ("query", "positive"):
        if fields.get(name) is None:
            raise BadRow(f"a row needs a {name}")
    query, positive = items.of(fields["query"]), items.of(fields["positive"])
    given = [value for name, value in fields.items() if re.fullmatch(_NEGATIVES, name)]
    return query, positive, [items.of(one) for value in given for one in listed(value) if filled(one)], False


def _mmeb_train(fields: Mapping[str, Any], items: ItemMaker) -> Parts:
    query = items.joined(fields.get("qry"), fields.get("qry_image_path"), fields.get("qry_inst"))
    positive = items.joined(fields.get("pos_text"), fields.get("pos_image_path"), fields.get("pos_inst"))
    pairs = [pair for pair in _paired(fields, "neg_text", "neg_image_path") if any(map(filled, pair))]
    return query, positive, [items.joined(*pair, fields.get("neg_inst")) for pair in pairs], False


def _mmeb_eval(fields: Mapping[str, Any], items: ItemMaker) -> Parts:
    query = items.joined(fields.get("qry_text"), fields.get("qry_img_path"), fields.get("qry_inst"))
    pairs = _paired(fields, "tgt_text", "tgt_img_path")
    if not pairs:
        raise BadRow("the row has no targets")
    first, *others = (items.candidate(*pair, fields.get("tgt_inst")) for pair in pairs)
    return query, first, others, True


def _paired(fields: Mapping[str, Any], text: str, image: str) -> list[tuple[object, object]]:
    """Texts and pictures that belong together, of two fields with one value or a list each. Raises `BadRow`."""
    texts, pictures = listed(fields.get(text)), listed(fields.get(image))
    if texts and pictures and len(texts) != len(pictures):
        raise BadRow(f"{text} has {len(texts)} entries, {image} {len(pictures)}")
    count = max(len(texts), len(pictures))
    return list(zip(texts or [None] * count, pictures or [None] * count, strict=True))


_NEGATIVES: Final = r"(?:hard_)?neg(?:ative)?s?(?:_?\d+)?"
"""Hard negatives of the plain layout, as other libraries name them, too: `negatives`, `negative_1`, `neg`, ..."""

_OURS: Final = (
    Layout("plain", ("query", "positive"), ("query", "positive", _NEGATIVES), _plain),
    Layout("mmeb-eval", ("tgt_text", "tgt_img_path"), ("(qry|tgt)_(text|img_path|inst)",), _mmeb_eval),
    Layout(
        "mmeb-train",
        ("qry", "qry_image_path"),
        ("qry(_image_path|_inst)?", "(pos|neg)_(text|image_path|inst)"),
        _mmeb_train,
    ),
)
LAYOUTS: Final[Registry[Layout]] = Registry("layout", "tsembed.layouts", {one.name: one for one in _OURS})
"""The first layout that a row has a sign of is the row's."""


def layout_of(fields: Mapping[str, Any]) -> Layout:
    """Return the layout that a row is in. Raises `BadRow`, and `UsageError` for another package's that is broken."""
    for layouts in (lambda: _OURS, LAYOUTS.all):  # other packages are looked for only where none of ours fits
        for layout in layouts():
            if any(sign in fields for sign in layout.signs):
                return layout
    known = ", or ".join(f"{' or '.join(one.signs)} ({one.name})" for one in LAYOUTS.all())
    names = ", ".join(sorted(map(str, fields))[:8]) or "nothing"
    raise BadRow(f"a row has {known}; this one has {names}")


class RowReader:
    """Reads rows whose pictures `images` finds. `instructions`: where they go; None: as each layout has it.

    `unread` counts the fields of good rows that hold something and that nothing reads, by name.
    """

    def __init__(self, images: Images, instructions: Instructions | None = None) -> None:
        self._items = ItemMaker(images, instructions)
        self._known: set[tuple[str, str]] = set()
        self.unread: Counter[str] = Counter()

    def read(self, fields: Mapping[str, Any]) -> Fields:
        """Return the parts of a row, in whichever layout it is. Raises `BadRow`."""
        layout = layout_of(fields)
        query, positive, negatives, own = layout.read(fields, self._items)
        found = Fields(query, positive, tuple(negatives), own, *(_word(fields, name) for name in _OF_ANY))
        for name, value in fields.items():
            if (layout.name, name) not in self._known:
                if layout.reads(name):
                    self._known.add((layout.name, name))
                elif filled(value):
                    self.unread[name] += 1
        return found


def _word(fields: Mapping[str, Any], field: str) -> str:
    value = fields.get(field)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(f"{field} should be a text")
    return str(value).strip()


@dataclass(frozen=True)
class UnreadFields:
    """Fields of a file that nothing reads. `fields`: in how many of its good rows each holds something."""

    path: Path
    fields: Mapping[str, int]

    def __str__(self) -> str:
        named = ", ".join(f"{name}{_meant(name)}" for name in self.fields)
        return f"{self.path}: nothing reads the field{'s' * (len(self.fields) > 1)} {named}."

    def to_json(self) -> dict[str, Any]:
        """Return the file and its fields as JSON values."""
        return {"file": str(self.path), "fields": dict(self.fields)}


def _meant(name: str) -> str:
    """A guess at the meaning of an unread field."""
    spelled = re.sub(r"[\s-]+", "_", name.strip().casefold())
    if any(layout.reads(name) for layout in _OURS):
        return " (of another layout)"
    return f" (did you mean {spelled}?)" if any(layout.reads(spelled) for layout in _OURS) else ""
