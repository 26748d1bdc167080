"""The options of a search, and the answers of an index, each with the JSON form in which it is printed.

Also those that are read from its points: its files, and how its items use the model's experts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from tsembed_search.errors import UsageError
from tsembed_search.items import KINDS, Item, Kind
from tsembed_search.paths import is_offline
from tsembed_search.ranking.reranking import RERANKERS
from tsembed_search.ranking.routes import Agreement, Group, Usage, expert_usage
from tsembed_search.search.by_concepts import Sighting
from tsembed_search.search.snippet import Span
from tsembed_search.search.where import parse_where
from tsembed_search.store.base import Record, StoreInfo
from tsembed_search.store.filters import CHECKED_KEYS, Filter, matches
from tsembed_search.store.schema import PACKED_ROUTE, IndexMetadata, has_route, stored_routes
from tsembed_search.wording import place_words

MOST_HITS: Final = 10_000
WordsUse = Literal["auto", "only", "never"]
WORDS_USES: Final[tuple[WordsUse, ...]] = get_args(WordsUse)
FILE_FIELDS: Final = ("bytes", *CHECKED_KEYS)
"""The payload fields that `files_of` reads."""
USAGE_FIELDS: Final = ("kind", "root", "rel", PACKED_ROUTE)
"""The payload fields that `usage_of` reads."""
OTHERS: Final = "(other folders)"
_PORTION = 1024
_MOST_FOLDERS = 200


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search. `k` hits at most, each with a `score` (0..1) of at least `min_score`.

    `where` filters, as text (`kind=image and page<3`) or as a filter; a text is read at once. Unless `all_chunks`, a
    page of a document, a document without pages and a picture give one hit each. `rerank` names a reranking;
    `route_weight` (0..1) is how much routes count, for one that uses them, by default the model's own. `words`: "auto"
    finds by the query's words beside its meaning, "only" by words alone, without a model, "never" by meaning alone.
    `good`: good matches only.

    Raises `UsageError` for values that make no sense.
    """

    k: int = 10
    where: str | Filter | None = None
    min_score: float | None = None
    all_chunks: bool = False
    rerank: str = "none"
    route_weight: float | None = None
    words: WordsUse = "auto"
    good: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MOST_HITS:
            raise UsageError(f"{self.k} is not a number of hits.", f"Ask for 1 to {MOST_HITS}.")
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise UsageError(f"{self.min_score} is not a score.", "Scores lie between 0 and 1.")
        if self.words not in WORDS_USES:
            raise UsageError(f"{self.words!r} is no way to use words.", f"Choose from: {', '.join(WORDS_USES)}.")
        uses_routes = RERANKERS.get(self.rerank).uses_routes
        if uses_routes and self.words == "only":
            raise UsageError(
                f"The reranking {self.rerank} needs a model's routes.", "Search by meaning, too: {words} auto."
            )
        if self.route_weight is not None:
            if not uses_routes:
                raise UsageError(f"With rerank {self.rerank}, routes have no weight.", "Give it with {rerank} expert.")
            if not 0 <= self.route_weight <= 1:
                raise UsageError(f"{self.route_weight} is not a route weight.", "Weights lie between 0 and 1.")
        if isinstance(self.where, str):
            object.__setattr__(self, "where", parse_where(self.where))

    @property
    def filter(self) -> Filter | None:
        """`where`, read."""
        assert not isinstance(self.where, str)
        return self.where


