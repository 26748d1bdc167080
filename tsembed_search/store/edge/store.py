"""The embedded engine: one Qdrant Edge shard in the index's folder, in this process, with nothing to install or start.

The folder holds `points/` (the shard) and `index.json` (its settings and the index's metadata, which the engine itself
cannot keep). One process owns a shard at a time. When a search graph was built in a copy of the shard, `index.json`
names the copy, and the shard before is deleted: at any moment, one of the two is whole.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tsembed_search import private
from tsembed_search.errors import IndexBusyError, StoreError
from tsembed_search.ownership import lock, owner_of
from tsembed_search.store.base import Point, Record, StoreInfo, StoreSettings, check_id, check_some, unheard
from tsembed_search.store.edge import query, shard
from tsembed_search.store.edge.shard import FLUSH_BYTES, WRITE_RESERVE
from tsembed_search.store.filtered import (
    Ask,
    FilteredStore,
    alike,
    named_vectors,
    wanted_payload,
    wanted_vectors,
)
from tsembed_search.store.schema import WORDS_NAME, concepts_of, with_path_keys, words_of

if TYPE_CHECKING:
    from tsembed_search.paths import IndexAddress

_PAGE: Final = 1000
_LOCK: Final = "open.lock"

BUILD_EVERY: Final = 200_000
"""Points that have no graph yet take two kilobytes of memory each, and are slow to search. So a long run does not wait
for its end."""

MANY_GONE: Final = 0.2
"""The share of deleted points from which on a graph is built anew without them."""


class EdgeStore(FilteredStore):
    """A `Store` (see `base.py`) on an open shard. `EdgeEngine` makes and opens it.

    For several threads, which take turns: the engine keeps Python's interpreter lock anyway. While a search graph is
    built, searches go on, and changes wait.
    """

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        metadata: dict[str, Any],
        points: Path,
        opened: Any,
        held: ExitStack,
        *,
        written: int = 0,
        copied: bool = False,
    ) -> None:
        """Take over the open shard of `points`, and what is `held` for it until it is closed. `written`: points since
        its graph was built. `copied`: it is that of a copy, for the index cannot be written.
        """
        super().__init__(settings, metadata)
        self._folder = folder
        self._points = points
        self._shard = opened
        self._held = held
        self._copied = copied
        self._dialect = query.dialect()
        self._counts = query.Counts()
        self._unflushed = 0
        self._written = self._noted = written
        self._build_at = BUILD_EVERY
        self._turn = threading.RLock()
        self._change = threading.RLock()

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata as a whole."""
        with self._writing("write the metadata of"):
            self._note(metadata, self._points, self._written)

    def upsert(self, points: Sequence[Point]) -> None:
        """Add or replace points. They are in the log when it returns. See `BUILD_EVERY` for what else it may do."""
        if not points:
            return
        import qdrant_edge as engine

        ids, vectors = check_some(points, self.dim)
        with self._writing("write to") as opened:
            # Lists of numbers are what makes points large; the rest of a payload is about a kilobyte.
            size = sum(4 * (self.dim + len(point.payload.get("route", ()))) + 1024 for point in points)
            shard.need_space(self._folder, WRITE_RESERVE + 4 * size)
            rows = zip(ids, vectors, points, strict=True)
            made = [
                engine.Point(
                    id,
                    named_vectors(row, query.sparse(words_of(point.payload)), self._shown(point.payload)),
                    with_path_keys(point.payload),
                )
                for id, row, point in rows
            ]
            opened.update(engine.UpdateOperation.upsert_points(made))
            self._wrote(size, sum(row is not None for row in vectors))
        if self._written >= self._build_at:
            self._build_at += BUILD_EVERY
            with suppress(StoreError):  # it is tried again, and told, when the run ends
                self.optimize()

    def _shown(self, payload: Mapping[str, Any]) -> Any:
        shown = concepts_of(payload) if self.settings.concepts else None
        return None if shown is None else query.sparse(shown)

    def set_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        """See `Store.set_payloads`."""
        if not payloads:
            return
        import qdrant_edge as engine

        own = {check_id(id): payload for id, payload in payloads.items()}
        with self._writing("write to") as opened:
            words = [
                engine.PointVectors(id, {WORDS_NAME: query.sparse(changed)})
                for id, changed in self._changed_words(own).items()
            ]
            changes = [
                engine.UpdateOperation.set_payload([*ids], with_path_keys(payload)) for payload, ids in alike(own)
            ]
            shard.need_space(self._folder, WRITE_RESERVE + 1024 * len(own))
            if words:
                opened.update(engine.UpdateOperation.update_vectors(words))
            for change in changes:
                opened.update(change)
            self._wrote(1024 * len(own), len(own))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that are not there do no harm."""
        if not ids:
            return
        import qdrant_edge as engine

        with self._writing("delete from") as opened:
            opened.update(engine.UpdateOperation.delete_points([check_id(id) for id in ids]))
            self._wrote(64 * len(ids))

    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> list[Record]:
        """Return those of the points that exist, in the order asked."""
        wanted, payload = [check_id(id) for id in ids], wanted_payload(fields)
        with self._engine("read") as opened:
            raw = opened.retrieve(wanted, payload, wanted_vectors(with_vectors))
            found = {each.id: each for each in query.records(raw, payload, with_vectors)}
        return [found[id] for id in wanted if id in found]

    def _nearest(self, asks: Sequence[Ask]) -> list[list[Record]]:
        with self._engine("search") as opened:
            return query.nearest(opened, asks, self.settings.quantize, self._counts)

    def _pages(self, condition: Any, payload: bool | list[str], with_vectors: bool) -> Iterator[Record]:
        import qdrant_edge as engine

        chosen, offset = self._dialect.as_filter(condition), None
        while True:
            request = engine.ScrollRequest(
                offset=offset,
                limit=_PAGE,
                filter=chosen,
                with_payload=payload,
                with_vector=wanted_vectors(with_vectors),
            )
            with self._engine("read") as opened:
                page, offset = opened.scroll(request)
            yield from query.records(page, payload, with_vectors)
            if offset is None:
                return

    def _counted(self, condition: Any) -> int:
        import qdrant_edge as engine

        with self._engine("read") as opened:
            return int(opened.count(engine.CountRequest(exact=True, filter=self._dialect.as_filter(condition))))

    def _values(self, key: str, condition: Any, limit: int, exact: bool) -> dict[str, int]:
        import qdrant_edge as engine

        request = engine.FacetRequest(key, limit=limit, exact=exact, filter=self._dialect.as_filter(condition))
        with self._engine("read") as opened:
            return {str(hit.value): int(hit.count) for hit in opened.facet(request).hits}

    def optimize(self, tell: Callable[[float | None], None] = unheard) -> None:
        """Build the search graph of a copy, which then takes the shard's place, when enough vectors are without one."""
        with self._change:
            with self._writing("optimise") as opened:
                facts, threshold = opened.info(), shard.INDEXING_THRESHOLD_KB * 1024
                points, indexed = int(facts.points_count), self._in_graph(facts)
                waiting = max(self._written, points - indexed)
                # Points that were deleted are still counted, in the graph and among the words.
                gone = max(0, indexed - points) / 2
                if waiting * self.dim * 4 < threshold and gone <= MANY_GONE * (indexed - gone):
                    if self._written != self._noted:
                        self._note(self._metadata, self._points, self._written)
                    return
                shard.need_space(self._folder, WRITE_RESERVE + 2 * shard.disk_bytes(self._points))
                opened.flush()
                self._unflushed = 0
            with shard.explained("optimise the index in", self._folder):
                self._build(waiting, tell)

    def _build(self, waiting: int, tell: Callable[[float | None], None]) -> None:
        from tsembed_search.store.edge import graph

        old, fresh = self._points, shard.other(self._points)
        with ExitStack() as failed:
            failed.callback(shutil.rmtree, fresh, ignore_errors=True)
            graph.build(old, fresh, self.dim, waiting, tell)
            opened = shard.load(fresh, self.settings)
            failed.callback(opened.close)
            self._note(self._metadata, fresh, 0)
            failed.pop_all()
        with self._turn:
            before, self._shard, self._points = self._shard, opened, fresh
            self._counts.clear()
            self._written, self._build_at = 0, BUILD_EVERY
        before.close()
        shutil.rmtree(old, ignore_errors=True)

    def _note(self, metadata: Mapping[str, Any], points: Path, written: int) -> None:
        """Write the index's file."""
        shard.write(self._folder, self.settings, metadata, points, written)
        self._metadata, self._noted = dict(metadata), written

    def info(self) -> StoreInfo:
        """Return facts for people."""
        with self._engine("read") as opened:
            facts = opened.info()
        details = {
            "folder": str(self._folder),
            "disk_bytes": str(shard.disk_bytes(self._points)),
            "segments": str(facts.segments_count),
            "quantize": self.settings.quantize,
            "concepts": "yes" if self.settings.concepts else "no",
        }
        import importlib.metadata  # takes longer than a search

        engine = f"Qdrant Edge {importlib.metadata.version('qdrant-edge-py')}"
        points = int(facts.points_count)
        # Points that were deleted are still counted as indexed.
        return StoreInfo(engine, points, min(points, self._in_graph(facts)), details)

    def _in_graph(self, facts: Any) -> int:
        """The points in the search graph. The engine counts the words and concepts of a point, too, as indexed."""
        others = int(facts.points_count)
        if self.settings.concepts:
            others += self._counted(self._dialect.has_concepts)
        return max(0, int(facts.indexed_vectors_count) - others)

    def close(self) -> None:
        """Write everything to disk and let another process open the store. Closing twice does no harm."""
        with self._change, self._turn:
            if self._shard is None:
                return
            with self._engine("close") as opened:
                self._shard = None
                try:
                    if self._unflushed:  # a search, which writes nothing, must not wait for the disk
                        opened.flush()
                finally:
                    opened.close()
                    # The engine makes files as the umask says, even when it only reads.
                    private.close_to_others(self._folder)
                    self._held.close()

    def _wrote(self, size: int, points: int = 1) -> None:
        self._written += points
        self._unflushed += size
        if self._unflushed >= FLUSH_BYTES:
            self._shard.flush()
            self._unflushed = 0

    @contextmanager
    def _writing(self, doing: str) -> Iterator[Any]:
        if self._copied:
            raise StoreError(
                f"Cannot {doing} the index in {self._folder}: it can only be read there.",
                "Make its disk or its folder writable, or set TSEMBED_HOME to another folder.",
            )
        with self._change, self._engine(doing) as opened:
            try:
                yield opened
            finally:
                self._counts.clear()

    @contextmanager
    def _engine(self, doing: str) -> Iterator[Any]:
        """The open shard; whatever the engine raises inside becomes a `StoreError`."""
        with self._turn:
            if self._shard is None:
                raise StoreError(f"The index in {self._folder} is closed.")
            with shard.explained(f"{doing} the index in", self._folder):
                yield self._shard


