"""The way to an index's store: opened when it is needed, shared by threads, and changed by one owner at a time.

Other processes are kept out of an embedded store while it is open, and out of changes while it is owned. So a store
that was opened to be read stays open until `close`, one that was opened for a change until its end; unless the index
is held, which keeps both until `close`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tsembed_search.errors import DamagedIndexError, IndexBusyError
from tsembed_search.ownership import owned, owner_of
from tsembed_search.store import opening

if TYPE_CHECKING:
    from tsembed_search.paths import IndexAddress
    from tsembed_search.store.base import Store

Note = Callable[[str], None]

_BETWEEN_TRIES: Final = 0.1
_READERS_LEAVE: Final = 10.0
"""Seconds in which whoever only searches or browses is done with an index, or lets go of it."""
_HOLDING: Final = "holding it open"


class Access:
    """Access to one index, for several threads: any number read, and one at a time changes.

    `wait`: wait for other processes, and for other threads that change the index, instead of raising `IndexBusyError`.
    """

    def __init__(self, address: IndexAddress, *, wait: bool = False, store: Store | None = None) -> None:
        self.address = address
        self.wait = wait
        self._store = store
        self._readers = 0
        self._open = threading.Condition(threading.RLock())
        self._change = threading.Lock()
        self._owned: owned | None = None
        self._held = False

    def hold(self) -> None:
        """Own the index and open its store, if there is one, until `close`. Raises what `change` and `read` do."""
        self._owned = self._owning(_HOLDING)
        self._held = True
        try:
            self._for_change(lambda message: None, rescue=False)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Store]:
        """The store, opened now if it was not. Nobody closes it while the block runs.

        Raises `IndexBusyError` while another process has it open, `DamagedIndexError` and `StoreError`.
        """
        with self._open:
            self._store = store = self._store or self._patiently()
            self._readers += 1
        try:
            yield store
        finally:
            with self._open:
                self._readers -= 1
                self._open.notify_all()

    @contextmanager
    def own(self, doing: str, note: Note | None = None) -> Iterator[None]:
        """Own the index while the block runs; one thread at a time. The store is closed before, and after.

        `note` is told whom is waited for. Raises `IndexBusyError` while somebody else changes the index.
        """
        if not self._change.acquire(blocking=self.wait):
            raise self._busy("by another thread of this program")
        try:
            if self._held and self._owned is not None:
                self._owned.sign(doing)
                try:
                    yield
                finally:
                    self._owned.sign(_HOLDING)
                return
            # Whoever owns the index may be waiting for this store.
            self.let_go()
            with self._owning(doing, note) as self._owned:
                try:
                    yield
                finally:
                    try:
                        self.let_go()
                    finally:
                        self._owned = None
        finally:
            self._change.release()

    @contextmanager
    def change(self, doing: str, note: Note | None = None, *, rescue: bool = True) -> Iterator[Store | None]:
        """Own the index and open its store while the block runs; None if there is none yet (see `made`).

        Waits a few seconds for others who only read it; `note` is told so. With `rescue`, a store that is damaged is
        replaced by one of all that can be read, and `note` is told of that. Raises what `own` and `read` do.
        """
        with self.own(doing, note):
            yield self._for_change(note or (lambda message: None), rescue=rescue)

    def made(self, store: Store) -> None:
        """Take over the store that whoever changes the index has made."""
        with self._open:
            self._store = store

    def let_go(self) -> None:
        """Close the store, once nobody reads it any more."""
        with self._open:
            self._open.wait_for(lambda: not self._readers)
            store, self._store = self._store, None
            if store is not None:
                store.close()

    def close(self) -> None:
        """Close the store and let others own the index, once no thread reads or changes it. Twice does no harm."""
        with self._change:
            self.let_go()
            if self._owned is not None:
                self._owned.release()
            self._owned, self._held = None, False

    def open_store(self, *, writing: bool) -> Store:
        """Open the store, without waiting."""
        return opening.open(self.address, writing=writing)

    def _for_change(self, note: Note, *, rescue: bool) -> Store | None:
        with self._open:
            # A creation that was cut short has left no metadata.
            if self._store is None and opening.metadata(self.address):
                self._store = self._patiently(note, rescue=rescue, writing=True)
            return self._store

    def _patiently(self, note: Note = lambda message: None, *, rescue: bool = False, writing: bool = False) -> Store:
        deadline, told = time.monotonic() + (_READERS_LEAVE if writing else 0.0), False
        while True:
            try:
                return self.open_store(writing=writing)
            except DamagedIndexError as error:
                if not rescue:
                    raise
                from tsembed_search.indexer import mending  # a search needs none of it

                mending.salvage(self.address, error, note)
                rescue = False
            except IndexBusyError as error:
                if not self.wait and time.monotonic() >= deadline:
                    other = None if self._owned is not None else owner_of(self.address.folder)
                    raise self._busy(f"by {other or 'another process'}") from error
                if writing and not told:
                    note("Waiting for another process that searches or browses this index.")
                told = True
                time.sleep(_BETWEEN_TRIES)

    def _owning(self, doing: str, note: Note | None = None) -> owned:
        tell = note or (lambda message: None)
        return owned(
            self.address.folder,
            doing,
            wait=None if self.wait else 0.0,
            on_wait=lambda other: tell(f"Waiting for {other or 'another process'}."),
        )

    def _busy(self, by_whom: str) -> IndexBusyError:
        return IndexBusyError(
            f"The index {self.address.name!r} is in use {by_whom}.",
            "Wait until it has finished ({wait} does), or choose another index: {index}.",
        )
