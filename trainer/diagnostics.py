"""Measurements when training is over: the mean route, which centres kappa, the weight of routes in re-ranking, how
tasks use experts, and if they pull shared weights the same way.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tsembed_search.data.rows import Task
from tsembed_search.items import Item, Role
from tsembed_search.model.backbone import Trainable
from tsembed_search.ranking.reranking import WEIGHTS, Sweep, sweep
from tsembed_search.ranking.similarity import similarity
from tsembed_search.trainer import gradcache
from tsembed_search.trainer.batches.features import Preparer
from tsembed_search.trainer.batches.loader import read
from tsembed_search.trainer.batches.sampler import Sampler
from tsembed_search.trainer.gradcache import Passes
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.log import Log
from tsembed_search.trainer.losses.base import Pairs, Side, candidates, without_false
from tsembed_search.trainer.losses.contrastive import InfoNCE
from tsembed_search.trainer.packing import POSITIVE, QUERY, Labels
from tsembed_search.trainer.schedule import DivergenceMonitor
from tsembed_search.trainer.settings import BatchSettings
from tsembed_search.trainer.setup import Model
from tsembed_search.trainer.validation import Embedding, Ranking, rank_tasks

_ROUTES = 300  # rows whose routes are averaged
_COMPARED_ROWS, _COMPARED_TASKS = 8, 24  # of which gradients are compared
TRIED = WEIGHTS[:13]  # beyond 0.6, what the vectors say would hardly count
_FEW_QUERIES = 20


def calibrated(
    job: Job,
    model: Model,
    embedding: Embedding,
    log: Log,
    monitor: DivergenceMonitor,
    rankings: Mapping[str, Ranking],
) -> float | None:
    """Centre routes, find the weight of routes in re-ranking, and note how tasks use experts.

    `rankings`: those of the model as it is, if there are any.
    """
    mean, items, per_task = mean_route(embedding, job.train, job.recipe.run.seed)
    if not bool(torch.isfinite(mean).all()):
        raise monitor.diverged("routes are not finite")
    model.adapters.mean.copy_(mean)
    rankings = rankings or rank_tasks(embedding, job.held_out, job.recipe.run.validation_rows)
    found = route_weight(rankings, mean)
    if found is not None:
        curve = [list(pair) for pair in found.curve]
        log.write("calibration", sweep=curve, items=items, queries=found.queries, **{"lambda": found.weight})
        if found.queries < _FEW_QUERIES:
            log.tell([f"Lambda was chosen by {found.queries} queries, which says little about others."])
    metas = {task.name: task.meta for task in job.train}
    loads = {name: own.view(*model.adapters.shape).tolist() for name, own in per_task.items()}
    log.write("experts", tasks={name: {"meta": metas[name], "load": load} for name, load in loads.items()})
    return None if found is None else found.weight


def compare_tasks(job: Job, passes: Passes, preparer: Preparer, log: Log) -> None:
    """Note if the tasks' gradients of the shared weights agree, where there are several tasks."""
    loss = job.recipe.loss
    try:
        found = task_gradients(
            passes.backbone, preparer, job.train, loss.temperature, loss.margin, job.recipe.run.seed,
            tokens=passes.tokens, device=passes.device, precision=passes.precision,
        )  # fmt: skip
    except gradcache.PieceTooLargeError:
        log.tell(["There is too little memory to compare the gradients of tasks."])
        return
    if len(found) > 1:
        log.write("gradients", tasks=list(found), cosine=cosines(found))


def mean_route(embedding: Embedding, tasks: Sequence[Task], seed: int) -> tuple[Tensor, int, dict[str, Tensor]]:
    """Return the mean raw route `[L·E]` of queries and targets, as many from each task; of how many items; and the mean
    per task.
    """
    per_task = max(1, _ROUTES // max(1, len(tasks)))
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


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that tensors took on the GPU so far, or else the process."""
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
    """Return the gradient of the experts' weights, flat, for a few rows of each task alone, without dropout and noise.

    Of the first two dozen tasks with two targets or more. Takes no more memory than a step: no more than `tokens` have
    gradients at once. Clears the gradients that there are. Raises `gradcache.PieceTooLargeError`.
    """
    assert backbone.adapters is not None
    adapters = backbone.adapters
    parameters = list(adapters.expert_parameters())
    loss = InfoNCE(temperature).to(device)
    found = {}
    backbone.train(True)  # in which blocks are checkpointed
    adapters.calm()
    for task in tasks[:_COMPARED_TASKS]:
        if len({task.identity(row) for row in range(len(task))}) < 2:
            continue
        picks = Sampler([task], BatchSettings(_COMPARED_ROWS, _COMPARED_ROWS), seed).next()
        items, labels, *_ = read([task], picks, preparer, 0)
        if len(items) < 4:
            continue

        def contrast(packed: Tensor, labels: Labels = labels) -> Tensor:
            vectors = packed[:, : backbone.info.dim]
            queries, documents = (vectors[labels.of(role).to(vectors.device)] for role in (QUERY, POSITIVE))
            asked, right = (labels.table[labels.of(role)] for role in (QUERY, POSITIVE))
            possible = candidates(asked, right, answers=labels.answers).to(vectors.device)
            valid = without_false(possible, similarity(queries, documents).detach(), margin)
            found: Tensor = loss(Pairs(queries, documents, Side(valid)))
            return found

        _clear(adapters.parameters())
        gradcache.backward(
            lambda batch: backbone.trace(batch, losses=False), items, contrast, tokens, device, precision
        )
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        found[task.name] = torch.cat([gradient.float().flatten().cpu() for gradient in gradients])
    _clear(adapters.parameters())
    backbone.train(True)
    return found


def _clear(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def cosines(vectors: Mapping[str, Tensor]) -> list[list[float]]:
    """Return the cosine of each two."""
    unit = torch.nn.functional.normalize(torch.stack(list(vectors.values())), dim=-1)
    cosine: list[list[float]] = similarity(unit, unit).tolist()
    return cosine
