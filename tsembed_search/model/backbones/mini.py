"""`mini`: a small multimodal encoder that needs no download from a hub.

A picture enters MiniLM as a *soft caption*: the vision tower's class probabilities p (1,000 ImageNet classes) average a
table of learned word vectors, `tokens = p @ table`, and these stand in the input sequence where words would. So a text,
a picture, or a picture with a text go through one forward pass and one mean pooling:

    [CLS] w1 w2 ... [SEP]        [CLS] i1 i2 i3 i4 [SEP]        [CLS] i1 i2 i3 i4 w1 w2 ... [SEP]

The table was fitted without a single picture-text pair, so that a soft caption means to MiniLM what the class names
mean (`examples/mini/soft_caption.py`; the target is ConSE, Norouzi et al., arXiv 1312.5650).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tsembed_search.errors import ModelError
from tsembed_search.items import InputSpec, Item, Role
from tsembed_search.model.backbone import Encoded, ModelInfo, Needs, Prepared, free_bytes, pick
from tsembed_search.model.backbones import mini_spec
from tsembed_search.model.backbones.mini_encoder import MiniEncoder, Suffix
from tsembed_search.model.backbones.mini_plan import CAPTION_TOKENS, Plan
from tsembed_search.model.backbones.mini_vision import SLICE, Projector, VisionTower, parts

if TYPE_CHECKING:
    from tsembed_search.model.expert_settings import AdapterSettings
    from tsembed_search.model.moe_lora import Adapters
    from tsembed_search.model.path_settings import PathSettings
    from tsembed_search.model.routing import Traced

_CPU_TOKENS, _GPU_TOKENS = 4096, 65536
_NEEDS = Needs(forward=110 * 1024, training=330 * 1024, checkpointed=160 * 1024)
"""Bytes per token: forward those of a picture in the tower, 9 MiB for its 86 tokens; a text's takes a seventh."""


@dataclass
class _Input:
    """`ids`: word pieces without special tokens. `pixels`: uint8 `[260, 260, 3]`.

    The tower is not trained, so after the first step of training what it saw takes the pixels' place: see `Mini.look`.
    """

    ids: list[int]
    pixels: Tensor | None
    seen: Tensor | None = None

    @property
    def pictured(self) -> bool:
        return self.pixels is not None or self.seen is not None


class _Group(NamedTuple):
    """Rows of a batch, their input vectors `words` `[G, T, 384]`, and which tokens are `real` (None: all), of an
    `image`, and of a `suffix`, all `[G, T]`.
    """

    rows: list[int]
    words: Tensor
    real: Tensor | None
    image: Tensor
    suffix: Suffix | None = None


class _Groups(NamedTuple):
    """A batch in groups; `order` `[B]`: the place of each of its rows among theirs. `classes` as in `Encoded`."""

    groups: list[_Group]
    order: Tensor
    classes: Tensor


