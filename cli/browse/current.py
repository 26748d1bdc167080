"""The hit that the keys act on, with all that is known of it by now: its picture, its text, why it was found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tsembed_search.cli.browse.remarks import error_words
from tsembed_search.cli.browse.source import Detail, Reason, Wish

if TYPE_CHECKING:
    from tsembed_search.cli.browse.desk import Desk
    from tsembed_search.cli.browse.pictures import Pictures
    from tsembed_search.cli.browse.questions import Questions
    from tsembed_search.search.results import Hit


class Current:
    """Keeps the preview of a desk up to date. `is_explained`: it says why the hit was found, too."""

    def __init__(self, desk: Desk, pictures: Pictures, questions: Questions) -> None:
        self._desk, self._pictures, self._questions = desk, pictures, questions
        self._detail: Detail | None = None
        self._reason: Reason | str | None = None
        self.is_explained = False

    @property
    def hit(self) -> Hit | None:
        """The current hit."""
        return self._desk.results.current

    def changed(self) -> None:
        """Show another hit, with what is there of it at once."""
        self._detail = self._reason = None
        self.show()

    def ask(self, asked: Wish) -> None:
        """Ask for what is not there."""
        hit = self.hit
        self._pictures.want_whole(hit if self._desk.preview.easel.graphics.how != "none" else None)
        if hit is not None:
            self._questions.detail(hit, asked.text)
            if self.is_explained:
                self._questions.reason(asked, hit)

    def show(self) -> None:
        """Show what is there by now."""
        hit = self.hit
        pixels = None
        if hit is not None:
            pixels = self._pictures.whole(hit)
            # Over a slow line, whoever goes from hit to hit would wait for pictures that are gone at the next key.
            if pixels is None and not self._desk.preview.easel.graphics.is_far:
                pixels = self._pictures.small(hit)
        more = self._detail
        if hit is not None and (refusal := self._pictures.refusal(hit)):
            more = more or Detail()
            more = replace(more, facts=[*more.facts, ("no picture", refusal)])
        reason = (self._reason or "…") if self.is_explained and hit is not None else None
        self._desk.preview.show(hit, pixels, more, reason)

    def take_detail(self, answer: Any) -> None:
        """Show more about it."""
        self._detail = None if isinstance(answer, Exception) else answer
        self.show()

    def take_reason(self, answer: Any) -> None:
        """Show why it was found."""
        self._reason = error_words(answer) if isinstance(answer, Exception) else answer
        self.show()

    def take_picture(self, id: str) -> None:
        """Show a picture that has come, where it is seen."""
        self._desk.results.redraw(id)
        if self.hit is not None and self.hit.id == id:
            self.show()

    def explain(self, asked: Wish) -> None:
        """Say why it was found, or no longer."""
        self.is_explained = not self.is_explained
        self._reason = None
        if self.is_explained and self.hit is not None:
            self._questions.reason(asked, self.hit)
        self.show()
