"""The model of an index: found by name, compared with what the index says of its maker, loaded when it is needed.

A model that brings no calibration gets one that is measured on the index itself. For each kind of item the cosine of a
typical good hit is found: the mean fifth-best over a few probe queries. A hit at that level scores 0.5, whatever its
kind, so that a kind whose cosines are small by nature is not drowned by another. A good match scores more than the
best hits of nearly all probe queries, which ask for nothing in particular.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tsembed_search.errors import MissingIndexError, ModelError, UsageError
from tsembed_search.items import KINDS, Item, Kind, Modality
from tsembed_search.paths import DEFAULT_MODEL, IndexAddress, lost_folders
from tsembed_search.ranking.reranking import RERANKERS, Query
from tsembed_search.ranking.scores import Calibration, Logistic
from tsembed_search.search.queries import embedded_queries, queries_by_words, queries_without_model, query_like
from tsembed_search.search.results import Clock, SearchOptions, WordsUse
from tsembed_search.search.searcher import Answer, Searcher
from tsembed_search.store import opening
from tsembed_search.store.filters import Condition
from tsembed_search.store.schema import WORDS_LEFT, IndexMetadata

if TYPE_CHECKING:
    from tsembed_search.model.backbone import ModelRef
    from tsembed_search.model.embedder import Embedder
    from tsembed_search.model.unloaded import Unloaded
    from tsembed_search.store.base import Store

SLOPE = 15.0
"""The slope of scores at the typical hit, per unit of cosine: mini's, found by `examples/mini/calibrate.py`."""
FEWEST = 20
"""A kind with fewer items than this has no typical hit."""
_RANK = 5
_FEW = 0.95
_PICTURES = 32
_TOGETHER = 64
"""So many queries are embedded together."""

# Half name what a picture might show, half ask as one asks of a text.
_PROBES = (
    "a dog", "a person smiling", "a red car on a street", "mountains and a lake", "a plate of food", "a city at night",
    "a flower in a garden", "children playing", "a wooden house", "a bird in flight", "a chart with figures", "a map",
    "a handwritten note", "a diagram of a machine", "the sea and a boat", "a room with furniture",
    "how to repair it", "the history of the place", "terms of payment", "list of ingredients and steps",
    "a summary of the results", "who founded the company", "rules for members", "when does it open",
    "an introduction to the subject", "the causes of the war", "how much does it cost", "notes of a meeting",
    "a letter to a friend", "safety instructions", "biography of a scientist", "what the law says about it",
)  # fmt: skip


