"""Which form of likeness of experts helps a ranking: `python benchmarks/rerank_forms.py DATA [--model mini]`.

DATA is the folder of `python examples/mini/data.py`. Each validation query is ranked against the targets of its task,
and its first hundred again by `(1 - lambda) · cosine + lambda · likeness`, for these forms of likeness of routes
(vectors `[L·E]`: L blocks, E experts; kappa is the cosine of two centred routes):

    kappa        as `--rerank expert` has it
    by side      kappa, of routes centred by the means of queries and of documents, each for itself
    last half    kappa of the last L/2 blocks
    last block   kappa of the last block
    agreement    the share of blocks in which both use the same expert most
    by block     a sum of the blocks' own kappas, by weights that a logistic regression finds
    first hits   kappa to the mean route of the first three hits, which stand for the target

Lambda (and the blocks' weights) are found on one half of the queries and tried on the other, and the other way round;
the gain of a fixed small lambda is there, too. Gains are of the mean reciprocal rank, mean over tasks; intervals are
95%, bootstrapped over queries. One JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from tsembed_search.data import training as training_data
from tsembed_search.items import Embeddings
from tsembed_search.model import loading, registry
from tsembed_search.model.backbone import Trainable, autocast
from tsembed_search.ranking.reranking import Kappas, reranked
from tsembed_search.ranking.similarity import similarity
from tsembed_search.trainer.batches import features
from tsembed_search.trainer.validation import Embedding, Ranking, rank_tasks

Floats = NDArray[np.float64]
Form = Callable[[Ranking, "Routes"], Tensor]
_WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_FIXED = 0.05
_RESAMPLES = 2000
_STEPS = 200


class Routes:
    """What the forms know of all rankings together: means of routes `[L·E]`, and weights of blocks `[L]`."""

    def __init__(self, rankings: Mapping[str, Ranking], mean: Tensor, blocks: int) -> None:
        self.mean, self.blocks = mean, blocks
        self.of_queries = torch.cat([_routes(one.queries) for one in rankings.values()]).mean(0)
        self.of_documents = torch.cat([_routes(one.candidates) for one in rankings.values()]).mean(0)
        self.weights = torch.ones(blocks) / blocks

    def split(self, routes: Tensor) -> Tensor:
        """`[N, L·E]` to `[L, N, E]`."""
        return routes.view(len(routes), self.blocks, -1).transpose(0, 1)


def _routes(side: Embeddings) -> Tensor:
    return torch.from_numpy(side.routes)


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return normalize(one, dim=-1) @ normalize(other, dim=-1).transpose(-1, -2)


def _kappa(ranking: Ranking, routes: Routes) -> Tensor:
    return _cosine(_routes(ranking.queries) - routes.mean, _routes(ranking.candidates) - routes.mean)


def _by_side(ranking: Ranking, routes: Routes) -> Tensor:
    return _cosine(_routes(ranking.queries) - routes.of_queries, _routes(ranking.candidates) - routes.of_documents)


def _of_blocks(ranking: Ranking, routes: Routes) -> Tensor:
    """`[L, Q, C]`."""
    return _cosine(
        routes.split(_routes(ranking.queries) - routes.mean), routes.split(_routes(ranking.candidates) - routes.mean)
    )


def _last(count: Callable[[int], int]) -> Form:
    def form(ranking: Ranking, routes: Routes) -> Tensor:
        width = len(routes.mean) // routes.blocks * count(routes.blocks)
        queries, documents = (_routes(side) - routes.mean for side in (ranking.queries, ranking.candidates))
        return _cosine(queries[:, -width:], documents[:, -width:])

    return form


def _agreement(ranking: Ranking, routes: Routes) -> Tensor:
    queries, documents = (routes.split(_routes(side)).argmax(-1) for side in (ranking.queries, ranking.candidates))
    return (queries[:, :, None] == documents[:, None, :]).float().mean(0)


def _by_block(ranking: Ranking, routes: Routes) -> Tensor:
    return torch.einsum("l,lqc->qc", routes.weights, _of_blocks(ranking, routes))


def _first_hits(ranking: Ranking, routes: Routes) -> Tensor:
    documents = normalize(_routes(ranking.candidates) - routes.mean, dim=-1)
    first = _scores(ranking).topk(min(3, len(documents)), dim=1).indices
    return _cosine(documents[first].mean(1), documents)


FORMS: dict[str, Form] = {
    "kappa": _kappa,
    "by side": _by_side,
    "last half": _last(lambda blocks: blocks // 2),
    "last block": _last(lambda blocks: 1),
    "agreement": _agreement,
    "by block": _by_block,
    "first hits": _first_hits,
}


def _scores(ranking: Ranking) -> Tensor:
    return torch.from_numpy(similarity(ranking.queries.vectors, ranking.candidates.vectors))


def inverse_ranks(ranking: Ranking, likeness: Tensor, weight: float) -> Floats:
    """1 / rank of each query's answer, with its first hundred reordered."""
    ranked, found = ranking.ranked(), likeness.numpy()
    kappa = Kappas(found[ranked.rows, ranked.right], np.take_along_axis(found, ranked.wrong, axis=1))
    return reranked(ranked, kappa, weight).mrr()


