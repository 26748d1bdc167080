"""What a step minimises, the contrastive loss of its stage and the routing losses, and figures on how it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tsembed_search.model.routing import centred, load_balance
from tsembed_search.ranking.similarity import similarity
from tsembed_search.trainer.losses import base as masks
from tsembed_search.trainer.losses import negatives as eans
from tsembed_search.trainer.losses.base import Side
from tsembed_search.trainer.losses.contrastive import InfoNCE, Matryoshka, Pairs
from tsembed_search.trainer.packing import NEGATIVE, POSITIVE, QUERY, Labels, Shape, unpack
from tsembed_search.trainer.settings import LossSettings, NegativeSettings

_MEMORY = 0.99  # of the running mean of routes


@dataclass(frozen=True)
class Outcome:
    """`total` to minimise; `parts` of it, unweighted, and `figures`, both as the log has them."""

    total: Tensor
    parts: Mapping[str, Tensor]
    figures: Mapping[str, Tensor]

    def with_drift(self, part: str, drift: Tensor, weight: float) -> Outcome:
        """With one more part: what has drifted from where it is held (`held.Held`), times a weight."""
        return Outcome(self.total + weight * drift, {**self.parts, part: drift.detach()}, self.figures)


class Objective(nn.Module):
    """Loss of a global batch. It remembers the mean route, the queue of documents and the learned temperature.

    `mean` `[L·E]` is a running mean of raw routes, by which kappa is centred until training ends.
    """

    mean: Tensor
    seen: Tensor

    def __init__(self, loss: LossSettings, negatives: NegativeSettings, shape: Shape, seed: int = 0) -> None:
        super().__init__()
        self.settings = loss
        self.negatives = negatives
        self.shape = shape
        self.seed = seed
        dimensions = [one for one in loss.dimensions if one < shape.dim]
        self.contrastive = Matryoshka(InfoNCE(loss.temperature, loss.learn_temperature), dimensions)
        self.queue = eans.Queue(negatives.queue)
        self.register_buffer("mean", torch.full((shape.blocks * shape.experts,), 1 / shape.experts))
        self.register_buffer("seen", torch.zeros(()))

    @property
    def temperature(self) -> float:
        """tau, as it is now."""
        return self.contrastive.inner.temperature

    def bound(self) -> None:
        """Keep a learned temperature above its bound: call it after every step of the optimiser."""
        self.contrastive.inner.bound()

    def forward(self, packed: Tensor, labels: Labels, stage: int, step: int) -> Outcome:
        """`packed` `[N, W]` and `labels` of all items of a step. Expert-aware negatives count in stage 2 only.

        Remembers the batch: call it once a step.
        """
        traced = unpack(packed, self.shape)
        self._follow(traced.routes.detach())
        routes = centred(traced.routes.detach(), self.mean)
        queries, documents = labels.of(QUERY).to(packed.device), labels.of(POSITIVE, NEGATIVE).to(packed.device)
        table, answers = labels.table.to(packed.device), labels.answers.to(packed.device)
        vectors, document_routes, document_labels = traced.vectors[documents], routes[documents], table[documents]
        if self.queue.packed is not None and self.queue.labels is not None:
            old = unpack(self.queue.packed, self.shape)
            vectors = torch.cat([vectors, old.vectors])
            document_routes = torch.cat([document_routes, centred(old.routes, self.mean)])
            document_labels = torch.cat([document_labels, self.queue.labels])
        kappa = self._kappa(routes[queries], document_routes)
        possible = masks.candidates(table[queries], document_labels, self.settings.scope, answers)
        pairs, cosine = self._pairs(traced.vectors[queries], vectors, possible, kappa, stage, step)
        parts = {
            "contrastive": self.contrastive(pairs),
            "balance": load_balance(traced.probabilities, traced.choices),
            "z": traced.z,
        }
        total = parts["contrastive"] + self.settings.balance * parts["balance"] + self.settings.z * parts["z"]
        own = document_labels[: len(queries), 3][:, None] == document_labels[None, :, 3]
        figures = _figures(possible, pairs.forward.valid, cosine, kappa[0], own)
        figures |= _routing_figures(traced.routes, self.shape)
        self.queue.add(packed.detach()[documents], table[documents])
        return Outcome(total, {name: part.detach() for name, part in parts.items()}, figures)

    def _kappa(self, queries: Tensor, documents: Tensor) -> tuple[Tensor, Tensor]:
        """How like the experts of negatives are, for queries `[B, M]` and for documents `[B, B]`: to those of the row's
        own item, or to those of the other item of its pair. Documents come in the order of queries, then the others.
        """
        count = len(queries)
        if self.negatives.compared_with == "target":
            return similarity(documents[:count], documents), similarity(queries, queries)
        kappa = similarity(queries, documents)
        return kappa, kappa[:, :count].T

    def _pairs(
        self,
        queries: Tensor,
        documents: Tensor,
        possible: Tensor,
        kappa: tuple[Tensor, Tensor],
        stage: int,
        step: int,
    ) -> tuple[Pairs, Tensor]:
        """The pairs with their masks, and the cosines `[B, M]`. `possible` `[B, M]`: what could be a negative."""
        count = len(queries)
        settings = self.negatives if stage == 2 else NegativeSettings(weighting="none")
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        cosine = similarity(queries.detach(), documents.detach())

        def side(possible: Tensor, cosine: Tensor, kappa: Tensor) -> Side:
            valid = masks.without_false(possible, cosine, self.settings.margin)
            return eans.weighted(settings, kappa, cosine, valid, chance)

        backward = None
        if self.settings.symmetric:
            backward = side(possible[:, :count].T, cosine[:, :count].T, kappa[1])
        return Pairs(queries, documents, side(possible, cosine, kappa[0]), backward), cosine

    @torch.no_grad()
    def _follow(self, routes: Tensor) -> None:
        """Moves the running mean; the first batches count evenly."""
        self.seen += 1
        self.mean.lerp_(routes.mean(0), max(1 / float(self.seen), 1 - _MEMORY))

    def extra_state(self) -> dict[str, Tensor]:
        """All that it remembers, as it is now: for a checkpoint of the run, or to begin a step anew."""
        state = {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}
        if self.queue.packed is not None and self.queue.labels is not None:
            state |= {"queue.packed": self.queue.packed, "queue.labels": self.queue.labels}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `extra_state`."""
        own = dict(state)
        self.queue.packed, self.queue.labels = own.pop("queue.packed", None), own.pop("queue.labels", None)
        self.load_state_dict(own)


