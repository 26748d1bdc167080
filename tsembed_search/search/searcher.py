"""From query vectors to hits: one search per kind, fair scores, one hit per page or picture, snippets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from tsembed_search.errors import UsageError
from tsembed_search.paths import is_offline
from tsembed_search.ranking.reranking import RERANKERS, Candidate, Given, Query, model_of
from tsembed_search.ranking.routes import shared_experts
from tsembed_search.ranking.scores import SHARE_OF_GOOD, Calibration, Scored
from tsembed_search.ranking.similarity import similarity
from tsembed_search.search.by_concepts import sightings
from tsembed_search.search.finding import Finder
from tsembed_search.search.queries import stored_records
from tsembed_search.search.results import Hit, SearchOptions, Why
from tsembed_search.search.snippet import Snippet
from tsembed_search.search.snippet import snippets as best_parts
from tsembed_search.store.base import Record, Store
from tsembed_search.store.filters import CHECKED_KEYS, Filter, matches
from tsembed_search.store.schema import PACKED_CLASSES, PACKED_ROUTE, WORD_FIELDS, has_route, stored_routes

_SPARE: Final = 20
_NO_VECTORS: Final = "Index its files once more, with the model: {add()}"
_MORE: Final = 3
_ALL_BUT_SAME: Final = 1 - 1e-9
_ORDERED_BY: Final = ("sha", "path", "page", "chunk")
_SHOWN: Final = tuple({*_ORDERED_BY, *CHECKED_KEYS, PACKED_ROUTE, PACKED_CLASSES, "headings", "lines", "page_label"})


class Answer(NamedTuple):
    """The hits of a query, best first; and words of it that no item has, with those that were looked for in their
    place.
    """

    hits: list[Hit]
    respelled: dict[str, list[str]]


@dataclass(frozen=True)
class Searcher:
    """Searches a store for what queries of one model mean. `calibration` is that model's; `experts` is how many each of
    its blocks has, 0 for none. `lost` are the folders that are known to be offline (see `paths.lost_folders`). `device`
    is where a reranker's own model runs.
    """

    store: Store
    calibration: Calibration = field(default_factory=Calibration)
    experts: int = 0
    lost: Sequence[str] | None = None
    device: str = "auto"

    def search(self, queries: Sequence[Query], options: SearchOptions, *, snippets: bool = True) -> list[list[Hit]]:
        """Return the hits of each query; see `answers`."""
        return [answer.hits for answer in self.answers(queries, options, snippets=snippets)]

    def answers(self, queries: Sequence[Query], options: SearchOptions, *, snippets: bool = True) -> list[Answer]:
        """Return the hits of each query, best first, with or without snippets. Equal scores are ordered by path, page
        and chunk.

        Each kind is searched by itself and the kinds are merged by calibrated score, so that a kind whose cosines are
        small by nature is not drowned by another.
        """
        reranker = RERANKERS.get(options.rerank)
        shown = (*_SHOWN, "text", "title") if snippets else _SHOWN
        # A re-ranking looks at many more than it shows: of those, only what it needs is read at first.
        few = _ORDERED_BY if reranker.depth > options.k else shown
        needed = {*few, *reranker.fields, *([PACKED_ROUTE] if reranker.uses_routes else [])}
        if any(query.asked.strict for query in queries):
            needed |= set(WORD_FIELDS)
        finder = Finder(self.store, queries, self.calibration, options.filter)
        best = self._best(queries, finder, options, tuple(needed))
        given = Given(options.route_weight or 0.0, model_of(options.rerank, self.device))
        ranked = []
        for query, candidates in zip(queries, best, strict=True):
            order = reranker.order(query, routed(query, candidates) if reranker.uses_routes else candidates, given)
            kept = [one for one in order if options.min_score is None or one.score >= options.min_score]
            ranked.append([one for one in kept if not options.good or self._good(query, one)][: options.k])
        if few is not shown:
            ids = dict.fromkeys(one.id for own in ranked for one in own)
            whole = {record.id: record.payload for record in self.store.retrieve(list(ids), fields=shown)}
            ranked = [[one._replace(payload=whole[one.id]) for one in own if one.id in whole] for own in ranked]
        rows = zip(queries, ranked, finder.words.respelled, strict=True)
        return [
            Answer(
                self._hits(query, own, options.filter, snippets, [form for one in said.values() for form in one.forms]),
                {one.word: list(one.forms) for one in said.values()},
            )
            for query, own, said in rows
        ]

    def named(self, query: Query, hit: str) -> tuple[Hit, Record, Why]:
        """Return an item as a hit of a query, its point, and the reasons of its score.

        `hit` is its id, the path of its file (of many items, the one most like the query), or its place in the plain
        search for that query, such as `3`. Raises `UsageError` when there is no such item.
        """
        if hit.isascii() and hit.isdecimal():
            hits = self.search([query], SearchOptions(max(1, int(hit))))[0]
            if not 1 <= int(hit) <= len(hits):
                raise UsageError(f"There is no hit number {int(hit)}.", f"The search for this query finds {len(hits)}.")
            hit = hits[int(hit) - 1].id
        records = stored_records(self.store, hit)
        if not records:
            raise UsageError(
                f"{hit!r} is neither the id of an item nor an indexed path.",
                "{files()} lists what is indexed; hits say their ids.",
            )
        finder = Finder(self.store, [query], self.calibration)
        scored = finder.scored({0: {record.id: record.payload["kind"] for record in records}})[0]
        one = max(scored.values(), key=lambda one: (one.id in finder.meaning.scores[0], one.similarity, one.words))
        meant, record = one.id in finder.meaning.scores[0], next(record for record in records if record.id == one.id)
        if not meant and not one.words:
            if query.unread:
                raise UsageError(f"The model cannot read anything of {query.words!r}.", "Ask in other words.")
            raise UsageError(f"{hit!r} has its words in the index, but no vector yet.", _NO_VECTORS)
        channels = ("meaning",) * meant + ("words",) * (one.words > 0)
        found = Candidate(*one[:4], record.payload, words=one.words, channels=channels)
        line = self.calibration.lines.get((query.modality, one.kind))
        why = Why(
            finder.words.parts(0, one.id), (line.slope, line.offset) if line else None, query.telling_in(one.kind)
        )
        return self._hits(query, [found], None, True)[0], record, why

    def _best(
        self, queries: Sequence[Query], finder: Finder, options: SearchOptions, fields: Sequence[str]
    ) -> list[list[Candidate]]:
        """The best candidates of each query, one per group, with these fields of their payloads.

        Reading a point costs far more than finding it. So points of all kinds are found first, and then only those are
        read that are the best among them; more of both until enough groups have been seen, or everything.
        """
        reranker = RERANKERS.get(options.rerank)
        depth = reading = max(options.k, reranker.depth)
        # Without spare ones for a reranking: its candidates are many more than it shows.
        known, wanted = 0, depth if options.all_chunks or depth > options.k else depth + _SPARE
        best: list[list[Candidate]] = [[] for _ in queries]
        read = {} if reranker.needs_vectors else finder.read
        pending = list(range(len(queries)))
        while pending:
            if known < wanted:
                finder.find(pending, wanted - known, known)
                known = wanted
            top = {row: finder.best(row, wanted) for row in pending}
            chosen = {row: _first(top[row], reading) for row in pending}
            fresh = dict.fromkeys(one.id for points in chosen.values() for one in points if one.id not in read)
            for record in self.store.retrieve(list(fresh), fields=fields, with_vectors=reranker.needs_vectors):
                read[record.id] = record
            for row in pending:
                best[row] = _one_per_group(queries[row], chosen[row], read, options.all_chunks)[:depth]
            short = [row for row in pending if len(best[row]) < depth]
            pending = [row for row in short if len(chosen[row]) < len(top[row]) or len(top[row]) == wanted]
            if reading == wanted:
                wanted *= _MORE
            reading = wanted
        return best

    def tells_good(self, query: Query) -> bool:
        """Tell whether good matches are told from others for such a query."""
        return bool(query.asked.required) or not len(query.vector) or self.calibration.tells(query.modality)

    def _good(self, query: Query, one: Candidate) -> bool:
        """Tell whether a candidate is a good match. What must occur in an item was found there, as it stands. Few words
        put a text below pictures of the same, and make it no worse a match.
        """
        if query.asked.required:
            return True
        if not one.similarity:
            return one.words >= SHARE_OF_GOOD
        score = one.score
        if one.words and query.telling_in(one.kind) < 1:
            score = self.calibration.score(one.similarity, query.modality, one.kind, one.words)
        return self.calibration.good(score, one.similarity, query.modality, one.kind)

    def _hits(
        self,
        query: Query,
        ranked: Sequence[Candidate],
        where: Filter | None,
        snippets: bool,
        respelled: Sequence[str] = (),
    ) -> list[Hit]:
        """Candidates with all that is shown of their payload as hits; `respelled` words are marked, too."""
        ranked = routed(query, ranked)
        parts: list[Snippet | None] = [None] * len(ranked)
        if snippets:
            parts = best_parts(" ".join([query.words, *respelled]), [one.payload.get("text") or "" for one in ranked])
        shared: dict[str, list[str]] = {}
        routes = {one.id: one.route for one in ranked if one.route is not None}
        if self.experts and routes:
            names = shared_experts(query.route, np.stack(list(routes.values())), self.experts)
            shared = dict(zip(routes, names, strict=True))
        hits = []
        for rank, (found, part) in enumerate(zip(ranked, parts, strict=True), 1):
            payload = found.payload
            (path, *others), offline = _paths(payload, where, self.lost)
            hits.append(
                Hit(
                    rank=rank,
                    score=found.score,
                    similarity=found.similarity,
                    route_similarity=found.route_similarity,
                    id=found.id,
                    kind=found.kind,
                    path=path,
                    page=payload.get("page"),
                    chunk=payload.get("chunk"),
                    snippet=part.text if part else None,
                    top_experts=list(payload.get("top_experts") or ()),
                    also_at=others,
                    marks=list(part.marks) if part else [],
                    shared_experts=shared.get(found.id, []),
                    offline=offline,
                    words=found.words,
                    concepts=sightings(payload),
                    headings=list(payload.get("headings") or ()),
                    lines=payload.get("lines"),
                    page_label=payload.get("page_label"),
                    channels=list(found.channels),
                    title=payload.get("title"),
                    good=self._good(query, found),
                )
            )
        return hits


def _first(found: Sequence[Scored], count: int) -> Sequence[Scored]:
    """The first of these, and those after them with the same score: the order of equals is not known yet."""
    while 0 < count < len(found) and found[count][2:5] == found[count - 1][2:5]:
        count += 1
    return found[:count]


def _one_per_group(
    query: Query, points: Iterable[Scored], read: Mapping[str, Record], all_chunks: bool
) -> list[Candidate]:
    """The first of each group that the query does not exclude, in order. A group gives one hit: a page (found by its
    text or by its picture), a picture file, a document without pages; or each point by itself. Points that were deleted
    in the meantime have not been `read`.
    """
    first: dict[tuple[Any, ...], Candidate] = {}
    for one in sorted(
        (
            Candidate(*one[:4], read[one.id].payload, read[one.id].vector, words=one.words, channels=one.channels)
            for one in points
            if one.id in read
        ),
        key=_order,
    ):
        sha, page = one.payload.get("sha"), one.payload.get("page")
        if sha not in query.without and (not query.asked.strict or query.asked.allows(_texts(one.payload))):
            first.setdefault((one.id,) if all_chunks else (sha, page), one)
    return list(first.values())


def _texts(payload: Mapping[str, Any]) -> list[str]:
    """The texts of an item in which words occur: its own, its title, and its paths."""
    return [
        payload.get("text") or "",
        payload.get("title") or "",
        *(place["path"] for place in payload.get("places") or ()),
    ]


def _order(one: Candidate) -> tuple[Any, ...]:
    place = (one.payload.get("path") or "", one.payload.get("page") or 0, one.payload.get("chunk") or 0)
    return (-one.score, -one.similarity, *place, one.id)


def routed(query: Query, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates with their routes and kappas. Raises `StoreError` for a route of another size.

    All at once: for a hundred long routes, one product of matrices takes a fraction of the time of a hundred sums.
    """
    found = list(candidates)
    missing = enumerate(found) if len(query.route) else ()
    rows = [row for row, one in missing if one.route is None and has_route(one.payload)]
    routes = stored_routes([found[row].payload for row in rows], len(query.route))
    kappas = similarity(query.route[None], routes)[0].tolist()
    for row, route, kappa in zip(rows, routes, kappas, strict=True):
        found[row] = Candidate(*found[row][:6], route, kappa, *found[row][8:])  # `_replace` takes three times as long
    return found


def _paths(payload: Mapping[str, Any], where: Filter | None, lost: Sequence[str] | None) -> tuple[list[str], bool]:
    """The places of a content, and if the first of them is offline. A place that the filter asks for comes first, of
    several one that is there.
    """
    places = payload.get("places") or [payload]
    if len(places) == 1:
        return [places[0]["path"]], lost is not None and is_offline(places[0], lost)
    asked = places
    if where is not None:
        asked = [one for one in places if matches(where, {**payload, **one, "places": [one]})] or places
    first = asked[0] if lost is None else next((one for one in asked if not is_offline(one, lost)), None)
    ordered = [first or asked[0], *asked, *places]
    return list(dict.fromkeys(place["path"] for place in ordered)), first is None
