"""From items to model inputs, pictures read by several threads, and the frozen part of the work done once.

Mini's vision tower is most of its cost and is not trained. So a picture passes it once: what the tower saw, 6 kB or
with a projector 13 kB, is kept, in memory and in a file of `$TSEMBED_HOME/cache`, by the content of the picture's file.
Other models have no such short form of a picture, and their inputs are prepared anew each time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tsembed_search import private
from tsembed_search.errors import LoadError
from tsembed_search.items import Item, Role
from tsembed_search.model import loading
from tsembed_search.model.backbone import Backbone, Looking, ModelRef, Prepared, Trainable
from tsembed_search.model.embedder import Embedder, forward_stream
from tsembed_search.paths import home

_IN_MEMORY = 50_000  # pictures
_MOST_WORKERS = 16


class Preparer:
    """The preparation of items for a model with `workers` threads (None: by cores)."""

    def __init__(self, backbone: Backbone, workers: int | None = None) -> None:
        self.remarks: list[str] = []
        """Notes on the work for people; whoever tells them empties the list."""
        self._backbone = backbone
        self._pool = ThreadPoolExecutor(workers or min(_MOST_WORKERS, os.cpu_count() or 1), "prepare")

    def prepare(self, wanted: Sequence[tuple[Item, Role]]) -> list[Prepared | LoadError]:
        """Return the inputs, in their order; the error where a picture cannot be read."""
        return list(self._pool.map(self._one, wanted))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, wanted: tuple[Item, Role]) -> Prepared | LoadError:
        try:
            return self._backbone.prepare(*wanted)
        except LoadError as error:
            return error


class CachingPreparer(Preparer):
    """A preparer that lets a picture pass the frozen tower once. `file`: where that outlasts the run, if at all."""

    def __init__(self, backbone: Looking, file: Path | None, workers: int | None = None) -> None:
        super().__init__(backbone, workers)
        self._looking = backbone
        self._seen: dict[str, Tensor] = {}
        self._keys: dict[tuple[str, int, int], str] = {}
        self._lock = threading.Lock()
        self._file, self._store = file, None
        if file is not None:
            with self._optional():
                self._store = _Seen(file)

    def prepare(self, wanted: Sequence[tuple[Item, Role]]) -> list[Prepared | LoadError]:
        """As `Preparer.prepare`; validation and training may call it at the same time."""
        keys = list(self._pool.map(lambda pair: self._key(pair[0].image), wanted))
        with self._lock:
            self._look_up({key for key in keys if key is not None and key not in self._seen})
            new = {key: pair for key, pair in zip(keys, wanted, strict=True) if key and key not in self._seen}
            opened = dict(zip(new, self._pool.map(self._one, new.values()), strict=True))
            self._look({key: one for key, one in opened.items() if isinstance(one, Prepared)})
            failed = {key: one for key, one in opened.items() if isinstance(one, LoadError)}
            seen = [None if key is None else self._seen.get(key) for key in keys]
            for key in list(self._seen)[:-_IN_MEMORY]:
                del self._seen[key]

        def finished(key: str | None, pair: tuple[Item, Role], seen: Tensor | None) -> Prepared | LoadError:
            if key in failed:
                return failed[key]
            return self._one(pair) if seen is None else self._looking.prepare(*pair, seen=seen)

        return list(self._pool.map(finished, keys, wanted, seen))

    def close(self) -> None:
        """End the threads and closes the file."""
        super().close()
        if self._store is not None:
            self._store.close()

    @contextmanager
    def _optional(self) -> Iterator[None]:
        """Inside, the file is used. It is only a help: without room or leave, or damaged, it is given up."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            if self._store is not None:
                self._store.close()
            self._store = None
            words = (isinstance(error, OSError) and error.strerror) or error
            self.remarks.append(
                f"The cache of pictures, {self._file}, cannot be used: {words}. That costs time, nothing else: every "
                "picture is looked at anew in the next run."
            )

    def _key(self, image: Any) -> str | None:
        """The hash of a picture file's content; None for what is no readable file."""
        if not isinstance(image, Path):
            return None
        try:
            found = image.stat()
            version = str(image), found.st_mtime_ns, found.st_size
            if version not in self._keys:
                with image.open("rb") as file:
                    self._keys[version] = hashlib.file_digest(file, "sha256").hexdigest()
            return self._keys[version]
        except OSError:
            return None  # opening it will say why

    def _look_up(self, keys: set[str]) -> None:
        if self._store is not None and keys:
            with self._optional():
                self._seen |= self._store.get(keys)

    def _look(self, opened: dict[str, Prepared]) -> None:
        """Let new pictures pass the tower, and keep what it saw. One that does not fit fails where it is needed."""
        if not opened:
            return
        found = forward_stream(self._looking.look, [list(opened.items())])
        seen = [(key, one) for part, some in found for (key, _), one in zip(part, some or (), strict=False)]
        new = {key: one for key, one in seen if one is not None}
        self._seen |= new
        if self._store is not None:
            with self._optional():
                self._store.put(new)


class _Seen:
    """The pictures that were seen, in an SQLite file: it outlasts a kill, and several processes may share it."""

    def __init__(self, file: Path) -> None:
        private.make_folder(file.parent)
        private.make_file(file)
        self._base = sqlite3.connect(file, timeout=60, check_same_thread=False, isolation_level=None)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        self._base.execute("CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, width INT, kind TEXT, data BLOB)")

    def get(self, keys: set[str]) -> dict[str, Tensor]:
        found = {}
        for key in keys:
            row = self._base.execute("SELECT width, kind, data FROM seen WHERE key = ?", (key,)).fetchone()
            if row is not None:
                with suppress(ValueError, TypeError):  # a damaged row is as good as none
                    found[key] = torch.from_numpy(np.frombuffer(row[2], row[1]).reshape(-1, row[0]).copy())
        return found

    def put(self, seen: dict[str, Tensor]) -> None:
        arrays = {key: one.numpy() for key, one in seen.items()}
        rows = [(key, one.shape[-1], one.dtype.str, one.tobytes()) for key, one in arrays.items()]
        self._base.execute("BEGIN IMMEDIATE")
        self._base.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?)", rows)
        self._base.execute("COMMIT")

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._base.close()


def preparer_for(backbone: Trainable, fingerprint: str, cache: bool = True, workers: int | None = None) -> Preparer:
    """Return the preparer that suits a model. `fingerprint` is that of the model without adapters."""
    if not backbone.look_width:
        return Preparer(backbone, workers)
    looking = cast(Looking, backbone)
    file = home() / "cache" / f"pictures-{fingerprint}-{looking.look_width}.sqlite" if cache else None
    return CachingPreparer(looking, file, workers)


def remembering(ref: ModelRef, device: str = "cpu") -> Embedder:
    """Make an embedder that lets no picture pass a frozen vision tower twice, in one process or many.

    For measuring many models that differ in their adapters alone. Raises `ModelError`.
    """
    backbone = cast(Trainable, loading.load(ref, device))
    kept = preparer_for(backbone, loading.base_behind(ref).fingerprint, workers=1)

    class Remembering(Embedder):
        def prepare(self, item: Item, role: Role = "document") -> Prepared:
            found = kept.prepare([(item, role)])[0]
            if isinstance(found, LoadError):
                raise found
            return found

    return Remembering(backbone)
