"""From query vectors to hits: one search per kind, fair scores, one hit per page or picture, snippets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tsembed_search.errors import UsageError
from tsembed_search.items import KINDS, Kind
from tsembed_search.model.calibration import Calibration
from tsembed_search.search.experts import shared_experts
from tsembed_search.search.filters import Condition, Filter, all_of, matches
from tsembed_search.search.rerank import Candidate, Query, reranker, with_routes
from tsembed_search.search.snippet import Span, snippet, weigh
from tsembed_search.store.base import Record, Store

if TYPE_CHECKING:
    pass

MOST_HITS = 10_000
_SPARE = 20
_MORE = 3
_ORDERED_BY = ("sha", "path", "page", "chunk")


@dataclass(frozen=True)
class SearchOptions:
    """What is wanted of a search. `k` hits at most, each with a `score` (0..1) of at least `min_score`.

    Unless `all_chunks`, a page of a document, a document without pages and a picture give one hit each. `route_weight`
    (0..1) is how much routes count, for a reranking that uses them.
    """

    k: int = 10
    where: Filter | None = None
    min_score: float | None = None
    all_chunks: bool = False
    rerank: str = "none"
    route_weight: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MOST_HITS:
            raise UsageError(f"{self.k} is not a number of hits.", f"Ask for 1 to {MOST_HITS}.")
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise UsageError(f"{self.min_score} is not a score.", "Scores lie between 0 and 1.")
        uses_routes = reranker(self.rerank).uses_routes
        if self.route_weight is not None:
            if not uses_routes:
                raise UsageError(f"With rerank {self.rerank}, routes have no weight.", "Give it with: --rerank expert")
            if not 0 <= self.route_weight <= 1:
                raise UsageError(f"{self.route_weight} is not a route weight.", "Weights lie between 0 and 1.")


@dataclass(frozen=True)
class Hit:
    """One answer. `score` (0..1) means the same for every kind; `similarity` is the raw cosine.

    `route_similarity` is how alike the routing of query and item is, 0 for a model without experts. `path` is absolute,
    `also_at` lists further places of the same content. `marks` are the (start, end) of the query's words in `snippet`.
    `top_experts` are those that the item uses most, `shared_experts` those that it shares with the query.
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

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class Searcher:
    """Searches a store for what queries of one model mean. `calibration` is that model's, and so is `experts`: how many
    each of its blocks has, 0 for none.
    """

    def __init__(self, store: Store, calibration: Calibration | None = None, experts: int = 0) -> None:
        self.store = store
        self.calibration = calibration or Calibration()
        self.experts = experts

    def search(self, queries: Sequence[Query], options: SearchOptions) -> list[list[Hit]]:
        """The hits of each query, best first. Equal scores are ordered by path, page and chunk.

        Each kind is searched by itself and the kinds are merged by calibrated score, so that a kind whose cosines are
        small by nature is not drowned by another.
        """
        found: list[list[Candidate]] = [[] for _ in queries]
        for kind in KINDS if queries else ():
            for row, candidates in enumerate(self._best_of_kind(queries, kind, options)):
                found[row].extend(candidates)
        return [self._finish(query, row, options) for query, row in zip(queries, found, strict=True)]

    def _best_of_kind(self, queries: Sequence[Query], kind: Kind, options: SearchOptions) -> list[list[Candidate]]:
        """The best candidates of one kind for each query: fetches more until enough groups have been seen, or all."""
        import numpy as np

        vectors = np.stack([query.vector for query in queries])
        depth = _depth(options)
        # Reading a point costs more than finding it: first about as many as are needed, then those that come after.
        seen, more = 0, depth if options.all_chunks else depth + _SPARE
        where = all_of([Condition("kind", "=", kind), options.where])
        found: list[list[Record]] = [[] for _ in queries]
        groups: list[list[Record]] = [[] for _ in queries]
        pending = list(range(len(queries)))
        while pending:
            rows = self.store.search(
                vectors[pending],
                more,
                where,
                offset=seen,
                with_vectors=reranker(options.rerank).needs_vectors,
                fields=_fields(options),
            )
            unfinished = []
            for index, records in zip(pending, rows, strict=True):
                found[index] += records
                groups[index] = _one_per_group(queries[index], found[index], options.all_chunks)[:depth]
                if len(groups[index]) < depth and len(records) >= more:
                    unfinished.append(index)
            seen += more
            pending, more = unfinished, seen * _MORE
        return [
            [self._candidate(query, kind, record) for record in best]
            for query, best in zip(queries, groups, strict=True)
        ]

    def _candidate(self, query: Query, kind: Kind, record: Record) -> Candidate:
        return Candidate(record, kind, self.calibration.score(record.score, query.modality, kind))

    def hit(self, query: Query, record: Record) -> Hit:
        """An item as if it were the only hit. `record` has its vector."""
        assert record.vector is not None
        kind: Kind = record.payload["kind"]
        cosine = float(record.vector @ query.vector)
        candidate = self._candidate(query, kind, replace(record, score=cosine))
        return self._dressed(query, with_routes(query, [candidate]), None)[0]

    def _finish(self, query: Query, candidates: Sequence[Candidate], options: SearchOptions) -> list[Hit]:
        """Merges the kinds, reranks, cuts and dresses."""
        merged = _one_per_group_of_all(sorted(candidates, key=_order), options.all_chunks)[: _depth(options)]
        chosen = reranker(options.rerank)
        if chosen.uses_routes:
            merged = with_routes(query, merged)
        ranked = chosen.order(query, merged, options.route_weight or 0.0)
        if options.min_score is not None:
            ranked = [candidate for candidate in ranked if candidate.score >= options.min_score]
        ranked = self._whole(ranked[: options.k], options)
        return self._dressed(query, ranked if chosen.uses_routes else with_routes(query, ranked), options.where)

    def _whole(self, ranked: list[Candidate], options: SearchOptions) -> list[Candidate]:
        """The hits with all of their payload, where only a part was read of each candidate."""
        if _fields(options) is None or not ranked:
            return ranked
        found = {record.id: record.payload for record in self.store.retrieve([one.record.id for one in ranked])}
        return [
            replace(one, record=replace(one.record, payload=found[one.record.id]))
            for one in ranked
            if one.record.id in found
        ]

    def _dressed(self, query: Query, ranked: Sequence[Candidate], where: Filter | None) -> list[Hit]:
        weights = weigh(query.words, [candidate.record.payload.get("text") or "" for candidate in ranked])
        hits = [_hit(rank, candidate, weights, where) for rank, candidate in enumerate(ranked, 1)]
        if not self.experts or not len(query.route):
            return hits
        routes = [candidate.record.payload.get("route") for candidate in ranked]
        return [
            replace(hit, shared_experts=shared_experts(query.route, route, self.experts)) if route else hit
            for hit, route in zip(hits, routes, strict=True)
        ]


