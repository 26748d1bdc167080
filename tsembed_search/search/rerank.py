"""Ways to reorder what a search found. Adding one is a function and a line in `RERANKERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from tsembed_search.errors import UsageError
from tsembed_search.items import Kind, Modality
from tsembed_search.store.base import Record
from tsembed_search.store.schema import has_route, stored_routes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Query:
    """What is searched for: a unit vector `[D]` and the model's routing vector `[L·E]` (`[0]` without experts), both
    float32. `words` is the query's text, for marking snippets; contents whose hash is in `without` are left out.
    """

    vector: NDArray[np.float32]
    route: NDArray[np.float32]
    modality: Modality
    words: str = ""
    without: frozenset[str] = frozenset()


class Candidate(NamedTuple):
    """A point that may become a hit. `score` is calibrated (0..1), `route_similarity` 0 when a side has no route.

    `record.score` is the raw cosine; `record.vector` and `route_similarity` are there if the reranker asked for them.
    """

    record: Record
    kind: Kind
    score: float
    route_similarity: float = 0.0


@dataclass(frozen=True)
class Reranker:
    """`order` sorts (and may rescore or drop) the `depth` best candidates, or the k best when k is larger.

    Its last argument is the weight of routes, 0..1, for one that `uses_routes`.
    """

    order: Callable[[Query, Sequence[Candidate], float], list[Candidate]]
    depth: int = 0
    needs_vectors: bool = False
    uses_routes: bool = False


def with_routes(query: Query, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with their `route_similarity`. Raises `StoreError` for a route of another size than the query's.

    All at once: for a hundred long routes, one product of matrices takes a fraction of the time of a hundred sums.
    """
    found = list(candidates)
    rows = [row for row, one in enumerate(found) if has_route(one.record.payload)] if len(query.route) else []
    routes = stored_routes([found[row].record.payload for row in rows], len(query.route))
    for row, similarity in zip(rows, (routes @ query.route).tolist(), strict=True):
        one = found[row]
        found[row] = Candidate(one.record, one.kind, one.score, similarity)
    return found


def _unchanged(query: Query, candidates: Sequence[Candidate], weight: float) -> list[Candidate]:
    return list(candidates)


def by_experts(query: Query, candidates: Sequence[Candidate], weight: float) -> list[Candidate]:
    """Rescores by how alike the routing of query and item is: (1 - weight) · score + weight · (1 + kappa) / 2.

    Kappa is the cosine of the centred routes. For a model without calibration the score is (1 + cosine) / 2, so this
    orders as (1 - weight) · cosine + weight · kappa does. The form is ours.
    """
    rescored = []
    for one in candidates:
        kappa = max(-1.0, min(1.0, one.route_similarity))
        score = (1 - weight) * one.score + weight * (1 + kappa) / 2
        rescored.append(Candidate(one.record, one.kind, score, one.route_similarity))
    return sorted(rescored, key=lambda one: -one.score)


def by_variety(query: Query, candidates: Sequence[Candidate], weight: float) -> list[Candidate]:
    """Maximal marginal relevance: each next hit is good, and unlike those before it. Scores stay what they were.

    What is taken next has the largest 0.7 · score - 0.3 · (largest cosine with what was taken). Only the first 100 are
    moved. Carbonell and Goldstein, *The use of MMR*, SIGIR 1998.
    """
    import numpy as np

    left, rest = list(candidates[:_DEPTH]), list(candidates[_DEPTH:])
    if not left:
        return rest
    vectors = np.stack([one.record.vector for one in left if one.record.vector is not None])
    scores = np.array([one.score for one in left])
    alike = np.zeros(len(left))
    taken: list[int] = []
    for _ in left:
        worth = _RELEVANCE * scores - (1 - _RELEVANCE) * alike
        worth[taken] = -np.inf
        taken.append(int(worth.argmax()))
        alike = np.maximum(alike, vectors @ vectors[taken[-1]])
    return [left[place] for place in taken] + rest


_DEPTH = 100
_RELEVANCE = 0.7
RERANKERS: Final[Mapping[str, Reranker]] = {
    "none": Reranker(_unchanged),
    "expert": Reranker(by_experts, _DEPTH, uses_routes=True),
    "mmr": Reranker(by_variety, _DEPTH, needs_vectors=True),
}


def reranker(name: str) -> Reranker:
    """The reranker of that name. Raises `UsageError` that lists them."""
    try:
        return RERANKERS[name]
    except KeyError:
        raise UsageError(f"There is no reranking called {name!r}.", f"Use one of: {', '.join(RERANKERS)}.") from None
