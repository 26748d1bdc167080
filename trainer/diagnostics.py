"""Figures on a run that decide nothing: memory, and whether tasks pull shared weights the same way."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from tsembed_search.model.backbones.protocol import Adaptable, Prepared, Traced
from tsembed_search.trainer import gradcache, masks
from tsembed_search.trainer.features import Preparer
from tsembed_search.trainer.loader import read
from tsembed_search.trainer.losses import InfoNCE, Pairs
from tsembed_search.trainer.masks import Side
from tsembed_search.trainer.representations import POSITIVE, QUERY, Labels
from tsembed_search.trainer.rows import Task
from tsembed_search.trainer.sampler import Sampler
from tsembed_search.trainer.settings import Batch

_ROWS = 8
_MOST_TASKS = 24


def peak_memory(device: torch.device) -> int:
    """The most bytes that tensors took on the GPU so far, or else the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def task_gradients(
    backbone: Adaptable,
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
        picks = Sampler([task], Batch(_ROWS, _ROWS), seed).next()
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


def _traced(backbone: Adaptable) -> Callable[[Sequence[Prepared]], Traced]:
    return lambda batch: backbone.trace(batch, losses=False)


def cosines(vectors: Mapping[str, Tensor]) -> list[list[float]]:
    """The cosine of each two."""
    unit = torch.nn.functional.normalize(torch.stack(list(vectors.values())), dim=-1)
    cosine: list[list[float]] = (unit @ unit.T).tolist()
    return cosine
