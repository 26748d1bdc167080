"""From query vectors to hits: one search per kind, fair scores, one hit per page or picture, snippets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tsembed_search.items import KINDS, Kind
from tsembed_search.ranking.routes import shared_experts
from tsembed_search.ranking.scores import Calibration
from tsembed_search.search.rerank import Candidate, Query, reranker, with_routes
from tsembed_search.search.results import Hit, SearchOptions
from tsembed_search.search.snippet import snippet, weigh
from tsembed_search.store.base import Record, Store
from tsembed_search.store.filters import Condition, Filter, all_of, matches
from tsembed_search.store.schema import LIST, PACKED, has_route, stored_routes
from tsembed_search.whereabouts import is_offline

_SPARE = 20
_MORE = 3
_ORDERED_BY = ("sha", "path", "page", "chunk")

_Found = tuple[float, float, str, Kind]
"""A point that was found: its score and its cosine, both negated so that the best come first, its id and its kind."""


class Searcher:
    """Searches a store for what queries of one model mean. `calibration` is that model's, and so is `experts`: how many
    each of its blocks has, 0 for none. `lost` are the folders that are known to be offline (see `whereabouts.py`); None
    where the files are another machine's, so that nothing can be said.
    """

    def __init__(
        self,
        store: Store,
        calibration: Calibration | None = None,
        experts: int = 0,
        lost: Sequence[str] | None = None,
    ) -> None:
        self.store = store
        self.calibration = calibration or Calibration()
        self.experts = experts
        self.lost = lost

    def search(self, queries: Sequence[Query], options: SearchOptions) -> list[list[Hit]]:
        """The hits of each query, best first. Equal scores are ordered by path, page and chunk.

        Each kind is searched by itself and the kinds are merged by calibrated score, so that a kind whose cosines are
        small by nature is not drowned by another.
        """
        best = self._best(queries, options)
        return [self._finish(query, candidates, options) for query, candidates in zip(queries, best, strict=True)]

    def _best(self, queries: Sequence[Query], options: SearchOptions) -> list[list[Candidate]]:
        """The best candidates of each query, one per group, with what `_fields` says of their payloads.

        Reading a point costs far more than finding it. So points of all kinds are found first, and then only those are
        read that are the best among them; more of both until enough groups have been seen, or everything.
        """
        depth = _depth(options)
        # Without spare ones for a reranking: its candidates are many more than it shows.
        known, wanted = 0, depth if options.all_chunks or depth > options.k else depth + _SPARE
        found: list[list[_Found]] = [[] for _ in queries]
        best: list[list[Candidate]] = [[] for _ in queries]
        read: dict[str, Record] = {}
        pending = list(range(len(queries)))
        while pending:
            for kind in KINDS:
                rows = self._find([queries[row] for row in pending], kind, options, wanted - known, known, read)
                for row, points in zip(pending, rows, strict=True):
                    found[row] += points
            chosen = {row: sorted(found[row])[:wanted] for row in pending}
            self._read(dict.fromkeys(id for points in chosen.values() for _, _, id, _ in points), options, read)
            for row in pending:
                candidates = sorted(_candidates(chosen[row], read), key=_order)
                best[row] = _one_per_group(queries[row], candidates, options.all_chunks)[:depth]
            pending = [row for row in pending if len(best[row]) < depth and len(chosen[row]) == wanted]
            known, wanted = wanted, wanted * _MORE
        return best

    def _find(
        self,
        queries: Sequence[Query],
        kind: Kind,
        options: SearchOptions,
        limit: int,
        offset: int,
        read: dict[str, Record],
    ) -> list[list[_Found]]:
        """The best points of one kind for each query. Those that the engine had to read to find them go into `read`."""
        import numpy as np

        where = all_of([Condition("kind", "=", kind), options.filter])
        vectors = np.stack([query.vector for query in queries])
        rows = self.store.search(vectors, limit, where, offset=offset, fields=())
        if not reranker(options.rerank).needs_vectors:
            read.update((record.id, record) for records in rows for record in records if record.payload)
        score = self.calibration.score
        return [
            [(-score(record.score, query.modality, kind), -record.score, record.id, kind) for record in records]
            for query, records in zip(queries, rows, strict=True)
        ]

    def _read(self, ids: Iterable[str], options: SearchOptions, read: dict[str, Record]) -> None:
        """Adds to `read`, by id, what is wanted of those points and not there yet."""
        vectors, fields = reranker(options.rerank).needs_vectors, _fields(options)
        fresh = self.store.retrieve([id for id in ids if id not in read], fields=fields, with_vectors=vectors)
        read.update((record.id, record) for record in fresh)
        if fields is not None and PACKED in fields:
            older = [record.id for record in fresh if PACKED not in record.payload]
            read.update((record.id, record) for record in self.store.retrieve(older, fields=(*fields, LIST)))

    def hit(self, query: Query, record: Record) -> Hit:
        """An item as if it were the only hit. `record` has its vector."""
        assert record.vector is not None
        kind: Kind = record.payload["kind"]
        cosine = float(record.vector @ query.vector)
        score = self.calibration.score(cosine, query.modality, kind)
        candidate = Candidate(record._replace(score=cosine), kind, score)
        return self._dressed(query, with_routes(query, [candidate]), None)[0]

    def _finish(self, query: Query, candidates: Sequence[Candidate], options: SearchOptions) -> list[Hit]:
        """Reranks, cuts and dresses."""
        chosen = reranker(options.rerank)
        if chosen.uses_routes:
            candidates = with_routes(query, candidates)
        ranked = chosen.order(query, candidates, options.route_weight or 0.0)
        if options.min_score is not None:
            ranked = [candidate for candidate in ranked if candidate.score >= options.min_score]
        ranked = self._whole(ranked[: options.k], options)
        return self._dressed(query, ranked if chosen.uses_routes else with_routes(query, ranked), options.filter)

    def _whole(self, ranked: list[Candidate], options: SearchOptions) -> list[Candidate]:
        """The hits with all of their payload, where only a part was read of each candidate."""
        if _fields(options) is None or not ranked:
            return ranked
        found = {record.id: record.payload for record in self.store.retrieve([one.record.id for one in ranked])}
        return [
            one._replace(record=one.record._replace(payload=found[one.record.id]))
            for one in ranked
            if one.record.id in found
        ]

    def _dressed(self, query: Query, ranked: Sequence[Candidate], where: Filter | None) -> list[Hit]:
        weights = weigh(query.words, [candidate.record.payload.get("text") or "" for candidate in ranked])
        hits = [_hit(rank, candidate, weights, where, self.lost) for rank, candidate in enumerate(ranked, 1)]
        if not self.experts or not len(query.route):
            return hits
        routed = [row for row, candidate in enumerate(ranked) if has_route(candidate.record.payload)]
        routes = stored_routes([ranked[row].record.payload for row in routed], len(query.route))
        for row, route in zip(routed, routes, strict=True):
            hits[row] = replace(hits[row], shared_experts=shared_experts(query.route, route, self.experts))
        return hits


def _depth(options: SearchOptions) -> int:
    return max(options.k, reranker(options.rerank).depth)


def _fields(options: SearchOptions) -> tuple[str, ...] | None:
    """What of the candidates' payloads is read, None for all: a reranking looks at many more than it shows."""
    chosen = reranker(options.rerank)
    if chosen.depth <= options.k:
        return None
    return (*_ORDERED_BY, PACKED) if chosen.uses_routes else _ORDERED_BY


