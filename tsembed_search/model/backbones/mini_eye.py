"""Mini's eye on the engine: from pictures to tokens, as `mini_vision` and `Mini` compute them in torch.

The vision tower is a graph. What comes after it is small, and computed in NumPy. Torch is needed once, to make the
graph: it reads the tower's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsembed_search.errors import ModelError
from tsembed_search.model import engine
from tsembed_search.model.backbones import mini_spec
from tsembed_search.model.backbones.mini_arrays import softmax
from tsembed_search.model.backbones.mini_graph import HIDDEN
from tsembed_search.model.backbones.mini_plan import CAPTION_TOKENS

_LAST = mini_spec.FEATURES
_SHAPES = {
    "whole.weight": (CAPTION_TOKENS * HIDDEN, _LAST),
    "whole.bias": (CAPTION_TOKENS * HIDDEN,),
    "part.weight": (HIDDEN, _LAST),
    "part.bias": (HIDDEN,),
}
_EPSILON = np.float32(1e-5)  # of torch's layer norm

Array = NDArray[np.float32]


def fits(projector: Mapping[str, Array]) -> bool:
    """Tell whether these are the tensors of a `mini_vision.Projector`. Their numbers are not read: texts need none."""
    return {name: one.shape for name, one in projector.items()} == _SHAPES


class Eye:
    """Sees pictures for `mini-base`, and for checkpoints of it with the tensors of their projector, if they have one.
    Each picture is seen by itself, so that the others of a batch do not change it.
    """

    def __init__(self, projector: Mapping[str, Array] | None) -> None:
        self._projector = projector

    def see(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Array, Array]:
        """Return the tokens `[P, 4, 384]` of pictures, uint8 `[260, 260, 3]`, and the probabilities `[P, 1000]` of what
        they show. Raises `ModelError`.
        """
        runner = self._one if len(pictures) == 1 else self._many
        found = runner.run([one[None]] for one in pictures)
        logits, features = (np.concatenate(own, dtype=np.float32) for own in zip(*found, strict=True))
        probabilities = softmax(logits / np.float32(mini_spec.TEMPERATURE))
        captions = self._captions(probabilities)
        return (captions if self._projector is None else self._projected(captions, features)), probabilities

    def _captions(self, probabilities: Array) -> Array:
        """`[P, 1000]` to `[P, 4, 384]`."""
        rows = np.arange(len(probabilities))[:, None]
        likeliest = np.argpartition(probabilities, -mini_spec.TOP_CLASSES, axis=1)[:, -mini_spec.TOP_CLASSES :]
        kept = np.zeros_like(probabilities)
        kept[rows, likeliest] = probabilities[rows, likeliest]
        kept /= kept.sum(1, keepdims=True)
        found: Array = (kept @ self._table).reshape(-1, CAPTION_TOKENS, HIDDEN)
        return found

    def _projected(self, captions: Array, features: Array) -> Array:
        """As `mini_vision.Projector`, of soft captions and features `[P, 4, 1280]` in half precision."""
        assert self._projector is not None
        captions, features = (one.astype(np.float16).astype(np.float32) for one in (captions, features))
        own = self._projector
        whole = _normed(features.mean(1)) @ own["whole.weight"].T + own["whole.bias"]
        part = _normed(features.reshape(-1, _LAST)) @ own["part.weight"].T + own["part.bias"]  # one product
        found: Array = captions + whole.reshape(captions.shape) + part.reshape(captions.shape)
        return found

    @cached_property
    def _table(self) -> Array:
        """The word vectors of the classes, `[1000, 4 · 384]`."""
        from safetensors.numpy import load_file

        return load_file(mini_spec.verified("caption"))["table"].reshape(mini_spec.CLASSES, -1).astype(np.float32)

    @cached_property
    def _one(self) -> engine.Runner:
        return self._runner(many=False)

    @cached_property
    def _many(self) -> engine.Runner:
        return self._runner(many=True)

    def _runner(self, many: bool) -> engine.Runner:
        try:
            return engine.Runner(self._graph, "f32", many)
        except RuntimeError as error:
            raise ModelError(
                f"The engine cannot take the vision tower of mini: {error}.",
                "Uninstall it: pip uninstall openvino. PyTorch then computes mini.",
            ) from error

    @cached_property
    def _graph(self) -> engine.Graph:
        file = mini_spec.file_path("vision").stat()
        state = f"1 {file.st_size} {file.st_mtime_ns}"  # raise the number with the graph
        return engine.Graph("mini-eye", state, tower)


def tower() -> Any:
    """Return the graph: from a picture, uint8 RGB `[1, 260, 260, 3]`, to its logits `[1, 1000]` and the averages of its
    last layer over four quarters, `[1, 4, 1280]`. Raises `ModelError` when the weights are not the right ones.
    """
    import openvino.opset13 as op
    import torch

    from tsembed_search.model.backbones.mini_vision import QUARTER, VisionTower

    def given(tensor: torch.Tensor, *shape: int) -> Any:
        return op.constant(np.ascontiguousarray(tensor.numpy()).reshape(shape or tensor.shape))

    state = torch.load(mini_spec.verified("vision"), map_location="cpu", weights_only=True)
    whole = VisionTower(state, mini_spec.IMAGE_SIZE, torch.device("cpu"))
    pixels = op.parameter([1, mini_spec.IMAGE_SIZE, mini_spec.IMAGE_SIZE, 3], np.uint8, name="pixels")
    x = op.multiply(op.subtract(op.convert(pixels, np.float32), np.float32(127)), np.float32(1 / 128))
    x = kept = op.transpose(x, np.array([0, 3, 1, 2]))
    for step in whole.steps:
        kept = x if step.opens else kept
        geometry = [step.stride] * 2, [step.padding] * 2, [step.padding] * 2, [1, 1]
        if step.groups == 1:
            x = op.convolution(x, given(step.weight), *geometry)
        else:
            x = op.group_convolution(x, given(step.weight, step.groups, 1, 1, *step.weight.shape[2:]), *geometry)
        x = op.add(x, given(step.bias, 1, -1, 1, 1))
        x = op.clamp(x, 0.0, 6.0) if step.relu6 else x
        x = op.add(x, kept) if step.residual else x
    weight, bias = whole.head
    logits = op.add(op.matmul(op.reduce_mean(x, np.array([2, 3])), given(weight), False, True), given(bias))
    kernel, stride = QUARTER
    quarters = op.avg_pool(x, [stride] * 2, [0, 0], [0, 0], [kernel] * 2, True)
    quarters = op.transpose(op.reshape(quarters, np.array([0, 0, -1]), True), np.array([0, 2, 1]))
    return engine.openvino().Model([op.result(logits), op.result(quarters)], [pixels], "eye")


def _normed(x: Array) -> Array:
    """Layer norm without weights, over the last axis."""
    x = x - x.mean(-1, keepdims=True)
    found: Array = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + _EPSILON)
    return found