@torch.no_grad()
def _figures(possible: Tensor, valid: Tensor, cosine: Tensor, kappa: Tensor, own: Tensor) -> dict[str, Tensor]:
    """See `log`: `possible` by labels, `valid` in the loss, `own`: of the same task; all `[B, M]`."""
    count = len(cosine)
    hardest = cosine.masked_fill(~valid, -2.0).amax(1)
    hardest = hardest[hardest > -2]
    others = ~torch.eye(count, cosine.shape[1], dtype=torch.bool, device=cosine.device)
    similar = kappa[valid & own]
    return {
        "mask_rate": 1 - valid.sum() / others.sum().clamp_min(1),
        "hardness": hardest.mean(),
        "positive": cosine.diagonal().mean(),
        "kappa_deviation": similar.std(correction=0) if len(similar) else similar.sum() * math.nan,
        "kappa_cosine_correlation": _correlation(kappa[valid], cosine[valid]),
    }


@torch.no_grad()
def _routing_figures(routes: Tensor, shape: Shape) -> dict[str, Tensor]:
    gates = routes.detach().view(-1, shape.blocks, shape.experts)
    entropy = -(gates * gates.clamp_min(1e-9).log()).sum(-1).mean()
    most = torch.tensor(float(shape.experts)).log()
    return {"expert_load": gates.mean(0), "routing_entropy": entropy / most if shape.experts > 1 else entropy * 0}


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, NaN where one of the two does not vary."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
