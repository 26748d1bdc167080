"""Ctrl-C and SIGTERM during a run: once to finish what is in flight, twice to stop at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Handles the signals while the block runs. In other threads than the main one signals cannot be handled."""

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._handle) for each in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            # None: a handler that was not set from Python and cannot be set again from here.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def deferred(self, stop: Callable[[], None]) -> Iterator[None]:
        """Inside, the first signal calls `stop`; later ones, and all outside, raise `KeyboardInterrupt`."""
        self._stop = stop
        try:
            yield
        finally:
            self._stop = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        stop, self._stop = self._stop, None
        if stop is None:
            raise KeyboardInterrupt
        stop()