def _depth(options: SearchOptions) -> int:
    return max(options.k, reranker(options.rerank).depth)


def _fields(options: SearchOptions) -> tuple[str, ...] | None:
    """What of the candidates' payloads is read, None for all: a reranking looks at many more than it shows."""
    chosen = reranker(options.rerank)
    if chosen.depth <= options.k:
        return None
    return (*_ORDERED_BY, "route") if chosen.uses_routes else _ORDERED_BY


def _group(record: Record, all_chunks: bool) -> tuple[Any, ...]:
    """What gives one hit: a page, a picture file, a document without pages; or each point by itself."""
    return (record.id,) if all_chunks else (record.payload.get("sha"), record.payload.get("page"))


def _one_per_group(query: Query, records: Sequence[Record], all_chunks: bool) -> list[Record]:
    """The best record of each group that the query does not exclude, in the order given."""
    first: dict[tuple[Any, ...], Record] = {}
    for record in records:
        if record.payload.get("sha") not in query.without:
            first.setdefault(_group(record, all_chunks), record)
    return list(first.values())


def _one_per_group_of_all(candidates: Sequence[Candidate], all_chunks: bool) -> list[Candidate]:
    """The same across kinds: a page that is found by its text and by its picture is one hit."""
    first: dict[tuple[Any, ...], Candidate] = {}
    for candidate in candidates:
        first.setdefault(_group(candidate.record, all_chunks), candidate)
    return list(first.values())


def _order(candidate: Candidate) -> tuple[Any, ...]:
    payload = candidate.record.payload
    place = (payload.get("path") or "", payload.get("page") or 0, payload.get("chunk") or 0)
    return (-candidate.score, -candidate.record.score, *place, candidate.record.id)


def _hit(rank: int, candidate: Candidate, weights: Mapping[str, float], where: Filter | None) -> Hit:
    payload = candidate.record.payload
    path, *others = _paths(payload, where)
    part = snippet(payload["text"], weights) if payload.get("text") else None
    return Hit(
        rank=rank,
        score=candidate.score,
        similarity=candidate.record.score,
        route_similarity=candidate.route_similarity,
        id=candidate.record.id,
        kind=candidate.kind,
        path=path,
        page=payload.get("page"),
        chunk=payload.get("chunk"),
        snippet=part.text if part else None,
        top_experts=list(payload.get("top_experts") or ()),
        also_at=others,
        marks=list(part.marks) if part else [],
    )


def _paths(payload: Mapping[str, Any], where: Filter | None) -> list[str]:
    """Where the content lies; a place that the filter asks for comes first."""
    places = payload.get("places") or [payload]
    asked = [place["path"] for place in places if matches(where, {**payload, **place, "places": [place]})]
    return list(dict.fromkeys([*asked, *(place["path"] for place in places)]))
