"""What is measured when training is over: the mean route, which centres kappa, and lambda, what kappa is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tsembed_search.items import Item, Role
from tsembed_search.model.routing import centred
from tsembed_search.trainer.rows import Task
from tsembed_search.trainer.validation import Embedding, Ranking

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(13))
"""The lambdas that are tried."""
_RERANKED = 100  # hits, as in searching
_ROWS = 300


@dataclass(frozen=True)
class Sweep:
    """`weight`: the lambda to use. `tried`: (lambda, mean over tasks of the MRR). `queries`: over how many."""

    weight: float
    tried: tuple[tuple[float, float], ...]
    queries: int


def mean_route(embedding: Embedding, tasks: Sequence[Task], seed: int) -> tuple[Tensor, int, dict[str, Tensor]]:
    """The mean raw route `[L·E]` of queries and targets, as many from each task; of how many items; and per task."""
    per_task = max(1, _ROWS // max(1, len(tasks)))
    routes = {}
    for number, task in enumerate(tasks):
        chosen = np.random.default_rng([seed, 3, number]).permutation(len(task))[:per_task]
        rows = [task[int(row)] for row in chosen]
        wanted: list[tuple[Item, Role]] = [(row.query, "query") for row in rows]
        wanted += [(row.positive, "document") for row in rows]
        if wanted:
            routes[task.name] = embedding.embed(wanted)[0].routes
    everything = torch.cat(list(routes.values()))
    return everything.mean(0), len(everything), {name: own.mean(0) for name, own in routes.items()}


def sweep(rankings: Mapping[str, Ranking], mean: Tensor) -> Sweep | None:
    """Finds lambda, as `--rerank expert` applies it to the first hundred hits: the one with the best MRR, if that is
    better than without reranking by more than one standard error of the difference; otherwise 0.

    None when there is nothing to measure on.
    """
    if not rankings:
        return None
    tasks = rankings.values()
    inverse = [[1 / one.places(reranked(one, weight, mean)) for one in tasks] for weight in WEIGHTS]
    means = [float(np.mean([one.mean() for one in each])) for each in inverse]
    best = int(np.argmax(means))
    gains = [now - before for now, before in zip(inverse[best], inverse[0], strict=True)]
    error = np.sqrt(sum(gain.var() / len(gain) for gain in gains)) / len(gains)
    chosen = WEIGHTS[best] if means[best] - means[0] > error else 0.0
    return Sweep(chosen, tuple(zip(WEIGHTS, means, strict=True)), sum(len(gain) for gain in gains))


def reranked(ranking: Ranking, weight: float, mean: Tensor) -> Tensor:
    """Scores `[Q, C]`: `(1 - weight) · cosine + weight · kappa` for each query's first hundred, above all others."""
    kappa = centred(ranking.queries.routes, mean) @ centred(ranking.candidates.routes, mean).T
    return mixed(ranking, kappa, weight)


def mixed(ranking: Ranking, likeness: Tensor, weight: float) -> Tensor:
    """The same for any `likeness` `[Q, C]` in kappa's place."""
    cosine = ranking.queries.vectors @ ranking.candidates.vectors.T
    scores = (1 - weight) * cosine + weight * likeness
    if cosine.shape[1] <= _RERANKED:
        return scores
    first = cosine.topk(_RERANKED, dim=1).indices
    return (cosine - 4).scatter(1, first, scores.gather(1, first))
