"""The way of questions to the source, and of answers back to the screen: as messages, never as calls.

Each kind of question has a lane of its own, so that what is slow does not hold up what is quick.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from textual.message import Message

from tsembed_search.cli.browse.lanes import Lane
from tsembed_search.cli.browse.source import Source, Wish

if TYPE_CHECKING:
    from tsembed_search.search.results import Hit


class Reply(Message):
    """An answer, or the error, for `take`. `is_newest` is asked before it is shown: something may have been asked
    since.
    """

    def __init__(self, lane: Lane[Any], number: int, value: Any, take: Callable[[Any], None]) -> None:
        super().__init__()
        self.value, self.take = value, take
        self._lane, self._number = lane, number

    @property
    def is_newest(self) -> bool:
        """True while nothing has been asked in its place."""
        return self._lane.is_newest(self._number)


class ModelLoaded(Message):
    """The model is loaded, or cannot be."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error


class PictureDrawn(Message):
    """The picture of the hit with that id has come."""

    def __init__(self, id: str) -> None:
        super().__init__()
        self.id = id


class Questions:
    """Questions to a source. `post` sends a message to the screen's thread, `takers` name who gets which answers."""

    def __init__(
        self, source: Source, post: Callable[[Message], object], takers: dict[str, Callable[[Any], None]]
    ) -> None:
        self.source = source
        self._post = post
        self._lanes = {name: self._lane(name, take) for name, take in takers.items()}

    def _lane(self, name: str, take: Callable[[Any], None]) -> Lane[Any]:
        def tell(number: int, value: Any) -> None:
            self._post(Reply(lane, number, value, take))

        lane: Lane[Any] = Lane(name, tell)
        return lane

    def wake(self) -> None:
        """Say that a question will come in a moment."""
        self._lanes["wake"].ask(self.source.wake)

    def search(self, asked: Wish, count: int, *, keep: bool) -> None:
        """Look for hits; the answer is (found, keep)."""
        words_only = not self.source.is_warm
        self._lanes["search"].ask(lambda: (self.source.search(asked, count, words_only=words_only), keep))

    def facets(self, asked: Wish) -> None:
        """Count the values of the facets."""
        self._lanes["facets"].ask(lambda: self.source.facets(asked))

    def detail(self, hit: Hit, query: str) -> None:
        """Ask for more about a hit."""
        self._lanes["detail"].ask(lambda: self.source.detail(hit, query))

    def reason(self, asked: Wish, hit: Hit) -> None:
        """Ask why a hit was found."""
        self._lanes["reason"].ask(lambda: self.source.reason(asked, hit))

    def stamp(self) -> None:
        """Ask whether the index has changed."""
        self._lanes["stamp"].ask(self.source.stamp)

    def forget(self, lane: str) -> None:
        """Want no answer of that kind any more."""
        self._lanes[lane].forget()

    def warm(self) -> None:
        """Load the model, and say when that is done."""
        threading.Thread(target=self._warm, name="browse-model", daemon=True).start()

    def _warm(self) -> None:
        error: Exception | None = None
        try:
            self.source.warm()
        except Exception as problem:  # noqa: BLE001 - whatever it is, it is told
            error = problem
        self._post(ModelLoaded(error))

    def close(self) -> None:
        """End the lanes, each after the question that it is at."""
        for lane in self._lanes.values():
            lane.close()