class IndexModel:
    """The model of the index at an address, for several threads.

    `name` is the one that was asked for, by default the one that made the index. `device` may be several, with commas
    between. `embedder` is one that is loaded already.
    """

    def __init__(
        self,
        address: IndexAddress,
        metadata: IndexMetadata | None,
        name: str | None = None,
        device: str = "auto",
        embedder: Embedder | None = None,
    ) -> None:
        self._address = address
        self._made_by = metadata
        self._name = name
        self.devices = device.split(",")
        self._embedder = embedder
        self._loading = threading.RLock()
        if name is not None or embedder is not None:
            self.fingerprint()

    @property
    def metadata(self) -> IndexMetadata:
        """The facts about the model that made the index. Raises `MissingIndexError` before there is one."""
        if self._made_by is None:
            name, store = self._address.name, self._address.store
            raise MissingIndexError(f"There is no index called {name!r}.", "Make it with: {add()}", name, store)
        return self._made_by

    def made(self, metadata: Mapping[str, Any] | None) -> None:
        """Take over what the index says now. Raises `IndexMismatchError` when another model made it."""
        if metadata:
            self._made_by = IndexMetadata.from_json(metadata)
            self.fingerprint()

    def fingerprint(self) -> str:
        """Return the model's fingerprint; it is not loaded for that. Raises `IndexMismatchError` and `ModelError`."""
        with self._loading:
            ref = self._reference() if self._embedder is None else self._embedder.info
            if self._made_by is not None:
                self._made_by.check(self._address.name, ref.name, ref.fingerprint)
            return ref.fingerprint

    @property
    def embedder(self) -> Embedder:
        """The embedder, loaded now if it was not. Raises `IndexMismatchError` and `ModelError`."""
        with self._loading:
            if self._embedder is None:
                self._embedder = self._load(self.devices[0])
            return self._embedder

    @property
    def loaded(self) -> bool:
        """True once the model is loaded."""
        return self._embedder is not None

    def unloaded(self) -> Unloaded:
        """Return what takes the model's place where only words are stored. Raises `UsageError` and `ModelError`."""
        from tsembed_search.model.unloaded import Unloaded, unloaded

        self.fingerprint()
        with self._loading:
            if self._embedder is not None:
                return Unloaded(self._embedder.info, self._embedder.inputs)
            return unloaded(self._reference())

    def on_each_device(self) -> list[Embedder]:
        """Return an embedder for each of the devices; only the first is kept."""
        return [self.embedder, *map(self._load, self.devices[1:])]

    def _load(self, device: str) -> Embedder:
        from tsembed_search.model.embedder import Embedder

        self.fingerprint()
        return Embedder.load(self._reference(), device)

    def _reference(self) -> ModelRef:
        from tsembed_search.model import registry

        made_by = self._made_by
        if self._name is not None or made_by is None:
            return registry.resolve(self._name or DEFAULT_MODEL)
        try:
            return registry.resolve(made_by.model, known=True)
        except ModelError as error:
            raise ModelError(
                f"The index {self._address.name!r} was made by the model {made_by.model}. {error.message}",
                f"{error.hint} If the model has moved, say where it is: {{model}}.".strip(),
            ) from error

    def queries(
        self,
        queries: Sequence[Item | str],
        clock: Clock,
        words: WordsUse = "auto",
        reading: Callable[[], AbstractContextManager[Store]] | None = None,
    ) -> list[Query]:
        """Embed queries, together; with `words` "only", they are looked for without.

        Where the store that `reading` opens has no vector, a model would find nothing: none is loaded for that. The
        store is asked only if vectors are missing.
        """
        items = [Item(query) if isinstance(query, str) else query for query in queries]
        if words == "only":
            return queries_by_words(items)
        if reading and self._embedder is None and (opening.metadata(self._address) or {}).get(WORDS_LEFT):
            with reading() as store:
                vectorless = not store.count_vectors()
            if vectorless:
                return queries_without_model(items, words=words == "auto")
        with clock("load"):
            embedder = self.embedder
        with clock("embed"):
            return embedded_queries(embedder, items, words=words == "auto")

    def answers(
        self,
        queries: Sequence[Item | str],
        options: SearchOptions,
        reading: Callable[[], AbstractContextManager[Store]],
        *,
        snippets: bool,
    ) -> list[Answer]:
        """Return the answers to queries, in their order, from the store that `reading` opens. The next queries are
        embedded in batches while the store is asked for those before.
        """
        from concurrent.futures import ThreadPoolExecutor

        blocks = [queries[start : start + _TOGETHER] for start in range(0, len(queries), _TOGETHER)]
        pool, found = ThreadPoolExecutor(1, "tsembed-embed"), []
        try:
            embed = partial(self.queries, clock=Clock(), words=options.words, reading=reading)
            for wanted in pool.map(embed, blocks):
                with reading() as store:
                    found += self.searcher(store).answers(wanted, options, snippets=snippets)
        finally:
            pool.shutdown(cancel_futures=True)
        return found

    def like(self, like: str, store: Store, clock: Clock) -> Query:
        """Return the query for what is like an item of the index or a file; see `query_like`."""

        def loaded() -> Embedder:
            with clock("load"):
                return self.embedder

        return query_like(like, store, loaded)

    def searcher(self, store: Store) -> Searcher:
        """Return a searcher of a store for this model's queries."""
        # A newer version of the model may know better than the one that made the index.
        own = self._embedder.info.calibration if self._embedder else None
        calibration = own or self.metadata.calibration or Calibration()
        lost = lost_folders(self._address.folder, store.metadata)
        return Searcher(store, calibration, (self.metadata.routes or (0, 0))[1], lost, self.devices[0])

    def routes(self, otherwise: str = "Make") -> tuple[int, int]:
        """Return (L blocks, E experts) of the routing vectors. Raises `UsageError` when there are none; `otherwise`
        begins the hint.
        """
        if self.metadata.routes is None:
            raise UsageError(
                f"The index {self._address.name!r} holds no routing vectors: its model, {self.metadata.model}, has no "
                "experts.",
                f"{otherwise} another index ({{index}}) with a model that has experts ({{model}}).",
            )
        return self.metadata.routes

    def options(self, options: SearchOptions | None, fields: dict[str, Any]) -> SearchOptions:
        """Return options with some fields replaced, and with the model's own route weight where it is wanted.

        Raises `UsageError` for a re-ranking that this model cannot do.
        """
        chosen = replace(options or SearchOptions(), **fields)
        if not RERANKERS.get(chosen.rerank).uses_routes:
            return chosen
        self.routes(f"Search without {{rerank}} {chosen.rerank}, or make")
        if chosen.route_weight is not None:
            return chosen
        if self.metadata.route_weight is None:
            raise UsageError(
                f"The model {self.metadata.model} does not say how much its routes should count: "
                "that was not calibrated.",
                "Say it, from 0 to 1: {route_weight}",
            )
        return replace(chosen, route_weight=self.metadata.route_weight)


def measured_calibration(store: Store, embedder: Embedder) -> Calibration | None:
    """Measure the kinds that the store holds. None when no kind has enough items to tell."""
    kinds = [kind for kind in KINDS if store.count(Condition("kind", "=", kind)) >= FEWEST]
    if not kinds:
        return None

    best: dict[tuple[Modality, Kind], float] = {}

    def typical(queries: NDArray[np.float32], modality: Modality, kind: Kind, rank: int) -> float:
        """The mean cosine of the hit at `rank` (from 1) among items of one kind. What few of the best hits reach is
        kept: a probe asks for nothing that is known to be there.
        """
        rows = store.search(queries, rank, Condition("kind", "=", kind), fields=())
        best[modality, kind] = float(np.quantile([row[rank - _RANK].score for row in rows], _FEW))
        return sum(row[-1].score for row in rows) / len(rows)

    probes = embedder.embed([Item(text=probe) for probe in _PROBES], "query").vectors
    found: dict[tuple[Modality, Kind], float] = {("text", kind): typical(probes, "text", kind, _RANK) for kind in kinds}
    if seen := next((kind for kind in ("image", "page") if kind in kinds), None):
        records = store.scroll(Condition("kind", "=", seen), fields=["kind"], with_vectors=True)
        pictures = np.stack([one.vector for one in islice(records, _PICTURES) if one.vector is not None])
        for kind in kinds:
            # One rank lower: the picture itself is in the index.
            found["image", kind] = typical(pictures, "image", kind, _RANK + 1)
            found["joint", kind] = (found["text", kind] + found["image", kind]) / 2
    lines = {pair: Logistic.at(cosine, SLOPE) for pair, cosine in found.items()}
    limits = {pair: lines[pair].score(cosine) for pair, cosine in best.items()}
    return Calibration(lines, "measured on the index", limits)
