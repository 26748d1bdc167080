"""Holds what people index and type to what it is without experts, so that what the base knows is not lost.

Documents are held, and queries that are texts without an instruction. Queries with an instruction or a picture are free
to learn: of those the base knows little.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from tsembed_search.model.backbones.protocol import Adaptable
from tsembed_search.model.batching import batches
from tsembed_search.trainer.loader import Load
from tsembed_search.trainer.ranks import Ranks
from tsembed_search.trainer.representations import NEGATIVE, POSITIVE


class Held:
    """The items of one step that are held: `places` `[M]`, and where they are without experts, `vectors` `[M, D]`.

    `shares` `[M]` are what they count: those of a kind together 1, over all processes.
    """

    def __init__(self, places: list[int], shares: list[float], vectors: Tensor, ranks: Ranks) -> None:
        self._places = torch.tensor(places, dtype=torch.int64, device=vectors.device)
        self._shares = torch.tensor(shares, device=vectors.device)
        self._vectors = vectors
        self._ranks = ranks

    def drift(self, vectors: Tensor) -> Tensor:
        """How far they are from there, one less the cosine: the mean over documents and that over queries, added up.

        `vectors` `[N, D]`: the unit vectors of all this process's items, to which alone gradients flow.
        """
        own = (self._shares * (1 - (vectors[self._places] * self._vectors).sum(-1))).sum()
        return own + (self._ranks.sum(float(own.detach())) - own.detach())


def held(
    backbone: Adaptable,
    load: Load,
    ranks: Ranks,
    tokens: int,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
) -> Held:
    """Embeds those items of a load that are held, without experts, by a budget of `tokens` at a time, on `device`.
    Every process has to call it, since they count together. `precision` makes a context for each forward pass.
    """
    places: list[int] = []
    shares: list[float] = []
    for kind in (load.labels.of(POSITIVE, NEGATIVE).tolist(), load.bare):
        total = ranks.sum(float(len(kind)))
        places += kind
        shares += [1 / max(1.0, total)] * len(kind)
    vectors = torch.empty(len(places), backbone.info.dim, device=device)
    chosen = ((row, load.items[place]) for row, place in enumerate(places))
    for batch in batches(chosen, tokens, max(1, len(places))):
        with precision():
            vectors[[row for row, _ in batch]] = backbone.plain([one for _, one in batch]).float()
    return Held(places, shares, vectors, ranks)
