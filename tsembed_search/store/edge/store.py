"""The embedded engine: one Qdrant Edge shard in the index's folder, in this process, with nothing to install or start.

The folder holds `points/` (the shard) and `index.json` (its settings and the index's metadata, which the engine itself
cannot keep). One process owns a shard at a time; a second gets `IndexBusyError`.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsembed_search import private
from tsembed_search.errors import IndexBusyError, StoreError
from tsembed_search.ownership import owner_of
from tsembed_search.private import copied
from tsembed_search.store.base import (
    FILTERED_HNSW_EF,
    HNSW_EF,
    OVERSAMPLING,
    Point,
    Record,
    StoreInfo,
    StoreSettings,
    check_id,
    check_points,
    check_queries,
)
from tsembed_search.store.edge import graph as optimizer
from tsembed_search.store.edge import shard as edge_shard
from tsembed_search.store.edge import shard as index_file
from tsembed_search.store.edge.shard import FLUSH_BYTES, INDEXING_THRESHOLD_KB, WRITE_RESERVE, explained
from tsembed_search.store.filters import Filter
from tsembed_search.store.schema import PATH_KEYS, PAYLOAD_INDEXES, VECTOR_NAME, with_path_keys
from tsembed_search.store.translate import (
    Native,
    Walk,
    facet_checked,
    most_frequent,
    scroll_checked,
    search_checked,
    translate,
    walk,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PAGE = 1000
_MAX_LIMIT = 2**31


class EdgeStore:
    """A `Store` (see `base.py`) on Qdrant Edge. Made by `create` or `open`."""

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        metadata: dict[str, Any],
        shard: Any,
        copy: ExitStack | None = None,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._metadata = metadata
        self._shard = shard
        # Where the index cannot be written, `shard` is a copy of it, which closing this deletes.
        self._copy = copy
        self._unflushed = 0
        self._changed = False

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a store was created in this folder. Raises `StoreError` when one may not look."""
        with explained("look for an index in", folder):
            try:
                (folder / index_file.NAME).stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    @classmethod
    def create(cls, folder: Path, settings: StoreSettings) -> EdgeStore:
        """A new store. Raises `StoreError` when the folder has one, or cannot be written."""
        if cls.exists(folder):
            raise StoreError(f"{folder} already holds an index.", "Open it, or choose another name with --index.")
        with explained("create an index in", folder):
            private.make_folder(folder)
            shard = edge_shard.create(folder / "points", settings)
            # Last, so that a creation that was cut short is not mistaken for an index.
            index_file.write(folder, settings, {})
        return cls(folder, settings, {}, shard)

    @classmethod
    def open(cls, folder: Path) -> EdgeStore:
        """The store in this folder; where it cannot be written, one that can only be read. Raises `StoreError` when
        there is none or it is damaged, `IndexBusyError` when another process has it open.
        """
        settings, metadata = index_file.read(folder)
        with explained("open the index in", folder):
            try:
                return cls(folder, settings, metadata, edge_shard.load(folder / "points", settings))
            except BaseException as error:
                if not edge_shard.is_unwritable(error):
                    raise
            return cls._open_copy(folder, settings, metadata)

    @classmethod
    def _open_copy(cls, folder: Path, settings: StoreSettings, metadata: dict[str, Any]) -> EdgeStore:
        if owner := owner_of(folder):
            raise IndexBusyError(f"The index in {folder} is in use by {owner}.", "Wait until it has finished.")
        with ExitStack() as stack:
            copy = stack.enter_context(copied([folder / "points"]))
            shard = edge_shard.load(copy / "points", settings)
            return cls(folder, settings, metadata, shard, stack.pop_all())

    @classmethod
    def delete_all(cls, folder: Path) -> None:
        """Deletes the store in this folder. Raises `IndexBusyError` when another process has it open."""
        cls.open(folder).close()
        with explained("delete the index in", folder):
            # First what makes it an index, so that a deletion that is cut short leaves none.
            (folder / index_file.NAME).unlink()
            shutil.rmtree(folder / "points")

    @property
    def dim(self) -> int:
        return self._settings.dim

    @property
    def settings(self) -> StoreSettings:
        """What was chosen at creation."""
        return self._settings

    @property
    def metadata(self) -> dict[str, Any]:
        return dict(self._metadata)

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        with self._writing("write the metadata of"):
            index_file.write(self._folder, self._settings, metadata)
        self._metadata = dict(metadata)

    def upsert(self, points: Sequence[Point]) -> None:
        if not points:
            return
        import qdrant_edge as engine

        ids, vectors = check_points(points, self.dim)
        with self._writing("write to") as shard:
            rows = zip(ids, vectors.tolist(), points, strict=True)
            # Lists of numbers are what makes points large; the rest of a payload is about a kilobyte.
            size = sum(4 * (self.dim + len(point.payload.get("route", ()))) + 1024 for point in points)
            edge_shard.need_space(self._folder, WRITE_RESERVE + 4 * size)
            made = [
                engine.Point(id, {VECTOR_NAME: vector}, with_path_keys(point.payload)) for id, vector, point in rows
            ]
            shard.update(engine.UpdateOperation.upsert_points(made))
            self._wrote(size)

    def set_payload(self, id: str, payload: Mapping[str, Any]) -> None:
        import qdrant_edge as engine

        point = check_id(id)
        with self._writing("write to") as shard:
            if not shard.retrieve([point], False, False):
                raise StoreError(f"The index has no item {id}.")
            edge_shard.need_space(self._folder, WRITE_RESERVE)
            shard.update(engine.UpdateOperation.set_payload([point], with_path_keys(payload)))
            self._wrote(1024)

    def delete(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        import qdrant_edge as engine

        with self._writing("delete from") as shard:
            shard.update(engine.UpdateOperation.delete_points([check_id(id) for id in ids]))
            self._wrote(64 * len(ids))

    def search(
        self,
        vectors: NDArray[np.float32],
        limit: int,
        where: Filter | None = None,
        *,
        offset: int = 0,
        with_vectors: bool = False,
        fields: Sequence[str] | None = None,
        exact: bool = False,
    ) -> list[list[Record]]:
        queries = check_queries(vectors, self.dim)
        native = self._native(where)
        if limit <= 0 or not len(queries):
            return [[] for _ in queries]
        with self._engine("search") as shard:
            way = Walk.SCAN if exact else self._walk(shard, native, where)
            payload = True if fields is None or not native.exact else list(fields) or False
            ask = _Ask(queries.tolist(), native, self._settings.quantize, payload, with_vectors, way)
            if native.exact:
                return ask(shard, limit, offset)
            hits = search_checked(lambda wanted: ask(shard, wanted, 0), where, offset + limit)
        return [found[offset:] for found in hits]

    def _walk(self, shard: Any, native: Native[Any], where: Filter | None) -> Walk:
        import qdrant_edge as engine

        def passing() -> int:
            return int(shard.count(engine.CountRequest(exact=False, filter=native.condition)))

        return walk(where, passing, lambda: int(shard.info().points_count))

    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> list[Record]:
        wanted = [check_id(id) for id in ids]
        payload = True if fields is None else list(fields) or False
        with self._engine("read") as shard:
            made = [_record(raw, bool(payload), with_vectors) for raw in shard.retrieve(wanted, payload, with_vectors)]
        found = {record.id: record for record in made}
        return [found[id] for id in wanted if id in found]

    def scroll(
        self, where: Filter | None = None, *, fields: Sequence[str] | None = None, with_vectors: bool = False
    ) -> Iterator[Record]:
        native = self._native(where)
        if native.exact:
            return self._pages(native, fields, with_vectors)
        return scroll_checked(lambda needed: self._pages(native, needed, with_vectors), where, fields)

    def count(self, where: Filter | None = None) -> int:
        import qdrant_edge as engine

        native = self._native(where)
        if not native.exact:
            return sum(1 for _ in self.scroll(where, fields=()))
        with self._engine("read") as shard:
            return int(shard.count(engine.CountRequest(exact=True, filter=native.condition)))

    def facet(self, key: str, where: Filter | None = None, limit: int = 1000) -> dict[str, int]:
        import qdrant_edge as engine

        if PAYLOAD_INDEXES.get(key) != "keyword":
            raise StoreError(f"Values of {key!r} cannot be counted.")
        native = self._native(where)
        if not native.exact:
            return facet_checked(self.scroll(where, fields=[key.partition("[].")[0]]), key, limit)
        with self._engine("read") as shard:
            request = engine.FacetRequest(key, limit=min(limit, _MAX_LIMIT), exact=True, filter=native.condition)
            return most_frequent({str(hit.value): int(hit.count) for hit in shard.facet(request).hits}, limit)

    def optimize(self) -> None:
        """Builds HNSW when there are enough vectors without (`INDEXING_THRESHOLD_KB`), in a child process. First gives
        the points of an older index that has changed their path keys.
        """
        if self._changed and not self._settings.path_keys:
            self._add_path_keys()
        with self._writing("optimise") as shard:
            facts = shard.info()
            waiting = (facts.points_count - facts.indexed_vectors_count) * self.dim * 4
            if not self._changed and waiting < INDEXING_THRESHOLD_KB * 1024:
                return
            if facts.points_count * self.dim * 4 < INDEXING_THRESHOLD_KB * 1024:
                shard.optimize()
                shard.flush()
            else:
                edge_shard.need_space(
                    self._folder, WRITE_RESERVE + 2 * edge_shard.disk_bytes(self._folder / "points" / "segments")
                )
                self._optimize_apart(shard)
        self._changed = False
        self._unflushed = 0

    def _add_path_keys(self) -> None:
        import qdrant_edge as engine

        with self._engine("bring up to date") as shard:
            # A point that changes is copied out of its segment.
            segments = edge_shard.disk_bytes(self._folder / "points" / "segments")
            edge_shard.need_space(self._folder, WRITE_RESERVE + 2 * segments)
            edge_shard.make_payload_indexes(shard)
        for record in self.scroll(fields=["places"]):
            with self._engine("bring up to date") as shard:
                keys = {PATH_KEYS: with_path_keys(record.payload).get(PATH_KEYS, [])}
                shard.update(engine.UpdateOperation.set_payload([record.id], keys))
                self._wrote(1024)
        with self._engine("bring up to date") as shard:
            shard.flush()
            settings = replace(self._settings, path_keys=True)
            # Last: until then, searches do without.
            index_file.write(self._folder, settings, self._metadata)
        self._settings = settings

    def _optimize_apart(self, shard: Any) -> None:
        shard.flush()
        shard.close()
        self._shard = None
        try:
            optimizer.run(self._folder / "points")
        finally:
            self._shard = edge_shard.load(self._folder / "points", self._settings)

    def info(self) -> StoreInfo:
        with self._engine("read") as shard:
            facts = shard.info()
        details = {
            "folder": str(self._folder),
            "disk_bytes": str(edge_shard.disk_bytes(self._folder / "points")),
            "segments": str(facts.segments_count),
            "quantize": self._settings.quantize,
        }
        engine = f"Qdrant Edge {importlib.metadata.version('qdrant-edge-py')}"
        return StoreInfo(engine, int(facts.points_count), int(facts.indexed_vectors_count), details)

    def close(self) -> None:
        """Writes everything to disk and lets another process open the store. Closing twice does no harm."""
        if self._shard is not None:
            with self._engine("close") as shard:
                self._shard = None
                try:
                    if self._unflushed:  # a search, which writes nothing, must not wait for the disk
                        shard.flush()
                finally:
                    shard.close()
                    # The engine makes files as the umask says, even when it only reads.
                    private.close_to_others(self._folder)
                    if self._copy is not None:
                        self._copy.close()

    def _native(self, where: Filter | None) -> Native[Any]:
        from tsembed_search.store.edge.query import EdgeDialect, as_filter

        native = translate(where, EdgeDialect(), path_keys=self._settings.path_keys)
        return Native(as_filter(native.condition), native.exact)

    def _pages(self, native: Native[Any], fields: Sequence[str] | None, with_vectors: bool) -> Iterator[Record]:
        import qdrant_edge as engine

        payload = True if fields is None else list(fields) or False
        offset = None
        while True:
            request = engine.ScrollRequest(
                offset=offset, limit=_PAGE, filter=native.condition, with_payload=payload, with_vector=with_vectors
            )
            with self._engine("read") as shard:
                page, offset = shard.scroll(request)
            yield from (_record(raw, bool(payload), with_vectors) for raw in page)
            if offset is None:
                return

    def _wrote(self, size: int) -> None:
        self._changed = True
        self._unflushed += size
        if self._unflushed >= FLUSH_BYTES:
            self._shard.flush()
            self._unflushed = 0

    @contextmanager
    def _writing(self, doing: str) -> Iterator[Any]:
        if self._copy is not None:
            raise StoreError(
                f"Cannot {doing} the index in {self._folder}: it can only be read there.",
                "Make its disk or its folder writable, or set TSEMBED_HOME to another folder.",
            )
        with self._engine(doing) as shard:
            yield shard

    @contextmanager
    def _engine(self, doing: str) -> Iterator[Any]:
        """The open shard; whatever the engine raises inside becomes a `StoreError`."""
        if self._shard is None:
            raise StoreError(f"The index in {self._folder} is closed.")
        with explained(f"{doing} the index in", self._folder):
            yield self._shard


class _Ask:
    """A batch of searches that differ in their limit."""

    def __init__(
        self,
        queries: list[list[float]],
        native: Native[Any],
        quantize: str,
        with_payload: bool | list[str],
        with_vectors: bool,
        way: Walk,
    ) -> None:
        import qdrant_edge as engine

        exact = way is Walk.SCAN

        quantization = None
        if quantize != "none":
            quantization = engine.QuantizationSearchParams(
                ignore=exact, rescore=True, oversampling=OVERSAMPLING[quantize]
            )
        ef = HNSW_EF if native.condition is None else FILTERED_HNSW_EF
        acorn = engine.AcornSearchParams(True, 1.0) if way is Walk.DETOUR else None
        self._params = engine.SearchParams(hnsw_ef=ef, exact=exact, quantization=quantization, acorn=acorn)
        self._queries = queries
        self._native = native
        self._with_payload = with_payload
        self._with_vectors = with_vectors

    def __call__(self, shard: Any, limit: int, offset: int) -> list[list[Record]]:
        import qdrant_edge as engine

        requests = [
            engine.QueryRequest(
                limit=min(limit, _MAX_LIMIT),
                offset=min(offset, _MAX_LIMIT),
                query=engine.Query.Nearest(query, using=VECTOR_NAME),
                filter=self._native.condition,
                params=self._params,
                with_payload=self._with_payload,
                with_vector=self._with_vectors,
            )
            for query in self._queries
        ]
        parts = bool(self._with_payload), self._with_vectors
        answers = shard.query_batch(engine.QueryBatchRequest(requests))
        return [[_record(hit, *parts, hit.score) for hit in hits] for hits in answers]


def _record(raw: Any, with_payload: bool, with_vectors: bool, score: float = 0.0) -> Record:
    """What the engine gave. Its accessors take their time for what was not asked for, too."""
    vector = np.asarray(raw.vector[VECTOR_NAME], dtype=np.float32) if with_vectors else None
    return Record(str(raw.id), (raw.payload or {}) if with_payload else {}, score, vector)
