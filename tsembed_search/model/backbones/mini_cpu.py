"""`mini` for embedding on a CPU: texts and pictures pass through the engine, without torch.

The first query of a process is computed in NumPy, which takes a tenth of the time that the engine takes to load.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsembed_search.errors import ModelError
from tsembed_search.items import InputSpec, Item, Role
from tsembed_search.model import checkpoint, engine, path_settings
from tsembed_search.model import files as weights
from tsembed_search.model.backbone import Encoded, ModelInfo, ModelRef, Prepared
from tsembed_search.model.backbones import mini_arrays, mini_eye, mini_graph, mini_spec
from tsembed_search.model.backbones.mini_plan import CAPTION_TOKENS
from tsembed_search.model.expert_settings import AdapterSettings, Tokens
from tsembed_search.model.shortened import cut_facts

# An input this large suits the engine, on each core.
_TOKENS = 1024
_MOST_THREADS = 16
# Lengths are rounded up: each new shape of an input costs the engine a few milliseconds.
_STEP = 4
# A query of so few tokens has a graph of this one size, which takes less time than one for any: shapes are known.
_SHORT = 12
_WASTE = 64
# bfloat16 rounds every token differently, and the mean over an item's tokens evens that out; over few it does not.
_FEW_TOKENS = 32
# With so many for a picture, 32 of them for each core make a batch.
_PICTURE_TOKENS = 62
_PRECISIONS: dict[str, engine.Precision] = {"bfloat16": "bf16", "float32": "f32"}

Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Item:
    """Word pieces without the special tokens, and pixels `[260, 260, 3]`. `exact`: to be computed in float32."""

    ids: list[int]
    pixels: NDArray[np.uint8] | None
    exact: bool


class _Row(NamedTuple):
    """An item as the encoder takes it: the vectors `[T, 384]` of its tokens, and each one's share `[T]` of its route.
    `exact`: as above.
    """

    words: Array
    counted: Array
    exact: bool


@dataclass(frozen=True)
class _Routing:
    """The mean raw routing vector `[L·E]` of the training data, and the tokens that a route is made of."""

    mean: Array
    tokens: Tokens


class MiniOnCpu:
    """The backbone behind `mini`, `mini-base` and checkpoints of them where items are embedded on a CPU.

    Queries and pictures are computed in float32, documents in bfloat16 where the CPU is faster in that. `first`
    computes the first query, where that is quicker than to ask `graph` for the engine's, which it gives for one short
    query (True) or for any input.
    """

    def __init__(
        self,
        info: ModelInfo,
        graph: Callable[[bool], engine.Graph],
        first: mini_arrays.Encoder | None,
        routing: _Routing | None,
        eye: mini_eye.Eye,
    ) -> None:
        from tokenizers import Tokenizer

        self.info = info
        self._spec = mini_spec.inputs()
        self._tokenizer = Tokenizer.from_file(str(mini_spec.verified("tokenizer")))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._ends: list[int] = self._tokenizer.encode("").ids
        self._table = weights.arrays(mini_spec.file_path("encoder"))["embeddings.word_embeddings.weight"]
        self._graph = graph
        self._first = first
        self._routing = routing
        self._eye = eye
        self._same = info.dtype == "float32"  # exact or not

    @property
    def inputs(self) -> InputSpec:
        """Pictures of 260 x 260 on white, texts of at most 254 word pieces."""
        return self._spec

    @property
    def batch_tokens(self) -> int:
        """Two inputs for each core: at the end of a batch, one core waits for the other."""
        return 2 * _TOKENS * min(engine.threads(), _MOST_THREADS)

    def prepare(self, item: Item, role: Role = "document") -> Prepared:
        """Word pieces and pixels, as `Mini.prepare` makes them."""
        ids: list[int] = []
        if words := " ".join(part for part in (item.instruction, item.text) if part):
            ids = self._tokenizer.encode(words, add_special_tokens=False).ids[: self._spec.text.max_tokens]
        if item.image is None:
            return Prepared(len(ids) + 2, _Item(ids, None, role == "query" or len(ids) < _FEW_TOKENS))
        from tsembed_search.documents.pictures import open_image

        pixels = open_image(item.image, self._spec.image).pixels
        return Prepared(len(ids) + 2 + _PICTURE_TOKENS, _Item(ids, pixels, exact=True))

    def forward(self, batch: Sequence[Prepared]) -> Encoded:
        """Vectors `[B, 384]`, `[B, L·E]` routes with adapters, and classes `[B, 1000]`; float32 arrays."""
        inputs: list[_Item] = [one.data for one in batch]
        vectors = np.empty((len(batch), self.info.dim), np.float32)
        routes = None if self._routing is None else np.empty((len(batch), self._routing.mean.size), np.float32)
        classes = np.zeros((len(batch), self.info.classes), np.float32)
        captions: dict[int, Array] = {}
        if pixels := {row: one.pixels for row, one in enumerate(inputs) if one.pixels is not None}:
            tokens, shown = self._eye.see(list(pixels.values()))
            captions = dict(zip(pixels, tokens, strict=True))
            if self.info.classes:  # a model that is cut gives none
                classes[list(pixels)] = shown
        for rows, found in self._read([self._row(one, captions.get(row)) for row, one in enumerate(inputs)]):
            vectors[rows] = found[0]
            if routes is not None:
                routes[rows] = found[1]
        return Encoded(vectors, routes, classes)

    def _row(self, one: _Item, caption: Array | None) -> _Row:
        first, last = self._ends
        words = self._table[[first, *one.ids, last]]
        if caption is not None:
            words = np.concatenate([words[:1], caption, words[1:]])
        return _Row(words, self._counted(len(words), caption is not None), one.exact)

    def _counted(self, count: int, pictured: bool) -> Array:
        """Each token's share of the item's route: see `routing.counted_tokens`."""
        tokens, place = "all" if self._routing is None else self._routing.tokens, np.arange(count)
        image = pictured & (place > 0) & (place <= CAPTION_TOKENS)
        chosen = {"all": place >= 0, "last": place == count - 1, "image": image, "text": ~image}[tokens]
        shares = chosen.astype(np.float32) if chosen.any() else np.ones(count, np.float32)
        found: Array = shares / shares.sum()
        return found

    def _read(self, given: Sequence[_Row]) -> Iterator[tuple[list[int], engine.Arrays]]:
        """Rows, and their vectors and routes."""
        for exact in (True, False):
            own = {row: len(one.words) for row, one in enumerate(given) if (one.exact or self._same) is exact}
            if not (groups := list(_alike(own))):
                continue
            first, self._first = self._first, None
            if first is not None and len(given) == 1 and given[0].exact:
                yield groups[0], self._alone(first, given[0])
                continue
            if len(given) == 1 and len(given[0].words) <= _SHORT:
                runner = self._short
            else:
                runner = self._exact if exact and (len(groups) == 1 or not self._same) else self._many
            inputs = (self._inputs([given[row] for row in rows]) for rows in groups)
            for rows, (vectors, *routes) in zip(groups, runner.run(inputs), strict=True):
                yield rows, [vectors, *(self._centred(one) for one in routes)]

    def _inputs(self, given: Sequence[_Row]) -> engine.Arrays:
        """Rows padded to the same length, as `mini_graph.encoder` takes them."""
        longest = max(len(one.words) for one in given)
        shape = len(given), _SHORT if len(given) == 1 and longest <= _SHORT else _rounded(longest)
        words = np.zeros((*shape, mini_spec.DIM), np.float32)
        real, counted = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for row, one in enumerate(given):
            count = len(one.words)
            words[row, :count], real[row, :count], counted[row, :count] = one.words, 1 / count, one.counted
        return [words, real] if self._routing is None else [words, real, counted]

    def _alone(self, encoder: mini_arrays.Encoder, one: _Row) -> engine.Arrays:
        """The vector and the route of one item, without the engine."""
        vectors, routes = encoder.run(one.words, one.counted)
        return [vectors] if self._routing is None else [vectors, self._centred(routes)]

    def _centred(self, routes: Array) -> Array:
        """As `routing.centred`."""
        assert self._routing is not None
        routes = routes - self._routing.mean
        centred: Array = routes / np.maximum(np.linalg.norm(routes, axis=1, keepdims=True), 1e-12)
        return centred

    @cached_property
    def _short(self) -> engine.Runner:
        return engine.Runner(self._graph(True), "f32")

    @cached_property
    def _exact(self) -> engine.Runner:
        return engine.Runner(self._graph(False), "f32")

    @cached_property
    def _many(self) -> engine.Runner:
        return engine.Runner(self._graph(False), _PRECISIONS[self.info.dtype], many=True)


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


def load(ref: ModelRef) -> MiniOnCpu | None:
    """Load `mini-base`, or a checkpoint on it, all of its blocks or the first; None where the engine is not installed,
    or cannot take it.

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
    experts = routing = projector = None
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
        if settings.projector:
            projector = weights.arrays(ref.folder / checkpoint.PROJECTOR)
        if not experts.fit() or not blocks or not (projector is None or mini_eye.fits(projector)):
            return None
        gone += _beyond(experts.tensors, depth) + _beyond(experts.routers, depth)
        mean = np.array(said.mean[: blocks * settings.experts], np.float32)
        routing = _Routing(mean, settings.tokens)
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

    @cache
    def graph(short: bool) -> engine.Graph:
        size = (1, _SHORT) if short else (-1, -1)
        return engine.Graph(
            f"mini-short-{ref.fingerprint}" if short else name,
            state,
            lambda: mini_graph.encoder(weights.arrays(mini_spec.verified("encoder")), experts, depth, size),
        )

    eye = mini_eye.Eye(projector)
    # One that is kept was made of weights that were verified then.
    if engine.is_kept(name, state) and _one_thread():
        first = mini_arrays.Encoder(encoder, experts, depth)
        return MiniOnCpu(info, graph, first, routing, eye)
    try:
        graph(False)
    except RuntimeError as error:
        import logging

        logging.getLogger(__name__).warning("The engine does not take %s, PyTorch does instead: %s", ref.name, error)
        return None
    return MiniOnCpu(info, graph, None, routing, eye)


def _beyond(tensors: Mapping[str, Array], depth: int) -> int:
    """Numbers in the blocks beyond the first `depth`."""
    return sum(one.size for name, one in tensors.items() if not mini_graph.within(name, depth))


def _one_thread() -> bool:
    """Tell whether NumPy computes in one thread. Several would wait for each other in a loop, and on busy cores that
    takes ten times as long.
    """
    return any(os.environ.get(name) == "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
