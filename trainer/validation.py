"""How good the model is on rows that it is not trained on: every query against the targets of its task's other rows.

Quick and the same every time, to steer a run by; `tsembed eval` measures what one reports.

What is measured when training is over: the mean route, which centres kappa, and lambda, what kappa is worth.

Figures on a run that decide nothing: memory, and whether tasks pull shared weights the same way.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsembed_search.data.rows import Row, Task
from tsembed_search.data.sameness import content, question
from tsembed_search.items import Item, Role
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.model.embedder import batches, in_fitting_parts
from tsembed_search.model.routing import Traced, centred
from tsembed_search.trainer import gradcache
from tsembed_search.trainer.batches.features import Preparer
from tsembed_search.trainer.batches.loader import read
from tsembed_search.trainer.batches.sampler import Sampler
from tsembed_search.trainer.distributed import Processes
from tsembed_search.trainer.losses import base as masks
from tsembed_search.trainer.losses.base import Side
from tsembed_search.trainer.losses.contrastive import InfoNCE, Pairs
from tsembed_search.trainer.packing import POSITIVE, QUERY, Labels
from tsembed_search.trainer.settings import BatchSettings

_AT_ONCE = 128  # items that are prepared together


@dataclass(frozen=True)
class Embedded:
    """`vectors` `[N, D]` and raw `routes` `[N, L·E]`, both float32 on the CPU."""

    vectors: Tensor
    routes: Tensor


@dataclass(frozen=True)
class Ranking:
    """Q queries against C candidates of one task. `correct` `[Q, C]` bool: at least one in each row. `wrong` `[Q, C]`
    bool: the others, but for the query itself, which no query is ranked against.
    """

    meta: str
    queries: Embedded
    candidates: Embedded
    correct: Tensor
    wrong: Tensor

    def places(self, scores: Tensor) -> NDArray[np.float64]:
        """The rank of each query's best right candidate by `scores` `[Q, C]`."""
        return ranks_of(scores, self.correct, self.wrong)


@dataclass(frozen=True)
class Validation:
    """`tasks`: per task its meta-task, `hit@1`, `mrr` and `n` queries; `hit` and `mrr` are means over tasks."""

    tasks: Mapping[str, Mapping[str, Any]]
    seconds: float = 0.0

    @property
    def hit(self) -> float:
        """Mean over tasks of the share of queries whose best candidate is right."""
        return _mean(task["hit@1"] for task in self.tasks.values())

    @property
    def mrr(self) -> float:
        """Mean over tasks of the mean of 1 / the rank of the best right candidate."""
        return _mean(task["mrr"] for task in self.tasks.values())

    def to_json(self) -> dict[str, Any]:
        """As in the log."""
        return {"tasks": dict(self.tasks), "hit@1": self.hit, "mrr": self.mrr}


