"""`mini` for embedding on a CPU: texts pass through the engine, without torch. The first picture loads all
of `mini`.

The first query of a process is computed in NumPy, which takes a tenth of the time that the engine takes to load.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tsembed_search.errors import ModelError
from tsembed_search.items import InputSpec, Item, Role
from tsembed_search.model import checkpoint, engine, path_settings
from tsembed_search.model import files as weights
from tsembed_search.model.backbone import Backbone, Encoded, ModelInfo, ModelRef, Prepared
from tsembed_search.model.backbones import mini_arrays, mini_graph, mini_spec
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.shortened import cut_facts

# A batch this large suits the engine, on each core.
_TOKENS = 1024
_MOST_THREADS = 16
# Lengths are rounded up: each new shape of an input costs the engine a few milliseconds.
_STEP = 4
_WASTE = 64
# bfloat16 rounds every token differently, and the mean over an item's tokens evens that out; over few it does not.
_FEW_TOKENS = 32
_PRECISIONS: dict[str, engine.Precision] = {"bfloat16": "bf16", "float32": "f32"}

Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Text:
    """Word pieces with the special tokens. `exact`: to be computed in float32."""

    ids: list[int]
    exact: bool


@dataclass(frozen=True)
class _Pictured:
    """An item with a picture, as all of `mini` prepared it."""

    prepared: Prepared


@dataclass(frozen=True)
class _Routing:
    """The mean raw routing vector `[L·E]` of the training data, and whether a route is that of the last token."""

    mean: Array
    last: bool


class MiniOnCpu:
    """The backbone behind `mini`, `mini-base` and checkpoints of them where items are embedded on a CPU.

    Queries are computed in float32, documents in bfloat16 where the CPU is faster in that. `first` computes the first
    query, where that is quicker than to ask `graph` for the engine's.
    """

    def __init__(
        self,
        info: ModelInfo,
        graph: Callable[[], engine.Graph],
        first: mini_arrays.Encoder | None,
        routing: _Routing | None,
        whole: Callable[[], Backbone],
    ) -> None:
        from tokenizers import Tokenizer

        self.info = info
        self._spec = mini_spec.inputs()
        self._tokenizer = Tokenizer.from_file(str(mini_spec.verified("tokenizer")))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._ends: list[int] = self._tokenizer.encode("").ids
        self._table = weights.arrays(mini_spec.file_path("encoder"))["embeddings.word_embeddings.weight"]
        self._make_graph = graph
        self._first = first
        self._routing = routing
        self._load_whole = whole
        self._same = info.dtype == "float32"  # exact or not
        self._loading = threading.Lock()
        self._loaded: Backbone | None = None

    @property
    def inputs(self) -> InputSpec:
        """Pictures of 260 x 260 on white, texts of at most 254 word pieces."""
        return self._spec

    @property
    def batch_tokens(self) -> int:
        """As much as all cores compute beside each other."""
        return _TOKENS * min(engine.threads(), _MOST_THREADS)

    def prepare(self, item: Item, role: Role = "document") -> Prepared:
        """Word pieces, as `Mini.prepare` makes them; an item with a picture is prepared by that."""
        if item.image is not None:
            prepared = self._whole().prepare(item, role)
            return Prepared(prepared.tokens, _Pictured(prepared))
        words = " ".join(part for part in (item.instruction, item.text) if part)
        ids = self._tokenizer.encode(words, add_special_tokens=False).ids[: self._spec.text.max_tokens]
        first, last = self._ends
        return Prepared(len(ids) + 2, _Text([first, *ids, last], role == "query" or len(ids) < _FEW_TOKENS))

    def forward(self, batch: Sequence[Prepared]) -> Encoded:
        """Vectors `[B, 384]`, `[B, L·E]` routes with adapters, and classes `[B, 1000]`; float32 arrays."""
        vectors = np.empty((len(batch), self.info.dim), np.float32)
        routes = None if self._routing is None else np.empty((len(batch), self._routing.mean.size), np.float32)
        classes = np.zeros((len(batch), self.info.classes), np.float32)
        pictured = {row: one.data.prepared for row, one in enumerate(batch) if isinstance(one.data, _Pictured)}
        if pictured:
            import torch

            with torch.inference_mode():
                seen = self._whole().forward(list(pictured.values()))
            rows = list(pictured)
            vectors[rows] = np.asarray(seen.vectors)
            if self.info.classes:
                classes[rows] = np.asarray(seen.classes)
            if routes is not None:
                routes[rows] = np.asarray(seen.routes)
        for rows, found in self._read(batch):
            vectors[rows] = found[0]
            if routes is not None:
                routes[rows] = found[1]
        return Encoded(vectors, routes, classes)

    def _read(self, batch: Sequence[Prepared]) -> Iterator[tuple[list[int], engine.Arrays]]:
        """Rows with texts alone, and their vectors and routes."""
        texts = {row: one.data for row, one in enumerate(batch) if isinstance(one.data, _Text)}
        for exact in (True, False):
            own = {row: len(one.ids) for row, one in texts.items() if (one.exact or self._same) is exact}
            if not (groups := list(_alike(own))):
                continue
            first, self._first = self._first, None
            if first is not None and len(texts) == 1 and (text := texts[groups[0][0]]).exact:
                yield groups[0], self._alone(first, text.ids)
                continue
            runner = self._exact if exact and (len(groups) == 1 or not self._same) else self._many
            inputs = (self._inputs([texts[row].ids for row in rows]) for rows in groups)
            for rows, (vectors, *routes) in zip(groups, runner.run(inputs), strict=True):
                yield rows, [vectors, *(self._centred(one) for one in routes)]

    def _inputs(self, texts: Sequence[list[int]]) -> engine.Arrays:
        """Texts padded to the same length, as `mini_graph.encoder` takes them."""
        longest = _rounded(max(map(len, texts)))
        places, real = np.zeros((len(texts), longest), np.int64), np.zeros((len(texts), longest), np.float32)
        for row, ids in enumerate(texts):
            places[row, : len(ids)] = ids
            real[row, : len(ids)] = 1 / len(ids)
        inputs = [self._table[places], real]
        if self._routing is None:
            return inputs
        if not self._routing.last:
            return [*inputs, real]
        counted = np.zeros_like(real)
        counted[np.arange(len(texts)), [len(ids) - 1 for ids in texts]] = 1
        return [*inputs, counted]

    def _alone(self, encoder: mini_arrays.Encoder, ids: list[int]) -> engine.Arrays:
        """The vector and the route of one text, without the engine."""
        counted = np.full(len(ids), 1 / len(ids), np.float32)
        if self._routing is not None and self._routing.last:
            counted = np.eye(1, len(ids), len(ids) - 1, dtype=np.float32)[0]
        vectors, routes = encoder.run(self._table[ids], counted)
        return [vectors] if self._routing is None else [vectors, self._centred(routes)]

    def _centred(self, routes: Array) -> Array:
        """As `routing.centred`."""
        assert self._routing is not None
        routes = routes - self._routing.mean
        centred: Array = routes / np.maximum(np.linalg.norm(routes, axis=1, keepdims=True), 1e-12)
        return centred

    @cached_property
    def _graph(self) -> engine.Graph:
        return self._make_graph()

    @cached_property
    def _exact(self) -> engine.Runner:
        return engine.Runner(self._graph, "f32")

    @cached_property
    def _many(self) -> engine.Runner:
        return engine.Runner(self._graph, _PRECISIONS[self.info.dtype], many=True)

    def _whole(self) -> Backbone:
        """All of `mini`, in torch."""
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load_whole()
            return self._loaded


def _rounded(length: int) -> int:
    return -(-length // _STEP) * _STEP


def _alike(lengths: dict[int, int]) -> Iterator[list[int]]:
    """Rows of similar lengths together, about as many as suit one core at once, in parts of equal size.

    So many as add little padding: one more input costs the engine as much as `_WASTE` tokens.
    """
    rows = sorted(lengths, key=lambda row: lengths[row])
    while rows:
        tokens = count = 0
        for row in rows:
            longest = _rounded(lengths[row])
            if longest * count - tokens > max(_WASTE, tokens / 8):
                break
            tokens, count = tokens + longest, count + 1
        alike, rows = rows[:count], rows[count:]
        parts = max(1, round(len(alike) * _rounded(lengths[alike[-1]]) / _TOKENS))
        for part in range(parts):
            yield alike[part * len(alike) // parts : (part + 1) * len(alike) // parts]


def load(ref: ModelRef, whole: Callable[[], Backbone]) -> MiniOnCpu | None:
    """Load `mini-base`, or a checkpoint on it, all of its blocks or the first; None where the engine is not installed,
    or cannot take it. `whole` loads it in torch.

    Raises `ModelError` for files that are missing or damaged.
    """
    if (facts := engine.facts()) is None:
        return None
    info = ModelInfo(
        name=ref.name,
        fingerprint=ref.fingerprint,
        dim=mini_spec.DIM,
        parameters=mini_spec.PARAMETERS,
        device="cpu",
        dtype=next(name for name, precision in _PRECISIONS.items() if precision == facts.precision),
        calibration=mini_spec.CALIBRATION,
        classes=mini_spec.CLASSES,
        engine=facts.name,
    )
    experts = routing = None
    encoder, depth = weights.arrays(mini_spec.file_path("encoder")), ref.depth or mini_graph.LAYERS
    gone = _beyond(encoder, depth)
    if ref.folder is not None:
        said = checkpoint.read(ref.folder)
        paths = path_settings.of_method(said.method, ref.folder / checkpoint.MARKER)
        if paths is not None and (paths.kind != "suffix" or paths.used != 1):
            return None  # the first path of a suffix is the model itself
        try:
            settings = AdapterSettings.from_json(said.method)
        except (KeyError, TypeError, ValueError, AttributeError, ModelError):
            return None  # in torch it is refused, with the reason
        experts = mini_graph.Experts(settings, *checkpoint.arrays(ref.folder))
        blocks = sum(mini_graph.within(name, depth) for name in experts.routers)
        if not experts.fit() or not blocks:
            return None
        gone += _beyond(experts.tensors, depth) + _beyond(experts.routers, depth)
        mean = np.array(said.mean[: blocks * settings.experts], np.float32)
        routing = _Routing(mean, settings.tokens == "last")
        info = replace(
            info,
            parameters=info.parameters + weights.numbers(ref.folder.glob("*.safetensors")),
            routes=(blocks, settings.experts),
            calibration=said.calibration,
            route_weight=said.route_weight,
            notes={"base": said.base.name},
        )
    if depth > mini_graph.LAYERS:
        return None
    if ref.depth is not None:
        info = replace(cut_facts(info, ref), parameters=info.parameters - gone)
    file = mini_spec.file_path("encoder").stat()
    name, state = f"mini-{ref.fingerprint}", f"2 {file.st_size} {file.st_mtime_ns}"  # raise the number with the graph

    def graph() -> engine.Graph:
        return engine.Graph(
            name,
            state,
            lambda: mini_graph.encoder(weights.arrays(mini_spec.verified("encoder")), experts, depth),
        )

    # One that is kept was made of weights that were verified then.
    if engine.is_kept(name, state) and _one_thread():
        first = mini_arrays.Encoder(encoder, experts, depth)
        return MiniOnCpu(info, graph, first, routing, whole)
    try:
        made = graph()
    except RuntimeError as error:
        import logging

        logging.getLogger(__name__).warning("The engine does not take %s, PyTorch does instead: %s", ref.name, error)
        return None
    return MiniOnCpu(info, lambda: made, None, routing, whole)


def _beyond(tensors: Mapping[str, Array], depth: int) -> int:
    """Numbers in the blocks beyond the first `depth`."""
    return sum(one.size for name, one in tensors.items() if not mini_graph.within(name, depth))


def _one_thread() -> bool:
    """Tell whether NumPy computes in one thread. Several would wait for each other in a loop, and on busy cores that
    takes ten times as long.
    """
    return any(os.environ.get(name) == "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
