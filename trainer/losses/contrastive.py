"""The contrastive loss: InfoNCE on pairs of queries and documents, of whole vectors and of their first numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tsembed_search.ranking.similarity import similarity
from tsembed_search.trainer.losses.base import LossInputs, Pairs, Side
from tsembed_search.trainer.settings import LEAST_LEARNED_TEMPERATURE

_LARGEST_LOG_SCALE = math.log(1 / LEAST_LEARNED_TEMPERATURE)


class InfoNCE(nn.Module):
    """The mean over rows of `-log(e^(s_ii/tau) / (e^(s_ii/tau) + sum over valid j of w_ij · e^(s_ij/tau)))`.

    Both directions, where pairs have both, count half. Weights of 1 make it van den Oord et al., arXiv 1807.03748.
    `learn`: 1/tau is trained, by its logarithm, up to 100 (Radford et al., arXiv 2103.00020): call `bound` after every
    step of the optimizer. `dimensions`: the loss is a mean over the whole vectors and these prefixes (Kusupati et al.,
    arXiv 2205.13147), with the masks and weights of the whole; one as long as the vector counts once. So do vectors
    after fewer blocks, where a batch has them, with their prefixes.
    """

    def __init__(self, temperature: float = 0.05, learn: bool = False, dimensions: Sequence[int] = ()) -> None:
        super().__init__()
        self.dimensions = tuple(dimensions)
        self.log_scale = nn.Parameter(torch.tensor(1 / temperature).log(), requires_grad=learn)

    @property
    def temperature(self) -> float:
        """The temperature tau, as it is now."""
        return 1 / float(self.log_scale.detach().exp())

    @torch.no_grad()
    def bound(self) -> None:
        """Put a learned tau that is too low back to its bound: within the loss, a bound would have no gradient."""
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(max=_LARGEST_LOG_SCALE)

    def forward(self, batch: LossInputs | Pairs) -> Tensor:
        """Return a scalar."""
        pairs = batch.pairs if isinstance(batch, LossInputs) else batch
        every = [pairs, *(batch.shallow if isinstance(batch, LossInputs) else ())]
        prefixes = [one for one in self.dimensions if one < pairs.queries.shape[1]]
        cut = [one.cut(length) for one in every for length in prefixes]
        return torch.stack([self._loss(one) for one in (*every, *cut)]).mean()

    def _loss(self, pairs: Pairs) -> Tensor:
        logits = similarity(pairs.queries, pairs.documents) * self.log_scale.exp()
        loss = _cross_entropy(logits, pairs.forward)
        if pairs.backward is None:
            return loss
        return (loss + _cross_entropy(logits[:, : len(logits)].T, pairs.backward)) / 2


def _cross_entropy(logits: Tensor, side: Side) -> Tensor:
    """`logits` `[B, M]`, with the positives on the diagonal."""
    positive = logits.diagonal()
    weighted = logits if side.log_weights is None else logits + side.log_weights
    competing = weighted.masked_fill(~side.valid, -torch.inf)
    return (torch.cat([positive.unsqueeze(1), competing], dim=1).logsumexp(dim=1) - positive).mean()
