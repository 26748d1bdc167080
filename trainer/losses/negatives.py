"""The negatives of a query: which documents could be some, and how much each counts.

Expert-aware negative sampling (EANS) weighs them, beside what it is compared with.
That items which use the same experts make informative negatives is the paper's (TSEmbed, arXiv 2603.04772). The form is
ours: with a score c_ij of each valid negative,

    weight    w_ij proportional to exp(beta · c_ij), scaled to a mean of 1 over the valid negatives of row i
    sample    only the `top_k` valid negatives of the highest score stay valid

where c is kappa, the likeness of a negative's route to the query's or to its target's (`eans`); kappa dealt out anew
among the negatives of each row (`shuffled`, a control: as sharp, and knows nothing); or the cosine (`llave`, after Lan
et al., arXiv 2503.04812). No gradient passes through scores.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from tsembed_search.trainer.losses.base import Side
from tsembed_search.trainer.settings import LossSettings, NegativeSettings


def candidates(
    queries: Tensor,
    documents: Tensor,
    scope: Literal["batch", "task"] = "batch",
    answers: Tensor | None = None,
) -> Tensor:
    """Return, as `[B, M]` bool, the documents that a query could be told from, by what they are.

    `queries` `[B, 5]` and `documents` `[M, 5]` are rows of `Labels.table`; documents begin with the queries' positives.
    `answers` is that of `Labels`. Left out are the positive itself, what has its identity, its content or the query's,
    and whatever is right for an equal query.
    """
    positives = documents[: len(queries)]
    different = positives[:, None, 1] != documents[None, :, 1]
    different &= positives[:, None, 2] != documents[None, :, 2]
    different &= queries[:, None, 2] != documents[None, :, 2]
    different &= (queries[:, None, 4] != documents[None, :, 4]) | (queries[:, None, 4] == 0)
    if answers is not None and len(answers):
        different &= ~_answering(queries[:, 4], documents[:, 2], answers)
    if scope == "task":
        different &= positives[:, None, 3] == documents[None, :, 3]
    return different


def _answering(asked: Tensor, contents: Tensor, answers: Tensor) -> Tensor:
    """`[B, M]` bool: the contents `[M]` that are right for what is asked `[B]`, by pairs of both `[P, 2]`."""
    questions, row = torch.unique(asked, return_inverse=True)
    shown, column = torch.unique(contents, return_inverse=True)
    known = answers[torch.isin(answers[:, 0], questions) & torch.isin(answers[:, 1], shown)].T.contiguous()
    right = torch.zeros(len(questions), len(shown), dtype=torch.bool, device=asked.device)
    right[torch.searchsorted(questions, known[0]), torch.searchsorted(shown, known[1])] = True
    return right[row][:, column]


def without_false(valid: Tensor, similarity: Tensor, settings: LossSettings, alike: Tensor | None = None) -> Tensor:
    """Return `valid` less what is probably right, by the margins of a recipe.

    `similarity` `[B, M]` is that to what is asked, with the row's positive in column i of row i; `alike` that to the
    positive itself, which `settings.duplicates` needs.
    """
    right = similarity.diagonal().unsqueeze(1)
    if settings.margin is not None:
        valid = valid & (similarity <= right + settings.margin)
    if settings.margin_relative is not None:  # below 0, a share of the cosine would be above it
        valid = valid & (similarity <= right - (1 - settings.margin_relative) * right.abs())
    if settings.duplicates is not None and alike is not None:
        valid = valid & (alike < settings.duplicates)
    return valid


@torch.no_grad()
def weighted(
    settings: NegativeSettings, kappa: Tensor, cosine: Tensor, valid: Tensor, generator: torch.Generator
) -> Side:
    """The negatives of one direction with their weights, or fewer of them. `generator`: the same in every process."""
    if settings.weighting == "none":
        return Side(valid)
    scores = (cosine if settings.weighting == "llave" else kappa).detach()
    if settings.weighting == "shuffled":
        scores = shuffled(scores, valid, generator)
    if settings.mode == "sample":
        return Side(best(scores, valid, settings.top_k))
    return Side(valid, log_weights(scores, valid, settings.beta))


def log_weights(scores: Tensor, valid: Tensor, beta: float) -> Tensor:
    """`log w` `[B, M]`: `beta · scores`, less the logarithm of the row's mean weight; 0 where not valid."""
    if beta == 0:
        return torch.zeros_like(scores)
    sharp = (beta * scores).masked_fill(~valid, -torch.inf)
    mean = sharp.logsumexp(dim=1, keepdim=True) - valid.sum(dim=1, keepdim=True).log()
    return (sharp - mean).masked_fill(~valid, 0.0)


def best(scores: Tensor, valid: Tensor, top_k: int) -> Tensor:
    """`valid` `[B, M]` with only the `top_k` highest scores of each row."""
    if top_k >= scores.shape[1]:
        return valid
    places = scores.masked_fill(~valid, -math.inf).topk(top_k, dim=1).indices
    return valid & torch.zeros_like(valid).scatter(1, places, True)


def shuffled(scores: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
    """`scores` `[B, M]` with those of each row's valid places dealt out anew among these places."""
    keys = torch.rand(scores.shape, generator=generator).to(scores.device)
    dealt = keys.masked_fill(~valid, 2.0).argsort(dim=1)  # the row's valid places in random order, then the others
    places = (~valid).to(torch.int8).argsort(dim=1, stable=True)  # the same places in their order
    return scores.scatter(1, places, scores.gather(1, dealt))


class Queue:
    """The documents of the last steps, as more negatives to choose from: rows of `pack` without gradient.

    They were embedded by the model as it was then, which is why a queue is short.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.packed: Tensor | None = None
        self.labels: Tensor | None = None

    def add(self, packed: Tensor, labels: Tensor) -> None:
        """Takes in documents `packed` `[M, W]` with `labels` `[M, 5]`; the oldest ones leave."""
        if self.size == 0:
            return
        if self.packed is not None and self.labels is not None:
            packed, labels = torch.cat([self.packed, packed]), torch.cat([self.labels, labels])
        self.packed, self.labels = packed[-self.size :].detach().clone(), labels[-self.size :].clone()
