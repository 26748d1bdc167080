"""Runs the real indexer on the real embedded engine with the tiny model of colours."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers.colours import DIM, FINGERPRINT, ColourBackbone
from helpers.store_points import address_of
from tsembed_search.indexer.access import Access
from tsembed_search.indexer.manifest import NAME, Manifest
from tsembed_search.indexer.pipeline import Opened, run_index
from tsembed_search.indexer.report import IndexOptions, IndexReport, Progress, Skipped
from tsembed_search.model.backbone import Encoded, ModelInfo, Prepared
from tsembed_search.model.embedder import Embedder
from tsembed_search.model.unloaded import Unloaded
from tsembed_search.store import opening
from tsembed_search.store.base import Record, Store, StoreSettings


class CountingBackbone(ColourBackbone):
    """Counts what it embeds; `on_forward` is called before each batch."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.embedded = 0
        self.on_forward = lambda batch: None

    def forward(self, batch: Sequence[Prepared]) -> Encoded:
        self.on_forward(batch)
        self.embedded += len(batch)
        return super().forward(batch)


@dataclass
class Sink:
    """Remembers what a run told."""

    updates: list[Progress] = field(default_factory=list)
    skips: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def update(self, progress: Progress) -> None:
        self.updates.append(progress)

    def skipped(self, skipped: Skipped) -> None:
        self.skips.append(skipped)

    def note(self, message: str) -> None:
        self.notes.append(message)


_MADE = "TSEMBED_TEST_STORE"