def _some(ranking: Ranking, rows: slice) -> Ranking:
    queries = Embeddings(ranking.queries.vectors[rows], ranking.queries.routes[rows])
    left_out = ranking.left_out and ranking.left_out[rows]
    return Ranking(ranking.meta, queries, ranking.candidates, ranking.correct[rows], left_out)


def _right(ranking: Ranking) -> Tensor:
    """`[Q, C]` bool."""
    right = torch.zeros(len(ranking.correct), len(ranking.candidates), dtype=torch.bool)
    for row, places in enumerate(ranking.correct):
        right[row, sorted(places)] = True
    return right


def learned(rankings: Mapping[str, Ranking], routes: Routes) -> Tensor:
    """Weights of blocks `[L]`, their sizes 1 together, of `a · cosine + b · kappas` as a softmax over candidates."""
    parts = [(_scores(one), _of_blocks(one, routes), _right(one)) for one in rankings.values()]
    scale, weights = torch.tensor(20.0, requires_grad=True), torch.zeros(routes.blocks, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [scale], "lr": 0.5}, {"params": [weights], "lr": 0.05}])
    for _ in range(_STEPS):
        loss = torch.zeros(())
        for cosine, kappas, correct in parts:
            logits = scale * cosine + torch.einsum("l,lqc->qc", weights, kappas)
            right = logits.masked_fill(~correct, -torch.inf).logsumexp(1)
            loss = loss + (logits.logsumexp(1) - right).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights.detach() / weights.detach().abs().sum().clamp_min(1e-9)


def tried(name: str, rankings: Mapping[str, Ranking], routes: Routes) -> dict[str, Any]:
    """What one form gains over cosine alone, by halves."""
    form, chosen = FORMS[name], []
    best, fixed = ({task: np.zeros(len(one.correct)) for task, one in rankings.items()} for _ in range(2))
    for half in (0, 1):
        fit = {task: _some(one, slice(1 - half, None, 2)) for task, one in rankings.items()}
        if name == "by block":
            routes.weights = learned(fit, routes)
        likenesses = {task: form(one, routes) for task, one in fit.items()}
        means = [
            np.mean([inverse_ranks(one, likenesses[task], weight).mean() for task, one in fit.items()])
            for weight in _WEIGHTS
        ]
        chosen.append(_WEIGHTS[int(np.argmax(means))])
        for task, one in rankings.items():
            rows = slice(half, None, 2)
            own = _some(one, rows)
            after, small, before = (inverse_ranks(own, form(own, routes), each) for each in (chosen[-1], _FIXED, 0.0))
            best[task][rows], fixed[task][rows] = after - before, small - before
    return {"lambda": chosen, "gain": _interval(best), f"gain at {_FIXED}": _interval(fixed)}


def _interval(gains: Mapping[str, Floats]) -> list[float]:
    """The mean over tasks, and the ends of its interval."""
    generator = np.random.default_rng(0)
    drawn = [gain[generator.integers(len(gain), size=(_RESAMPLES, len(gain)))].mean(1) for gain in gains.values()]
    ends = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return [round(float(each), 4) for each in (np.mean([one.mean() for one in gains.values()]), *ends)]


def main(
    data: Annotated[Path, typer.Argument(help="The folder of `python examples/mini/data.py`.")],
    model: Annotated[str, typer.Option(help="A model with experts.")] = "mini",
    rows: Annotated[int, typer.Option(help="Validation queries per task, at most.")] = 200,
) -> None:
    """Tries all forms on the validation rows."""
    ref = registry.resolve(Path(model) if "/" in model else model)
    backbone = cast(Trainable, loading.load(ref, "cpu"))
    assert backbone.adapters is not None, f"{model} has no experts"
    preparer = features.preparer_for(backbone, loading.base_behind(ref).fingerprint, True, None)
    embedding = Embedding(backbone, preparer, autocast("float32", torch.device("cpu")))
    rankings = rank_tasks(embedding, training_data.load([str(data)]).validation, rows)
    preparer.close()
    routes = Routes(rankings, backbone.adapters.mean.detach().flatten(), backbone.adapters.shape[0])
    before = float(np.mean([inverse_ranks(one, _kappa(one, routes), 0.0).mean() for one in rankings.values()]))
    found = {name: tried(name, rankings, routes) for name in FORMS}
    queries = sum(len(one.correct) for one in rankings.values())
    typer.echo(json.dumps({"model": model, "queries": queries, "tasks": len(rankings), "mrr": before, "forms": found}))


if __name__ == "__main__":
    typer.run(main)