class Mini:
    """The backbone behind `mini-base`, and with adapters behind `mini`. The first picture loads the vision tower."""

    def __init__(self, device: torch.device) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self._device = device
        self._spec = mini_spec.inputs()
        self._tokenizer = Tokenizer.from_file(str(mini_spec.verified("tokenizer")))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        state = load_file(mini_spec.verified("encoder"), device=str(device))
        self.encoder = MiniEncoder.from_state(state)
        self.ends: list[int] = self._tokenizer.encode("").ids
        self.adapters: Adapters | None = None
        self.projector: Projector | None = None
        self.info = ModelInfo(
            name="mini-base",
            fingerprint=mini_spec.FINGERPRINT,
            dim=mini_spec.DIM,
            parameters=mini_spec.PARAMETERS,
            device=str(self._device),
            dtype="float32",
            trainable=True,
            classes=mini_spec.CLASSES,
            calibration=mini_spec.CALIBRATION,
        )

    def adapt(self, settings: AdapterSettings) -> Adapters:
        """Puts fresh MoE-LoRA adapters beside the encoder's projections; from now on items have routing vectors."""
        from tsembed_search.model.moe_lora import attach

        self.adapters = attach(self.encoder, settings, "encoder.layer")
        if settings.projector:
            self.projector = self.adapters.projector = Projector(self._device)
        self.info = replace(self.info, routes=self.adapters.shape)
        return self.adapters

    def add_paths(self, settings: PathSettings) -> None:
        """Gives the model fresh parallel paths; it needs adapters first. Raises `ModelError`."""
        from tsembed_search.model.parallel import ParallelPaths, checked

        assert self.adapters is not None
        paths = ParallelPaths(checked(settings, self.adapters.settings.experts), self.adapters.routing)
        like = self.encoder.words(torch.tensor(self.ends[-1:], device=self._device))[0]
        if settings.kind == "suffix":
            paths.add_tokens(like)
            most = self._spec.text.max_tokens + 2 + CAPTION_TOKENS + (settings.count - 1) * settings.length
            if most > (places := self.encoder.places):
                raise ModelError(
                    f"A text with its paths would have {most} tokens, and mini has places for {places}.",
                    "Use fewer or shorter paths.",
                )
        elif settings.kind == "prefix":
            paths.add_prefixes(len(self.blocks), mini_spec.DIM, like)
        self.adapters.paths = paths
        self.info = replace(self.info, dim=settings.dim(self.info.dim))

    @property
    def blocks(self) -> torch.nn.ModuleList:
        """The encoder's layers."""
        return self.encoder.encoder.layer

    @property
    def inputs(self) -> InputSpec:
        """Pictures of 260 x 260 on white, texts of at most 254 word pieces."""
        return self._spec

    @cached_property
    def batch_tokens(self) -> int:
        """Beyond this a CPU gains nothing; on a GPU what fits."""
        free = free_bytes(self._device)
        return _CPU_TOKENS if free is None else _NEEDS.forward_tokens(free, _GPU_TOKENS)

    def training_tokens(self, checkpointing: bool = False) -> int:
        """Padded tokens with gradients that fit at once in the memory that is free now."""
        free = free_bytes(self._device)
        tokens = _CPU_TOKENS if free is None else _NEEDS.training_tokens(free, checkpointing, _GPU_TOKENS)
        return tokens if self.adapters is None or self.adapters.paths is None else tokens // self.adapters.paths.passes

    def prepare(self, item: Item, role: Role = "document", seen: Tensor | None = None) -> Prepared:
        """Word pieces and pixels. Mini prompts a query no differently from a document; an instruction of the item's own
        precedes its text. With what `look` gave for its picture, the picture is not opened.
        """
        ids: list[int] = []
        if words := " ".join(part for part in (item.instruction, item.text) if part):
            ids = self._tokenizer.encode(words, add_special_tokens=False).ids[: self._spec.text.max_tokens]
        if seen is not None:
            return Prepared(len(ids) + 2 + CAPTION_TOKENS, _Input(ids, None, seen))
        pixels = None
        if item.image is not None:
            from tsembed_search.documents.pictures import open_image

            pixels = torch.from_numpy(open_image(item.image, self._spec.image).pixels)
        return Prepared(len(ids) + 2 + (0 if pixels is None else mini_spec.PICTURE_TOKENS), _Input(ids, pixels))

    def forward(self, batch: Sequence[Prepared]) -> Encoded:
        """Vectors `[B, 384]`, `[B, L·E]` routes with adapters, and probabilities `[B, 1000]` of what pictures show."""
        groups = self._groups(batch)
        if self.adapters is None:
            return Encoded(self._vectors(groups), None, groups.classes)
        from tsembed_search.model.routing import centred

        traced = self._traced(groups, losses=False)
        return Encoded(traced.vectors, centred(traced.routes, self.adapters.mean.to(self._device)), groups.classes)

    def trace(self, batch: Sequence[Prepared], losses: bool = True) -> Traced:
        """The model on a batch, for training: vectors `[B, 384]` and what the routers decided. Needs adapters.

        Keep what was prepared from pictures: each is looked at the first time only, which is most of its cost.
        """
        return self._traced(self._groups(batch, keep=True, losses=losses), losses)

    @torch.no_grad()
    def without_adapters(self, batch: Sequence[Prepared]) -> Tensor:
        """The model without its experts, but with its projector: `[B, 384]`. Keeps what it saw, as `trace` does."""
        assert self.adapters is not None
        with self.adapters.off():
            found = self._vectors(self._groups(batch, keep=True, paths=False))
        return found if self.adapters.paths is None else self.adapters.paths.without(found)

    def _vectors(self, batch: _Groups) -> Tensor:
        return self._in_order([self.encoder(one.words, one.real) for one in batch.groups], batch.order)

    def _traced(self, batch: _Groups, losses: bool) -> Traced:
        assert self.adapters is not None
        paths = self.adapters.paths
        if paths is None:
            return self._pass(batch, losses)
        if paths.settings.kind == "suffix":
            return paths.finished(self._pass(batch, losses))
        return paths.several(lambda: self._pass(batch, losses), losses)

    def _pass(self, batch: _Groups, losses: bool) -> Traced:
        from tsembed_search.model.routing import Traced, counted_tokens

        assert self.adapters is not None
        parts: list[tuple[list[int], Traced]] = []
        tokens, depths = self.adapters.settings.tokens, self.adapters.depths if losses else ()
        for rows, words, real, image, suffix in batch.groups:
            own, counted = real, None
            if suffix is not None:  # what stands after the input is no part of its route
                own = suffix.place == 0 if real is None else real & (suffix.place == 0)
            if tokens != "all":
                counted = counted_tokens(tokens, torch.ones_like(image) if own is None else own, image)
            with self.adapters.tracing(own, counted, losses) as trace:
                vectors = self.encoder(words, real, suffix, self.adapters.routing.prefix, depths)
                parts.append((rows, trace.finished(vectors)))
        traced = Traced(
            vectors=self._in_order([part.vectors for _, part in parts], batch.order),
            routes=self._in_order([part.routes for _, part in parts], batch.order),
            probabilities=self._in_order([part.probabilities for _, part in parts], batch.order),
            choices=self._in_order([part.choices for _, part in parts], batch.order),
            z=torch.stack([part.z * (len(rows) / len(batch.order)) for rows, part in parts]).sum(),
        )
        return traced.with_shallow() if depths else traced

    @property
    def look_width(self) -> int:
        """Numbers in each row of what `look` gives."""
        return mini_spec.DIM + (0 if self.projector is None else mini_spec.FEATURES)

    def look(self, batch: Sequence[Prepared]) -> list[Tensor | None]:
        """Return what the tower sees in each item's picture, None without one: the soft caption `[4, 384]`, or with a
        projector `[4, 384 + 1280]`, features beside it, in half precision. Nothing that is trained changes it, and
        neither do the other pictures of the batch, to the last bit. On the CPU, whatever the device.
        """
        inputs: list[_Input] = [one.data for one in batch]
        found = [one.seen for one in inputs]
        rows = [row for row, one in enumerate(inputs) if one.pixels is not None]
        at_once = max(SLICE, self.batch_tokens // mini_spec.PICTURE_TOKENS // SLICE * SLICE)
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            pixels = [pixels for row in some if (pixels := inputs[row].pixels) is not None]
            pixels += pixels[-1:] * (-len(pixels) % SLICE)
            with torch.no_grad():
                seen = self._see(torch.stack(pixels))[0][: len(some)].cpu()
            for row, one in zip(some, seen, strict=True):
                found[row] = one
        return found

    def compile(self, **options: Any) -> None:
        """Runs the parts of the blocks through torch.compile from now on: see `Adapters.compile`."""
        assert self.adapters is not None
        self.adapters.compile(self.blocks, **options)

    def train(self, mode: bool = True) -> None:
        """Turns dropout and router noise on or off. The base itself has none."""
        self.encoder.train(mode)

    def enable_gradient_checkpointing(self) -> None:
        """Trades time for memory: in training mode, layers are computed again in the backward pass."""
        assert self.adapters is not None
        self.encoder.context_fn = self.adapters.routing.checkpoint_context

    def _groups(
        self, batch: Sequence[Prepared], keep: bool = False, losses: bool = False, paths: bool = True
    ) -> _Groups:
        """Rows of similar length together, so that little is computed for padding; with suffixes of `paths`, of all of
        them where there are `losses`.

        All that says where things go is laid out on the CPU and moved at once: a GPU waits for nothing.
        """
        inputs: list[_Input] = [one.data for one in batch]
        seen, classes = self._look(inputs, keep)
        captions = self._captions(seen)
        held = self.adapters.paths if paths and self.adapters is not None else None
        count = 0 if held is None else held.wanted(losses)
        tokens = None if held is None else held.suffix(count)
        after = (0, 0) if tokens is None else (count - 1, len(tokens) // (count - 1))
        plan = Plan([one.ids for one in inputs], [one.pictured for one in inputs], self.ends, *after)
        moved = self._move(torch.from_numpy(plan.numbers))
        source, order = self.encoder.words(moved[: plan.sources]), moved[plan.sources : plan.sources + len(batch)]
        if captions is not None:
            source = torch.cat([source, captions.flatten(0, 1)])
        if tokens is not None:
            source = torch.cat([source, tokens])
        groups = []
        for part in plan.parts:
            shape, start, size = (len(part.rows), part.longest), part.start, len(part.rows) * part.longest
            kinds = moved[start : start + plan.kinds * size].view(plan.kinds, *shape)
            words = functional.embedding(kinds[0], source)
            suffix = None if tokens is None or held is None else Suffix(kinds[3], held)
            groups.append(_Group(part.rows, words, None if part.full else kinds[1].bool(), kinds[2].bool(), suffix))
        return _Groups(groups, order, classes)

    def _in_order(self, parts: list[Tensor], order: Tensor) -> Tensor:
        """Rows of groups, each `[G, ...]`, as the batch had them: `[B, ...]`."""
        return torch.cat(parts)[order]

    def _look(self, inputs: Sequence[_Input], keep: bool) -> tuple[list[Tensor | None], Tensor]:
        """Return what is seen in each item's picture, if it has one, and the probabilities of classes in those that are
        seen now; with `keep` what is seen replaces the pixels.
        """
        found, classes = [one.seen for one in inputs], torch.zeros(len(inputs), mini_spec.CLASSES, device=self._device)
        rows = [row for row, one in enumerate(inputs) if one.pixels is not None]
        if rows:
            pixels = torch.stack([one.pixels for one in inputs if one.pixels is not None])
            together, probabilities = self._see(pixels)
            classes.index_copy_(0, self._move(torch.tensor(rows)), probabilities)
            for row, seen in zip(rows, together, strict=True):
                found[row] = seen
                if keep:
                    inputs[row].pixels, inputs[row].seen = None, seen
        return found, classes

    def _see(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the tower sees in `P` pictures, uint8 `[P, 260, 260, 3]` (see `look`), and its classes' flattened
        probabilities `[P, 1000]`.
        """
        batch = self._move(batch)
        with torch.autocast(self._device.type, enabled=False):  # what is seen is kept, and does not depend on the run
            if self.projector is None:
                probabilities = torch.softmax(self.tower.logits(batch) / mini_spec.TEMPERATURE, dim=-1)
                return self._soft_captions(probabilities), probabilities
            logits, features = self.tower.see(batch, parts)
            probabilities = torch.softmax(logits / mini_spec.TEMPERATURE, dim=-1)
            return torch.cat([self._soft_captions(probabilities), features], dim=-1).half(), probabilities

    def _move(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU on the device; nothing waits for the copy."""
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def _soft_captions(self, probabilities: Tensor) -> Tensor:
        """`[P, 1000]` to `[P, 4, 384]`."""
        likeliest, classes = probabilities.topk(mini_spec.TOP_CLASSES, dim=-1)
        likeliest = likeliest / likeliest.sum(dim=-1, keepdim=True)
        return torch.einsum("pk,pkmd->pmd", likeliest, self.table[classes])

    def _captions(self, seen: Sequence[Tensor | None]) -> Tensor | None:
        """The tokens of all pictures, `[P, 4, 384]` float32 on the device; None without pictures.

        What was seen before may lie on the CPU, in half precision.
        """
        pictured = [one for one in seen if one is not None]
        if not pictured:
            return None
        away = [one for one in pictured if one.device.type != self._device.type]
        moved = iter(self._move(torch.stack([one.float() for one in away])) if away else ())
        here = [one if one.device.type == self._device.type else next(moved) for one in pictured]
        together = torch.stack([one.float() for one in here])
        if self.projector is None:
            return together
        tokens: Tensor = self.projector(together[..., : mini_spec.DIM], together[..., mini_spec.DIM :])
        return tokens

    @cached_property
    def tower(self) -> VisionTower:
        """The vision tower. The package ships a pickled file; its checksum is pinned and only tensors are read."""
        state = torch.load(mini_spec.verified("vision"), map_location="cpu", weights_only=True)
        return VisionTower(state, mini_spec.IMAGE_SIZE, self._device)

    @cached_property
    def table(self) -> Tensor:
        """The word vectors of the picture classes, `[1000, 4, 384]`."""
        from safetensors.torch import load_file

        return load_file(mini_spec.verified("caption"), device=str(self._device))["table"].float()


def load(device: str = "auto") -> Mini:
    """Loads mini on a device. Raises `ModelError` when a file is missing or not the one it was made with."""
    return Mini(pick(device))