@functools.cache
def new_store() -> Path:
    """An empty store to copy: making one takes a second. Processes that tests start are told where it is."""
    if made := os.environ.get(_MADE):
        return Path(made)
    folder = Path(tempfile.mkdtemp(prefix="tsembed-test-", dir=_memory()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    opening.open_or_create(address_of(folder), StoreSettings(DIM)).close()
    os.environ[_MADE] = str(folder)
    return folder


def copy_index(source: Path, target: Path) -> None:
    """Copies an index, or a part of one. The engine's files are hundreds of megabytes of holes, which stay holes."""
    shutil.copytree(source, target, copy_function=_copy_parts)


def _copy_parts(source: str, target: str) -> None:
    if not hasattr(os, "SEEK_DATA"):
        shutil.copy2(source, target)
        return
    with open(source, "rb", buffering=0) as read, open(target, "wb", buffering=0) as write:  # noqa: PTH123
        write.truncate(os.fstat(read.fileno()).st_size)
        end = 0
        with suppress(OSError):  # there is no data behind the last hole
            while True:
                start = os.lseek(read.fileno(), end, os.SEEK_DATA)
                end = os.lseek(read.fileno(), start, os.SEEK_HOLE)
                read.seek(start)
                write.seek(start)
                write.write(read.read(end - start))
    shutil.copystat(source, target)


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder in memory where the system has one: the engine waits for the disk at each opening."""
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        yield Path(folder)


def _memory() -> Path | None:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else None


class _Access(Access):
    """Opens the store as a test wants it."""

    def __init__(self, indexing: Indexing, *, wait: bool) -> None:
        super().__init__(address_of(indexing.home), wait=wait)
        self._indexing = indexing

    def open_store(self, *, writing: bool) -> Store:
        store = self._indexing.open(None)
        assert store is not None
        return store


class Indexing:
    """One index and the files that go into it."""

    def __init__(self, folder: Path, name: str = "index") -> None:
        self.home = folder / name
        self.files = folder / "files"
        self.files.mkdir(exist_ok=True)
        self.backbone = CountingBackbone()
        self.loads = 0
        self.optimizes = False
        self.sink = Sink()
        self.stop = threading.Event()

    def run(self, *paths: Path | str, wait: bool = False, **settings: Any) -> IndexReport:
        """Indexes the paths (default: all files), as `Index.add` does."""
        chosen = tuple(Path(path) for path in paths) or (self.files,)
        self.backbone.embedded = 0
        self.sink = Sink()
        options = IndexOptions(**({"workers": 1} | settings))
        access = _Access(self, wait=wait)
        opened = Opened(
            self.home,
            FINGERPRINT,
            owned=lambda note: self._owned(access, note, options),
            create=lambda info: self._made(access, info),
            load=lambda: [self.load()],
            unloaded=lambda: Unloaded(self.backbone.info, self.backbone.inputs),
        )
        return run_index(chosen, options, opened, progress=self.sink, stop=self.stop)

    @contextmanager
    def _owned(self, access: Access, note: Any, options: IndexOptions) -> Iterator[Store | None]:
        if options.dry_run and not self.home.exists():
            yield None
            return
        with access.change("indexing", note, rescue=not options.dry_run) as store:
            yield store

    def _made(self, access: Access, info: ModelInfo) -> Store:
        store = self.open(info)
        assert store is not None
        access.made(store)
        return store

    def scratch(self) -> dict[str, tuple[Any, ...]]:
        """The points of an index that is made anew from the same files."""
        with fast_folder() as folder:
            fresh = Indexing(folder)
            fresh.files = self.files
            fresh.run()
            return fresh.points()

    def load(self) -> Embedder:
        self.loads += 1
        return Embedder(self.backbone)

    def open(self, info: ModelInfo | None) -> Store | None:
        if not opening.exists(address_of(self.home)):
            if info is None:
                return None
            self._create()
        store = opening.open(address_of(self.home))
        if not self.optimizes:
            # Small shards are rewritten as a whole; what that does is tested once.
            store.optimize = lambda tell=None: None  # type: ignore[method-assign]
        return store

    def _create(self) -> None:
        """As the real creation does it: a kill leaves no index, or a whole one."""
        copy = self.home / "points.copy"
        for left in (copy, self.home / "points"):
            shutil.rmtree(left, ignore_errors=True)
        copy_index(new_store() / "points", copy)
        copy.rename(self.home / "points")
        shutil.copy(new_store() / "index.json", self.home / "index.json.copy")
        (self.home / "index.json.copy").rename(self.home / "index.json")

    def records(self) -> list[Record]:
        """All points, with vectors."""
        store = self.open(None)
        if store is None:
            return []
        try:
            return list(store.scroll(with_vectors=True))
        finally:
            store.close()

    def points(self) -> dict[str, tuple[Any, ...]]:
        """What must not depend on how an index came about: id, kind, text, places, vector."""
        return {
            record.id: (
                record.payload["kind"],
                record.payload["text"],
                record.payload["page"],
                record.payload["chunk"],
                record.payload["sha"],
                tuple(place["path"] for place in record.payload["places"]),
                tuple((place["rel"], place["ext"], round(place["mtime"], 4)) for place in record.payload["places"]),
                record.payload["path"],
                () if record.vector is None else tuple(np.asarray(record.vector, dtype=np.float32).round(4).tolist()),
            )
            for record in self.records()
        }

    def paths(self) -> list[str]:
        """Every place of every point, below the folder of files, once each and sorted."""
        found = {place["path"] for record in self.records() for place in record.payload["places"]}
        return sorted(str(Path(path).relative_to(self.files)) for path in found)

    def manifest(self) -> Manifest:
        return Manifest(self.home / NAME)

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def picture(self, name: str, colour: str | tuple[int, ...] = "red", size: tuple[int, int] = (20, 20)) -> Path:
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)
        return path


TEXT = "The red house stands on a green hill.\n\n" + "Blue water runs below it. " * 20


def fill(indexing: Indexing) -> None:
    indexing.picture("red.png", "red")
    indexing.picture("sub/blue.jpg", "blue")
    indexing.write("notes.txt", TEXT)
    indexing.write("sub/guide.md", "# Guide\n\nWhite snow.\n\n## Part\n\nBlack coal.\n")
    indexing.write("page.html", "<title>T</title><nav>Menu</nav><p>Yellow sun.</p><script>x()</script>")
