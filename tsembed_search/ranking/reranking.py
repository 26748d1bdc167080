"""Ordering again what was found: by the experts that query and item share, for variety, or by another model.

    score = (1 - weight) · score + weight · kappa

Kappa is the cosine of two centred routes: how alike the routing of query and item is. The form is ours. A search
applies it to calibrated scores, an evaluation to cosines, and `sweep` finds the weight that ranks best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tsembed_search.items import Kind, Modality
from tsembed_search.ranking.metrics import TIE, Ranks
from tsembed_search.ranking.similarity import Matrix, Ranked, Rows, pair_similarity, similarity
from tsembed_search.ranking.words import Asked
from tsembed_search.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    Numbers = TypeVar("Numbers", float, Matrix, Tensor)

DEPTH: Final = 100
"""The number of hits that are ordered again."""
WEIGHTS: Final = tuple(step / 20 for step in range(21))
"""The weights of a sweep: 0, 0.05, ..., 1."""
_RELEVANCE = 0.7
_AT_ONCE = 4096


@dataclass(frozen=True)
class Query:
    """A query as a unit vector `[D]` and the model's routing vector `[L·E]` (`[0]` without experts), both float32.

    `words` is the query's text, `asked` what it says of words; contents whose hash is in `without` are left out.
    `unread`: the model can read nothing of it, so its vector is left out. `same`: the id of the very picture that is
    looked for, if it is indexed. `telling`, 0..1: how much its words say beside its meaning where the model has read
    them in an item, too.
    """

    vector: NDArray[np.float32]
    route: NDArray[np.float32]
    modality: Modality
    words: str = ""
    without: frozenset[str] = frozenset()
    asked: Asked = field(default_factory=Asked)
    unread: bool = False
    same: str = ""
    telling: float = 1.0

    def telling_in(self, kind: Kind) -> float:
        """Return how much its words say in an item. No model reads the names of pictures, nor the text of a page."""
        return self.telling if kind == "text" else 1.0


class Candidate(NamedTuple):
    """A point that may become a hit. `score` is calibrated (0..1), `similarity` is the cosine.

    `payload` has at least the fields that the reranker names, `vector` `[D]` and `route` `[L·E]` are there if it wants
    them; `route_similarity` is kappa, 0 where a side has no route; `words` is the item's share of the query's words;
    `channels` are the ways by which it was found.
    A tuple, because a search makes hundreds.
    """

    id: str
    kind: Kind
    score: float
    similarity: float
    payload: Mapping[str, Any]
    vector: NDArray[np.float32] | None = None
    route: NDArray[np.float32] | None = None
    route_similarity: float = 0.0
    words: float = 0.0
    channels: tuple[str, ...] = ()


class Given(NamedTuple):
    """The aids that a reranker gets: the `weight` of routes, 0..1, and the `model` that it loads."""

    weight: float = 0.0
    model: Any = None


@dataclass(frozen=True)
class Reranker:
    """A way to order candidates again, and what it needs for that.

    `order` sorts (and may rescore or drop) the `depth` best candidates, or the k best when k is larger. `fields` are
    the payload fields that it reads, `text` say. It gets vectors if it `needs_vectors`, routes and their weight if it
    `uses_routes`, and what `load` gives for a device ("auto", "cpu", "cuda:0"), which is loaded once.
    """

    order: Callable[[Query, Sequence[Candidate], Given], list[Candidate]]
    depth: int = 0
    fields: tuple[str, ...] = ()
    needs_vectors: bool = False
    uses_routes: bool = False
    load: Callable[[str], Any] | None = None


def mixed(score: Numbers, kappa: Numbers, weight: float) -> Numbers:
    """Return `(1 - weight) · score + weight · kappa`, of numbers, arrays or tensors."""
    return (1 - weight) * score + weight * kappa


def by_experts(query: Query, candidates: Sequence[Candidate], given: Given) -> list[Candidate]:
    """Score again by how alike the routing of query and item is.

    Kappa is mapped to 0..1, as scores are. For a model without calibration the score is (1 + cosine) / 2, so this
    orders as (1 - weight) · cosine + weight · kappa does.
    """
    rescored = []
    for one in candidates:
        kappa = max(-1.0, min(1.0, one.route_similarity))
        score = mixed(one.score, (1 + kappa) / 2, given.weight)
        rescored.append(Candidate(one.id, one.kind, score, *one[3:]))  # `_replace` takes three times as long
    return sorted(rescored, key=lambda one: -one.score)


def by_variety(query: Query, candidates: Sequence[Candidate], given: Given) -> list[Candidate]:
    """Maximal marginal relevance: each next hit is good, and unlike those before it. Scores stay what they were.

    What is taken next has the largest 0.7 · score - 0.3 · (largest cosine with what was taken). Only the first 100 are
    moved. Carbonell and Goldstein, *The use of MMR*, SIGIR 1998.
    """
    if not candidates:
        return []
    # What has no vector yet is like nothing: it comes after what has.
    known = [one for one in candidates if one.vector is not None]
    bare = [one for one in candidates if one.vector is None]
    left, rest = known[:DEPTH], [*known[DEPTH:], *bare]
    if not left:
        return rest
    vectors = np.stack([one.vector for one in left if one.vector is not None])
    scores = np.array([one.score for one in left])
    alike = np.zeros(len(left))
    taken: list[int] = []
    for _ in left:
        worth = _RELEVANCE * scores - (1 - _RELEVANCE) * alike
        worth[taken] = -np.inf
        taken.append(int(worth.argmax()))
        alike = np.maximum(alike, similarity(vectors[taken[-1:]], vectors)[0])
    return [*(left[place] for place in taken), *rest]


RERANKERS: Final = Registry[Reranker](
    "reranking",
    "tsembed.rerankers",
    {
        "none": Reranker(lambda query, candidates, given: list(candidates)),
        "expert": Reranker(by_experts, DEPTH, uses_routes=True),
        "mmr": Reranker(by_variety, DEPTH, needs_vectors=True),
    },
)


@lru_cache(maxsize=4)
def model_of(name: str, device: str) -> Any:
    """Return what the reranker of that name loads for a device, loaded once; None for one that needs no model."""
    load = RERANKERS.get(name).load
    return load(device) if load else None


@dataclass(frozen=True)
class Kappas:
    """Kappa of each query with its right candidates `[R]` and its best wrong ones `[Q, depth]`, as in `Ranked`."""

    right: Matrix
    wrong: Matrix


def kappas(ranked: Ranked, queries: Matrix | Rows, candidates: Matrix | Rows) -> Kappas:
    """Return kappas from the centred unit routes of queries `[Q, L·E]` and of candidates `[C, L·E]`."""
    right = pair_similarity(queries, ranked.rows, candidates, ranked.right)
    wrong = np.zeros(ranked.wrong.shape, np.float32)
    for row, places in enumerate(ranked.wrong):
        # What is not there (-1) has a score of minus infinity anyway.
        wrong[row] = similarity(queries[row : row + 1], candidates[places])[0]
    return Kappas(right, wrong)


def reranked(ranked: Ranked, kappa: Kappas, weight: float) -> Ranks:
    """Return the ranks after ordering the first hits again (as many as wrong candidates were kept), by `mixed`.

    Ties count against the model, as everywhere. A right candidate further down keeps its rank.
    """
    ranks, rows, depth = ranked.ranks, ranked.rows, ranked.wrong.shape[1]
    within = ranks.ranks <= depth
    right = mixed(ranked.right_scores, kappa.right, weight)
    missing = ranked.wrong < 0
    wrong = mixed(np.where(missing, 0, ranked.wrong_scores), kappa.wrong, weight)
    wrong[missing] = -np.inf
    # The right ones among the first hits leave so much less room for wrong ones there.
    room = depth - np.bincount(rows[within], minlength=len(ranks))
    wrong[np.arange(depth)[None, :] >= room[:, None]] = -np.inf
    order = np.flatnonzero(within)
    order = order[np.lexsort((-right[order], rows[order]))]
    before = np.empty(len(order), np.int64)
    for start in range(0, len(order), _AT_ONCE):
        part = order[start : start + _AT_ONCE]
        before[start : start + _AT_ONCE] = (wrong[rows[part]] >= (right[part] - TIE)[:, None]).sum(axis=1)
    firsts = np.searchsorted(rows[order], rows[order], side="left")
    result = ranks.ranks.copy()
    result[within] = before + np.arange(len(order)) - firsts + 1
    return replace(ranks, ranks=result)


@dataclass(frozen=True)
class Sweep:
    """Several weights of routes, tried on rankings. `weight`: the best one, of equals the smallest.

    `curve`: each weight with its mean reciprocal rank (the mean over tasks); `queries`: over how many. `gain`: what the
    best weight adds to that of 0, and `error`, the standard error of this.
    """

    weight: float
    curve: tuple[tuple[float, float], ...]
    queries: int
    gain: float = 0.0
    error: float = 0.0


def sweep(
    rankings: Sequence[tuple[Ranked, Kappas]],
    weights: Sequence[float] = WEIGHTS,
    chosen: Sequence[NDArray[np.bool_]] | None = None,
) -> Sweep:
    """Try weights (the first is 0) on the rankings of one or more tasks, which count alike; `chosen` `[Q]` each says
    which queries of a task count, by default all.
    """
    masks = [np.ones(len(one.ranks), bool) for one, _ in rankings] if chosen is None else chosen
    used = [(*pair, mask) for pair, mask in zip(rankings, masks, strict=True) if mask.any()]
    inverse = [[reranked(one, kappa, weight).mrr()[mask] for one, kappa, mask in used] for weight in weights]
    means = [float(np.mean([one.mean() for one in each])) for each in inverse]
    curve = tuple(zip(weights, means, strict=True))
    best = max(range(len(curve)), key=lambda at: (round(curve[at][1], 9), -curve[at][0]))
    gains = [now - before for now, before in zip(inverse[best], inverse[0], strict=True)]
    error = float(np.sqrt(sum(gain.var() / len(gain) for gain in gains))) / len(gains)
    queries = sum(len(gain) for gain in gains)
    return Sweep(curve[best][0], curve, queries, curve[best][1] - curve[0][1], error)
