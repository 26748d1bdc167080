"""What the threads of a run share: queues that end when the run ends, and the first error of any of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

_CHECK_SECONDS: Final = 0.1


class Stopped(Exception):
    """The run ends early: somebody interrupted it, or another thread failed."""


class Flow:
    """Starts threads and stops them together. The first error in one of them stops all and is raised by `check`."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    @property
    def stopped(self) -> bool:
        """Whether the run is to end early."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ends the run early: whoever waits for a queue gets `Stopped`."""
        self._stop.set()

    def start(self, work: Callable[[], None], name: str) -> threading.Thread:
        """Runs `work` in a thread of its own."""

        def guarded() -> None:
            try:
                work()
            except Stopped:
                pass
            # Whatever it is, it is raised again in the thread that runs the index.
            except BaseException as error:  # noqa: BLE001
                self.fail(error)

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def fail(self, error: BaseException) -> None:
        """Remembers the first error and stops all threads."""
        with self._lock:
            self._error = self._error or error
        self._stop.set()

    def put(self, line: queue.Queue[T], item: T) -> None:
        """Waits for room. Raises `Stopped`."""
        while True:
            if self._stop.is_set():
                raise Stopped
            try:
                return line.put(item, timeout=_CHECK_SECONDS)
            except queue.Full:
                continue

    def get(self, line: queue.Queue[T], waiting: Callable[[], None] | None = None) -> T:
        """Waits for an item, calling `waiting` now and then. Raises `Stopped`."""
        while True:
            if self._stop.is_set():
                raise Stopped
            try:
                return line.get(timeout=_CHECK_SECONDS)
            except queue.Empty:
                if waiting is not None:
                    waiting()

    def wait(self) -> None:
        """Waits for all threads to end."""
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Raises the first error of any thread."""
        if self._error is not None:
            raise self._error
