"""Figures on a run that decide nothing: memory, and whether tasks pull shared weights the same way."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tsembed_search.model.backbones.protocol import Adaptable
from tsembed_search.trainer import masks
from tsembed_search.trainer.features import Preparer
from tsembed_search.trainer.loader import read
from tsembed_search.trainer.losses import InfoNCE, Pairs
from tsembed_search.trainer.masks import Side
from tsembed_search.trainer.representations import POSITIVE, QUERY
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
    backbone: Adaptable, preparer: Preparer, tasks: Sequence[Task], temperature: float, margin: float | None, seed: int
) -> dict[str, Tensor]:
    """The gradient of the experts' weights, flat, for a few rows of each task alone, without dropout and noise.

    Of the first two dozen tasks with two targets or more. Clears the gradients that there are.
    """
    assert backbone.adapters is not None
    parameters = list(backbone.adapters.expert_parameters())
    loss = InfoNCE(temperature)
    found = {}
    backbone.train(False)
    for task in tasks[:_MOST_TASKS]:
        if len({task.identity(row) for row in range(len(task))}) < 2:
            continue
        picks = Sampler([task], Batch(_ROWS, _ROWS), seed).next()
        items, labels, *_ = read([task], picks, preparer, 0)
        if len(items) < 4:
            continue
        vectors = backbone.trace(items, losses=False).vectors.float()
        queries, documents = (vectors[labels.of(role).to(vectors.device)] for role in (QUERY, POSITIVE))
        asked, right = (labels.table[labels.of(role)] for role in (QUERY, POSITIVE))
        possible = masks.candidates(asked, right, answers=labels.answers).to(vectors.device)
        valid = masks.without_false(possible, (queries @ documents.T).detach(), margin)
        gradients = torch.autograd.grad(loss.to(vectors.device)(Pairs(queries, documents, Side(valid))), parameters)
        found[task.name] = torch.cat([gradient.float().flatten().cpu() for gradient in gradients])
    backbone.train(True)
    return found


def cosines(vectors: Mapping[str, Tensor]) -> list[list[float]]:
    """The cosine of each two."""
    unit = torch.nn.functional.normalize(torch.stack(list(vectors.values())), dim=-1)
    cosine: list[list[float]] = (unit @ unit.T).tolist()
    return cosine
