"""Holds what people index and type to what it is without experts, so that what the base knows is not lost.

Documents can be held, and queries that are texts without an instruction. Queries with an instruction or a picture are
free to learn: of those the base knows little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from tsembed_search.model.backbone import Prepared, Trainable
from tsembed_search.model.embedder import batches, in_fitting_parts
from tsembed_search.trainer.batches.loader import Load
from tsembed_search.trainer.distributed import Processes
from tsembed_search.trainer.packing import NEGATIVE, POSITIVE
from tsembed_search.trainer.settings import LossSettings


@dataclass(frozen=True)
class Held:
    """Items of one step that are held: `part` of the loss, its `weight`, the items' `places` `[M]` and where they are
    without experts, `vectors` `[M, D]`; `total` of them in all processes.
    """

    part: str
    weight: float
    places: Tensor
    vectors: Tensor
    total: float
    ranks: Processes

    def drift(self, vectors: Tensor) -> Tensor:
        """How far they are from there: the mean over them of one less the cosine, 0 of none.

        `vectors` `[N, D]`: the unit vectors of all this process's items, to which alone gradients flow.
        """
        own = (1 - (vectors[self.places] * self.vectors).sum(-1)).sum() / max(1.0, self.total)
        return own + (self.ranks.sum(float(own.detach())) - own.detach())


def held(
    backbone: Trainable,
    load: Load,
    loss: LossSettings,
    ranks: Processes,
    tokens: int,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
) -> list[Held]:
    """Embeds those items of a load that `loss` holds, without experts, by a budget of `tokens` at a time, on `device`.
    Every process has to call it, since they count together. `precision` makes a context for each forward pass.
    """
    kinds = (
        ("distillation", loss.distillation_weight, load.labels.of(POSITIVE, NEGATIVE).tolist()),
        ("query_distillation", loss.query_distillation_weight, load.bare),
    )
    found = []
    for part, weight, places in kinds:
        if weight:
            vectors = torch.empty(len(places), backbone.info.dim, device=device)
            chosen = ((row, load.items[place]) for row, place in enumerate(places))

            def plain(batch: Sequence[tuple[int, Prepared]]) -> torch.Tensor:
                with precision():
                    return backbone.without_adapters([one for _, one in batch]).float()

            fits = []  # an item that is too large by itself is not held
            for batch in batches(chosen, tokens, max(1, len(places))):
                for own, one in in_fitting_parts(plain, batch):
                    if one is not None:
                        rows = [row for row, _ in own]
                        vectors[rows] = one
                        fits += rows
            fits.sort()
            where = torch.tensor([places[row] for row in fits], dtype=torch.int64, device=device)
            if len(fits) < len(places):
                vectors = vectors[fits]
            found.append(Held(part, weight, where, vectors, ranks.sum(float(len(fits))), ranks))
    return found
