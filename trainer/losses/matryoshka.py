"""Matryoshka losses: vectors whose first numbers are good vectors by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tsembed_search.trainer.losses.base import Pairs


class Matryoshka(nn.Module):
    """The mean of a loss over the whole vectors and over some of their prefixes (Kusupati et al., arXiv
    2205.13147). Masks and weights are those of the whole vectors. A prefix as long as the vector counts once.
    """

    def __init__(self, inner: nn.Module, dimensions: Sequence[int]) -> None:
        super().__init__()
        self.inner = inner
        self.dimensions = tuple(dimensions)

    def forward(self, pairs: Pairs) -> Tensor:
        """Return a scalar."""
        prefixes = [one for one in self.dimensions if one < pairs.queries.shape[1]]
        losses = [self.inner(pairs), *(self.inner(pairs.cut(dimensions)) for dimensions in prefixes)]
        return torch.stack(losses).mean()
