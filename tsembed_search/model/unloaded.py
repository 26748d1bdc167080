"""A stand-in for a model, for a run that stores words only: the same facts and inputs, and no vectors.

Its items are stored without vectors; the next run with the model finds those contents by their recipe, which says
so, reads them again, and writes the same points with vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from tsembed_search.errors import UsageError
from tsembed_search.items import Embeddings, InputSpec, Item, Role
from tsembed_search.model.backbone import ModelInfo, Prepared
from tsembed_search.model.shortened import check_depth, cut_facts

if TYPE_CHECKING:
    from tsembed_search.model.backbone import ModelRef

T = TypeVar("T")

_TOGETHER: Final = 128


class Unloaded:
    """An embedder without a model: `encode` gives vectors `[B, 0]` and routes `[B, 0]`."""

    batch_tokens: Final = _TOGETHER

    def __init__(self, info: ModelInfo, inputs: InputSpec) -> None:
        self.info = info
        self.inputs = inputs

    def prepare(self, item: Item, role: Role = "document") -> Prepared:
        """Every item costs the same: nothing."""
        return Prepared(1, None)

    def encode(self, batch: Sequence[Prepared]) -> Embeddings:
        """Return as many empty rows as the batch has items."""
        empty = np.zeros((len(batch), 0), np.float32)
        return Embeddings(empty, empty)

    def embed_stream(self, given: Iterable[Sequence[tuple[T, Prepared]]]) -> Iterator[tuple[list[T], Embeddings]]:
        """Give the keys of each batch with empty rows."""
        for batch in given:
            yield [key for key, _ in batch], self.encode([prepared for _, prepared in batch])


def unloaded(ref: ModelRef) -> Unloaded:
    """Return what stands for a model that is not loaded: `mini`, and what was trained on it.

    Raises `UsageError` for another model: how it cuts texts into pieces is not known before it is loaded.
    """
    from tsembed_search.model.backbones import mini_spec
    from tsembed_search.model.loading import base_behind

    if base_behind(ref).fingerprint != mini_spec.FINGERPRINT:
        raise UsageError(
            f"Words cannot be stored before the vectors of {ref.name}: how it cuts texts is known once it is loaded.",
            "Index with the model at once, without {words}, or use mini.",
        )
    whole = ref.uncut
    info = ModelInfo(
        name=whole.name,
        fingerprint=whole.fingerprint,
        dim=mini_spec.DIM,
        parameters=mini_spec.PARAMETERS,
        device="cpu",
        dtype="float32",
        calibration=mini_spec.CALIBRATION,
        classes=mini_spec.CLASSES,
    )
    return Unloaded(_cut(_with_experts(info, whole), ref), mini_spec.inputs())


def _cut(info: ModelInfo, ref: ModelRef) -> ModelInfo:
    """The facts of a model that may be cut, by those of the uncut one. Raises `ModelError`."""
    from tsembed_search.model import checkpoint
    from tsembed_search.model.backbones.mini_graph import LAYERS

    if ref.whole is None:
        return info
    info = _cut(info, ref.whole)
    if ref.depth is not None:
        adapted = None
        if info.routes is not None and ref.folder is not None:
            adapted = checkpoint.read(ref.folder).method.get("blocks") or range(LAYERS)
        blocks = check_depth(ref.whole.name, ref.depth, LAYERS, adapted)
        info = replace(info, routes=info.routes and (blocks, info.routes[1]))
    return cut_facts(info, ref)


def _with_experts(info: ModelInfo, ref: ModelRef) -> ModelInfo:
    """The facts of a checkpoint, by its description alone."""
    if ref.folder is None:
        return info
    from tsembed_search.model import checkpoint, path_settings

    said = checkpoint.read(ref.folder)
    experts = int(said.method["router"]["experts"])
    blocks = len(said.mean) // experts
    if (paths := path_settings.of_method(said.method, ref.folder / checkpoint.MARKER)) is not None:
        info = replace(info, dim=paths.dim(info.dim))
    return replace(info, routes=(blocks, experts), calibration=said.calibration, route_weight=said.route_weight)
