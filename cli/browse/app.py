"""The browser: what the keys do, what is asked of the source, and where its answers go.

The screen's thread never asks the source itself (see `questions.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, cast

from textual.app import App
from textual.widgets import Input

from tsembed_search.cli import desktop
from tsembed_search.cli.browse.canvas import Canvas
from tsembed_search.cli.browse.current import Current
from tsembed_search.cli.browse.desk import NARROW, Desk
from tsembed_search.cli.browse.driver import TerminalAnswered, asking_driver
from tsembed_search.cli.browse.easel import Graphics
from tsembed_search.cli.browse.keys import HELP, OPENING, Help, bindings
from tsembed_search.cli.browse.panes import Chip, FacetPane, PromptLine
from tsembed_search.cli.browse.pictures import Pictures
from tsembed_search.cli.browse.questions import ModelLoaded, PictureDrawn, Questions, Reply
from tsembed_search.cli.browse.remarks import error_words, nothing_words, status_words
from tsembed_search.cli.browse.results import Results
from tsembed_search.cli.browse.session import Session
from tsembed_search.cli.browse.source import FIRST_HITS, HitList, Source, Wish
from tsembed_search.cli.render.text import shortened
from tsembed_search.errors import IndexBusyError, IndexMismatchError, MissingIndexError, ModelError, TsembedError
from tsembed_search.paths import file_path
from tsembed_search.wording import shown

if TYPE_CHECKING:
    from tsembed_search.search.results import Hit

_TYPING: Final = 0.1  # seconds without a key before the words are looked for
_RESTING: Final = 0.05  # seconds on a hit before more is asked about it
_AGAIN: Final = 1.0
_LOOKING: Final = 2.0
_MORE: Final = 4
_MOST: Final = 10_000
_NOTHING: Final = Wish()
_LOADING: Final = "model loading…"


class Browser(App[list[str]]):
    """Results to look at, narrow down, open and pick from. It returns the paths that are to be printed; `failed` says
    why there is nothing to browse.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "browse.tcss"
    BINDINGS: ClassVar[list[Any]] = bindings()

    def __init__(
        self, source: Source, asked: Wish = _NOTHING, *, images: str = "blocks", past: Sequence[str] = ()
    ) -> None:
        self.canvas = Canvas()
        self.graphics = Graphics(
            images, lambda text: self._driver is not None and self._driver.write(text), self.canvas.forget
        )
        super().__init__(driver_class=asking_driver() if self.graphics.asks else None)
        self.source = source
        self.session = Session(asked)
        self.found = HitList((), "")
        self.past = list(past)
        self.failed: TsembedError | None = None
        self._count = FIRST_HITS
        self._model = _LOADING
        self._counted: object = None
        self._changes, self._stamp, self._lost = 0, cast("object", None), False
        self.pictures = Pictures(source, lambda id: self.post_message(PictureDrawn(id)))
        takers: dict[str, Callable[[Any], None]] = {
            "search": self._take_found, "facets": self._take_facets, "stamp": self._take_stamp,
            "detail": lambda answer: self.current.take_detail(answer),
            "reason": lambda answer: self.current.take_reason(answer),
            "wake": lambda answer: None,
        }  # fmt: skip
        self.questions = Questions(source, self.post_message, takers)

    def get_default_screen(self) -> Desk:
        """Make the screen with the panes."""
        self.desk = Desk(self.pictures.small, self.session.asked, self.graphics)
        self.current = Current(self.desk, self.pictures, self.questions)
        return self.desk

    @property
    def hit(self) -> Hit | None:
        """The hit that the keys act on."""
        return self.desk.results.current

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Let through what opens a pane, unless somebody types, or reads the help; and what leaves the query line."""
        if action == "done_typing":
            return self.focused in (self.desk.typed, self.desk.prompt)
        return action not in OPENING or not (self.screen is not self.desk or isinstance(self.focused, Input))

    def on_mount(self) -> None:
        """Show the first frame; only then ask for anything."""
        self.desk.typed.past = self.past
        self.desk.results.marked = self.session.marked
        self._tell()
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        self.search()
        self.questions.warm()
        self.set_interval(_LOOKING, self.questions.stamp)

    def on_terminal_answered(self, message: TerminalAnswered) -> None:
        """Draw pictures in the best way that the terminal knows."""
        self.graphics.choose(message.found, true_colours=self.console.color_system == "truecolor" and not self.no_color)
        if self.graphics.how == "kitty":
            self.pictures.sharpen()
        self.desk.results.draw_anew()
        self.current.show()

    def _display(self, screen: Any, renderable: Any) -> None:
        """Send what is another than before, and no more."""
        super()._display(screen, self.canvas.changed(renderable))

    def on_resize(self) -> None:
        """Send all: terminals move characters about when they get another size."""
        self.canvas.forget()

    def exit(self, *result: Any, **how: Any) -> None:
        """Leave nothing of our pictures in the terminal."""
        self.desk.clear_pictures()
        super().exit(*result, **how)

    def on_unmount(self) -> None:
        """End the threads."""
        self.questions.close()
        self.pictures.close()

    # Asking, and what comes of it

    def search(self, *, keep: bool = False, count: int = FIRST_HITS) -> None:
        """Look for what is asked. With `keep`, the current hit stays that, if it is found again."""
        self._count = count
        if self.session.asked.needs_model and not self.source.is_warm:
            self.questions.forget("search")
            self._tell(error="" if self._model == _LOADING else None)
            return
        self.questions.search(self.session.asked, count, keep=keep)

    def on_reply(self, message: Reply) -> None:
        """Hand an answer to whoever asked, unless something else has been asked since."""
        if message.is_newest:
            message.take(message.value)

    def _take_found(self, answer: tuple[HitList, bool] | Exception) -> None:
        if isinstance(answer, Exception):
            if not self.found.by and isinstance(answer, MissingIndexError | IndexMismatchError | ModelError):
                self.failed = answer
                self.exit([])
            self._complain(answer)
            if isinstance(answer, IndexBusyError):
                self.desk.later("again", _AGAIN, partial(self.search, keep=True, count=self._count))
            return
        self.found, keep = answer
        self.desk.results.empty = nothing_words(self.session.asked, is_warm=self.source.is_warm)
        self.desk.results.show(self.found.hits, keep=keep)
        self._tell(error="")
        self.count_facets()

    def count_facets(self) -> None:
        """Count the facets when the filters are others, and only if somebody sees it."""
        asked = self.session.asked
        state = (asked.chosen, asked.where, self._changes)
        if state != self._counted and self.desk.shows_facets:
            self._counted = state
            self.questions.facets(asked)

    def _take_facets(self, answer: Any) -> None:
        if isinstance(answer, Exception):
            self._counted = None
        else:
            self.desk.facets.show(answer, self.session.asked)

    def _take_stamp(self, answer: object) -> None:
        """Look again when the index has changed; say so when it cannot be read now, and when it can again."""
        if isinstance(answer, Exception):
            self._lost = True
            self._complain(answer)
            return
        changed = self._stamp is not None and answer != self._stamp
        if changed or self._lost:
            self._changes += 1
            self.pictures.clear()
            self.search(keep=True, count=self._count)
        self._stamp, self._lost = answer, False

    def on_model_loaded(self, message: ModelLoaded) -> None:
        """Look by meaning for what was looked for by words."""
        self._model = "" if message.error is None else "no model: by words only"
        if message.error is not None:
            self._complain(message.error)
            return
        self._tell()
        if not self.session.asked.is_open and self.session.asked.like is None:
            self.search(keep=self.desk.results.cursor > 0, count=self._count)

    # Typing

    def on_input_changed(self, event: Input.Changed) -> None:
        """Look for what is typed once the keys rest."""
        if event.input is self.desk.typed:
            self.questions.wake()
            self.desk.later("typing", _TYPING, self._take_typed)

    def _take_typed(self) -> None:
        asked, text = self.session.asked, self.desk.typed.value
        if text != asked.text:
            # Words take the place of a likeness: the two cannot be combined.
            self.session.asked = replace(asked, text=text, like=None, like_name="")
            self.desk.show_chips(self.session.asked)
            self.search()

    def on_line_left(self) -> None:
        """Take what was typed."""
        self._take_typed()
        self.desk.typed.remember(self.session.asked.text)
        self.session.settle()

    def on_prompt_line_entered(self, message: PromptLine.Entered) -> None:
        """Ask for what was typed: a filter, or words for a picture."""
        try:
            message.asked.check()
        except TsembedError as error:
            self._complain(error)
            self.set_focus(self.desk.prompt)
            return
        self.desk.back()
        self.step(message.asked)

    # Steps

    def step(self, asked: Wish) -> None:
        """Ask for something else; `u` goes back."""
        self.session.step(asked)
        self._ask_anew()

    def _ask_anew(self) -> None:
        self.desk.show_asked(self.session.asked)
        self.search()

    def on_chip_removed(self, message: Chip.Removed) -> None:
        """Take a filter off."""
        self.step(message.asked)

    def on_facet_pane_toggled(self, message: FacetPane.Toggled) -> None:
        """Narrow down by a value, or no longer."""
        self.step(self.session.asked.toggled(message.facet, message.value))

    # The current hit

    def on_results_moved(self) -> None:
        """Show the current hit, and ask for more about it when the keys rest."""
        self.current.changed()
        self.desk.later("resting", _RESTING, lambda: self.current.ask(self.session.asked))

    def on_picture_drawn(self, message: PictureDrawn) -> None:
        """Show a picture that has come."""
        self.current.take_picture(message.id)

    def on_results_sighted(self, message: Results.Sighted) -> None:
        """Draw the pictures that are seen, and ask for more hits before the end is reached."""
        if self.graphics.how != "none":
            self.pictures.want(message.hits)
        if message.near_end and self.found.has_more and len(self.found.hits) == self._count < _MOST:
            self.search(keep=True, count=min(_MOST, self._count * _MORE))

    # What the keys do

    def action_type(self) -> None:
        """Type a query."""
        self.desk.type()

    def action_done_typing(self, key: Literal["enter", "escape"]) -> None:
        """Give the keys to the results, the next one already; what was typed until now is taken, if it shall be."""
        if self.focused is self.desk.prompt and key == "escape":
            self.action_leave()
        else:
            self.desk.leave_line()

    def action_whole(self) -> None:
        """Give the whole screen to the current hit, or no longer."""
        if self.desk.is_whole:
            self.desk.back()
        elif self.hit is not None:
            self.desk.open_whole()

    def action_leave(self) -> None:
        """Leave what was opened last."""
        self.desk.back()
        self._tell(error="")

    def action_beside(self, hits: int) -> None:
        """Go to the next hit while one is shown whole."""
        self.desk.results.move_to(self.desk.results.cursor + hits)

    def action_like(self) -> None:
        """Look for more like the current hit."""
        if (hit := self.hit) is not None:
            name = hit.path.rpartition("/")[2]
            self.step(replace(self.session.asked, text="", image=None, like=hit.id, like_name=name))

    def action_add(self) -> None:
        """Look for the current picture and words together."""
        hit = self.hit
        if hit is None or hit.kind != "image" or hit.chunk is not None or hit.page is not None:
            self._tell(error="Words can be added to a picture file only.")
            return
        self.desk.ask_for(
            "words to look for together with this picture", self.session.asked.text,
            lambda text: replace(self.session.asked, text=text, image=file_path(hit.path), like=None, like_name=""),
        )  # fmt: skip

    def action_where(self) -> None:
        """Narrow down by a filter as text."""
        self.desk.ask_for(
            "filter, such as: ext=pdf and modified>=30d", self.session.asked.where,
            lambda text: replace(self.session.asked, where=text),
        )  # fmt: skip

    def action_facets(self) -> None:
        """Go to the facets, or put them away."""
        self.desk.turn_to_facets()
        self.count_facets()

    def action_drop(self) -> None:
        """Take off the filter that was put on last."""
        if chips := self.session.asked.chips():
            self.step(chips[-1][1])

    def action_explain(self) -> None:
        """Say why the current hit was found, or no longer."""
        self.current.explain(self.session.asked)
        if self.current.is_explained and self.size.width < NARROW:
            self.desk.open_whole()

    def action_lay_out(self) -> None:
        """Show a grid instead of the list, or the list again."""
        self.desk.results.lay_out("list" if self.desk.results.laid_out == "grid" else "grid")

    def action_outside(self, what: Literal["open_file", "reveal"]) -> None:
        """Open the file, or show it in its folder, in a thread: the programs of the desktop may take their time."""
        if self.hit is not None:
            desktop.beside(getattr(desktop, what), self.hit.path, partial(self.call_from_thread, self._complain))

    def action_copy(self) -> None:
        """Copy the current hit's path, by the terminal's own sequence for it."""
        if (hit := self.hit) is not None:
            self.copy_to_clipboard(str(file_path(hit.path)).encode("utf-8", "replace").decode())
            self.desk.tell(status=f"Copied {shown(shortened(hit.path))}, if the terminal lets programs copy.", error="")

    def action_mark(self) -> None:
        """Mark the current hit's file, or no longer, and go on."""
        if (hit := self.hit) is not None:
            self.session.mark(hit.path)
            self.desk.results.redraw()
            self.action_beside(1)
            self._tell()

    def action_print(self) -> None:
        """Quit, and print the paths that are marked, else that of the current hit."""
        self.exit(list(self.session.marked) or ([self.hit.path] if self.hit is not None else []))

    def action_undo(self) -> None:
        """Go back to what was asked before."""
        if self.session.back():
            self._ask_anew()

    def action_help(self) -> None:
        """Show all keys."""
        self.push_screen(Help(HELP))

    async def action_quit(self) -> None:
        """Quit, and print nothing."""
        self.exit([])

    def _complain(self, error: Exception) -> None:
        self._tell(error=error_words(error))

    def _tell(self, error: str | None = None) -> None:
        """Say at the foot how things are; an `error` of None leaves the one that is said."""
        status = status_words(
            self.source.title, self.session.asked, self.found, len(self.session.marked),
            is_warm=self.source.is_warm, model=self._model,
        )  # fmt: skip
        self.desk.tell(status=status, error=error)
