"""Threads beside the screen's: each answers the newest question only.

Whoever types asks faster than an index answers. A question that waits is replaced by the next one, and the answer to a
question that is no longer the newest is dropped: so an old answer never replaces a newer one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lane(Generic[T]):
    """A thread that answers questions. `tell` hears each answer, or the error, in that thread, with its number.

    Whoever shows an answer asks `is_newest` once more: another question may have been put in the meantime.
    """

    def __init__(self, name: str, tell: Callable[[int, T | Exception], None]) -> None:
        self._name = f"browse-{name}"
        self._tell = tell
        self._there = threading.Condition()
        self._waiting: Callable[[], T] | None = None
        self._number = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def ask(self, question: Callable[[], T]) -> int:
        """Put a question in place of the one before; returns its number."""
        with self._there:
            self._number += 1
            self._waiting = question
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._there.notify()
            return self._number

    def forget(self) -> None:
        """Want no answer any more."""
        with self._there:
            self._number += 1
            self._waiting = None

    def is_newest(self, number: int) -> bool:
        """Tell whether nothing has been asked since that question."""
        return number == self._number and not self._closed

    def close(self) -> None:
        """End the thread, after the question that it is at. Its answer is dropped."""
        with self._there:
            self._closed = True
            self._waiting = None
            self._there.notify()

    def _run(self) -> None:
        while True:
            with self._there:
                self._there.wait_for(lambda: self._waiting is not None or self._closed)
                question, self._waiting, number = self._waiting, None, self._number
            if question is None:
                return
            answer: T | Exception
            try:
                answer = question()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                answer = error
            if self.is_newest(number):
                self._tell(number, answer)
