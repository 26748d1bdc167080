"""The graph of mini's encoder for the engine: what `mini_encoder`, `moe_lora` and `routing` compute, from arrays.

Projections of one input are one product (query, key and value), and so are a projection and its experts:
`y = [x, low · gate] [W, B]ᵀ`, where the copy of x costs less than a second sum over y.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsembed_search.model import engine
from tsembed_search.model.expert_settings import PROJECTIONS, AdapterSettings

HIDDEN = 384
HEADS = 12
LAYERS = 6
_BLOCK = re.compile(r"encoder\.layer\.(\d+)\.")
EPSILON = 1e-12
ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value")
_PROJECTIONS = (*ATTENTION, "attention.output.dense", "intermediate.dense", "output.dense")
# Beyond this width of the input, copying it costs more than a second sum over the output.
_WIDE = 2 * HIDDEN
# GELU(x) = z (1 + erf z) sqrt(1/2) with z = x sqrt(1/2): both factors belong to the products around it. As a step of
# its own, it spares each new shape of the input a compilation of several milliseconds.
_AROUND_GELU = re.compile(r"\d\.(intermediate\.dense\.(weight|bias|lora_B.*)|output\.dense\.(weight|lora_A.*))")

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Experts:
    """Adapters of a checkpoint: A and B, and the routers' matrices, under the names that its files have."""

    settings: AdapterSettings
    tensors: Mapping[str, Array]
    routers: Mapping[str, Array]

    def fit(self) -> bool:
        """Tell whether the tensors are those which the settings ask for, and finite."""
        blocks = self.settings.blocks
        patterns = self.settings.projections or PROJECTIONS
        names = [n for n in _PROJECTIONS if any(n.rpartition(".")[2] == p or fnmatchcase(n, p) for p in patterns)]
        paths = [f"encoder.layer.{block}" for block in (range(LAYERS) if blocks is None else sorted(set(blocks)))]
        expected: dict[str, tuple[int, ...]] = {}
        for path in paths:
            for name in names:
                inputs, outputs = _shape(name)
                expected[f"{path}.{name}.lora_A.weight"] = (self.settings.width, inputs)
                expected[f"{path}.{name}.lora_B.weight"] = (outputs, self.settings.width)
            expected[f"{path}.weight"] = (self.settings.experts, _shape(names[0])[0] if names else 0)
        given = {**self.tensors, **self.routers}
        known = all(block < LAYERS for block in blocks or ())
        same = {name: one.shape for name, one in given.items()} == expected
        return known and same and all(bool(np.isfinite(one).all()) for one in given.values())


def _shape(projection: str) -> tuple[int, int]:
    """Numbers that go into a projection, and come out of it."""
    wide = 4 * HIDDEN
    return (wide if projection == "output.dense" else HIDDEN), (wide if projection == "intermediate.dense" else HIDDEN)


def within(name: str, depth: int) -> bool:
    """Tell whether a tensor of the encoder belongs to no block beyond the first `depth`."""
    block = _BLOCK.match(name)
    return block is None or int(block[1]) < depth


def encoder(
    weights: Mapping[str, Array], experts: Experts | None, depth: int = LAYERS, size: tuple[int, int] = (-1, -1)
) -> Any:
    """Return the graph: from input vectors `words` `[B, T, 384]`, each token's share `real` `[B, T]` of its item, and
    `counted` `[B, T]` of its item's route (0 on padding, rows sum to 1), to unit vectors `[B, 384]`, and with experts
    to raw routes `[B, L·E]`. It stops after `depth` blocks. `size` is (B, T), by default any.
    """
    if experts is not None:
        experts = replace(experts, tensors=_around_gelu(experts.tensors))
    return _Graph(_around_gelu(weights), experts, size).model(depth)