def _candidates(points: Iterable[_Found], read: Mapping[str, Record]) -> list[Candidate]:
    """The points with what was read of them; those that were deleted in the meantime are left out."""
    whole = [(score, cosine, read[id], kind) for score, cosine, id, kind in points if id in read]
    return [
        Candidate(Record(record.id, record.payload, -cosine, record.vector), kind, -score)
        for score, cosine, record, kind in whole
    ]


def _one_per_group(query: Query, candidates: Sequence[Candidate], all_chunks: bool) -> list[Candidate]:
    """The first of each group that the query does not exclude. A group gives one hit: a page (found by its text or by
    its picture), a picture file, a document without pages; or each point by itself.
    """
    first: dict[tuple[Any, ...], Candidate] = {}
    for candidate in candidates:
        payload = candidate.record.payload
        if payload.get("sha") not in query.without:
            group = (candidate.record.id,) if all_chunks else (payload.get("sha"), payload.get("page"))
            first.setdefault(group, candidate)
    return list(first.values())


def _order(candidate: Candidate) -> tuple[Any, ...]:
    payload = candidate.record.payload
    place = (payload.get("path") or "", payload.get("page") or 0, payload.get("chunk") or 0)
    return (-candidate.score, -candidate.record.score, *place, candidate.record.id)


def _hit(
    rank: int, candidate: Candidate, weights: Mapping[str, float], where: Filter | None, lost: Sequence[str] | None
) -> Hit:
    payload = candidate.record.payload
    (path, *others), offline = _paths(payload, where, lost)
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
        offline=offline,
    )


def _paths(payload: Mapping[str, Any], where: Filter | None, lost: Sequence[str] | None) -> tuple[list[str], bool]:
    """Where the content lies, and whether the first of these places is offline. A place that the filter asks for comes
    first, of several one that is there.
    """
    places = payload.get("places") or [payload]
    asked = [place for place in places if matches(where, {**payload, **place, "places": [place]})] or places
    first = asked[0] if lost is None else next((one for one in asked if not is_offline(one, lost)), None)
    ordered = [first or asked[0], *asked, *places]
    return list(dict.fromkeys(place["path"] for place in ordered)), first is None
