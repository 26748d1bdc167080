"""From the hidden states of a sequence to one vector of unit length."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def last_token(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The hidden state of each item's last real token. `hidden` `[B, T, d]`, padded on the right; `lengths` `[B]`."""
    return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]


def mean(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The mean over each item's real tokens. `hidden` `[B, T, d]`, padded on the right; `lengths` `[B]`."""
    real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    return torch.where(real[..., None], hidden, 0).sum(1) / lengths[:, None].to(hidden.dtype)


def unit(vectors: Tensor) -> Tensor:
    """`[B, d]` in any precision to float32 rows of unit length."""
    return functional.normalize(vectors.float(), dim=-1)
