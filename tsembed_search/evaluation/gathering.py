"""Rows of one task, in any layout, gathered into a ranking task."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final

from tsembed_search.evaluation.records import BadRow, Images, Instructions, mmeb_item, plain_item
from tsembed_search.evaluation.tasks import Distribution, RankingTask
from tsembed_search.items import Item

LAYOUTS: Final = (
    "MMEB-eval's (qry_text, qry_img_path, tgt_text, tgt_img_path), MMEB-train's (qry, qry_image_path, pos_text, "
    "pos_image_path), or query and positive"
)


class Gathering:
    """The rows of one task so far.

    A row of MMEB-eval is a query with candidates of its own, the first of them right. Rows of the other layouts are
    pairs: every distinct positive or negative of the task is a candidate for all of them, a query that occurs in
    several rows is one query with several right candidates, and so are rows whose positives have the same `identity`.
    """

    def __init__(self, name: str, meta: str, distribution: Distribution = "") -> None:
        self.name, self.meta, self.distribution = name, meta, distribution
        self._candidates: list[Item] = []
        self._places: dict[Hashable, int] = {}
        self._queries: list[Item] = []
        self._correct: list[set[int]] = []
        self._choices: list[list[int] | None] = []
        self._identities: list[set[str]] = []
        self._of_query: dict[Hashable, int] = {}
        self._alike: dict[str, set[int]] = {}

    def add(self, fields: Mapping[str, Any], images: Images, instructions: Instructions | None) -> None:
        """Takes in a row. `instructions`: where they go; None: as the layout has it. Raises `BadRow`."""
        if "query" in fields or "positive" in fields:
            self._add_plain(fields, images, instructions or "field")
        elif "tgt_text" in fields or "tgt_img_path" in fields:
            self._add_mmeb_eval(fields, images, instructions or "text")
        elif "qry" in fields or "qry_image_path" in fields:
            self._add_mmeb_train(fields, images, instructions or "text")
        else:
            names = ", ".join(sorted(map(str, fields))[:8]) or "nothing"
            raise BadRow(f"a row has the fields of {LAYOUTS}; this one has {names}")

    def task(self) -> RankingTask | None:
        """The rows as a task; None when there are none."""
        if not self._queries:
            return None
        correct = [
            frozenset(right.union(*(self._alike[identity] for identity in identities)))
            for right, identities in zip(self._correct, self._identities, strict=True)
        ]
        everything = range(len(self._candidates))
        choices = [everything if places is None else places for places in self._choices]
        own = any(len(places) < len(everything) for places in choices)
        return RankingTask(
            self.name, self.meta, self._queries, self._candidates, correct, choices if own else None, self.distribution
        )

    def _add_mmeb_eval(self, fields: Mapping[str, Any], images: Images, instructions: Instructions) -> None:
        query = mmeb_item(
            fields.get("qry_text"),
            fields.get("qry_img_path"),
            images,
            fields.get("qry_inst"),
            instructions=instructions,
        )
        texts, pictures = listed(fields.get("tgt_text")), listed(fields.get("tgt_img_path"))
        count = max(len(texts), len(pictures))
        if not count:
            raise BadRow("the row has no targets")
        if texts and pictures and len(texts) != len(pictures):
            raise BadRow(f"tgt_text has {len(texts)} entries, tgt_img_path {len(pictures)}")
        texts, pictures = texts or [None] * count, pictures or [None] * count
        told = fields.get("tgt_inst")
        places = [
            self._place_of((text, picture, told), images, instructions)
            for text, picture in zip(texts, pictures, strict=True)
        ]
        self._add_query(query, places[0], list(dict.fromkeys(places)))

    def _place_of(self, flat: tuple[object, object, object], images: Images, instructions: Instructions) -> int:
        """The place of a candidate given as MMEB's fields. Most occur in many rows, and are made once."""
        key = ("flat", *map(str, flat))
        place = self._places.get(key)
        if place is None:
            text, picture, told = flat
            place = self._place(mmeb_item(text, picture, images, told, instructions=instructions))
            self._places[key] = place
        return place

    def _add_mmeb_train(self, fields: Mapping[str, Any], images: Images, instructions: Instructions) -> None:
        def item(text: str, image: str, told: str) -> Item:
            return mmeb_item(fields.get(text), fields.get(image), images, fields.get(told), instructions=instructions)

        query = item("qry", "qry_image_path", "qry_inst")
        positive = item("pos_text", "pos_image_path", "pos_inst")
        self._add_pair(query, positive, fields)
        if not isinstance(fields.get("neg_text"), list) and (fields.get("neg_text") or fields.get("neg_image_path")):
            self._place(item("neg_text", "neg_image_path", "neg_inst"))

    def _add_plain(self, fields: Mapping[str, Any], images: Images, instructions: Instructions) -> None:
        for name in ("query", "positive"):
            if fields.get(name) is None:
                raise BadRow(f"a row needs a {name}")
        query = plain_item(fields["query"], images, instructions=instructions)
        positive = plain_item(fields["positive"], images, instructions=instructions)
        others = listed(fields.get("negatives", fields.get("negative")))
        wrong = [plain_item(one, images, instructions=instructions) for one in others]
        self._add_pair(query, positive, fields)
        for one in wrong:
            self._place(one)

    def _add_pair(self, query: Item, positive: Item, fields: Mapping[str, Any]) -> None:
        identity = fields.get("identity")
        place = self._place(positive)
        number = self._of_query.get(key_of(query))
        if number is None:
            number = self._of_query[key_of(query)] = len(self._queries)
            self._add_query(query, place, None)
        self._correct[number].add(place)
        if identity not in (None, ""):
            self._alike.setdefault(str(identity), set()).add(place)
            self._identities[number].add(str(identity))

    def _add_query(self, query: Item, right: int, choices: list[int] | None) -> None:
        self._queries.append(query)
        self._correct.append({right})
        self._choices.append(choices)
        self._identities.append(set())

    def _place(self, item: Item) -> int:
        key = key_of(item)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self._candidates)
            self._candidates.append(item)
        return place


def key_of(item: Item) -> Hashable:
    """What makes two items of files the same one."""
    return item.text, item.instruction, None if item.image is None else str(item.image)


def digest(item: Item) -> bytes:
    """A hash of an item that is the same on every machine: of its image only the file's name counts."""
    image = item.image.name if isinstance(item.image, Path) else None
    parts = (item.text, item.instruction, image)
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).digest()


def listed(value: object) -> list[object]:
    """A value that may be one thing, several, or nothing."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
