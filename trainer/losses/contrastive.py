"""Losses on a batch of queries and documents, each one small class on the masks of `masks`.

B queries, M >= B documents of D numbers; document i is what query i should find, the others are negatives or masked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsembed_search.ranking.similarity import similarity
from tsembed_search.trainer.losses.base import Side
from tsembed_search.trainer.settings import LEAST_LEARNED_TEMPERATURE

_LARGEST_LOG_SCALE = math.log(1 / LEAST_LEARNED_TEMPERATURE)


@dataclass(frozen=True)
class Pairs:
    """`queries` `[B, D]`, `documents` `[M, D]`, of unit length. `forward`: the documents that compete for a query
    `[B, M]`; `backward`: the queries that compete for a document `[B, B]` (None: only the one direction counts).
    """

    queries: Tensor
    documents: Tensor
    forward: Side
    backward: Side | None = None

    def cut(self, dimensions: int) -> Pairs:
        """The same pairs, of vectors cut to their first numbers and made unit again."""
        queries, documents = (functional.normalize(v[:, :dimensions], dim=-1) for v in (self.queries, self.documents))
        return Pairs(queries, documents, self.forward, self.backward)


class InfoNCE(nn.Module):
    """The mean over rows of `-log(e^(s_ii/tau) / (e^(s_ii/tau) + sum over valid j of w_ij · e^(s_ij/tau)))`.

    Both directions, where pairs have both, count half. Weights of 1 make it van den Oord et al., arXiv 1807.03748.
    `learn`: 1/tau is trained, by its logarithm, up to 100 (Radford et al., arXiv 2103.00020): call `bound` after every
    step of the optimiser.
    """

    def __init__(self, temperature: float, learn: bool = False) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1 / temperature).log(), requires_grad=learn)

    @property
    def temperature(self) -> float:
        """tau, as it is now."""
        return 1 / float(self.log_scale.detach().exp())

    @torch.no_grad()
    def bound(self) -> None:
        """Put a learned tau that has gone too low back to its bound. In the loss, a bound would have no gradient, and
        tau would never leave it.
        """
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(max=_LARGEST_LOG_SCALE)

    def forward(self, pairs: Pairs) -> Tensor:
        """A scalar."""
        logits = similarity(pairs.queries, pairs.documents) * self.log_scale.exp()
        loss = _cross_entropy(logits, pairs.forward)
        if pairs.backward is None:
            return loss
        return (loss + _cross_entropy(logits[:, : len(logits)].T, pairs.backward)) / 2


class Matryoshka(nn.Module):
    """The mean of a loss over the whole vectors and over some of their prefixes (Kusupati et al., arXiv
    2205.13147). Masks and weights are those of the whole vectors.
    """

    def __init__(self, inner: InfoNCE, dimensions: Sequence[int]) -> None:
        super().__init__()
        self.inner = inner
        self.dimensions = tuple(dimensions)

    def forward(self, pairs: Pairs) -> Tensor:
        """A scalar."""
        losses = [self.inner(pairs), *(self.inner(pairs.cut(dimensions)) for dimensions in self.dimensions)]
        return torch.stack(losses).mean()


def _cross_entropy(logits: Tensor, side: Side) -> Tensor:
    """`logits` `[B, M]`, with the positives on the diagonal."""
    positive = logits.diagonal()
    weighted = logits if side.log_weights is None else logits + side.log_weights
    competing = weighted.masked_fill(~side.valid, -torch.inf)
    return (torch.cat([positive.unsqueeze(1), competing], dim=1).logsumexp(dim=1) - positive).mean()