class Embedding:
    """The model, for measuring: no dropout, no noise, no gradients; training mode afterwards."""

    def __init__(
        self, backbone: Trainable, preparer: Preparer, precision: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._backbone = backbone
        self._preparer = preparer
        self._precision = precision
        self.remarks: list[str] = []
        """What a person should know of items that were left out."""

    def embed(self, wanted: Sequence[tuple[Item, Role]]) -> tuple[Embedded, list[int]]:
        """Embeds items; also the places of those that could be read and fit in memory, in order."""
        self._backbone.train(False)
        try:
            parts = [self._some(wanted[at : at + _AT_ONCE]) for at in range(0, len(wanted), _AT_ONCE)]
        finally:
            self._backbone.train(True)
        places = [at * _AT_ONCE + place for at, (_, own) in enumerate(parts) for place in own]
        vectors, routes = (torch.cat([getattr(part, name) for part, _ in parts]) for name in ("vectors", "routes"))
        return Embedded(vectors, routes), places

    def _some(self, wanted: Sequence[tuple[Item, Role]]) -> tuple[Embedded, list[int]]:
        prepared = self._preparer.prepare(wanted)
        ready = [(place, one) for place, one in enumerate(prepared) if isinstance(one, Prepared)]
        assert self._backbone.adapters is not None
        vectors = torch.empty(len(prepared), self._backbone.info.dim)
        routes = torch.empty(len(prepared), self._backbone.adapters.mean.numel())
        places: list[int] = []
        for batch in batches(ready, self._backbone.batch_tokens, _AT_ONCE):
            for part, traced in in_fitting_parts(self._traced, batch):
                if traced is None:
                    self.remarks.append(f"An item of {part[0][1].tokens} tokens does not fit in memory: not measured.")
                    continue
                rows = [place for place, _ in part]
                vectors[rows], routes[rows] = traced.vectors.float().cpu(), traced.routes.float().cpu()
                places += rows
        places.sort()
        return Embedded(vectors[places], routes[places]), places

    def _traced(self, batch: Sequence[tuple[int, Prepared]]) -> Traced:
        with torch.no_grad(), self._precision():
            return self._backbone.trace([one for _, one in batch], losses=False)


def rank_tasks(embedding: Embedding, tasks: Sequence[Task], rows: int) -> dict[str, Ranking]:
    """Embeds up to `rows` rows of each task, always the same ones, and what each query is ranked against: the targets
    of these rows. Right are those of its own identity and all that other rows name for the same query. Tasks with a
    single target are left out.
    """
    found = {}
    for task in tasks:
        chosen = np.random.default_rng(crc32(task.name.encode())).permutation(len(task))[:rows]
        own = [task[int(row)] for row in np.sort(chosen)]
        targets: dict[tuple[int, str], Row] = {}
        for row in own:
            targets.setdefault((content(row.positive), row.identity), row)
        wanted: list[tuple[Item, Role]] = [(row.query, "query") for row in own]
        wanted += [(row.positive, "document") for row in targets.values()]
        embedded, places = embedding.embed(wanted) if len(targets) > 1 else (None, [])
        if embedded is None:
            continue
        split = sum(place < len(own) for place in places)
        candidates = list(targets.values())
        ranked = [candidates[place - len(own)] for place in places[split:]]
        correct, wrong = _judged([own[place] for place in places[:split]], ranked, own)
        kept = correct.any(1)
        if bool(kept.any()) and correct.shape[1] > 1:
            queries = Embedded(embedded.vectors[:split][kept], embedded.routes[:split][kept])
            documents = Embedded(embedded.vectors[split:], embedded.routes[split:])
            found[task.name] = Ranking(task.meta, queries, documents, correct[kept], wrong[kept])
    return found


def _judged(queries: Sequence[Row], targets: Sequence[Row], rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Which targets are right for which queries, and which are wrong, `[Q, C]` bool each; of Q and C of `rows`."""
    right: dict[int, set[int]] = defaultdict(set)
    identities: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        asked = question(row.query)
        right[asked] |= {content(row.positive), *row.answers}
        identities[asked].add(row.identity)
    of_content: dict[int, list[int]] = defaultdict(list)
    of_identity: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(targets):
        of_content[content(row.positive)].append(place)
        of_identity[row.identity].append(place)
    correct = torch.zeros(len(queries), len(targets), dtype=torch.bool)
    itself = torch.zeros_like(correct)
    for number, row in enumerate(queries):
        asked = question(row.query)
        correct[number, [place for one in right[asked] for place in of_content.get(one, ())]] = True
        correct[number, [place for one in identities[asked] for place in of_identity.get(one, ())]] = True
        itself[number, of_content.get(content(row.query), [])] = True
    return correct, ~correct & ~itself


def measure(
    embedding: Embedding, tasks: Sequence[Task], rows: int, ranks: Processes
) -> tuple[Validation, dict[str, Ranking]]:
    """Validates; each process takes a part of the tasks, and all of them know the result. Also gives the process's own
    rankings.
    """
    started = time.perf_counter()
    own = rank_tasks(embedding, tasks[ranks.rank :: ranks.count], rows)
    scored = {name: score(ranking) for name, ranking in own.items()}
    together = {name: result for part in ranks.collect(scored) for name, result in part.items()}
    ordered = {task.name: together[task.name] for task in tasks if task.name in together}
    return Validation(ordered, time.perf_counter() - started), own


def score(ranking: Ranking) -> dict[str, Any]:
    """The figures of one task."""
    places = ranking.places(ranking.queries.vectors @ ranking.candidates.vectors.T)
    return {
        "meta": ranking.meta,
        "hit@1": float((places == 1).mean()),
        "mrr": float((1 / places).mean()),
        "n": len(places),
    }


def ranks_of(scores: Tensor, correct: Tensor, wrong: Tensor | None = None) -> NDArray[np.float64]:
    """The rank of the best right candidate, from 1: `scores`, `correct` and `wrong` (None: all others) are `[Q, C]`.

    A tie counts against it, and so does what is no number: every comparison with that is false.
    """
    wrong = ~correct if wrong is None else wrong
    best = scores.masked_fill(~correct, -torch.inf).amax(1, keepdim=True)
    before = ~(scores < best) | ~best.isfinite()
    return 1.0 + (before & wrong).sum(1).double().numpy()


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


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


_diagnostics_ROWS = 8

_MOST_TASKS = 24


def peak_memory(device: torch.device) -> int:
    """The most bytes that tensors took on the GPU so far, or else the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def task_gradients(
    backbone: Trainable,
    preparer: Preparer,
    tasks: Sequence[Task],
    temperature: float,
    margin: float | None,
    seed: int,
    *,
    tokens: int,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
) -> dict[str, Tensor]:
    """The gradient of the experts' weights, flat, for a few rows of each task alone, without dropout and noise.

    Of the first two dozen tasks with two targets or more. Takes no more memory than a step: no more
    than `tokens` have gradients at once. Clears the gradients that
    there are. Raises `gradcache.TooLargeError`.
    """
    assert backbone.adapters is not None
    parameters = list(backbone.adapters.expert_parameters())
    loss = InfoNCE(temperature).to(device)
    found = {}
    backbone.train(True)  # in which blocks are checkpointed
    backbone.adapters.calm()
    for task in tasks[:_MOST_TASKS]:
        if len({task.identity(row) for row in range(len(task))}) < 2:
            continue
        picks = Sampler([task], BatchSettings(_diagnostics_ROWS, _diagnostics_ROWS), seed).next()
        items, labels, *_ = read([task], picks, preparer, 0)
        if len(items) < 4:
            continue

        def contrast(packed: Tensor, labels: Labels = labels) -> Tensor:
            vectors = packed[:, : backbone.info.dim]
            queries, documents = (vectors[labels.of(role).to(vectors.device)] for role in (QUERY, POSITIVE))
            asked, right = (labels.table[labels.of(role)] for role in (QUERY, POSITIVE))
            possible = masks.candidates(asked, right, answers=labels.answers).to(vectors.device)
            valid = masks.without_false(possible, (queries @ documents.T).detach(), margin)
            found: Tensor = loss(Pairs(queries, documents, Side(valid)))
            return found

        clear(backbone.adapters.parameters())
        gradcache.backward(_traced(backbone), items, contrast, tokens, device, precision)
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        found[task.name] = torch.cat([gradient.float().flatten().cpu() for gradient in gradients])
    clear(backbone.adapters.parameters())
    backbone.train(True)
    return found


def clear(parameters: Iterable[Tensor]) -> None:
    """Clear the gradients that there are."""
    for parameter in parameters:
        parameter.grad = None


def _traced(backbone: Trainable) -> Callable[[Sequence[Prepared]], Traced]:
    return lambda batch: backbone.trace(batch, losses=False)


def cosines(vectors: Mapping[str, Tensor]) -> list[list[float]]:
    """The cosine of each two."""
    unit = torch.nn.functional.normalize(torch.stack(list(vectors.values())), dim=-1)
    cosine: list[list[float]] = (unit @ unit.T).tolist()
    return cosine