@dataclass(frozen=True)
class Hit:
    """One answer. `score` (0..1) means the same for every kind; `similarity` is the raw cosine.

    `route_similarity` is how alike the routing of query and item is, 0 for a model without experts. `path` is absolute,
    `also_at` lists further places of the same content. `marks` are the (start, end) of the query's words in `snippet`.
    `top_experts` are those that the item uses most, `shared_experts` those that it shares with the query. `offline`
    says that the file is out of reach now, because its disk is away. `words` (0..1) is the share of the query's words
    that the item has, rare ones counting more; `similarity` is 0 when it was found by words alone. `concepts` is what a
    picture most likely shows, where the index knows. `headings` are those that a passage stands under, outermost first;
    `lines` its first and last line in the file, from 1; `page_label` is what the document calls the page where that is
    not its number. `channels` are the ways by which it was found: `meaning`, `words`, `concepts`. `title` is
    what the file says about itself. `good` says that it is a good match: most hits of which that is said are what was
    looked for.
    """

    rank: int
    score: float
    similarity: float
    route_similarity: float
    id: str
    kind: Kind
    path: str
    page: int | None
    chunk: int | None
    snippet: str | None
    top_experts: list[str] = field(default_factory=list)
    also_at: list[str] = field(default_factory=list)
    marks: list[Span] = field(default_factory=list)
    shared_experts: list[str] = field(default_factory=list)
    offline: bool = False
    words: float = 0.0
    concepts: list[Sighting] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    lines: list[int] | None = None
    page_label: str | None = None
    channels: list[str] = field(default_factory=list)
    title: str | None = None
    good: bool = False

    @property
    def place(self) -> list[str]:
        """The parts of its place in the file, for people, safe to show; none when it is all of the file."""
        return place_words(self.page, self.page_label, self.lines, self.headings)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class Clock:
    """The time of one call, in seconds: of loading, of embedding, and the rest, which is the search."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds = {"load": 0.0, "embed": 0.0}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the time of a block for `load` or `embed`."""
        started = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - started

    def stop(self) -> dict[str, float]:
        """Return the seconds of each part."""
        whole = time.perf_counter() - self._started
        return {**self._seconds, "search": whole - sum(self._seconds.values())}


@dataclass(frozen=True)
class SearchResult:
    """Hits, best first, and where the time went: `load` (model and store), `embed` and `search`, in seconds.

    `items` counts what the index has, and `with_vectors` those of them that are found by meaning, too;
    both are None when all are. `respelled`: words that no item has, each with the words that were looked for instead.
    `unread`: the model can read nothing of the query, so that only its words were looked for. `told`: good matches are
    told from others for such a query.
    """

    hits: list[Hit]
    seconds: dict[str, float] = field(default_factory=dict)
    items: int | None = None
    with_vectors: int | None = None
    respelled: dict[str, list[str]] = field(default_factory=dict)
    unread: bool = False
    told: bool = True

    @property
    def good(self) -> int | None:
        """The number of hits that are good matches; None where nobody can tell."""
        found = sum(hit.good for hit in self.hits)
        return found if found or self.told else None

    def to_json(self) -> dict[str, Any]:
        """Return the document of a search."""
        more: dict[str, Any] = {}
        if self.with_vectors is not None:
            more |= {"items": self.items, "with_vectors": self.with_vectors}
        if self.respelled:
            more["respelled"] = self.respelled
        if self.unread:
            more["unread"] = True
        hits = [hit.to_json() for hit in self.hits]
        return {"hits": hits, "good": self.good, "seconds": dict(self.seconds), **more}


class WordPart(NamedTuple):
    """A word of a query, and its part (0..1) of the share of all words that an item has; 0 where it has none of it.

    `as_asked`: the misspelt word of the query that it stands for.
    """

    word: str
    share: float
    as_asked: str | None = None


class Why(NamedTuple):
    """The reasons of a score: the part that each word of the query has in the share of words, and the line (slope,
    offset) that maps the cosine to a logit, None for a model without calibration (see `ranking/scores.py`).

    `telling`, 0..1: how much words count here beside meaning.
    """

    words: list[WordPart]
    line: tuple[float, float] | None
    telling: float = 1.0


