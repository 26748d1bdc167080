"""The losses on routing: experts are used alike, and the routers' logits stay small."""

from __future__ import annotations

from torch import Tensor

from tsembed_search.model.routing import load_balance
from tsembed_search.trainer.losses.base import LossInputs


class LoadBalance:
    """See `model.routing.load_balance`: 1 where all experts are used alike."""

    def __call__(self, batch: LossInputs) -> Tensor:
        """Return a scalar."""
        return load_balance(batch.traced.probabilities, batch.traced.choices)


class RouterZ:
    """The mean square of the routers' log-sum-exp (Zoph et al., *ST-MoE*, arXiv 2202.08906)."""

    def __call__(self, batch: LossInputs) -> Tensor:
        """Return a scalar."""
        return batch.traced.z
