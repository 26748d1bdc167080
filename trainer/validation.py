"""The model on rows that it is not trained on: every query against the targets of its task's other rows.

Quick and the same every time, to steer a run by; an evaluation measures what one reports.

And after training: the mean route, which centres kappa, and the weight of routes.

Figures on a run that decide nothing: memory, and whether tasks pull shared weights the same way.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsembed_search.data.rows import Row, Task
from tsembed_search.data.sameness import content, question
from tsembed_search.items import Embeddings, Item, Role
from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.model.embedder import batches, forward_stream
from tsembed_search.model.routing import Traced, centred
from tsembed_search.ranking.reranking import DEPTH, WEIGHTS, Kappas, Sweep, kappas, sweep
from tsembed_search.ranking.similarity import Ranked, rank, similarity
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
class Ranking:
    """Q queries against C candidates of one task, embedded, with raw routes. `correct`: of each query the right
    candidates, at least one. `left_out`: those that are the query itself, which no query is ranked against.
    """

    meta: str
    queries: Embeddings
    candidates: Embeddings
    correct: Sequence[frozenset[int]]
    left_out: Sequence[frozenset[int]] | None = None

    @property
    def finite(self) -> bool:
        """Say if all vectors and routes are finite, as they are unless training has diverged."""
        parts = (self.queries, self.candidates)
        return all(bool(np.isfinite(part.vectors).all() and np.isfinite(part.routes).all()) for part in parts)

    def ranked(self) -> Ranked:
        """Rank the candidates. What is no number is like nothing, so that it never makes a good rank."""
        queries, candidates = (_numbers(part.vectors) for part in (self.queries, self.candidates))
        return rank(queries, candidates, self.correct, left_out=self.left_out, depth=DEPTH)

    def kappas(self, ranked: Ranked, mean: Tensor) -> Kappas:
        """Return how alike the routes are, centred by `mean` `[L·E]`."""
        parts = (self.queries, self.candidates)
        queries, candidates = (_numbers(centred(torch.from_numpy(part.routes), mean).numpy()) for part in parts)
        return kappas(ranked, queries, candidates)


def _numbers(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)


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
        """Remarks on items that were left out."""

    def embed(self, wanted: Sequence[tuple[Item, Role]]) -> tuple[Embeddings, list[int]]:
        """Embed items, with raw routes; also the places of those that could be read and fit in memory, in order."""
        self._backbone.train(False)
        found: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        try:
            for at in range(0, len(wanted), _AT_ONCE):
                prepared = self._preparer.prepare(wanted[at : at + _AT_ONCE])
                ready = [(place, one) for place, one in enumerate(prepared, at) if isinstance(one, Prepared)]
                for part, traced in forward_stream(self._traced, batches(ready, self._backbone.batch_tokens, _AT_ONCE)):
                    if traced is None:
                        tokens = part[0][1].tokens
                        self.remarks.append(f"An item of {tokens} tokens does not fit in memory: not measured.")
                        continue
                    rows = zip(*(one.float().cpu().numpy() for one in (traced.vectors, traced.routes)), strict=True)
                    found.update((place, row) for (place, _), row in zip(part, rows, strict=True))
        finally:
            self._backbone.train(True)
        places = sorted(found)
        assert self._backbone.adapters is not None
        widths = self._backbone.info.dim, self._backbone.adapters.mean.numel()
        vectors, routes = (
            np.array([found[place][which] for place in places], np.float32).reshape(len(places), width)
            for which, width in enumerate(widths)
        )
        return Embeddings(vectors, routes), places

    def _traced(self, batch: Sequence[Prepared]) -> Traced:
        with torch.no_grad(), self._precision():
            return self._backbone.trace(batch, losses=False)


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
        correct, left_out = _judged([own[place] for place in places[:split]], ranked, own)
        kept = [row for row, right in enumerate(correct) if right]
        if kept and len(ranked) > 1:
            queries = Embeddings(embedded.vectors[kept], embedded.routes[kept])
            documents = Embeddings(embedded.vectors[split:], embedded.routes[split:])
            judged = [correct[row] for row in kept], [left_out[row] for row in kept]
            found[task.name] = Ranking(task.meta, queries, documents, *judged)
    return found


def _judged(
    queries: Sequence[Row], targets: Sequence[Row], rows: Sequence[Row]
) -> tuple[list[frozenset[int]], list[frozenset[int]]]:
    """Which targets are right for each query, and which are nothing but the query itself; all are of `rows`."""
    right: dict[int, set[int]] = defaultdict(set)
    identities: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        asked = question(row.query)
        right[asked] |= {content(row.positive), *row.answers}
        identities[asked].add(row.identity)
    of_content: dict[int, set[int]] = defaultdict(set)
    of_identity: dict[str, set[int]] = defaultdict(set)
    for place, row in enumerate(targets):
        of_content[content(row.positive)].add(place)
        of_identity[row.identity].add(place)
    correct = []
    for row in queries:
        asked = question(row.query)
        by_content = (of_content.get(one, set()) for one in right[asked])
        by_identity = (of_identity.get(one, set()) for one in identities[asked])
        correct.append(frozenset().union(*by_content, *by_identity))
    itself = [frozenset(of_content.get(content(row.query), set())) for row in queries]
    return correct, [own - right for own, right in zip(itself, correct, strict=True)]


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
    """Return the figures of one task."""
    ranks = ranking.ranked().ranks
    return {
        "meta": ranking.meta,
        "hit@1": float(ranks.hit(1).mean()),
        "mrr": float(ranks.mrr().mean()),
        "n": len(ranks),
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


TRIED = WEIGHTS[:13]  # beyond 0.6, what the vectors say would hardly count

_ROWS = 300


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
            routes[task.name] = torch.from_numpy(embedding.embed(wanted)[0].routes)
    everything = torch.cat(list(routes.values()))
    return everything.mean(0), len(everything), {name: own.mean(0) for name, own in routes.items()}


def route_weight(rankings: Mapping[str, Ranking], mean: Tensor) -> Sweep | None:
    """Find the weight of routes, as reranking applies it to the first hundred hits: the one with the best MRR, if that
    is better than without reranking by more than one standard error of the difference; otherwise 0.

    None when there is nothing to measure on.
    """
    if not rankings:
        return None
    ranked = [(one, one.ranked()) for one in rankings.values()]
    found = sweep([(own, one.kappas(own, mean)) for one, own in ranked], TRIED)
    return found if found.gain > found.error else replace(found, weight=0.0)


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
            valid = masks.without_false(possible, similarity(queries, documents).detach(), margin)
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
