"""The questions of the browser, the answers, and the contract of where those come from.

Nothing here knows the terminal, and the browser knows no index: a source answers in this process today, and may be a
server that is warm already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tsembed_search.wording import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.search.results import Hit
    from tsembed_search.search.snippet import Span

FACETS: Final = ("kind", "folder", "concept", "year")
"""The ways to narrow results down, in the order in which they are shown."""
FIRST_HITS: Final = 60
"""Hits of the first answer. More are asked for when they come near."""


@dataclass(frozen=True)
class Wish:
    """Something to look for: words, a picture, both as one, or what is `like` an item (its id); and the filters.

    `chosen` are values of facets, as (facet, value); `where` is a filter as text. With nothing to look for, the newest
    files are asked for.
    """

    text: str = ""
    image: Path | None = None
    like: str | None = None
    like_name: str = ""
    chosen: tuple[tuple[str, str], ...] = ()
    where: str = ""

    @property
    def needs_model(self) -> bool:
        """Tell whether nothing can be found without the model: words do without, and so does what is stored."""
        return self.image is not None

    @property
    def is_open(self) -> bool:
        """Tell whether there is nothing to look for, so that the newest are wanted."""
        return not self.text.strip() and self.image is None and self.like is None

    def check(self) -> None:
        """Raise `UsageError` for a filter that means nothing."""
        from tsembed_search.search.where import parse_where

        if self.where:
            parse_where(self.where)

    def toggled(self, facet: str, value: str) -> Wish:
        """Return the same with that value of a facet, or without if it was chosen. A facet has one value at a time."""
        others = tuple(one for one in self.chosen if one[0] != facet)
        return replace(self, chosen=others if (facet, value) in self.chosen else (*others, (facet, value)))

    def chips(self) -> list[tuple[str, Wish]]:
        """Return all that narrows the search but its words: what to call it, and what is asked for without it."""
        found = []
        if self.image is not None:
            found.append((f"picture {shown(self.image.name)}", replace(self, image=None)))
        if self.like is not None:
            found.append((f"like {shown(self.like_name or self.like)}", replace(self, like=None, like_name="")))
        for facet, value in self.chosen:
            name = value.rstrip("/").rpartition("/")[2] if facet == "folder" else value
            found.append((f"{facet} {shown(name)}", self.toggled(facet, value)))
        if self.where:
            found.append((f"where {shown(self.where)}", replace(self, where="")))
        return found


@dataclass(frozen=True)
class HitList:
    """An answer: hits, best first. `by` says how they were found, in words.

    `has_more`: asking for more hits gives more. `remark` is for people.
    """

    hits: Sequence[Hit]
    by: str
    seconds: float = 0.0
    has_more: bool = False
    remark: str = ""


@dataclass(frozen=True)
class FacetCount:
    """A value of a facet, how it is called, and how many items have it."""

    value: str
    name: str
    count: int


Facets = Mapping[str, Sequence[FacetCount]]


@dataclass(frozen=True)
class Passage:
    """Lines of a text, each with the (start, end) of the query's words; `own` are those of the hit (first, behind)."""

    lines: Sequence[str] = ()
    marks: Sequence[Sequence[Span]] = ()
    own: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Detail:
    """More about a hit: its text in its context, and facts as (what, value)."""

    passage: Passage = field(default_factory=Passage)
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Reason:
    """Why a hit was found. `experts` are (name, part in the likeness of the routes, what it is for), best first."""

    hit: Hit
    experts: Sequence[tuple[str, float, str]] = ()
    remark: str = ""


def has_picture(hit: Hit) -> bool:
    """Tell whether a hit can be drawn: a picture file, or a page of a document. A picture in a text cannot."""
    return hit.page is not None or (hit.kind == "image" and hit.chunk is None)


class Source(Protocol):
    """Where results come from. Several threads call it at once, never that of the screen.

    Every method raises `TsembedError` with words for a user.
    """

    @property
    def title(self) -> str:
        """The name of all that is browsed."""

    @property
    def is_warm(self) -> bool:
        """True once the model is loaded, so that meaning is found as fast as words."""

    def warm(self) -> None:
        """Load the model. Takes seconds the first time."""

    def wake(self) -> None:
        """Get ready for a question that will come in a moment."""

    def search(self, asked: Wish, count: int, *, words_only: bool) -> HitList:
        """Find the best `count` hits, by words alone or by words and meaning."""

    def facets(self, asked: Wish) -> Facets:
        """Count the items that the filters let through, by each facet. A facet's own choice does not narrow it."""

    def detail(self, hit: Hit, query: str) -> Detail:
        """Return more about a hit, with the words of `query` marked."""

    def reason(self, asked: Wish, hit: Hit) -> Reason:
        """Say why a hit was found."""

    def picture(self, hit: Hit) -> NDArray[np.uint8] | str | None:
        """Draw a hit, small, as RGB pixels `[H, W, 3]`; None for a text, and why not for what cannot be drawn now."""

    def stamp(self) -> object:
        """Return what differs once the index has changed. It costs next to nothing."""

    def close(self) -> None:
        """Let go of everything."""
