"""A model whose vectors are cut to their first numbers: smaller, faster to search, and less exact.

A model that was trained with `loss.dimensions` loses least by it (Matryoshka representation learning, Kusupati et al.,
arXiv 2205.13147). Any model can be cut; `tsembed eval --dims` measures what that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tsembed_search.errors import ModelError
from tsembed_search.items import InputSpec, Item, Role
from tsembed_search.model.backbone import Backbone, Encoded, ModelRef, Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Shortened:
    """A backbone that gives the first `ref.dim` numbers of another one's vectors, made unit length again.

    Its scores are calibrated on the index, since cosines of cut vectors are larger. Raises `ModelError` for more
    numbers than there are.
    """

    def __init__(self, whole: Backbone, ref: ModelRef) -> None:
        self._whole = whole
        self._dim = ref.dim or whole.info.dim
        if self._dim > whole.info.dim:
            raise ModelError(
                f"Vectors of {whole.info.name} have {whole.info.dim} numbers, not {self._dim}.",
                f"Give {{dim}} at most {whole.info.dim}.",
            )
        self.adapters = getattr(whole, "adapters", None)
        self.info = replace(
            whole.info,
            name=ref.name,
            fingerprint=ref.fingerprint,
            dim=self._dim,
            calibration=None,
            trainable=False,
            notes=whole.info.notes | {"cut": f"{self._dim} of {whole.info.dim} numbers"},
        )

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
        """Vectors `[B, dim]` of unit length, and the whole model's routes."""
        found = self._whole.forward(batch)
        return Encoded(shortened(found.vectors, self._dim), found.routes, found.classes)


def shortened(vectors: Any, dim: int) -> Any:
    """Return the first `dim` numbers of vectors `[N, D]`, a tensor or an array, at unit length: `[N, dim]`."""
    if not isinstance(vectors, np.ndarray):
        from torch.nn import functional

        return functional.normalize(vectors[:, :dim], dim=-1)
    first: NDArray[np.float32] = vectors[:, :dim]
    return first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), np.float32(1e-12))
