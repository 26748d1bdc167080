"""A source that is made when it is asked first, so that the screen is there before what takes long to import."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.cli.browse.source import Detail, Facets, HitList, Reason, Source, Wish
    from tsembed_search.search.results import Hit


class Later:
    """A `Source` that `make` gives. Whoever asks first waits for that, and is told what went wrong with it."""

    def __init__(self, title: str, make: Callable[[], Source]) -> None:
        self._title = title
        self._make = make
        self._made: Source | None = None
        self._making = threading.Lock()

    @property
    def title(self) -> str:
        return self._title

    @property
    def is_warm(self) -> bool:
        return self._made is not None and self._made.is_warm

    def warm(self) -> None:
        self._source().warm()

    def wake(self) -> None:
        self._source().wake()

    def search(self, asked: Wish, count: int, *, words_only: bool) -> HitList:
        return self._source().search(asked, count, words_only=words_only)

    def facets(self, asked: Wish) -> Facets:
        return self._source().facets(asked)

    def detail(self, hit: Hit, query: str) -> Detail:
        return self._source().detail(hit, query)

    def reason(self, asked: Wish, hit: Hit) -> Reason:
        return self._source().reason(asked, hit)

    def picture(self, hit: Hit) -> NDArray[np.uint8] | str | None:
        return self._source().picture(hit)

    def stamp(self) -> object:
        return self._source().stamp()

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def _source(self) -> Source:
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made
