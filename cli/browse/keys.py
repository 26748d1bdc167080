"""The keys, in words: a line at the foot, and a page of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

HELP: Final[Sequence[tuple[str, str]]] = (
    ("/", "type what to look for; Enter or Esc goes back to the results"),
    ("↑ ↓  j k", "next and previous hit; ← → too in the grid"),
    ("PgUp PgDn g G", "a page on or back, the first, the last"),
    ("Enter", "show the hit whole; ← → go to the next one, Esc back"),
    ("Tab", "the next pane"),
    ("v", "list or grid"),
    ("l", "more like this one"),
    ("a", "look for this picture and words together"),
    ("f", "facets to narrow down by; Enter puts one on, or takes it off"),
    ("w", "filter as text, such as: ext=pdf and modified>=30d"),
    ("x", "take off the last filter; a click on it does that, too"),
    ("u", "undo the last step"),
    ("e", "why a hit was found, on and off"),
    ("o  O", "open the file, or its folder"),
    ("y", "copy its path"),
    ("Space", "mark the file"),
    ("p", "quit, and print the marked paths, or that of the current hit"),
    ("q", "quit"),
)


OPENING: Final = ("type", "add", "where", "facets")
"""Acts that give the keys to another pane, and so come before the pane that has them: the next key is for that pane,
however soon it comes.
"""


def bindings() -> list[BindingType]:
    """The keys that act wherever nothing is typed. Arrows and paging belong to the panes."""
    acts = {
        "slash": "type", "enter": "whole", "escape": "leave", "l": "like", "a": "add", "w": "where", "f": "facets",
        "x": "drop", "e": "explain", "v": "lay_out", "o": "outside('open_file')", "O": "outside('reveal')", "y": "copy",
        "space": "mark", "p": "print", "u": "undo", "question_mark": "help", "q": "quit",
    }  # fmt: skip
    return [
        *(Binding(key, act, show=False, priority=act in OPENING) for key, act in acts.items()),
        *(Binding(key, f"done_typing({key!r})", show=False, priority=True) for key in ("enter", "escape")),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]


_RESULTS: Final = (
    "? keys  / search  Enter whole  l like  a add words  f facets  w filter  e why  Space mark  p print  q quit"
)
_LINES: Final = {
    "QueryLine": "Enter results  ↑↓ earlier ones  Tab next pane",
    "PromptLine": "Enter take it  Esc leave it",
    "FacetPane": "? keys  Enter on or off  f hide  Esc results",
    "Preview": "? keys  ↑↓ scroll  ←→ other hits  e why  o open  Esc back",
}


def keys_for(place: str, whole: bool) -> str:
    """Return the keys that matter where the keys act: in a pane, or in a hit that is shown `whole`."""
    return _LINES["Preview" if whole else place] if whole or place in _LINES else _RESULTS


class Help(ModalScreen[None]):
    """All keys, until one is pressed."""

    BINDINGS: ClassVar[list[Any]] = [Binding("escape,q,question_mark,enter,space", "dismiss", show=False)]

    def __init__(self, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._keys = keys

    def compose(self) -> ComposeResult:
        """Make the page."""
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        for key, what in (*self._keys, ("", "Esc closes this.")):
            table.add_row(Text(key), Text(what))
        with VerticalScroll():
            yield Static(table)
