"""`Index`: everything that a program does with an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsembed_search.errors import DamagedIndexError, IndexBusyError, MissingIndexError, StoreError, UsageError
from tsembed_search.items import Item
from tsembed_search.paths import DEFAULT_INDEX, DEFAULT_MODEL, IndexAddress, file_path, lost_folders
from tsembed_search.ranking.routes import Agreement
from tsembed_search.search.index_model import IndexModel
from tsembed_search.search.passage import Excerpt, passage_of
from tsembed_search.search.results import (
    FILE_FIELDS,
    USAGE_FIELDS,
    Clock,
    Explanation,
    File,
    Hit,
    IndexStatus,
    SearchOptions,
    SearchResult,
    files_of,
    usage_of,
)
from tsembed_search.search.where import selection
from tsembed_search.store import opening
from tsembed_search.store.base import StoreSettings
from tsembed_search.store.filters import Filter
from tsembed_search.store.schema import WORDS_LEFT, IndexMetadata, has_route, stored_routes

if TYPE_CHECKING:
    from tsembed_search.indexer.report import Amount, IndexOptions, IndexReport, ProgressSink, StopSignal
    from tsembed_search.model.backbone import ModelInfo
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.ranking.routes import Usage
    from tsembed_search.search.searcher import Answer
    from tsembed_search.store.base import Store


class Index(AbstractContextManager["Index"]):
    """An index of one model: files go in by `add`, and `search` finds them.

    Several threads may use one, also while one of them adds; changes go one at a time. The model is loaded when it is
    needed first, and then stays. The store is opened after that: by a search until `close`, by a change until its end.
    Meanwhile other processes are kept out of an embedded store. Leaving a `with` block closes the index.
    """

    def __init__(
        self,
        address: IndexAddress,
        metadata: IndexMetadata | None,
        *,
        model: str | None = None,
        device: str = "auto",
        embedder: Embedder | None = None,
        wait: bool = False,
        store: Store | None = None,
        settings: StoreSettings | None = None,
    ) -> None:
        from tsembed_search.indexer.access import Access

        self.address = address
        self.name = address.name
        self._access = Access(address, wait=wait, store=store)
        self._model = IndexModel(address, metadata, model, device, embedder)
        self._settings = settings

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
        hold: bool = False,
        create: StoreSettings | None = None,
        dim: int | None = None,
        depth: int | None = None,
    ) -> Index:
        """Open an index.

        `store` says where it is: `edge` on this machine, `http://...` on a Qdrant server (see `IndexAddress`). `model`
        is a name, a hub name or a folder, by default the one that made the index; `embedder` is one that is loaded
        already. `device`: `auto`, `cpu`, `cuda`, `cuda:i` or `mps`; several, with commas between, share the work of
        `add`. `wait`: wait for others who use the index. `hold`: own it and keep its store open until `close`. With
        `create`, a missing index is no error: the first `add` that finds something makes it, with these settings. `dim`
        cuts the model's vectors to as many numbers, `depth` lets it stop after as many blocks.

        Raises `MissingIndexError`, `IndexMismatchError` when another model made it, and, with `hold`, `IndexBusyError`.
        """
        address = IndexAddress(name, store)
        raw = opening.metadata(address)
        if not raw and create is None:
            folders = sorted(address.folder.parent.glob("*/index.json")) if address.scheme == "edge" else []
            there = f"\nThere are: {', '.join(one.parent.name for one in folders[:10])}" if folders else ""
            raise MissingIndexError(f"There is no index called {name!r}.", "Make it with: {add()}" + there, name, store)
        metadata = IndexMetadata.from_json(raw) if raw else None
        if dim is not None or depth is not None:
            from tsembed_search.model.registry import named

            made_by = metadata.model if metadata else DEFAULT_MODEL
            model = named(model or made_by, depth, dim)
        index = cls(address, metadata, model=model, device=device, embedder=embedder, wait=wait, settings=create)
        if hold:
            index._access.hold()
        return index

    @classmethod
    def create(
        cls, name: str = DEFAULT_INDEX, *, settings: StoreSettings | None = None, store: str = "edge", **opened: Any
    ) -> Index:
        """Make an empty index and open it. `opened` are the other arguments of `open`; the default model is `mini`.

        Raises `StoreError` when there is an index of that name already, and `ModelError`.
        """
        address = IndexAddress(name, store)
        if opening.metadata(address):
            raise StoreError(f"There is an index called {name!r} already.", "Open it, or choose another name: {index}.")
        index = cls.open(name, store=store, create=settings or StoreSettings(0), **opened)
        try:
            info = index.embedder.info
            with index._access.change("creating it") as made:
                if made is None:
                    index._made(info)
        except BaseException:
            index.close()
            raise
        return index

    @property
    def metadata(self) -> IndexMetadata:
        """The facts about the model that made the index. Raises `MissingIndexError` before there is one."""
        return self._model.metadata

    @property
    def embedder(self) -> Embedder:
        """The model, loaded now if it was not. Raises `ModelError` and `IndexMismatchError`."""
        return self._model.embedder

    @property
    def store(self) -> Store:
        """The store, opened now if it was not. Raises `IndexBusyError` while another process has it open."""
        with self._access.read() as store:
            return store

    def add(
        self,
        paths: str | Path | Sequence[str | Path],
        options: IndexOptions | None = None,
        *,
        progress: ProgressSink | None = None,
        stop: StopSignal | None = None,
        **fields: Any,
    ) -> IndexReport:
        """Bring the index up to date with files and folders: what is new is added, what has vanished is removed.

        `fields` are those of `IndexOptions`. `progress` is told how far it is. `stop` ends it early, such as a
        `threading.Event`; what was embedded until then is kept. Other threads can search meanwhile.

        Raises `UsageError` (a path that does not exist, a bad pattern), `IndexBusyError`, `IndexMismatchError`,
        `StoreError`, `ModelError`, and `Interrupted`, which has the report so far.
        """
        from tsembed_search.indexer.pipeline import Opened, run_index
        from tsembed_search.indexer.report import IndexOptions

        chosen = replace(options or IndexOptions(), **fields)
        opened = Opened(
            folder=self.address.folder,
            fingerprint=self._model.fingerprint(),
            owned=partial(self._owned, chosen.dry_run),
            create=self._made,
            load=self._model.on_each_device,
            unloaded=self._model.unloaded,
        )
        several = [paths] if isinstance(paths, str | Path) else paths
        return run_index(several, chosen, opened, progress=progress, stop=stop)

    def remove(
        self, paths: Sequence[str | Path] | None = None, where: str | Filter | None = None, *, dry_run: bool = False
    ) -> Amount:
        """Take files out of the index: those at `paths` and in these folders, and of these those that match `where`.

        The disk is not touched. Returns how many files and items that are; with `dry_run`, nothing is changed. Raises
        `UsageError`, `IndexBusyError` and `StoreError`.
        """
        from tsembed_search.indexer import mending
        from tsembed_search.indexer.report import Amount

        chosen = selection(paths or (), () if where is None else [where])
        if chosen is None:
            raise UsageError("Say what to remove.", "Give paths, or a filter: {where}.")
        with ExitStack() as stack:
            access = self._access.read() if dry_run else self._access.change("removing", rescue=False)
            store = stack.enter_context(access) or self.store
            records = list(store.scroll(chosen, fields=FILE_FIELDS))
            gone = {file.path for file in files_of(records, chosen)}
            if dry_run:
                left = (one for one in records if any(place["path"] not in gone for place in one.payload["places"]))
                return Amount(len(gone), len(records) - sum(1 for _ in left))
            return mending.remove_files(self.address.folder, store, [str(file_path(path)) for path in sorted(gone)])

    def search(
        self,
        query: Item | str | None = None,
        options: SearchOptions | None = None,
        *,
        like: str | Path | None = None,
        **fields: Any,
    ) -> SearchResult:
        """Find the best hits for a text, an image, or both as one query; or for what is `like` an item.

        `fields` are those of `SearchOptions`, such as `k` and `where`. `like` is an item's id, the path of an indexed
        file, or a picture or text file that is not indexed; the item itself is left out, and so is the picture file of
        a query that has a text, too.

        Raises `UsageError` for a query of nothing and for a reranking that the index cannot do, `LoadError` for a file
        that cannot be read, `IndexBusyError` while another process has the store open.
        """
        clock, chosen = Clock(), self._model.options(options, fields)
        if query is None and like is None:
            raise UsageError("There is nothing to search for.", "Give a text, an image, or both; or {like}.")
        if query is not None and like is not None:
            raise UsageError(
                "A search by likeness takes no other query.",
                "To combine a picture with a text, give the picture as {image}.",
            )
        wanted = [] if query is None else self._model.queries([query], clock, chosen.words, self._access.read)
        with self._reading(clock) as store:
            if like is not None:
                wanted = [self._model.like(str(like), store, clock)]
            hits, respelled = (searcher := self._model.searcher(store)).answers(wanted, chosen)[0]
            counts = (store.count(), store.count_vectors()) if store.metadata.get(WORDS_LEFT) else (None, None)
        told = searcher.tells_good(wanted[0])
        return SearchResult(hits, clock.stop(), counts[0], counts[1], respelled, wanted[0].unread, told)

    def search_many(
        self,
        queries: Sequence[Item | str],
        options: SearchOptions | None = None,
        *,
        snippets: bool = False,
        **fields: Any,
    ) -> list[list[Hit]]:
        """Find the hits of each query, in their order, with snippets only if they are asked for. Otherwise like
        `search`. The next queries are embedded in batches while the store is asked for those before.
        """
        return [answer.hits for answer in self.answer_many(queries, options, snippets=snippets, **fields)]

    def answer_many(
        self, queries: Sequence[Item | str], options: SearchOptions | None = None, *, snippets: bool, **fields: Any
    ) -> list[Answer]:
        """Find the hits of each query as `search_many` does; also its misspelt words, each with what was looked for."""
        return self._model.answers(queries, self._model.options(options, fields), self._access.read, snippets=snippets)

    def explain(self, query: Item | str, hit: str) -> Explanation:
        """Show which words of a query an item has, and where the routing of the two agrees, block by block.

        `hit` is an item's id, the path of an indexed file (of many items, the one most like the query), or the place of
        a hit in the plain search for that query, such as `3`. What has no vector is explained by its words. Raises
        `UsageError` when there is no such item, and when the model has no experts.
        """
        clock, shape = Clock(), self.routes()
        asked = Item(query) if isinstance(query, str) else query
        (wanted,) = self._model.queries([asked], clock, reading=self._access.read)
        with self._reading(clock) as store:
            found, record, why = self._model.searcher(store).named(wanted, hit)
        if not found.similarity:
            return Explanation(asked, found, None, why, clock.stop())
        if not has_route(record.payload):
            raise StoreError(
                f"{found.path} has no routing vector.",
                "The index was changed from outside. Make another one: {index}.",
            )
        route = stored_routes([record.payload], len(wanted.route))[0]
        return Explanation(asked, found, Agreement.of(wanted.route, route, shape), why, clock.stop())

    def show(self, hit: str, **chosen: Any) -> Excerpt:
        """Return a passage and what stands around it, by an item's id or a path: see `passage_of`. Loads no model."""
        with self._access.read() as store:
            return passage_of(store, hit, lost_folders(self.address.folder, store.metadata), **chosen)

    def files(self, paths: Sequence[str | Path] | None = None, where: str | Filter | None = None) -> list[File]:
        """List the indexed files, by path: all, or those at `paths` and in these folders, and that match `where`."""
        chosen = selection(paths or (), () if where is None else [where])
        with self._access.read() as store:
            records = store.scroll(chosen, fields=FILE_FIELDS)
            return files_of(records, chosen, lost_folders(self.address.folder, store.metadata))

    def routes(self) -> tuple[int, int]:
        """Return (L blocks, E experts) of the routing vectors. Raises `UsageError` when there are none."""
        return self._model.routes()

    def usage(self) -> list[Usage]:
        """Return how the items use the model's experts: all, each kind, each folder. Raises as `routes` does."""
        shape = self.routes()
        with self._access.read() as store:
            return usage_of(store.scroll(fields=USAGE_FIELDS), shape)

    def status(self) -> IndexStatus:
        """Return counts and facts. Loads no model.

        While another process has the store open, that is said, with what is known without it.
        """
        from tsembed_search.indexer.manifest import remembered

        status = IndexStatus(self.name, self.metadata, **vars(remembered(self.address.folder)))
        try:
            with self._access.read() as store:
                items = {kind: count for kind, count in store.facet("kind").items() if count}
                info = store.info()
                vectors = store.count_vectors() if store.metadata.get(WORDS_LEFT) else info.points
                return replace(status, items=items, store=info, place=self.address.place, with_vectors=vectors)
        except IndexBusyError as error:
            return replace(status, busy=error.message)

    def repair(self, note: Callable[[str], None] = lambda message: None) -> Amount:
        """Make what is remembered of the files again, from what the store has; returns how much that is.

        Of a damaged store, everything that can be read is kept, and `note` is told of it. The next `add` embeds what is
        missing. Raises `IndexBusyError` and `StoreError`.
        """
        from tsembed_search.indexer import mending

        with self._access.own("repairing"):
            try:
                with self._access.read() as store:
                    return mending.repair(self.address.folder, store)
            except DamagedIndexError as error:
                self._access.let_go()
                mending.salvage(self.address, error, note)
            with self._access.read() as store:
                return mending.repair(self.address.folder, store)

    def delete(self) -> None:
        """Delete the index, and close it. Raises `IndexBusyError` and `StoreError`."""
        import shutil

        from tsembed_search.indexer import mending

        with self._access.own("removing"):
            self._access.let_go()
            mending.remove_index(self.address)
        self.close()
        shutil.rmtree(self.address.folder, ignore_errors=True)

    def close(self) -> None:
        """Close the store and let others own the index, once other threads have done with it. Twice does no harm."""
        self._access.close()

    def __exit__(self, *ended: object) -> None:
        self.close()

    @contextmanager
    def _owned(self, dry_run: bool, note: Callable[[str], None]) -> Iterator[Store | None]:
        """The store, for a run of the indexer; None when there is none."""
        with ExitStack() as stack:
            if dry_run and not self.address.folder.exists():
                store = stack.enter_context(self._access.read()) if opening.metadata(self.address) else None
            else:
                store = stack.enter_context(self._access.change("indexing", note, rescue=not dry_run))
            self._model.made(store.metadata if store is not None else None)
            yield store
            # The run may have measured how scores of different kinds compare.
            self._model.made(opening.metadata(self.address))

    def _made(self, info: ModelInfo) -> Store:
        """A new store for a model."""
        settings = replace(self._settings or StoreSettings(0), dim=info.dim, concepts=info.classes > 0)
        store = opening.open_or_create(self.address, settings)
        self._access.made(store)
        store.write_metadata(IndexMetadata.of(info).to_json())
        self._model.made(store.metadata)
        return store

    @contextmanager
    def _reading(self, clock: Clock) -> Iterator[Store]:
        with ExitStack() as stack:
            with clock("load"):
                store = stack.enter_context(self._access.read())
            yield store