def _around_gelu(tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {name: one * np.float32(0.5**0.5) if _AROUND_GELU.search(name) else one for name, one in tensors.items()}


class _Graph:
    def __init__(self, weights: Mapping[str, Array], experts: Experts | None, size: tuple[int, int]) -> None:
        import openvino.opset13 as operations

        self._op = operations
        self._weights = weights
        self._experts = experts
        self._size = [*size]
        self._counted: Any = operations.parameter(self._size, np.float32, name="counted")
        self._scale: Any = None
        self._routes: list[Any] = []

    def model(self, depth: int) -> Any:
        op = self._op
        words = op.parameter([*self._size, HIDDEN], np.float32, name="words")
        real = op.parameter(self._size, np.float32, name="real")
        length = op.gather(op.shape_of(words), _whole(1), op.constant(np.int64(0)))
        places = self._weights["embeddings.position_embeddings.weight"]
        places = places + self._weights["embeddings.token_type_embeddings.weight"][0]
        placed = op.add(words, op.slice(_real(places), _whole(0), length, _whole(1), _whole(0)))
        hidden = self._normed(placed, "embeddings.LayerNorm")
        absent = op.multiply(op.convert(op.equal(real, _real(0)), np.float32), _real(-1e9))
        mask = op.unsqueeze(absent, _whole(1, 2))
        for block in range(depth):
            hidden = self._block(f"encoder.layer.{block}", hidden, mask)
        pooled = op.squeeze(op.matmul(op.unsqueeze(real, _whole(1)), hidden, False, False), _whole(1))
        results = [self._unit(pooled, 1, EPSILON)]
        inputs = [words, real]
        if self._experts is not None:
            results.append(op.concat(self._routes, 1))
            inputs.append(self._counted)
        return engine.openvino().Model([op.result(one) for one in results], inputs, "mini")

    def _block(self, path: str, x: Any, mask: Any) -> Any:
        op = self._op
        self._scale = None
        every = op.split(self._projected(path, x, ATTENTION), op.constant(np.int64(2)), 3)
        heads = (op.reshape(one, _whole(0, 0, HEADS, HIDDEN // HEADS), True) for one in every.outputs())
        # In this form the engine makes one step of it.
        orders = (_whole(0, 2, 1, 3), _whole(0, 2, 3, 1), _whole(0, 2, 1, 3))
        query, key, value = (op.transpose(one, order) for one, order in zip(heads, orders, strict=True))
        likeness = op.multiply(op.matmul(query, key, False, False), _real((HIDDEN // HEADS) ** -0.5))
        mixed = op.matmul(op.softmax(op.add(likeness, mask), 3), value, False, False)
        mixed = op.reshape(op.transpose(mixed, _whole(0, 2, 1, 3)), _whole(0, 0, HIDDEN), True)
        attended = self._projected(path, mixed, ("attention.output.dense",))
        x = self._normed(op.add(attended, x), f"{path}.attention.output.LayerNorm")
        inner = self._projected(path, x, ("intermediate.dense",))
        inner = op.multiply(inner, op.add(op.erf(inner), _real(1)))
        return self._normed(op.add(self._projected(path, inner, ("output.dense",)), x), f"{path}.output.LayerNorm")

    def _projected(self, path: str, x: Any, names: tuple[str, ...]) -> Any:
        """`[B, T, d_in]` to the outputs of some projections side by side, experts included."""
        op = self._op
        weight = np.concatenate([self._weights[f"{path}.{name}.weight"] for name in names])
        bias = _real(np.concatenate([self._weights[f"{path}.{name}.bias"] for name in names]))
        experts = self._experts
        adapted = [name for name in names if experts and f"{path}.{name}.lora_A.weight" in experts.tensors]
        if experts is None or not adapted:
            return op.add(op.matmul(x, _real(weight), False, True), bias)
        down = np.concatenate([experts.tensors[f"{path}.{name}.lora_A.weight"] for name in adapted])
        up = np.zeros((len(weight), len(down)), np.float32)
        rows = dict(zip(names, np.split(np.arange(len(weight)), len(names)), strict=True))
        columns = np.split(np.arange(len(down)), len(adapted))
        for name, place in zip(adapted, columns, strict=True):
            up[np.ix_(rows[name], place)] = experts.tensors[f"{path}.{name}.lora_B.weight"]
        if self._scale is None:
            self._scale = self._gate(path, x, experts)
        scale = self._scale if len(adapted) == 1 else op.concat([self._scale] * len(adapted), 2)
        low = op.multiply(op.matmul(x, _real(down), False, True), scale)
        if weight.shape[1] < _WIDE:
            both = _real(np.concatenate([weight, up], 1))
            return op.add(op.matmul(op.concat([x, low], 2), both, False, True), bias)
        plain = op.add(op.matmul(x, _real(weight), False, True), bias)
        return op.add(plain, op.matmul(low, _real(up), False, True))

    def _gate(self, path: str, x: Any, experts: Experts) -> Any:
        """The block's gate `[B, T or 1, ranks of all experts]`, from the input of its first adapted projection."""
        op, settings = self._op, experts.settings
        size = float(np.sqrt(experts.routers[f"{path}.weight"].shape[1]))
        router = _real(experts.routers[f"{path}.weight"] * np.float32(size / settings.temperature))
        if settings.level == "sequence":
            lengths = op.maximum(op.reduce_l2(x, _whole(2), False), _real(1e-6))
            shares = op.unsqueeze(op.multiply(op.divide(_real(size), lengths), self._counted), _whole(1))
            normed = self._unit(op.matmul(shares, x, False, False), 2, 1e-12)
            gates = self._chosen(op.softmax(op.matmul(normed, router, False, True), 2))
            self._routes.append(op.squeeze(gates, _whole(1)))
        else:
            gates = self._chosen(op.softmax(op.matmul(self._unit(x, 2, 1e-6), router, False, True), 2))
            shares = op.unsqueeze(self._counted, _whole(1))
            self._routes.append(op.squeeze(op.matmul(shares, gates, False, False), _whole(1)))
        factor = settings.alpha / settings.rank
        spread = np.repeat(np.eye(settings.experts) * (settings.experts * factor), settings.rank, 1)
        if not settings.shared:
            return op.matmul(gates, _real(spread), False, False)
        always = np.repeat([0.0, factor], [spread.shape[1], settings.rank])
        spread = np.pad(spread, ((0, 0), (0, settings.rank)))
        return op.add(op.matmul(gates, _real(spread), False, False), _real(always))

    def _chosen(self, gates: Any) -> Any:
        """The largest of each row, as many as the settings say, scaled to sum to 1 again; the others 0."""
        op = self._op
        assert self._experts is not None
        settings = self._experts.settings
        if settings.top_k in (None, settings.experts):
            return gates
        best = op.topk(gates, op.constant(np.int64(settings.top_k)), 2, "max", "value")
        values = op.divide(best.output(0), op.reduce_sum(best.output(0), _whole(2), True))
        none = op.multiply(gates, _real(0))
        return op.scatter_elements_update(none, best.output(1), values, op.constant(np.int64(2)))

    def _normed(self, x: Any, name: str) -> Any:
        op = self._op
        normed = op.mvn(x, _whole(2), True, EPSILON, "inside_sqrt")
        return op.add(op.multiply(normed, _real(self._weights[f"{name}.weight"])), _real(self._weights[f"{name}.bias"]))

    def _unit(self, x: Any, axis: int, least: float) -> Any:
        """Rows of unit length along an axis."""
        op = self._op
        return op.divide(x, op.maximum(op.reduce_l2(x, _whole(axis), True), _real(least)))


def _real(values: Any) -> Any:
    import openvino.opset13 as op

    return op.constant(np.ascontiguousarray(values, np.float32) if np.ndim(values) else np.float32(values))


def _whole(*values: int) -> Any:
    import openvino.opset13 as op

    return op.constant(np.array(values, np.int64))
