"""The one reader of rows, for training, evaluation and `data check`: whatever the layout, a row is read as a whole or
refused as a whole, and fields that no one reads are noted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tsembed_search.data.parquet import as_json_lines
from tsembed_search.data.records import (
    BadRow,
    Fault,
    Images,
    Instructions,
    Problem,
    Record,
    filled,
    image_roots,
    mmeb_item,
    plain_item,
    stream,
)
from tsembed_search.data.sources import TaskFile
from tsembed_search.errors import LoadError
from tsembed_search.items import Item

LAYOUTS: Final = (
    "MMEB's (qry, qry_image_path, pos_text, pos_image_path), MMEB's for evaluation (qry_text, qry_img_path, tgt_text, "
    "tgt_img_path), or query and positive"
)
_NAMES: Final = ("task", "identity", "group")
_PLAIN: Final = frozenset({"query", "positive", *_NAMES})
_TRAIN: Final = frozenset({
    "qry", "qry_image_path", "qry_inst", "pos_text", "pos_image_path", "pos_inst", "neg_text", "neg_image_path",
    "neg_inst", *_NAMES,
})  # fmt: skip
_EVAL: Final = frozenset({
    "qry_text", "qry_img_path", "qry_inst", "tgt_text", "tgt_img_path", "tgt_inst", *_NAMES,
})  # fmt: skip
_NEGATIVES: Final = re.compile(r"(?:hard_)?neg(?:ative)?s?(?:_?\d+)?")
"""Hard negatives of the plain layout, as other libraries name them, too: `negatives`, `negative_1`, `neg`, ..."""
_MOST_MADE: Final = 100_000


@dataclass(frozen=True)
class Fields:
    """A row of any layout: `query`, `positive`, which is right, and `negatives`, which are not. `own`: these are all
    that the query is to be ranked against. `task`, `identity`, `group`: what the row says of itself, or "".
    """

    query: Item
    positive: Item
    negatives: tuple[Item, ...] = ()
    own: bool = False
    task: str = ""
    identity: str = ""
    group: str = ""


class RowReader:
    """Reads rows whose pictures `images` finds. `instructions`: where they go; None: as each layout has it.

    `unread` counts the fields of good rows that hold something and that nothing reads, by name.
    """

    def __init__(self, images: Images, instructions: Instructions | None = None) -> None:
        self._images, self._instructions = images, instructions
        self._made: dict[tuple[str, ...], Item] = {}
        self.unread: Counter[str] = Counter()

    def read(self, fields: Mapping[str, Any]) -> Fields:
        """What the fields mean, in whichever layout they are. Raises `BadRow`."""
        read: Callable[[Mapping[str, Any]], tuple[Item, Item, tuple[Item, ...]]]
        if "query" in fields or "positive" in fields:
            read, known = self._plain, _PLAIN
        elif "tgt_text" in fields or "tgt_img_path" in fields:
            read, known = self._mmeb_eval, _EVAL
        elif "qry" in fields or "qry_image_path" in fields:
            read, known = self._mmeb_train, _TRAIN
        else:
            names = ", ".join(sorted(map(str, fields))[:8]) or "nothing"
            raise BadRow(f"a row has the fields of {LAYOUTS}; this one has {names}")
        query, positive, negatives = read(fields)
        task, identity, group = (_name(fields, name) for name in _NAMES)
        if not fields.keys() <= known:
            self.unread.update(
                name
                for name, value in fields.items()
                if name not in known and not (known is _PLAIN and _NEGATIVES.fullmatch(name)) and filled(value)
            )
        return Fields(query, positive, negatives, known is _EVAL, task, identity, group)

    def _plain(self, fields: Mapping[str, Any]) -> tuple[Item, Item, tuple[Item, ...]]:
        def item(value: object) -> Item:
            return plain_item(value, self._images, instructions=self._instructions or "field")

        for name in ("query", "positive"):
            if fields.get(name) is None:
                raise BadRow(f"a row needs a {name}")
        query, positive = item(fields["query"]), item(fields["positive"])
        given = [value for name, value in fields.items() if _NEGATIVES.fullmatch(name)]
        return query, positive, tuple(item(one) for value in given for one in _listed(value) if filled(one))

    def _mmeb_train(self, fields: Mapping[str, Any]) -> tuple[Item, Item, tuple[Item, ...]]:
        query = self._flat(fields.get("qry"), fields.get("qry_image_path"), fields.get("qry_inst"))
        positive = self._flat(fields.get("pos_text"), fields.get("pos_image_path"), fields.get("pos_inst"))
        pairs = _paired(fields, "neg_text", "neg_image_path")
        told = fields.get("neg_inst")
        return query, positive, tuple(self._flat(*pair, told) for pair in pairs if any(map(filled, pair)))

    def _mmeb_eval(self, fields: Mapping[str, Any]) -> tuple[Item, Item, tuple[Item, ...]]:
        query = self._flat(fields.get("qry_text"), fields.get("qry_img_path"), fields.get("qry_inst"))
        pairs = _paired(fields, "tgt_text", "tgt_img_path")
        if not pairs:
            raise BadRow("the row has no targets")
        first, *others = (self._target(*pair, fields.get("tgt_inst")) for pair in pairs)
        return query, first, tuple(others)

    def _flat(self, text: object, image: object, told: object) -> Item:
        return mmeb_item(text, image, self._images, told, instructions=self._instructions or "text")

    def _target(self, text: object, image: object, told: object) -> Item:
        """A target of a list: most occur in many rows, and are made once."""
        key = repr(text), repr(image), repr(told)
        item = self._made.get(key)
        if item is None:
            if len(self._made) >= _MOST_MADE:
                self._made.clear()
            item = self._made[key] = self._flat(text, image, told)
        return item


@dataclass(frozen=True)
class RowFile:
    """A JSON Lines file. `shown`: the file that people know, where this one was made from it. `roots`: where its images
    may lie.
    """

    path: Path
    shown: Path
    roots: tuple[Path, ...]


@dataclass(frozen=True)
class Unread:
    """Fields of a file that nothing reads. `fields`: in how many of its good rows each holds something."""

    path: Path
    fields: Mapping[str, int]

    def __str__(self) -> str:
        named = ", ".join(f"{name}{_meant(name)}" for name in self.fields)
        return f"{self.path}: nothing reads the field{'s' * (len(self.fields) > 1)} {named}."

    def to_json(self) -> dict[str, Any]:
        """Return the file and its fields as JSON values."""
        return {"file": str(self.path), "fields": dict(self.fields)}


class FileRows:
    """The rows of one file, each read as a whole or named as a problem. `good` and `bad` count them, and add up to all.

    `images`: folders to look for pictures in first. `finders`: what finds pictures, for files that share their folders.
    """

    def __init__(
        self,
        file: TaskFile,
        images: Sequence[Path] = (),
        instructions: Instructions | None = None,
        finders: dict[tuple[Path, ...], Images] | None = None,
    ) -> None:
        self.task_file = file
        self.good = 0
        self.bad: Counter[Fault] = Counter()
        self._failed: Problem | None = None
        roots = tuple(image_roots(file.path, file.source, images))
        self.file = RowFile(file.path, file.path, roots)
        if file.path.suffix.lower() == ".parquet":
            try:
                lines = as_json_lines(file.path)
                self.file = RowFile(lines, file.path, (*roots, lines.parent))
            except LoadError as error:
                self._failed = Problem(file.path, 0, str(error), "file")
        known = finders if finders is not None else {}
        self._reader = RowReader(known.setdefault(self.file.roots, Images(self.file.roots)), instructions)

    @property
    def unread(self) -> Unread | None:
        """The fields that nothing reads, of the rows so far."""
        return Unread(self.file.shown, dict(self._reader.unread)) if self._reader.unread else None

    def __iter__(self) -> Iterator[tuple[Record, Fields] | Problem]:
        for found in [self._failed] if self._failed is not None else stream(self.file.path):
            said = self._read(found)
            if isinstance(said, Problem):
                self.bad[said.fault] += 1
            else:
                self.good += 1
            yield said

    def _read(self, found: Record | Problem) -> tuple[Record, Fields] | Problem:
        shown = self.file.shown
        if isinstance(found, Problem):
            return Problem(shown, found.line, found.reason, found.fault)
        try:
            return found, self._reader.read(found.fields)
        except BadRow as error:
            return Problem(shown, found.line, error.message, error.fault)


def _meant(name: str) -> str:
    """What an unread field may have been meant as."""
    known = _PLAIN | _TRAIN | _EVAL
    if name in known:
        return " (of another layout)"
    spelled = re.sub(r"[\s-]+", "_", name.strip().casefold())
    if spelled in known or _NEGATIVES.fullmatch(spelled):
        return f" (did you mean {spelled}?)"
    return ""


def _name(fields: Mapping[str, Any], field: str) -> str:
    value = fields.get(field)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(f"{field} should be a text")
    return str(value).strip()


def _listed(value: object) -> list[object]:
    """A value that may be one thing, several, or nothing."""
    if isinstance(value, list | tuple):
        return list(value)
    return [value] if filled(value) else []


def _paired(fields: Mapping[str, Any], text: str, image: str) -> list[tuple[object, object]]:
    """Texts and pictures that belong together, of two fields with one value or a list each. Raises `BadRow`."""
    texts, pictures = _listed(fields.get(text)), _listed(fields.get(image))
    if texts and pictures and len(texts) != len(pictures):
        raise BadRow(f"{text} has {len(texts)} entries, {image} {len(pictures)}")
    count = max(len(texts), len(pictures))
    return list(zip(texts or [None] * count, pictures or [None] * count, strict=True))
