"""Small pictures of hits, made beside the screen, kept while there is room.

Of each picture that was drawn, a few rows of pixels are kept for lists; whole ones only of the last few.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tsembed_search.cli.browse.source import has_picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.cli.browse.source import Source
    from tsembed_search.search.results import Hit

    Pixels = NDArray[np.uint8]

MOST_SMALL: Final = 1000
MOST_SHARP: Final = 300
MOST_WHOLE: Final = 12
_SIDE: Final = 40  # the longer side of a small one, in pixels: two in a character
_SHARP_SIDE: Final = 180  # where a terminal draws pixels


class Pictures:
    """Pictures of hits, by id. `told` is called in another thread whenever one has come.

    The thread draws what was wanted last, nearest first; what is no longer wanted is never begun.
    """

    def __init__(self, source: Source, told: Callable[[str], object]) -> None:
        self._source = source
        self._told = told
        self._side, self._most_small = _SIDE, MOST_SMALL
        self._small: OrderedDict[str, Pixels | None] = OrderedDict()
        self._whole: OrderedDict[str, Pixels | None] = OrderedDict()
        self._refused: dict[str, str] = {}
        self._wanted: list[Hit] = []
        self._foremost: Hit | None = None
        self._there = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def small(self, hit: Hit) -> Pixels | None:
        """Return the small picture of a hit, if it is there."""
        with self._there:
            if hit.id in self._small:
                self._small.move_to_end(hit.id)
            return self._small.get(hit.id)

    def whole(self, hit: Hit) -> Pixels | None:
        """Return the picture of a hit, if it is there."""
        with self._there:
            return self._whole.get(hit.id)

    def refusal(self, hit: Hit) -> str:
        """Return why the picture of a hit cannot be drawn, or nothing."""
        with self._there:
            return self._refused.get(hit.id, "") if self._whole.get(hit.id) is None else ""

    def want(self, hits: Sequence[Hit]) -> None:
        """Draw small pictures of these, and of none that were wanted before."""
        with self._there:
            self._wanted = [hit for hit in hits if hit.id not in self._small and has_picture(hit)]
            self._begin()

    def want_whole(self, hit: Hit | None) -> None:
        """Draw this one before all others, whole."""
        with self._there:
            self._foremost = hit if hit is not None and hit.id not in self._whole and has_picture(hit) else None
            self._begin()

    def sharpen(self) -> None:
        """Keep small ones with all the pixels that a terminal can show, but fewer of them."""
        with self._there:
            self._side, self._most_small = _SHARP_SIDE, MOST_SHARP
            self._small.clear()

    def clear(self) -> None:
        """Forget all: the files may have changed."""
        with self._there:
            self._small.clear()
            self._whole.clear()
            self._refused.clear()

    def close(self) -> None:
        """End the thread, after the picture that it is at."""
        with self._there:
            self._closed = True
            self._there.notify()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="browse-pictures", daemon=True)
            self._thread.start()
        self._there.notify()

    def _run(self) -> None:
        while True:
            with self._there:
                self._there.wait_for(lambda: self._closed or self._wanted or self._foremost is not None)
                if self._closed:
                    return
                hit, whole = self._foremost, True
                self._foremost = None
                if hit is None:
                    hit, whole = self._wanted.pop(0), False
                if hit.id in (self._whole if whole else self._small):
                    continue
            drawn = self._source.picture(hit)
            pixels = None if isinstance(drawn, str) else drawn
            with self._there:
                if isinstance(drawn, str):
                    self._refused[hit.id] = drawn
                _keep(self._whole, hit.id, pixels, MOST_WHOLE)
                _keep(self._small, hit.id, None if pixels is None else _reduced(pixels, self._side), self._most_small)
                closed = self._closed
            if not closed:
                self._told(hit.id)


def _keep(kept: OrderedDict[str, Pixels | None], id: str, pixels: Pixels | None, most: int) -> None:
    kept[id] = pixels
    kept.move_to_end(id)
    while len(kept) > most:
        kept.popitem(last=False)


def _reduced(pixels: Pixels, side: int) -> Pixels:
    """The same picture with a longer side of a few pixels: what a list shows of it, and no more."""
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    return np.asarray(picture)