class EdgeEngine:
    """The `Engine` (see `store/base.py`) of an address whose store is `edge`: indexes in folders of this machine."""

    def exists(self, address: IndexAddress) -> bool:
        """Tell whether a store was made in the index's folder. Raises `StoreError` when one may not look."""
        with shard.explained("look for an index in", address.folder):
            try:
                (address.folder / shard.NAME).stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def metadata(self, address: IndexAddress) -> dict[str, Any] | None:
        """Read the index's facts about itself without opening the shard; None when there is no store."""
        return shard.read(address.folder)[1] if self.exists(address) else None

    def open(self, address: IndexAddress, *, writing: bool = False) -> EdgeStore:
        """Open the store; where it cannot be written, one that can only be read, on a copy.

        Raises `StoreError` when there is none or it is damaged, `IndexBusyError` when another process has it open.
        """
        folder = address.folder
        settings, metadata = shard.read(folder)
        with shard.explained("open the index in", folder), _lock(folder) as held:
            points, written = shard.points_of(folder)
            try:
                opened = shard.load(points, settings)
            except BaseException as error:
                if not shard.is_unwritable(error):
                    raise
            else:
                shutil.rmtree(shard.other(points), ignore_errors=True)  # of a build that was cut short
                return EdgeStore(folder, settings, metadata, points, opened, held.pop_all(), written=written)
            if owner := owner_of(folder):
                raise IndexBusyError(f"The index in {folder} is in use by {owner}.", "Wait until it has finished.")
            copy = held.enter_context(private.copied([points])) / points.name
            return EdgeStore(folder, settings, metadata, copy, shard.load(copy, settings), held.pop_all(), copied=True)

    def create(self, address: IndexAddress, settings: StoreSettings) -> EdgeStore:
        """Make a new store. Raises `StoreError` when the folder has one, or cannot be written."""
        folder = address.folder
        if self.exists(address):
            raise StoreError(f"{folder} already holds an index.", "Open it, or choose another name: {index}.")
        with shard.explained("create an index in", folder):
            private.make_folder(folder)
            with _lock(folder) as held:
                points, other = (folder / name for name in shard.POINTS)
                shard.remove_unfinished(other)
                made = shard.create(points, settings)
                # Last, so that a creation that was cut short is not mistaken for an index.
                shard.write(folder, settings, {}, points)
                return EdgeStore(folder, settings, {}, points, made, held.pop_all())

    def delete(self, address: IndexAddress) -> None:
        """Delete the store. Raises `IndexBusyError` when another process has it open."""
        self.open(address).close()
        with shard.explained("delete the index in", address.folder):
            # First what makes it an index, so that a deletion that is cut short leaves none.
            points, _ = shard.points_of(address.folder)
            (address.folder / shard.NAME).unlink()
            shutil.rmtree(points)

    def salvage(self, address: IndexAddress) -> int:
        """Replace a damaged store by one of all that can be read; returns how many points that are."""
        from tsembed_search.store.edge.salvage import salvage

        with _lock(address.folder):
            return salvage(address.folder)


def _lock(folder: Path) -> ExitStack:
    """Keep others from a shard until the stack is closed. Raises `IndexBusyError`.

    The engine has a lock of its own, but opens the segments before it asks for that, which damages them for whoever has
    them open.
    """
    stack = ExitStack()
    if file := lock(folder / _LOCK):
        stack.enter_context(file)
    return stack


EDGE: Final = EdgeEngine()
