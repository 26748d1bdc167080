"""An index, as Python sees it: open it by name, search it, ask how it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tsembed_search.errors import IndexBusyError, ModelError, StoreError, UsageError
from tsembed_search.items import Item, Role
from tsembed_search.model import loading
from tsembed_search.ownership import owner_of
from tsembed_search.paths import DEFAULT_INDEX, IndexAddress
from tsembed_search.ranking.reranking import RERANKERS, Query
from tsembed_search.ranking.routes import Agreement
from tsembed_search.ranking.similarity import similarity
from tsembed_search.search.queries import embedded_queries, query_like, stored_records
from tsembed_search.search.results import Explanation, Hit, IndexStatus, SearchOptions, SearchResult
from tsembed_search.search.searcher import Searcher
from tsembed_search.store import opening
from tsembed_search.store.filters import Filter
from tsembed_search.store.schema import IndexMetadata, has_route, stored_routes
from tsembed_search.whereabouts import OFFLINE

if TYPE_CHECKING:
    from tsembed_search.model.backbone import ModelInfo, ModelRef
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.store.base import Record, Store, StoreSettings

_BETWEEN_TRIES = 0.1


def metadata_of(address: IndexAddress) -> IndexMetadata | None:
    """What the index says about its model; None when there is no index, or none that was finished.

    An embedded index is not opened for this, only its file of settings is read.
    """
    raw = opening.metadata(address)
    return IndexMetadata.from_json(raw) if raw else None


@dataclass(frozen=True)
class StoreOpener:
    """Opens an index for the indexer, which says when: see `run_index`.

    `model` is the one to index with; `settings` are those of a new index, whose `dim` is the model's.
    """

    address: IndexAddress
    model: ModelRef
    settings: StoreSettings

    def __call__(self, info: ModelInfo | None) -> Store | None:
        """The store; made and labelled with the model `info` when there is none, or None without `info`.

        Raises `IndexMismatchError` when another model made the index.
        """
        known = metadata_of(self.address)
        if known is not None:
            known.check(self.address.name, self.model.name, self.model.fingerprint)
            return opening.open(self.address, writing=True)
        if info is None:
            return None
        store = opening.open_or_create(self.address, replace(self.settings, dim=info.dim))
        store.write_metadata(IndexMetadata.of(info).to_json())
        return store


class Index:
    """An index of one model. A context manager; `close` lets other processes write to an embedded index again.

    The model is loaded by the first search that needs it, and the embedded store is opened after that, so that other
    processes are kept out no longer than need be.
    """

    def __init__(
        self,
        address: IndexAddress,
        metadata: IndexMetadata,
        *,
        store: Store | None = None,
        model: str | None = None,
        device: str = "auto",
        embedder: Embedder | None = None,
        wait: bool = False,
    ) -> None:
        self.address = address
        self.name = address.name
        self.metadata = metadata
        self.wait = wait
        self._store = store
        self._model = model
        self._device = device
        self._embedder = embedder
        self._seconds = {"load": 0.0, "embed": 0.0, "search": 0.0}

    @classmethod
    def open(
        cls,
        name: str = DEFAULT_INDEX,
        *,
        store: str = "edge",
        model: str | None = None,
        device: str = "auto",
        embedder: Embedder | None = None,
        wait: bool = False,
    ) -> Index:
        """Open the index `name` in `store`: on this machine, or on the Qdrant server at `http://...` (`IndexAddress`).

        `model` defaults to the one that made the index; `embedder` is one that is loaded already. Raises `StoreError`
        when there is no such index and `IndexMismatchError` when another model made it.
        """
        address = IndexAddress(name, store)
        metadata = metadata_of(address)
        if metadata is None:
            raise StoreError(f"There is no index called {name!r}.", _other_indexes(address))
        index = cls(address, metadata, model=model, device=device, embedder=embedder, wait=wait)
        index._check_model()
        return index

    def search(
        self,
        query: Item | str | None = None,
        *,
        like: str | Path | None = None,
        k: int = 10,
        where: str | Filter | None = None,
        min_score: float | None = None,
        all_chunks: bool = False,
        rerank: str = "none",
        route_weight: float | None = None,
    ) -> SearchResult:
        """The `k` best hits for a text, an image, or both as one query; or for what is `like` an item.

        `like` is an item's id, the path of an indexed file, or a picture or text file that is not indexed; the item
        itself is left out, and so is the picture file of a query that has a text, too. `where` filters, as text
        (`kind=image and page<3`) or parsed. `route_weight` is that of `rerank="expert"`, by default the model's own.
        Raises `UsageError` for a query of nothing and for a reranking that the index cannot do, `LoadError` for a file
        that cannot be read.
        """
        options = self._options(SearchOptions(k, where, min_score, all_chunks, rerank, route_weight))
        if like is None:
            if query is None:
                raise UsageError("There is nothing to search for.", "Give a text, an image, or both; or like=.")
            hits, seconds = self._run([query], options)
            return SearchResult(hits[0], seconds)
        if query is not None:
            raise UsageError(
                "What is alike to an item cannot be combined with another query.",
                "To combine a picture with a text, give the picture as an image: --image FILE, or Item(text, image).",
            )
        with self._timed() as seconds:
            wanted = query_like(str(like), self.store, lambda: self.embedder)
            found = self._searcher().search([wanted], options)[0]
        return SearchResult(found, seconds)

    def search_many(
        self,
        queries: Sequence[Item | str],
        *,
        k: int = 10,
        where: str | Filter | None = None,
        min_score: float | None = None,
        all_chunks: bool = False,
        rerank: str = "none",
        route_weight: float | None = None,
    ) -> list[list[Hit]]:
        """The hits of each query, in their order; embedded in batches. Otherwise like `search`."""
        options = self._options(SearchOptions(k, where, min_score, all_chunks, rerank, route_weight))
        return self._run(queries, options)[0]

    def explain(self, query: Item | str, hit: str) -> Explanation:
        """Where the routing of a query and of an item agrees, block by block and expert by expert.

        `hit` is an item's id, the path of an indexed file (of many items, the one most like the query), or the place of
        a hit in the plain search for that query, such as `3`. Raises `UsageError` when there is no such item, and when
        the model has no experts.
        """
        shape = self.routes("Index")
        with self._timed() as seconds:
            asked = Item(query) if isinstance(query, str) else query
            wanted = self._embed([asked], "query")[0]
            searcher = self._searcher()
            record = self._chosen(searcher, wanted, hit)
            found = searcher.hit(wanted, record)
        if not has_route(record.payload):
            raise StoreError(
                f"{found.path} has no routing vector.",
                "The index was changed from outside. Index again under another name: tsembed index PATH --index NEW",
            )
        route = stored_routes([record.payload], len(wanted.route))[0]
        return Explanation(asked, found, Agreement.of(wanted.route, route, shape), seconds)

    def routes(self, otherwise: str = "Index") -> tuple[int, int]:
        """(L blocks, E experts) of the routing vectors. Raises `UsageError` when there are none; `otherwise` begins
        the hint.
        """
        if self.metadata.routes is None:
            raise UsageError(
                f"The index {self.name!r} holds no routing vectors: its model, {self.metadata.model}, has no experts.",
                f"{otherwise} with a model that has experts: tsembed index PATH --index NEW --model CHECKPOINT",
            )
        return self.metadata.routes

    def offline(self) -> list[str] | None:
        """The folders that were offline when the index was last brought up to date; None for an index on a server that
        this machine has never written to, whose files are another machine's.
        """
        if not self.address.folder.exists():
            return None
        told = self.store.metadata.get(OFFLINE)
        return [str(path) for path in told] if isinstance(told, list) else []

    def status(self) -> IndexStatus:
        """Counts and facts. Loads no model."""
        store = self.store
        info = store.info()
        items = {kind: count for kind, count in store.facet("kind").items() if count}
        return IndexStatus(self.name, self.metadata, items, info, self.address.place)

    def close(self) -> None:
        """Closes the store. Closing twice does no harm."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def store(self) -> Store:
        """The store, opened now if it was not. Raises `IndexBusyError` while another process has it open."""
        if self._store is None:
            with self._clock("load"):
                self._store = self._opened()
        return self._store

    def _opened(self) -> Store:
        while True:
            try:
                return opening.open(self.address)
            except IndexBusyError as error:
                if not self.wait:
                    owner = owner_of(self.address.folder)
                    raise IndexBusyError(
                        f"The index {self.name!r} is in use by {owner or 'another process'}.",
                        "Wait until it has finished (--wait does), or choose another --index.",
                    ) from error
                time.sleep(_BETWEEN_TRIES)

    @property
    def embedder(self) -> Embedder:
        """The model, loaded now if it was not."""
        if self._embedder is None:
            from tsembed_search.model.embedder import Embedder

            with self._clock("load"):
                self._embedder = Embedder(loading.load(self._resolved_model(), self._device))
        return self._embedder

    def _resolved_model(self) -> ModelRef:
        """The model to embed queries with. Raises `IndexMismatchError` before anything heavy is loaded."""
        from tsembed_search.model import registry

        if self._model is not None:
            ref = registry.resolve(self._model)
        else:
            try:
                ref = registry.resolve(self.metadata.model, known=True)
            except ModelError as error:
                raise ModelError(
                    f"The index {self.name!r} was made by the model {self.metadata.model}. {error.message}",
                    f"{error.hint} If the model has moved, say where it is: --model FOLDER.".strip(),
                ) from error
        self.metadata.check(self.name, ref.name, ref.fingerprint)
        return ref

    def _check_model(self) -> None:
        if self._embedder is not None:
            info = self._embedder.info
            self.metadata.check(self.name, info.name, info.fingerprint)
        elif self._model is not None:
            self._resolved_model()

    def _searcher(self) -> Searcher:
        # A newer version of the model may know better than the one that made the index.
        own = self._embedder.info.calibration if self._embedder else None
        experts = (self.metadata.routes or (0, 0))[1]
        return Searcher(self.store, own or self.metadata.calibration, experts, self.offline(), self._device)

    def _options(self, options: SearchOptions) -> SearchOptions:
        """The options with the model's own route weight where it is wanted and not given. Raises `UsageError`."""
        if not RERANKERS.get(options.rerank).uses_routes:
            return options
        self.routes(f"Search without --rerank {options.rerank}, or index")
        if options.route_weight is not None:
            return options
        if self.metadata.route_weight is None:
            raise UsageError(
                f"The model {self.metadata.model} does not say how much its routes should count: "
                "that was not calibrated.",
                "Say it, from 0 to 1: --route-weight 0.2",
            )
        return replace(options, route_weight=self.metadata.route_weight)

    def _run(self, queries: Sequence[Item | str], options: SearchOptions) -> tuple[list[list[Hit]], dict[str, float]]:
        items = [Item(query) if isinstance(query, str) else query for query in queries]
        with self._timed() as seconds:
            wanted = self._embed(items, "query") if items else []
            hits = self._searcher().search(wanted, options)
        return hits, seconds

    def _embed(self, items: Sequence[Item], role: Role) -> list[Query]:
        embedder = self.embedder
        with self._clock("embed"):
            return embedded_queries(embedder, items, role)

    def _chosen(self, searcher: Searcher, query: Query, hit: str) -> Record:
        """The item, with its vector, that `explain` is asked about."""
        import numpy as np

        if hit.isascii() and hit.isdecimal():
            hits = searcher.search([query], SearchOptions(max(1, int(hit))))[0]
            if not 1 <= int(hit) <= len(hits):
                raise UsageError(f"There is no hit number {int(hit)}.", f"The search for this query finds {len(hits)}.")
            hit = hits[int(hit) - 1].id
        records = stored_records(self.store, hit)
        if not records:
            raise UsageError(
                f"{hit!r} is neither the id of an item nor an indexed path.",
                "`tsembed ls` lists what is indexed; `tsembed search --json` shows ids.",
            )
        vectors = np.stack([record.vector for record in records if record.vector is not None])
        return records[int(similarity(query.vector[None], vectors)[0].argmax())]

    @contextmanager
    def _timed(self) -> Iterator[dict[str, float]]:
        """The dictionary fills as clocks inside stop; what none of them counted is `search`."""
        self._seconds = seconds = {"load": 0.0, "embed": 0.0, "search": 0.0}
        started = time.perf_counter()
        yield seconds
        seconds["search"] = time.perf_counter() - started - seconds["load"] - seconds["embed"]

    @contextmanager
    def _clock(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[what] += time.perf_counter() - started


def _other_indexes(address: IndexAddress) -> str:
    """What to do when there is no index of that name: make it, or use one that there is."""
    folders = sorted(address.folder.parent.glob("*")) if address.scheme == "edge" else []
    others = [folder.name for folder in folders if (folder / "index.json").exists()]
    named = "" if address.name == DEFAULT_INDEX else f" --index {address.name}"
    option = named + ("" if address.scheme == "edge" else f" --url {address.store}")
    make = f"Make it with: tsembed index FOLDER{option}"
    return f"{make}\nThere are: {', '.join(others[:10])}" if others else make
