"""The screen with its panes: which of them there is room for, which one has the keys, what stands at the foot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Input

from tsembed_search.cli.browse.easel import Graphics
from tsembed_search.cli.browse.keys import keys_for
from tsembed_search.cli.browse.panes import Chip, FacetPane, Foot, LineLeft, Preview, PromptLine, QueryLine
from tsembed_search.cli.browse.results import Results
from tsembed_search.cli.browse.source import Wish

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.search.results import Hit

NARROW: Final = 60
WIDE: Final = 100
"""Columns: below the one, there is one pane at a time; from the other on, facets are shown unasked."""


class Desk(Screen[None]):
    """The panes. `picture` gives the small picture of a hit, if it is there."""

    AUTO_FOCUS = None

    def __init__(self, picture: Callable[[Hit], NDArray[np.uint8] | None], asked: Wish, graphics: Graphics) -> None:
        super().__init__()
        self.typed = QueryLine(id="query", select_on_focus=False)
        self.prompt = PromptLine(id="prompt", select_on_focus=False)
        # A cursor that blinks would never let a slow line rest.
        self.typed.cursor_blink = self.prompt.cursor_blink = False
        self.facets = FacetPane(id="facets")
        self.results = Results(picture, graphics, id="results")
        self.preview = Preview(graphics, id="preview")
        self.foot = Foot(id="foot")
        self._chips = Horizontal(id="chips")
        self._first = asked
        self._facets_wanted: bool | None = None
        self._waits: dict[str, Timer] = {}

    def compose(self) -> ComposeResult:
        """Put the panes in their places."""
        yield self.typed
        yield self._chips
        yield self.prompt
        with Horizontal(id="body"):
            yield self.facets
            yield self.results
            yield self.preview
        yield self.foot

    def on_mount(self) -> None:
        """Give the keys to the pane that is of most use."""
        self.show_asked(self._first)
        self.set_focus(self.typed if self._first.is_open else self.results)

    def on_resize(self) -> None:
        """Choose the panes that there is room for."""
        self.fit()

    def fit(self) -> None:
        """Choose the panes that there is room for."""
        width = self.size.width
        self.set_class(width < NARROW, "narrow")
        self.set_class(NARROW <= width < WIDE, "medium")
        wanted = width >= WIDE if self._facets_wanted is None else self._facets_wanted
        self.set_class(wanted, "facets")

    @property
    def shows_facets(self) -> bool:
        """True while the facets are in sight."""
        return self.has_class("facets") and not self.is_whole

    @property
    def is_whole(self) -> bool:
        """True while the current hit has the whole screen."""
        return self.has_class("whole")

    def on_descendant_focus(self) -> None:
        """Name the keys of the pane that has them."""
        self.show_keys()

    def show_keys(self) -> None:
        """Name the keys of the pane that has them."""
        focused = self.focused
        self.foot.tell(keys=keys_for(type(focused).__name__ if focused is not None else "", self.is_whole))

    def show_asked(self, asked: Wish) -> None:
        """Show the query, and a chip for each filter."""
        with self.prevent(Input.Changed):
            self.typed.value = asked.text
        self.show_chips(asked)

    def show_chips(self, asked: Wish) -> None:
        """Show a chip for each filter."""
        chips = [Chip(name, without) for name, without in asked.chips()]
        self._chips.remove_children()
        self._chips.mount_all(chips)
        self._chips.set_class(bool(chips), "some")

    def ask_for(self, placeholder: str, value: str, wish: Callable[[str], Wish]) -> None:
        """Open the prompt; `wish` makes something to ask for of what is typed."""
        self.prompt.placeholder, self.prompt.value, self.prompt.wish = placeholder, value, wish
        self.prompt.cursor_position = len(value)
        self.prompt.add_class("open")
        self.set_focus(self.prompt)

    def type(self) -> None:
        """Give the keys to the query line."""
        self.back()
        self.set_focus(self.typed)
        self.typed.cursor_position = len(self.typed.value)

    def leave_line(self) -> None:
        """Give the keys to the results. The line that had them tells when all that was typed before has come."""
        line = self.prompt if self.focused is self.prompt else self.typed
        self.set_focus(self.results)
        line.post_message(LineLeft())

    def back(self) -> None:
        """Close what was opened; the results get the keys."""
        self.prompt.remove_class("open")
        self.remove_class("whole")
        if self.size.width < WIDE:
            self._facets_wanted = None
        self.fit()
        self.set_focus(self.results)
        self.show_keys()

    def open_whole(self) -> None:
        """Give the whole screen to the current hit."""
        self.add_class("whole")
        self.set_focus(self.preview)
        self.show_keys()

    def turn_to_facets(self) -> None:
        """Go to the facets; from there, put them away."""
        away = self.facets.has_focus and self.shows_facets
        self.remove_class("whole")
        self._facets_wanted = not away
        self.fit()
        self.set_focus(self.results if away else self.facets)
        self.show_keys()

    def clear_pictures(self) -> None:
        """Take all pictures out of the terminal, and draw none any more."""
        self.results.easel.clear()
        self.preview.easel.clear()
        self.results.easel.graphics.how = "none"

    def later(self, what: str, seconds: float, act: Callable[[], None]) -> None:
        """Do something after a rest: once, however often it is asked for until then."""
        if what in self._waits:
            self._waits[what].stop()
        self._waits[what] = self.set_timer(seconds, act)

    def tell(self, **words: Any) -> None:
        """Say something at the foot; see `Foot.tell`."""
        self.foot.tell(**words)
