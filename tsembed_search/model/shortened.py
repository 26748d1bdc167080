"""A model that is cut: to the first numbers of its vectors, or to the first of its blocks. Both make it faster and less
exact; fewer numbers also take less space.

A model that was trained with `loss.dimensions` or `loss.depths` loses least by it (Matryoshka representation learning,
Kusupati et al., arXiv 2205.13147; the same in both directions, Li et al., arXiv 2402.14776). Any model can be cut;
`tsembed eval --dims` and `--depths` measure what that costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tsembed_search.errors import ModelError
from tsembed_search.items import InputSpec, Item, Role
from tsembed_search.model.backbone import Backbone, Encoded, ModelInfo, ModelRef, Prepared

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


class Shortened:
    """A backbone that gives the first `ref.dim` numbers of another one's vectors, made unit length again; or one that
    stops after `ref.depth` blocks, whose vectors are pooled there as at the end.

    Takes over the other one, which loses its further blocks. Scores are calibrated on the index, since cosines of cut
    vectors are larger. Raises `ModelError` for more numbers or blocks than there are.
    """

    def __init__(self, whole: Backbone, ref: ModelRef) -> None:
        self._whole = whole
        self._dim = ref.dim or whole.info.dim
        if self._dim > whole.info.dim:
            raise ModelError(
                f"Vectors of {whole.info.name} have {whole.info.dim} numbers, not {self._dim}.",
                f"Give {{dim}} at most {whole.info.dim}.",
            )
        if ref.depth is not None:
            stop_after(whole, ref.depth)
        self.adapters = getattr(whole, "adapters", None)
        self.info = cut_facts(whole.info, ref)

    @property
    def inputs(self) -> InputSpec:
        """The inputs of the whole model."""
        return self._whole.inputs

    @property
    def batch_tokens(self) -> int:
        """The whole model's."""
        return self._whole.batch_tokens

    def prepare(self, item: Item, role: Role = "document") -> Prepared:
        """Prepare an item as the whole model does."""
        return self._whole.prepare(item, role)

    def forward(self, batch: Sequence[Prepared]) -> Encoded:
        """Vectors `[B, dim]` of unit length, and the routes of the blocks that run."""
        found = self._whole.forward(batch)
        vectors = found.vectors if self._dim == self._whole.info.dim else shortened(found.vectors, self._dim)
        return Encoded(vectors, found.routes, found.classes if self.info.classes else None)


def shortened(vectors: Any, dim: int) -> Any:
    """Return the first `dim` numbers of vectors `[N, D]`, a tensor or an array, at unit length: `[N, dim]`."""
    if not isinstance(vectors, np.ndarray):
        from torch.nn import functional

        return functional.normalize(vectors[:, :dim], dim=-1)
    first: NDArray[np.float32] = vectors[:, :dim]
    return first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), np.float32(1e-12))


def cut_facts(info: ModelInfo, ref: ModelRef) -> ModelInfo:
    """Return the facts about a cut model, by those of the one that it is cut from.

    What was measured on that one is left out. So are classes after fewer blocks: what they mean to a query was
    computed by all blocks.
    """
    if ref.depth is None:
        dim = ref.dim or info.dim
        info = replace(info, dim=dim, notes=info.notes | {"cut": f"{dim} of {info.dim} numbers"})
    else:
        notes = info.notes | {"stops": f"after {ref.depth} blocks"}
        info = replace(info, classes=0, route_weight=None, notes=notes)
    return replace(info, name=ref.name, fingerprint=ref.fingerprint, calibration=None, trainable=False)


def stop_after(backbone: Any, depth: int) -> None:
    """Let a loaded model stop after its first `depth` blocks: it loses the others, and their experts.

    Raises `ModelError` for a model that has no blocks to take off, for more than there are, and when no experts would
    be left of those that it has.
    """
    info, blocks = backbone.info, getattr(backbone, "blocks", None)
    if blocks is None:
        raise ModelError(
            f"{info.name} cannot stop early.", "Use all of its blocks; or mini, a transformers model, or a checkpoint."
        )
    adapters = getattr(backbone, "adapters", None)
    check_depth(info.name, depth, len(blocks), None if adapters is None else adapters.blocks)
    gone = sum(parameter.numel() for block in blocks[depth:] for parameter in block.parameters())
    del blocks[depth:]
    if adapters is not None:
        adapters.keep(depth)
        info = replace(info, routes=adapters.shape)
    backbone.info = replace(info, parameters=info.parameters - gone)


def check_depth(name: str, depth: int, blocks: int, adapted: Sequence[int] | None) -> int:
    """Return how many of the `adapted` blocks, by their numbers from 0, are among the first `depth` of the model's
    `blocks`; 0 if it has no experts at all. Raises `ModelError` for more blocks than there are, and for too few.
    """
    if depth > blocks:
        raise ModelError(f"{name} has {blocks} blocks, not {depth}.", f"Use a depth of {blocks} or less.")
    if adapted is None:
        return 0
    if not (kept := sum(number < depth for number in adapted)):
        raise ModelError(
            f"{name} has no experts in its first {depth} blocks.", f"Use a depth of {min(adapted) + 1} or more."
        )
    return kept


@contextmanager
def noted(blocks: Any, depths: Sequence[int]) -> Iterator[list[torch.Tensor]]:
    """Inside, what the model's blocks give after each of some depths, which ascend, is noted: `[B, T, d]`."""
    found: list[torch.Tensor] = []

    def note(block: Any, given: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [blocks[depth - 1].register_forward_hook(note) for depth in depths]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
