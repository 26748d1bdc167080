"""Rows of one task, in any layout, gathered into a ranking task."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

from tsembed_search.evaluation.layouts import Fields
from tsembed_search.evaluation.sameness import content, question
from tsembed_search.evaluation.tasks import Distribution, RankingTask
from tsembed_search.items import Item


class Gathering:
    """The rows of one task so far.

    A row that brings its own candidates is a query with these. Other rows are pairs: every distinct positive or
    negative of the task is a candidate for all of them, but for the query itself among what other rows bring. A query
    that occurs in several rows is one query with several right candidates.

    Right for a query is what any row that asks the same names as right, what has the `identity` of one of these, and
    whatever has the same content as one of these.
    """

    def __init__(self, name: str, meta: str, distribution: Distribution = "") -> None:
        self.name, self.meta, self.distribution = name, meta, distribution
        self._candidates: list[Item] = []
        self._places: dict[Hashable, int] = {}
        self._queries: list[Item] = []
        self._choices: list[list[int] | None] = []
        self._brought: list[set[int]] = []
        self._of_query: dict[Hashable, int] = {}
        self._asked: list[tuple[int, str, int]] = []

    def add(self, row: Fields) -> None:
        """Takes in a row."""
        right = self._place(row.positive)
        others = [self._place(one) for one in row.negatives]
        if row.own:
            number = self._query(row.query, list(dict.fromkeys([right, *others])))
        else:
            key = key_of(row.query)
            if key not in self._of_query:
                self._of_query[key] = self._query(row.query, None)
            number = self._of_query[key]
            self._brought[number].update(others)
        self._asked.append((number, row.identity, right))

    def task(self) -> RankingTask | None:
        """The rows as a task; None when there are none."""
        if not self._queries:
            return None
        everything = range(len(self._candidates))
        choices = [everything if places is None else places for places in self._choices]
        own = any(len(places) < len(everything) for places in choices)
        contents = [content(item) for item in self._candidates]
        correct = self._correct(contents)
        return RankingTask(
            self.name,
            self.meta,
            self._queries,
            self._candidates,
            correct,
            choices if own else None,
            self.distribution,
            self._left_out(contents, correct),
        )

    def _correct(self, contents: Sequence[int]) -> list[frozenset[int]]:
        """What is right for each query."""
        questions = [question(query) for query in self._queries]
        identities: dict[int, set[str]] = defaultdict(set)
        targets: dict[str, set[int]] = defaultdict(set)
        for number, identity, place in self._asked:
            name = f"told {identity}" if identity else f"content {contents[place]}"
            identities[questions[number]].add(name)
            targets[name].add(contents[place])
        places: dict[int, list[int]] = defaultdict(list)
        for place, one in enumerate(contents):
            places[one].append(place)
        correct = []
        for asked, choices in zip(questions, self._choices, strict=True):
            right = {target for identity in identities[asked] for target in targets[identity]}
            found = frozenset(place for target in right for place in places[target])
            correct.append(found if choices is None else found.intersection(choices))
        return correct

    def _left_out(self, contents: Sequence[int], correct: Sequence[frozenset[int]]) -> list[frozenset[int]] | None:
        """The query itself among candidates of other rows, where it is not right."""
        places: dict[int, set[int]] = defaultdict(set)
        for place, one in enumerate(contents):
            places[one].add(place)
        found = [
            frozenset(places.get(content(query), ())) - right - brought if choices is None else frozenset()
            for query, right, brought, choices in zip(self._queries, correct, self._brought, self._choices, strict=True)
        ]
        return found if any(found) else None

    def _query(self, query: Item, choices: list[int] | None) -> int:
        self._queries.append(query)
        self._choices.append(choices)
        self._brought.append(set())
        return len(self._queries) - 1

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
