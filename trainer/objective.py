"""The objective of a step: the sum of the recipe's losses over a whole batch, with figures on how it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from tsembed_search.model.parallel import combined
from tsembed_search.model.routing import Traced, centred
from tsembed_search.ranking.similarity import similarity
from tsembed_search.trainer.losses.base import (
    NEGATIVE,
    POSITIVE,
    QUERY,
    Held,
    Holding,
    Labels,
    LossInputs,
    Pairs,
    Shape,
    Side,
    make,
    unpack,
)
from tsembed_search.trainer.losses.contrastive import InfoNCE
from tsembed_search.trainer.losses.negatives import Queue, candidates, weighted, without_false
from tsembed_search.trainer.path_training import PathTraining
from tsembed_search.trainer.settings import LossSettings, NegativeSettings

_MEMORY = 0.99  # of the running mean of routes


@dataclass(frozen=True)
class Outcome:
    """`total` to minimise; `parts` of it, unweighted, and `figures`, both as the log has them."""

    total: Tensor
    parts: Mapping[str, Tensor]
    figures: Mapping[str, Tensor]

    def to_json(self) -> dict[str, Any]:
        """As in the log."""
        parts = {name: float(part) for name, part in self.parts.items()}
        figures = {name: figure.tolist() for name, figure in self.figures.items()}
        return {"loss": float(self.total.detach()), "parts": parts, **figures}


class Objective(nn.Module):
    """The losses of a global batch. It remembers the mean route, the queue of documents and the learned temperature.

    `losses` by name with their `weights`; `mean` `[L·E]` is a running mean of raw routes, by which kappa is centred
    until training ends.
    """

    mean: Tensor
    seen: Tensor

    def __init__(
        self,
        loss: LossSettings,
        negatives: NegativeSettings,
        shape: Shape,
        seed: int = 0,
        paths: PathTraining | None = None,
    ) -> None:
        super().__init__()
        self.settings = loss
        self.negatives = negatives
        self.shape = shape
        self.seed = seed
        terms = loss.terms() | (paths or PathTraining()).terms(loss.temperature, shape.paths, shape.path)
        made = {name: make(name, settings) for name, settings in terms.items()}
        self.losses = {name: one for name, (one, _) in made.items()}
        self.weights = {name: weight for name, (_, weight) in made.items()}
        self.trained = nn.ModuleDict({name: one for name, one in self.losses.items() if isinstance(one, nn.Module)})
        self.queue = Queue(negatives.queue)
        self.register_buffer("mean", torch.full((shape.blocks * shape.experts,), 1 / shape.experts))
        self.register_buffer("seen", torch.zeros(()))

    @property
    def contrastive(self) -> InfoNCE:
        """The main loss, which has the temperature."""
        return cast(InfoNCE, self.losses["contrastive"])

    def held(self, labels: Labels, bare: Sequence[int]) -> dict[str, Sequence[int]]:
        """Return, by loss, the places of items whose vectors without adapters it needs: see `Holding.held`."""
        return {name: one.held(labels, bare) for name, one in self.losses.items() if isinstance(one, Holding)}

    def forward(
        self,
        packed: Tensor,
        labels: Labels,
        stage: int,
        step: int,
        own: Tensor | None = None,
        held: Mapping[str, Held] | None = None,
    ) -> Outcome:
        """Return the losses of `packed` `[N, W]` with the `labels` of all items of a step, and of this process's `own`
        vectors `[n, D]`, some of them `held`. Expert-aware negatives count in stage 2 only.

        Remembers the batch: call it once a step.
        """
        traced = unpack(packed, self.shape)
        pairs, others, figures = self._pairs(traced, labels, stage, step)
        paths, shallow = (others, ()) if self.shape.paths else ((), others)
        own = traced.vectors if own is None else own
        inputs = LossInputs(pairs, traced, labels, own, paths=paths, shallow=shallow)
        parts = {name: one(replace(inputs, held=(held or {}).get(name))) for name, one in self.losses.items()}
        total = sum((self.weights[name] * part for name, part in parts.items()), torch.zeros((), device=packed.device))
        places = labels.of(POSITIVE, NEGATIVE).to(packed.device)
        self.queue.add(packed.detach()[places], labels.table.to(packed.device)[places])
        return Outcome(total, {name: part.detach() for name, part in parts.items()}, figures)

    def _pairs(
        self, traced: Traced, labels: Labels, stage: int, step: int
    ) -> tuple[Pairs, list[Pairs], dict[str, Tensor]]:
        """Return the pairs with their masks and weights, those of each path or depth, and the figures on them."""
        device = traced.vectors.device
        self._follow(traced.routes.detach())
        routes = centred(traced.routes.detach(), self.mean)
        queries, documents = labels.of(QUERY).to(device), labels.of(POSITIVE, NEGATIVE).to(device)
        table, count = labels.table.to(device), len(queries)
        whole, document_routes, document_labels = together(traced), routes[documents], table[documents]
        asked, vectors, others = whole[queries], whole[documents], _others(traced)
        other_vectors = None if others is None else others[documents]
        if self.queue.packed is not None and self.queue.labels is not None:
            old = unpack(self.queue.packed, self.shape)
            vectors = torch.cat([vectors, together(old)])
            if other_vectors is not None and (old_others := _others(old)) is not None:
                other_vectors = torch.cat([other_vectors, old_others])
            document_routes = torch.cat([document_routes, centred(old.routes, self.mean)])
            document_labels = torch.cat([document_labels, self.queue.labels])
        possible = candidates(table[queries], document_labels, self.settings.scope, labels.answers.to(device))
        kappa, kappa_back = self._kappa(routes[queries], document_routes)
        settings = self.negatives if stage == 2 else NegativeSettings(weighting="none")
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        cosine = similarity(asked.detach(), vectors.detach())

        def side(possible: Tensor, cosine: Tensor, kappa: Tensor, right: Tensor, others: Tensor) -> Side:
            alike = None if self.settings.duplicates is None else similarity(right.detach(), others.detach())
            valid = without_false(possible, cosine, self.settings, alike)
            return weighted(settings, kappa, cosine, valid, generator)

        backward = None
        if self.settings.symmetric:
            backward = side(possible[:, :count].T, cosine[:, :count].T, kappa_back, asked, asked)
        pairs = Pairs(asked, vectors, side(possible, cosine, kappa, vectors[:count], vectors), backward)
        alone: list[Pairs] = []
        if others is not None and other_vectors is not None:
            each = zip(others[queries].unbind(1), other_vectors.unbind(1), strict=True)
            alone = [replace(pairs, queries=of_query, documents=of_document) for of_query, of_document in each]
        own = document_labels[:count, 3][:, None] == document_labels[None, :, 3]
        figures = _figures(pairs.forward.valid, cosine, kappa, own) | _routing_figures(traced.routes, self.shape)
        return pairs, alone, figures

    def _kappa(self, queries: Tensor, documents: Tensor) -> tuple[Tensor, Tensor]:
        """The likeness of a negative's experts to the row's, for queries `[B, M]` and documents `[B, B]`."""
        count = len(queries)
        if self.negatives.compared_with == "target":
            return similarity(documents[:count], documents), similarity(queries, queries)
        kappa = similarity(queries, documents)
        return kappa, kappa[:, :count].T

    @torch.no_grad()
    def _follow(self, routes: Tensor) -> None:
        """Move the running mean; the first batches count evenly."""
        self.seen += 1
        self.mean.lerp_(routes.mean(0), max(1 / float(self.seen), 1 - _MEMORY))

    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Return all that it remembers, as it is now: for a checkpoint of the run, or to begin a step anew."""
        state = {name: tensor.detach().clone() for name, tensor in super().state_dict().items()}
        if self.queue.packed is not None and self.queue.labels is not None:
            state |= {"queue.packed": self.queue.packed, "queue.labels": self.queue.labels}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # type: ignore[override]
        """Go back to what `state_dict` gave."""
        own = {name: tensor.to(self.mean.device) for name, tensor in state.items()}
        self.queue.packed, self.queue.labels = own.pop("queue.packed", None), own.pop("queue.labels", None)
        super().load_state_dict(own)


def together(traced: Traced) -> Tensor:
    """The vectors `[N, D]` that the main loss compares: those of all paths together, also where the model's own vector
    is that of the first.
    """
    if traced.paths is None or traced.vectors.shape[1] != traced.paths.shape[2]:
        return traced.vectors
    return combined(traced.paths, "mean")


def _others(traced: Traced) -> Tensor | None:
    """The vectors `[N, P or K, D]` of each path, or after each of some depths; no model has both."""
    return traced.shallow if traced.paths is None else traced.paths


@torch.no_grad()
def _figures(valid: Tensor, cosine: Tensor, kappa: Tensor, own: Tensor) -> dict[str, Tensor]:
    """See `log`: `valid` in the loss, `own`: of the same task; all `[B, M]`."""
    hardest = cosine.masked_fill(~valid, -2.0).amax(1)
    hardest = hardest[hardest > -2]
    others = ~torch.eye(len(cosine), cosine.shape[1], dtype=torch.bool, device=cosine.device)
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
