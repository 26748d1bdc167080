"""Mini's encoder in NumPy: what `mini_graph` computes, from the same arrays, for one text at a time.

For the first text of a process this takes a fifth of the time that the engine takes to load, and half the memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tsembed_search.model.backbones.mini_graph import ATTENTION, EPSILON, HEADS, HIDDEN, Experts

_LEAST = np.float32(1e-12)
# erf by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: off by 1.5e-7 at most.
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
_ERF_SCALE = 0.3275911

Array = NDArray[np.float32]


class Encoder:
    """The first `depth` blocks of the encoder, with experts or without. Its arrays stay where they are: in files that
    the system maps.
    """

    def __init__(self, weights: Mapping[str, Array], experts: Experts | None, depth: int) -> None:
        self._weights = weights
        self._experts = experts
        self._depth = depth

    def run(self, words: Array, counted: Array) -> tuple[Array, Array]:
        """Embed one text without padding: from input vectors `[T, 384]`, and each token's share `[T]` of the route, to
        a unit vector `[1, 384]` and raw routes `[1, L·E]`.
        """
        places = self._weights["embeddings.position_embeddings.weight"][: len(words)]
        kind = self._weights["embeddings.token_type_embeddings.weight"][0]
        x = self._normed(words + (places + kind), "embeddings.LayerNorm")
        routes: list[Array] = []
        for block in range(self._depth):
            x = self._block(f"encoder.layer.{block}", x, counted, routes)
        pooled = x.mean(0, keepdims=True)
        return _unit(pooled, _LEAST), np.concatenate(routes, 1) if routes else np.zeros((1, 0), np.float32)

    def _block(self, path: str, x: Array, counted: Array, routes: list[Array]) -> Array:
        scales: list[Array] = []

        def projected(name: str, given: Array) -> Array:
            found = given @ self._weights[f"{path}.{name}.weight"].T + self._weights[f"{path}.{name}.bias"]
            experts = self._experts
            if experts is not None and f"{path}.{name}.lora_A.weight" in experts.tensors:
                if not scales:
                    scale, route = gates(path, given, counted, experts)
                    scales.append(scale)
                    routes.append(route)
                low = given @ experts.tensors[f"{path}.{name}.lora_A.weight"].T * scales[0]
                found += low @ experts.tensors[f"{path}.{name}.lora_B.weight"].T
            return found

        size = HIDDEN // HEADS
        query, key, value = (projected(name, x).reshape(-1, HEADS, size).transpose(1, 0, 2) for name in ATTENTION)
        mixed = softmax(query @ key.transpose(0, 2, 1) * np.float32(size**-0.5)) @ value
        attended = projected("attention.output.dense", mixed.transpose(1, 0, 2).reshape(-1, HIDDEN))
        x = self._normed(attended + x, f"{path}.attention.output.LayerNorm")
        inner = _gelu(projected("intermediate.dense", x))
        return self._normed(projected("output.dense", inner) + x, f"{path}.output.LayerNorm")

    def _normed(self, x: Array, name: str) -> Array:
        x = x - x.mean(1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(1, keepdims=True) + np.float32(EPSILON))
        return x * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def gates(path: str, x: Array, counted: Array, experts: Experts) -> tuple[Array, Array]:
    """Return what scales the ranks of all experts `[T or 1, ranks]`, and a block's raw route `[1, E]`."""
    settings, router = experts.settings, experts.routers[f"{path}.weight"]
    size = np.float32(np.sqrt(router.shape[1]))
    logits = router.T * (size / np.float32(settings.temperature))
    shares = counted[None]
    if settings.level == "sequence":
        lengths = np.maximum(np.linalg.norm(x, axis=1), np.float32(1e-6))
        chosen = _best(softmax(_unit((shares * size / lengths) @ x, _LEAST) @ logits), settings.top_k)
        route = chosen
    else:
        chosen = _best(softmax(_unit(x, np.float32(1e-6)) @ logits), settings.top_k)
        route = shares @ chosen
    factor = settings.alpha / settings.rank
    scale = np.repeat(chosen * np.float32(settings.experts * factor), settings.rank, 1)
    if settings.shared:
        scale = np.concatenate([scale, np.full((len(scale), settings.rank), factor, np.float32)], 1)
    return scale, route


def _best(found: Array, count: int | None) -> Array:
    """The largest of each row, scaled to sum to 1 again; the others 0."""
    if count is None or count >= found.shape[1]:
        return found
    rows = np.arange(len(found))[:, None]
    order = np.argsort(-found, axis=1, kind="stable")[:, :count]
    kept = np.zeros_like(found)
    kept[rows, order] = found[rows, order] / found[rows, order].sum(1, keepdims=True)
    return kept


def softmax(x: Array) -> Array:
    """Shares that sum to 1 along the last axis."""
    raised = np.exp(x - x.max(-1, keepdims=True))
    found: Array = raised / raised.sum(-1, keepdims=True)
    return found


def _gelu(x: Array) -> Array:
    size = np.abs(x) * np.float32(0.5**0.5)
    part = 1 / (1 + np.float32(_ERF_SCALE) * size)
    erf = 1 - np.polyval(np.array([*_ERF, 0], np.float32), part) * np.exp(-size * size)
    found: Array = np.float32(0.5) * x * (1 + np.copysign(erf, x))
    return found


def _unit(x: Array, least: np.float32) -> Array:
    """Rows of unit length."""
    found: Array = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), least)
    return found
