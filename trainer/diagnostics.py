"""Measurements when training is over: the mean route, which centres kappa, the weight of routes in re-ranking, how
tasks use experts, and if they pull shared weights the same way.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tsembed_search.data.rows import Task
from tsembed_search.items import Item, Role
from tsembed_search.ranking.reranking import WEIGHTS, Sweep, sweep
from tsembed_search.ranking.similarity import similarity
from tsembed_search.trainer.batches.features import Preparer
from tsembed_search.trainer.batches.loader import read
from tsembed_search.trainer.batches.sampler import Sampler
from tsembed_search.trainer.gradcache import Passes, PieceTooLargeError, backward
from tsembed_search.trainer.job import Job
from tsembed_search.trainer.log import Log
from tsembed_search.trainer.losses.base import POSITIVE, QUERY, Labels, Pairs, Side
from tsembed_search.trainer.losses.contrastive import InfoNCE
from tsembed_search.trainer.losses.negatives import candidates, without_false
from tsembed_search.trainer.schedule import DivergenceMonitor
from tsembed_search.trainer.settings import BatchSettings, Recipe
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
    """Centre routes, choose the re-ranking weight by `rankings` of the model as it is, and note the use of experts."""
    routes = raw_routes(embedding, job.train, job.recipe.run.seed)
    everything = torch.cat(list(routes.values()))
    mean = everything.mean(0)
    if not bool(torch.isfinite(mean).all()):
        raise monitor.diverged("routes are not finite")
    model.adapters.mean.copy_(mean)
    rankings = rankings or rank_tasks(embedding, job.held_out, job.recipe.run.validation_rows)
    found = route_weight(rankings, mean)
    if found is not None:
        curve = [list(pair) for pair in found.curve]
        log.write("calibration", sweep=curve, items=len(everything), queries=found.queries, **{"lambda": found.weight})
        if found.queries < _FEW_QUERIES:
            log.tell([f"Lambda was chosen by {found.queries} queries, which says little about others."])
    metas = {task.name: task.meta for task in job.train}
    loads = {name: own.mean(0).view(*model.adapters.shape).tolist() for name, own in routes.items()}
    log.write("experts", tasks={name: {"meta": metas[name], "load": load} for name, load in loads.items()})
    return None if found is None else found.weight


def raw_routes(embedding: Embedding, tasks: Sequence[Task], seed: int) -> dict[str, Tensor]:
    """Return raw routes `[n, L·E]` of queries and targets by task, of as many rows from each."""
    per_task = max(1, _ROUTES // max(1, len(tasks)))
    routes = {}
    for number, task in enumerate(tasks):
        chosen = np.random.default_rng([seed, 3, number]).permutation(len(task))[:per_task]
        rows = [task[int(row)] for row in chosen]
        wanted: list[tuple[Item, Role]] = [(row.query, "query") for row in rows]
        wanted += [(row.positive, "document") for row in rows]
        if wanted:
            routes[task.name] = torch.from_numpy(embedding.embed(wanted)[0].routes)
    return routes


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


def compare_tasks(job: Job, passes: Passes, preparer: Preparer, log: Log) -> None:
    """Note the cosines between the tasks' gradients of the shared weights, where there are several tasks."""
    try:
        found = task_gradients(passes, preparer, job.train, job.recipe)
    except PieceTooLargeError:
        log.tell(["There is too little memory to compare the gradients of tasks."])
        return
    if len(found) > 1:
        unit = normalize(torch.stack(list(found.values())), dim=-1)
        log.write("gradients", tasks=list(found), cosine=similarity(unit, unit).tolist())


def task_gradients(passes: Passes, preparer: Preparer, tasks: Sequence[Task], recipe: Recipe) -> dict[str, Tensor]:
    """Return the gradient of the experts' weights, flat, for a few rows of each task alone, without dropout and noise.

    Of the first two dozen tasks with two targets or more. Takes no more memory than a step. Clears the gradients that
    there are. Raises `PieceTooLargeError`.
    """
    backbone = passes.backbone
    adapters = backbone.adapters
    assert adapters is not None
    info_nce = InfoNCE(recipe.loss.temperature).to(passes.device)
    found = {}
    backbone.train(True)  # in which blocks are checkpointed
    adapters.calm()
    for task in tasks[:_COMPARED_TASKS]:
        if len({task.identity(row) for row in range(len(task))}) < 2:
            continue
        picks = Sampler([task], BatchSettings(_COMPARED_ROWS, _COMPARED_ROWS), recipe.run.seed).next()
        items, labels, *_ = read([task], picks, preparer, 0)
        if len(items) < 4:
            continue

        def loss(packed: Tensor, labels: Labels = labels) -> Tensor:
            asked, right = labels.of(QUERY), labels.of(POSITIVE)
            vectors = packed[:, : backbone.info.dim]
            queries, documents = vectors[asked.to(vectors.device)], vectors[right.to(vectors.device)]
            possible = candidates(labels.table[asked], labels.table[right], answers=labels.answers).to(vectors.device)
            valid = without_false(possible, similarity(queries, documents).detach(), recipe.loss)
            found: Tensor = info_nce(Pairs(queries, documents, Side(valid)))
            return found

        for parameter in adapters.parameters():
            parameter.grad = None
        backward(
            lambda batch: backbone.trace(batch, losses=False),
            items,
            loss,
            passes.tokens,
            passes.device,
            passes.precision,
        )
        gradients = (torch.zeros_like(one) if one.grad is None else one.grad for one in adapters.expert_parameters())
        found[task.name] = torch.cat([gradient.float().flatten().cpu() for gradient in gradients])
    for parameter in adapters.parameters():
        parameter.grad = None
    backbone.train(True)
    return found