@dataclass(frozen=True)
class Explanation:
    """A hit for a query, where the routing of the two agrees (None for a hit that has its words alone), and why the hit
    has its score. `seconds` as in `SearchResult`.
    """

    query: Item
    hit: Hit
    agreement: Agreement | None
    why: Why
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the document of an explanation. A picture without a file is null there."""
        hit = self.hit.to_json()
        del hit["rank"]
        image = str(self.query.image) if isinstance(self.query.image, Path) else None
        asked = {"text": self.query.text, "image": image}
        more = {
            "words": [one._asdict() for one in self.why.words],
            "words_count": self.why.telling,
            "calibration": self.why.line and dict(zip(("slope", "offset"), self.why.line, strict=True)),
        }
        agreement = self.agreement.to_json() if self.agreement else {}
        return {"query": asked, "hit": hit, **agreement, **more, "seconds": dict(self.seconds)}


@dataclass(frozen=True)
class IndexStatus:
    """An index's facts.

    `items` counts points by kind, `place` is the index's folder or its server's address, `store` is what the engine
    says; all three are None while another process works on the index, which `busy` says in words. `files`, `folders`,
    `offline` (folders that are away now) and `skipped` (path, reason) are what this machine remembers of its files.
    `with_vectors` counts the points that are found by meaning, not by words alone.
    """

    name: str
    metadata: IndexMetadata
    items: dict[str, int] | None = None
    store: StoreInfo | None = None
    place: str | None = None
    files: int = 0
    folders: list[str] = field(default_factory=list)
    offline: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    busy: str = ""
    with_vectors: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document of a status."""
        store = self.store
        return {
            "index": self.name,
            "model": self.metadata.model,
            "fingerprint": self.metadata.fingerprint,
            "dim": self.metadata.dim,
            "created_at": self.metadata.created_at,
            "files": self.files,
            "folders": self.folders,
            "offline": self.offline,
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "items": self.items,
            "total": store.points if store else None,
            "engine": store.engine if store else None,
            "with_vectors": self.with_vectors,
            "graph_items": store.indexed if store else None,
            "place": self.place,
            "details": dict(store.details) if store else None,
            "busy": self.busy or None,
        }


@dataclass
class File:
    """An indexed file: how many items of each kind it has. `bytes` is its size, `modified` seconds since 1970,
    `offline` says that its disk is away.
    """

    path: str
    bytes: int
    modified: float
    items: Counter[str] = field(default_factory=Counter)
    offline: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return an entry of a list of files."""
        return {**vars(self), "items": dict(self.items)}


def files_of(records: Iterable[Record], chosen: Filter | None, lost: Sequence[str] | None = None) -> list[File]:
    """Return the files that hold these points, by path. A content in several places counts for each that is chosen.

    `lost` are the folders that are known to be offline; None where nothing can be said about files.
    """
    found: dict[str, File] = {}
    for record in records:
        payload = record.payload
        for place in payload["places"]:
            if not matches(chosen, {**payload, **place, "places": [place]}):
                continue
            if (path := place["path"]) not in found:
                offline = lost is not None and is_offline(place, lost)
                found[path] = File(path, payload["bytes"], place["mtime"], offline=offline)
            found[path].items[payload["kind"]] += 1
    return [found[path] for path in sorted(found)]


def usage_of(records: Iterable[Record], shape: tuple[int, int]) -> list[Usage]:
    """Return how all items use the experts, then each kind, then each folder, the fullest first.

    Items without a route are left out. `shape` is (L blocks, E experts). A folder is a root that was indexed, or a
    folder right in it; beyond two hundred, the rest count as `OTHERS`. Raises `StoreError` for a route of another size.
    """
    folders: set[str] = set()

    def groups(payload: dict[str, Any]) -> Sequence[Group]:
        first, _, rest = payload["rel"].partition("/")
        folder = f"{payload['root'].rstrip('/')}/{first}" if rest else payload["root"]
        if len(folders) < _MOST_FOLDERS:
            folders.add(folder)
        return ("all", ""), ("kind", payload["kind"]), ("folder", folder if folder in folders else OTHERS)

    def portions() -> Iterator[tuple[list[Sequence[Group]], NDArray[np.float32]]]:
        with_route = (record.payload for record in records if has_route(record.payload))
        while portion := list(islice(with_route, _PORTION)):
            yield list(map(groups, portion)), stored_routes(portion, shape[0] * shape[1])

    return sorted(expert_usage(portions(), shape).values(), key=_rank)


def _rank(usage: Usage) -> tuple[Any, ...]:
    if usage.of == "folder":
        return 2, usage.name == OTHERS, -usage.items, usage.name
    return ("all", "kind").index(usage.of), KINDS.index(usage.name) if usage.name in KINDS else len(KINDS), usage.name
