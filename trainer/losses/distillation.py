"""Distillation: what people index and type stays where it is without adapters, so that what the base knows is kept.

Documents can be held, and queries that are texts without an instruction. Queries with an instruction or a picture are
free to learn: of those the base knows little.

Vectors after fewer blocks are held to something else: to what the whole model gives in the same step. That such vectors
follow the whole one's is Starbucks' (Zhuang et al., arXiv 2410.13230) and 2DMSE's (Li et al., arXiv 2402.14776); the
cosine as the measure is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tsembed_search.trainer.losses.base import NEGATIVE, POSITIVE, Labels, LossInputs


class Distillation:
    """The mean over documents of one less the cosine between their vectors with and without adapters, 0 of none."""

    def held(self, labels: Labels, bare: Sequence[int]) -> Sequence[int]:
        """Return the places of documents, targets and hard negatives alike."""
        places: list[int] = labels.of(POSITIVE, NEGATIVE).tolist()
        return places

    def __call__(self, batch: LossInputs) -> Tensor:
        """Return a scalar; gradients flow to this process's own items alone."""
        held = batch.held
        assert held is not None
        own = (1 - (batch.own[held.places] * held.vectors).sum(-1)).sum() / max(1.0, held.total)
        return own + (held.sum(float(own.detach())) - own.detach())


class QueryDistillation(Distillation):
    """The same of queries that are texts without an instruction."""

    def held(self, labels: Labels, bare: Sequence[int]) -> Sequence[int]:
        """Return the places of those queries."""
        return bare


class ShallowDistillation:
    """The mean over items and depths of one less the cosine of the vector there to the whole model's own."""

    def __call__(self, batch: LossInputs) -> Tensor:
        """Return a scalar; no gradients flow to the whole model's vectors."""
        traced = batch.traced
        assert traced.shallow is not None
        return 1 - (traced.shallow * traced.vectors.detach().unsqueeze(1)).sum(-1).mean()
