"""Results from an index that this process opens itself.

An embedded index is for one process at a time, so it is let go of whenever nobody has asked for anything for a moment:
files can be indexed while it is browsed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tsembed_search.cli.browse.newest import newest
from tsembed_search.cli.browse.source import Detail, FacetCount, Facets, HitList, Passage, Reason, Wish, has_picture
from tsembed_search.cli.render.text import share_words
from tsembed_search.errors import IndexBusyError, LoadError, MissingIndexError, TsembedError
from tsembed_search.indexer.manifest import stamp_of
from tsembed_search.items import Item
from tsembed_search.ownership import owner_of
from tsembed_search.paths import file_path, is_within
from tsembed_search.search.results import MOST_HITS, Hit, SearchOptions
from tsembed_search.search.snippet import snippets
from tsembed_search.search.where import parse_where, selection
from tsembed_search.store.filters import PAYLOAD_KEYS, Condition, Filter, all_of
from tsembed_search.store.schema import PATH_KEYS, point_id
from tsembed_search.wording import count_words, shown, size_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tsembed_search.documents.decoders import Decoder, Watch
    from tsembed_search.index import Index
    from tsembed_search.store.base import Record, Store

_IDLE_SECONDS: Final = 3.0
_AROUND: Final = 2  # chunks before and after that of a hit
_OLDEST_YEARS: Final = 60
_MOST_VALUES: Final = 12
_WHOLE: Final = 1 << 30
_PICTURE_SECONDS: Final = 4.0
_PICTURE_MEMORY: Final = 1 << 30
_SHARED: Final = 6
_MOST_CONCEPTS: Final = 6
_SHOWN: Final = (
    "places",
    "width",
    "height",
    "bytes",
    "kind",
    "page",
    "chunk",
    "text",
    "start",
    "end",
    "sha",
    "concepts",
    "title",
)


class InProcess:
    """A `Source` of an index in this process."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._using = 0
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._warm = False
        self._meanings: Mapping[str, str] | None = None
        self._drawing = threading.Lock()
        self._decoder: Decoder | None = None
        self._watch: Watch | None = None

    @property
    def title(self) -> str:
        return self._index.name

    @property
    def is_warm(self) -> bool:
        return self._warm

    def warm(self) -> None:
        self._index.embedder.embed([Item("warm")], "query")
        self._warm = True

    def wake(self) -> None:
        # Opening the store takes as long as whoever types needs for a word.
        with self._store():
            pass

    def search(self, asked: Wish, count: int, *, words_only: bool) -> HitList:
        options = SearchOptions(min(count, MOST_HITS), filter_of(asked), words="only" if words_only else "auto")
        started = time.perf_counter()
        with self._store() as store:
            if asked.is_open:
                hits = newest(store, options.k, options.filter)
                return HitList(hits, "newest first", time.perf_counter() - started, len(hits) == options.k < MOST_HITS)
            item = None if asked.like is not None else Item(asked.text.strip() or None, asked.image)
            found = self._index.search(item, options, like=asked.like)
        by = "by likeness" if asked.like is not None else "by words" if words_only else "by meaning"
        said = [f"nothing has {word!r}, {' and '.join(forms)} instead" for word, forms in found.respelled.items()]
        said.append(share_words(found.with_vectors, found.items))
        seconds, has_more = time.perf_counter() - started, len(found.hits) == options.k < MOST_HITS
        return HitList(found.hits, by, seconds, has_more, shown(", ".join(filter(None, said))))

    def facets(self, asked: Wish) -> Facets:
        with self._store() as store:
            return {
                "kind": _values(store, asked, "kind"),
                "folder": _folders(store, asked),
                "concept": _values(store, asked, "concept"),
                "year": _years(store, asked),
            }

    def detail(self, hit: Hit, query: str) -> Detail:
        with self._store() as store:
            found = store.retrieve([hit.id], fields=_SHOWN)
            if not found:
                return Detail(facts=(("gone", "This item is no longer in the index."),))
            around = _around(store, found[0], self._index.metadata.fingerprint)
        return Detail(_passage(around, hit.id, query), list(_facts(hit, found[0].payload)))

    def reason(self, asked: Wish, hit: Hit) -> Reason:
        if asked.is_open or asked.like is not None:
            return Reason(hit, remark="The newest files: no query." if asked.is_open else "")
        if self._index.metadata.routes is None:
            return Reason(hit, remark="This model has no experts.")
        if not self._warm:
            return Reason(hit, remark="The experts are known once the model is loaded.")
        with self._store():
            found = self._index.explain(Item(asked.text.strip() or None, asked.image), hit.id)
            meanings = self._meant()
        if found.agreement is None:
            return Reason(found.hit, remark="It was found by its words alone.")
        shared = [(name, part, meanings.get(name, "")) for name, part in found.agreement.shared(_SHARED)]
        return Reason(found.hit, shared)

    def _meant(self) -> Mapping[str, str]:
        """The kind or folder that each expert is used for more than by all items; found once."""
        if self._meanings is None:
            usage = self._index.usage()
            everything, groups = usage[0], [one for one in usage[1:] if one.items > 1]
            meanings = {}
            for place in range(everything.share.size):
                block, expert = divmod(place, everything.share.shape[1])
                best = max(groups, key=lambda one: one.share[block, expert], default=None)
                if best is not None and best.share[block, expert] > everything.share[block, expert]:
                    name = best.name.rstrip("/").rpartition("/")[2] if best.of == "folder" else f"{best.name} items"
                    meanings[f"b{block}e{expert}"] = f"{shown(name)} {best.share[block, expert]:.0%}"
            self._meanings = meanings
        return self._meanings

    def picture(self, hit: Hit) -> NDArray[np.uint8] | str | None:
        if not has_picture(hit):
            return None
        from tsembed_search.documents.decoders import Decoder, Watch

        with self._drawing:
            if self._decoder is None:
                self._decoder = Decoder(None, memory=_PICTURE_MEMORY, time_limit=_PICTURE_SECONDS)
                self._watch = Watch([self._decoder])
            try:
                return self._decoder.preview(file_path(hit.path), hit.page or 1)
            except LoadError as error:
                return shown(error.message)
            except OSError as error:
                return shown(error.strerror or str(error))

    def stamp(self) -> object:
        address = self._index.address
        if address.scheme != "edge":
            with self._store() as store:
                return store.count()
        if owner := owner_of(address.folder):
            self._let_go()  # that is what it may be waiting for
            raise IndexBusyError(f"The index {address.name!r} is in use by {owner}.", "Its results come when it ends.")
        if found := stamp_of(address.folder):
            return found
        raise MissingIndexError(
            f"The index {address.name!r} is gone.", "What was found stays here.", address.name, address.store
        )

    def close(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
        if self._watch is not None:
            self._watch.stop()
        with self._drawing:
            if self._decoder is not None:
                self._decoder.close()
        self._index.close()

    @contextmanager
    def _store(self) -> Iterator[Store]:
        """The store while the block runs, and for a moment after."""
        with self._lock:
            self._using += 1
            if self._timer is not None:
                self._timer.cancel()
        try:
            yield self._index.store
        finally:
            with self._lock:
                self._using -= 1
                if not self._using and self._index.address.scheme == "edge":
                    self._timer = threading.Timer(_IDLE_SECONDS, self._let_go)
                    self._timer.daemon = True
                    self._timer.start()

    def _let_go(self) -> None:
        with self._lock:
            if not self._using:
                # The model stays; the store is opened again for the next question.
                with suppress(TsembedError):
                    self._index.close()


def filter_of(asked: Wish, without: str = "") -> Filter | None:
    """Return the filters as one; None for none. `without` leaves a facet out. Raises `UsageError` for a bad one."""
    parts: list[Filter | None] = [parse_where(asked.where) if asked.where.strip() else None]
    for facet, value in asked.chosen:
        if facet == without:
            continue
        if facet == "folder":
            parts.append(selection([value]))
        elif facet == "year":
            parts.append(parse_where(f"modified={value}"))
        else:
            parts.append(Condition(facet, "=", value))
    return all_of(parts)


def _is_absolute(key: str) -> bool:
    return key.startswith("/") or key[1:3] == ":/"


def _values(store: Store, asked: Wish, facet: str) -> list[FacetCount]:
    """The values of a field that most items have."""
    counts = store.facet(PAYLOAD_KEYS[facet], filter_of(asked, without=facet))
    found = [FacetCount(value, shown(value), count) for value, count in counts.items() if count]
    return found[:_MOST_VALUES]


def _folders(store: Store, asked: Wish) -> list[FacetCount]:
    """The folders right in the one that is chosen, or in the deepest that holds everything."""
    where, chosen = filter_of(asked), dict(asked.chosen).get("folder")
    # Every file's name is among these values. To count them all exactly takes seconds, and a dozen are shown.
    keys = store.facet(PATH_KEYS, where, exact=False)
    folders = [key for key in keys if key.endswith("/") and _is_absolute(key)]
    total = store.count(where)

    def count(folder: str) -> int:
        return store.count(all_of([where, selection([folder])]))

    holding = (key for key in sorted(folders, key=len, reverse=True) if keys[key] >= total and count(key) == total)
    base = chosen or next(holding, "/")
    inside = [key for key in folders if key != base and is_within(key, base.rstrip("/"))]
    nearest = [key for key in inside if "/" not in key[len(base) : -1]][:_MOST_VALUES]
    found = [FacetCount(key, shown(key[len(base) : -1]), items) for key in nearest if (items := count(key))]
    found.sort(key=lambda one: -one.count)
    own = [FacetCount(chosen, shown(chosen.rstrip("/").rpartition("/")[2]), total)] if chosen else []
    return [*own, *found]


def _years(store: Store, asked: Wish) -> list[FacetCount]:
    """Years with files, the latest first: counted from this one back, until all items have been seen."""
    base = filter_of(asked, without="year")
    left = store.count(base)
    found: list[FacetCount] = []
    this = datetime.now().astimezone().year
    for year in range(this + 1, this - _OLDEST_YEARS, -1):
        if left <= 0 or len(found) == _MOST_VALUES:
            break
        if count := store.count(all_of([base, parse_where(f"modified={year}")])):
            found.append(FacetCount(str(year), str(year), count))
            left -= count
    return found


def _around(store: Store, record: Record, fingerprint: str) -> list[Record]:
    """A chunk of a text with those before and after it, in order; anything else alone."""
    payload = record.payload
    if payload["chunk"] is None or not payload["text"] or payload["kind"] == "image":
        return [record]
    near = range(max(0, payload["chunk"] - _AROUND), payload["chunk"] + _AROUND + 1)
    ids = [point_id(payload["sha"], payload["page"], chunk, fingerprint) for chunk in near]
    found = [one for one in store.retrieve(ids, fields=_SHOWN) if one.payload["text"]]
    return sorted(found, key=lambda one: one.payload["chunk"]) if record.id in ids else [record]


def _passage(records: list[Record], own: str, query: str) -> Passage:
    """The texts of chunks as lines, each once where chunks overlap."""
    lines: list[str] = []
    first = behind = end = 0
    for record in records:
        text, start = record.payload["text"] or "", record.payload.get("start")
        if lines and start is not None and start < end:
            text = text[end - start :]
        elif lines:
            lines.append("")
        if record.id == own:
            first = len(lines)
        lines += text.strip("\n").splitlines()
        if record.id == own:
            behind = len(lines)
        end = record.payload.get("end") or 0
    parts = snippets(query, lines, _WHOLE)
    return Passage(
        [part.text if part else "" for part in parts], [part.marks if part else () for part in parts], (first, behind)
    )


def _facts(hit: Hit, payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if payload.get("width") and payload.get("height"):
        yield "size", f"{payload['width']} x {payload['height']}, {size_words(payload['bytes'])}"
    else:
        yield "size", size_words(payload["bytes"])
    place = next((one for one in payload["places"] if one["path"] == hit.path), payload["places"][0])
    with suppress(ValueError, OverflowError, OSError):
        yield "changed", datetime.fromtimestamp(place["mtime"]).astimezone().strftime("%Y-%m-%d %H:%M")
    if payload.get("concepts"):
        yield "shows", shown(", ".join(payload["concepts"][:_MOST_CONCEPTS]))
    if payload.get("title"):
        yield "title", shown(payload["title"])
    if hit.also_at:
        more = f" and {count_words(len(hit.also_at) - 1, 'more place')}" if len(hit.also_at) > 1 else ""
        yield "also at", shown(hit.also_at[0]) + more
    if hit.offline:
        yield "offline", "Its disk is away."
