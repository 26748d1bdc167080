"""`mini`: a small multimodal encoder that needs no download from a hub.

A picture enters MiniLM as a *soft caption*: the vision tower's class probabilities p (1,000 ImageNet classes) average a
table of learned word vectors, `tokens = p @ table`, and these stand in the input sequence where words would. So a text,
a picture, or a picture with a text go through one forward pass and one mean pooling:

    [CLS] w1 w2 ... [SEP]        [CLS] i1 i2 i3 i4 [SEP]        [CLS] i1 i2 i3 i4 w1 w2 ... [SEP]

The table was fitted without a single picture-text pair, so that a soft caption means to MiniLM what the class names
mean (`trainer/soft_caption.py`; the target is ConSE, Norouzi et al., arXiv 1312.5650).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tsembed_search.items import Item, Role
from tsembed_search.model.backbones import mini_spec
from tsembed_search.model.backbones.device import pick
from tsembed_search.model.backbones.mini_encoder import HIDDEN, MiniEncoder
from tsembed_search.model.backbones.mini_vision import VisionTower
from tsembed_search.model.backbones.protocol import Encoded, InputSpec, ModelInfo, Prepared

if TYPE_CHECKING:
    from tsembed_search.model.moe_lora import Adapters, AdapterSettings

TEMPERATURE = 1.5
TOP_CLASSES = 100
# What one picture costs in the tower, in tokens of the encoder (both are about 21 MFLOP a token).
_PICTURE_TOKENS = 86


@dataclass(frozen=True)
class _Input:
    """`ids`: word pieces without special tokens. `pixels`: uint8 `[260, 260, 3]`."""

    ids: list[int]
    pixels: Tensor | None


class Mini:
    """The backbone behind the name `mini`. The vision tower is loaded with the first picture, not before."""

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
        self._ends = self.encoder.words(torch.tensor(self.ends, device=device))
        self.adapters: Adapters | None = None
        self.info = ModelInfo(
            name="mini",
            fingerprint=mini_spec.FINGERPRINT,
            dim=mini_spec.DIM,
            parameters=mini_spec.PARAMETERS,
            device=str(self._device),
            dtype="float32",
            calibration=mini_spec.CALIBRATION,
        )

    def adapt(self, settings: AdapterSettings) -> Adapters:
        """Puts fresh MoE-LoRA adapters beside the encoder's projections; from now on items have routing vectors."""
        from tsembed_search.model.moe_lora import attach

        self.adapters = attach(self.encoder, settings, "encoder.layer")
        self.info = replace(self.info, routes=self.adapters.shape)
        return self.adapters

    @property
    def inputs(self) -> InputSpec:
        """Pictures of 260 x 260 on white, texts of at most 254 word pieces."""
        return self._spec

    @property
    def batch_tokens(self) -> int:
        """Beyond this a CPU gains nothing; a GPU has room for more."""
        return 4096 if self._device.type == "cpu" else 65536

    def prepare(self, item: Item, role: Role = "document") -> Prepared:
        """Word pieces and pixels. Mini takes no instruction and prompts a query no differently from a document."""
        ids: list[int] = []
        if item.text:
            ids = self._tokenizer.encode(item.text, add_special_tokens=False).ids[: self._spec.text.max_tokens]
        pixels = None
        if item.image is not None:
            from tsembed_search.images import open_image

            pixels = torch.from_numpy(open_image(item.image, self._spec.image).pixels)
        return Prepared(len(ids) + 2 + (0 if pixels is None else _PICTURE_TOKENS), _Input(ids, pixels))

    def forward(self, batch: Sequence[Prepared]) -> Encoded:
        """Vectors `[B, 384]`, and `[B, L·E]` routes with adapters.

        Rows are grouped by length, so that pictures are not padded to the length of texts.
        """
        inputs: list[_Input] = [one.data for one in batch]
        captions = self._captions([one.pixels for one in inputs if one.pixels is not None])
        vectors = torch.empty(len(inputs), HIDDEN, device=self._device)
        routes = None
        if self.adapters is not None:
            routes = torch.empty(len(inputs), self.adapters.mean.numel(), device=self._device)
        rows: dict[bool, list[int]] = {True: [], False: []}
        for row, one in enumerate(inputs):
            rows[bool(one.ids)].append(row)
        which = {row: place for place, row in enumerate(r for r, one in enumerate(inputs) if one.pixels is not None)}
        for group in rows.values():
            if group:
                sequences = [self._sequence(inputs[r].ids, captions[which[r]] if r in which else None) for r in group]
                vectors[group], routed = self._encode(sequences)
                if routes is not None and routed is not None:
                    routes[group] = routed
        return Encoded(vectors, routes)

    def _captions(self, pixels: list[Tensor]) -> Tensor:
        """Soft captions of `P` pictures: `[P, 4, 384]`."""
        if not pixels:
            return torch.empty(0)
        batch = torch.stack(pixels)
        if self._device.type == "cuda":
            batch = batch.pin_memory().to(self._device, non_blocking=True)
        probabilities = torch.softmax(self.tower.logits(batch) / TEMPERATURE, dim=-1)
        likeliest, classes = probabilities.topk(TOP_CLASSES, dim=-1)
        likeliest = likeliest / likeliest.sum(dim=-1, keepdim=True)
        return torch.einsum("pk,pkmd->pmd", likeliest, self.table[classes])

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

    def _sequence(self, ids: list[int], caption: Tensor | None) -> Tensor:
        """One item's input vectors `[T, 384]`."""
        parts = [self._ends[:1]]
        if caption is not None:
            parts.append(caption)
        if ids:
            parts.append(self.encoder.words(torch.tensor(ids, device=self._device)))
        return torch.cat([*parts, self._ends[1:]])

    def _encode(self, sequences: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        lengths = torch.tensor([len(one) for one in sequences], device=self._device)
        words = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        real = torch.arange(words.shape[1], device=self._device) < lengths[:, None]
        mask = None if bool(real.all()) else real
        if self.adapters is None:
            return self.encoder(words, mask), None
        from tsembed_search.model.routing import centred

        with self.adapters.tracing(mask) as trace:
            vectors: Tensor = self.encoder(words, mask)
        return vectors, centred(trace.routes(), self.adapters.mean.to(self._device))


def load(device: str = "auto") -> Mini:
    """Loads mini on a device. Raises `ModelError` when a file is missing or not the one it was made with."""
    return Mini(pick(device))
