"""The embedded engine: one Qdrant Edge shard in the index's folder, in this process, with nothing to install or start.

The folder holds `points/` (the shard) and `index.json` (its settings and the index's metadata, which the engine itself
cannot keep). One process owns a shard at a time.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from tsembed_search import private
from tsembed_search.errors import StoreError
from tsembed_search.store.base import Point, Record, StoreInfo, StoreSettings, check_id, check_points
from tsembed_search.store.edge import graph, query, shard
from tsembed_search.store.edge.shard import FLUSH_BYTES, WRITE_RESERVE
from tsembed_search.store.filtered import Ask, FilteredStore, wanted_payload
from tsembed_search.store.schema import VECTOR_NAME, with_path_keys
from tsembed_search.store.translate import QdrantDialect

_PAGE: Final = 1000


class EdgeStore(FilteredStore[Any]):
    """A `Store` (see `base.py`) on an open shard. `edge.engine` makes and opens it.

    For several threads, which take turns: the engine keeps Python's interpreter lock anyway, and has no shard for a
    search while it is optimised.
    """

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        metadata: dict[str, Any],
        opened: Any,
        held: ExitStack,
        *,
        copied: bool = False,
    ) -> None:
        """Take over an open shard, and what is `held` for it until it is closed; `copied`: it is that of a copy, for
        the index cannot be written.
        """
        self._folder = folder
        self._settings = settings
        self._metadata = metadata
        self._shard = opened
        self._held = held
        self._copied = copied
        self._unflushed = 0
        self._changed = False
        self._turn = threading.RLock()

    @property
    def dim(self) -> int:
        """The size of the vectors."""
        return self._settings.dim

    @property
    def settings(self) -> StoreSettings:
        """The settings chosen at creation."""
        return self._settings

    @property
    def metadata(self) -> dict[str, Any]:
        """Facts of the index about itself."""
        return dict(self._metadata)

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata as a whole."""
        with self._writing("write the metadata of"):
            shard.write(self._folder, self._settings, metadata)
        self._metadata = dict(metadata)

    def upsert(self, points: Sequence[Point]) -> None:
        """Add or replace points. They are in the log when it returns."""
        if not points:
            return
        import qdrant_edge as engine

        ids, vectors = check_points(points, self.dim)
        with self._writing("write to") as opened:
            # Lists of numbers are what makes points large; the rest of a payload is about a kilobyte.
            size = sum(4 * (self.dim + len(point.payload.get("route", ()))) + 1024 for point in points)
            shard.need_space(self._folder, WRITE_RESERVE + 4 * size)
            rows = zip(ids, vectors.tolist(), points, strict=True)
            made = [engine.Point(id, {VECTOR_NAME: row}, with_path_keys(point.payload)) for id, row, point in rows]
            opened.update(engine.UpdateOperation.upsert_points(made))
            self._wrote(size)

    def set_payload(self, id: str, payload: Mapping[str, Any]) -> None:
        """Overwrite these keys of one point's payload. Raises `StoreError` when there is no such point."""
        import qdrant_edge as engine

        point = check_id(id)
        with self._writing("write to") as opened:
            if not opened.retrieve([point], False, False):
                raise StoreError(f"The index has no item {id}.")
            shard.need_space(self._folder, WRITE_RESERVE)
            opened.update(engine.UpdateOperation.set_payload([point], with_path_keys(payload)))
            self._wrote(1024)

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
            made = [
                query.record(raw, bool(payload), with_vectors) for raw in opened.retrieve(wanted, payload, with_vectors)
            ]
        found = {record.id: record for record in made}
        return [found[id] for id in wanted if id in found]

    @property
    def _dialect(self) -> QdrantDialect:
        return query.dialect()

    def _nearest(self, ask: Ask[Any], limit: int, offset: int) -> list[list[Record]]:
        with self._engine("search") as opened:
            return query.nearest(opened, ask, self._settings.quantize, limit, offset)

    def _pages(self, condition: Any, payload: bool | list[str], with_vectors: bool) -> Iterator[Record]:
        import qdrant_edge as engine

        chosen, offset = self._dialect.as_filter(condition), None
        while True:
            request = engine.ScrollRequest(
                offset=offset, limit=_PAGE, filter=chosen, with_payload=payload, with_vector=with_vectors
            )
            with self._engine("read") as opened:
                page, offset = opened.scroll(request)
            yield from (query.record(raw, bool(payload), with_vectors) for raw in page)
            if offset is None:
                return

    def _counted(self, condition: Any) -> int:
        import qdrant_edge as engine

        with self._engine("read") as opened:
            return int(opened.count(engine.CountRequest(exact=True, filter=self._dialect.as_filter(condition))))

    def _values(self, key: str, condition: Any, limit: int) -> dict[str, int]:
        import qdrant_edge as engine

        request = engine.FacetRequest(key, limit=limit, exact=True, filter=self._dialect.as_filter(condition))
        with self._engine("read") as opened:
            return {str(hit.value): int(hit.count) for hit in opened.facet(request).hits}

    def optimize(self) -> None:
        """Build the search graph when enough vectors are without (`INDEXING_THRESHOLD_KB`), in a child process."""
        with self._writing("optimise") as opened:
            facts, threshold = opened.info(), shard.INDEXING_THRESHOLD_KB * 1024
            waiting = (facts.points_count - facts.indexed_vectors_count) * self.dim * 4
            if not self._changed and waiting < threshold:
                return
            if facts.points_count * self.dim * 4 < threshold:
                opened.optimize()
                opened.flush()
            else:
                segments = shard.disk_bytes(self._folder / "points" / "segments")
                shard.need_space(self._folder, WRITE_RESERVE + 2 * segments)
                self._optimize_apart(opened)
        self._changed = False
        self._unflushed = 0

    def _optimize_apart(self, opened: Any) -> None:
        opened.flush()
        opened.close()
        self._shard = None
        try:
            graph.run(self._folder / "points")
        finally:
            self._shard = shard.load(self._folder / "points", self._settings)

    def info(self) -> StoreInfo:
        """Return facts for people."""
        with self._engine("read") as opened:
            facts = opened.info()
        details = {
            "folder": str(self._folder),
            "disk_bytes": str(shard.disk_bytes(self._folder / "points")),
            "segments": str(facts.segments_count),
            "quantize": self._settings.quantize,
        }
        engine = f"Qdrant Edge {importlib.metadata.version('qdrant-edge-py')}"
        return StoreInfo(engine, int(facts.points_count), int(facts.indexed_vectors_count), details)

    def close(self) -> None:
        """Write everything to disk and let another process open the store. Closing twice does no harm."""
        with self._turn:
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

    def _wrote(self, size: int) -> None:
        self._changed = True
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
        with self._engine(doing) as opened:
            yield opened

    @contextmanager
    def _engine(self, doing: str) -> Iterator[Any]:
        """The open shard; whatever the engine raises inside becomes a `StoreError`."""
        with self._turn:
            if self._shard is None:
                raise StoreError(f"The index in {self._folder} is closed.")
            with shard.explained(f"{doing} the index in", self._folder):
                yield self._shard
