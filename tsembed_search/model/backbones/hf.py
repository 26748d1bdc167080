"""Any multimodal language model of the families in `families.py`, run on transformers, from its folder to its vectors.

Sequences are padded on the right. In a causal decoder no real token can see what comes after it, so an item needs no
attention mask (which keeps the fastest attention kernels usable) and its vector does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tsembed_search.documents.pictures import open_image
from tsembed_search.errors import ModelError
from tsembed_search.items import InputSpec, Item, Role, TextSpec
from tsembed_search.model import backbone as devices
from tsembed_search.model import files as weights
from tsembed_search.model.backbone import Encoded, ModelInfo, Prepared
from tsembed_search.model.backbones import families, hf_paths
from tsembed_search.model.backbones.inputs import VISIONS, Picture, Prompt, Vision
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.moe_lora import Adapters, attach
from tsembed_search.model.parallel import ParallelPaths, checked
from tsembed_search.model.routing import Traced, centred, counted_tokens
from tsembed_search.model.shortened import noted
from tsembed_search.wording import brief

if TYPE_CHECKING:
    from tsembed_search.model.backbone import ModelRef
    from tsembed_search.model.path_settings import PathSettings

_CPU_TOKENS = 2048  # a batch that keeps two or more cores busy
_ROOMY = 4 * 2**30  # bytes of free memory


@dataclass(frozen=True)
class Inputs:
    """One item: token `ids` `[T]`, `positions` `[4, T]` (text, time, row, column) for models that need them."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64] | None
    picture: Picture | None


class TransformersBackbone:
    """A `Trainable`: a transformers model without its language-model head, pooled at the last token."""

    look_width = 0  # a picture has no short form that training leaves alone

    def __init__(
        self,
        model: torch.nn.Module,
        family: families.Family,
        prompt: Prompt,
        vision: Vision,
        info: ModelInfo,
        text: TextSpec,
    ) -> None:
        self.model = model
        self.family = family
        self.info = info
        self.inputs = InputSpec(vision.spec, text, reads_pages=True)
        self.adapters: Adapters | None = None
        self._prompt = prompt
        self._vision = vision
        self._image_token = prompt.token(vision.token)
        parameter = next(model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._needs = devices.needs(model.config, self._dtype.itemsize)
        free = devices.free_bytes(self._device)
        self.batch_tokens = _CPU_TOKENS if free is None else self._needs.forward_tokens(free)

    def training_tokens(self, checkpointing: bool = False) -> int:
        free = devices.free_bytes(self._device)
        tokens = _CPU_TOKENS if free is None else self._needs.training_tokens(free, checkpointing)
        return tokens if self.adapters is None or self.adapters.paths is None else tokens // self.adapters.paths.passes

    def prepare(self, item: Item, role: Role = "document") -> Prepared:
        """Tokens, positions and uint8 pixels of one item. Raises `LoadError` for a picture that cannot be read."""
        picture, instruction = None, item.instruction
        if item.image is not None:
            picture = self._vision.picture(open_image(item.image, self._vision.spec).pixels)
        if instruction is None:
            instruction = (self.family.query_instruction if role == "query" else None) or self.family.instruction
        ids = np.asarray(self._prompt.encode(instruction, picture.markup if picture else "", item.text or ""), np.int64)
        positions = _positions(ids, self._image_token, picture) if self._vision.positional else None
        return Prepared(len(ids), Inputs(ids, positions, picture))

    def adapt(self, settings: AdapterSettings) -> Adapters:
        """Put fresh adapters beside the decoder's projections. Raises `ModelError` for settings with a projector."""
        if settings.projector:
            raise ModelError("Only mini has a projector to train.", "Set adapter.projector to false.")
        self.adapters = attach(self.model, settings, self.family.blocks)
        self.info = replace(self.info, routes=self.adapters.shape)
        return self.adapters

    def add_paths(self, settings: PathSettings) -> None:
        """Give the model fresh parallel paths; it needs adapters first. Raises `ModelError`."""
        assert self.adapters is not None
        paths = ParallelPaths(checked(settings, self.adapters.settings.experts), self.adapters.routing)
        last = self._prompt.encode(self.family.instruction, "", "")[-1]
        table = cast(Any, self.model).get_input_embeddings()
        like = table(torch.tensor(last, device=self._device))
        if settings.kind == "suffix":
            paths.add_tokens(like)
        elif settings.kind == "prefix":
            keys = cast(Any, self.blocks[0]).self_attn.k_proj
            paths.add_prefixes(len(self.blocks), getattr(keys, "base_layer", keys).out_features, like)
            hf_paths.use_prefixes(self.model, self.adapters.routing)
        self.adapters.paths = paths
        self.info = replace(self.info, dim=settings.dim(self.info.dim))

    @property
    def blocks(self) -> torch.nn.ModuleList:
        return cast(torch.nn.ModuleList, self.model.get_submodule(self.family.blocks))

    def compile(self, **options: Any) -> None:
        assert self.adapters is not None
        self.adapters.compile(self.blocks, **options)

    def train(self, mode: bool = True) -> None:
        self.model.train(mode)

    def enable_gradient_checkpointing(self) -> None:
        settings: dict[str, Any] = {"use_reentrant": False}
        if self.adapters is not None:
            settings["context_fn"] = self.adapters.routing.checkpoint_context
        model = cast(Any, self.model)
        if hasattr(model, "activation_checkpointing_enable"):  # its newer name
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)

    def forward(self, batch: Sequence[Prepared]) -> Encoded:
        """`[B, D]` unit vectors, and `[B, L·E]` routes with adapters. Gradients flow where parameters ask for them."""
        if self.adapters is None:
            return Encoded(self._vectors(batch))
        traced = self.trace(batch, losses=False)
        return Encoded(traced.vectors, centred(traced.routes, self.adapters.mean.to(self._device)))

    def trace(self, batch: Sequence[Prepared], losses: bool = True) -> Traced:
        assert self.adapters is not None
        paths = self.adapters.paths
        if paths is None:
            return self._pass(batch, losses)
        if paths.settings.kind == "suffix":
            return paths.finished(self._pass(batch, losses, paths.wanted(losses)))
        with hf_paths.seeing_once(self.model):
            return paths.several(lambda: self._pass(batch, losses), losses)

    def _pass(self, batch: Sequence[Prepared], losses: bool, paths: int = 0) -> Traced:
        """One pass of the model; with suffixes of `paths`, its vectors are `[B, paths, D]`."""
        assert self.adapters is not None
        lengths = torch.tensor([one.tokens for one in batch])
        suffix = self.adapters.paths.suffix(paths) if paths and self.adapters.paths is not None else None
        longest = int(lengths.max()) + (0 if suffix is None else len(suffix))
        real = self._move(torch.arange(longest) < lengths[:, None])
        counted = None
        if (tokens := self.adapters.settings.tokens) != "all":
            rows = [torch.from_numpy(cast(Inputs, one.data).ids == self._image_token) for one in batch]
            image = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            image = functional.pad(image, (0, longest - image.shape[1]))
            counted = counted_tokens(tokens, real, self._move(image))
        depths = self.adapters.depths if losses else ()
        with self.adapters.tracing(real, counted, losses) as trace:
            traced = trace.finished(self._vectors(batch, suffix, paths, depths))
        return traced.with_shallow() if depths else traced

    @torch.no_grad()
    def without_adapters(self, batch: Sequence[Prepared]) -> Tensor:
        assert self.adapters is not None
        with self.adapters.off():
            found = self._vectors(batch)
        return found if self.adapters.paths is None else self.adapters.paths.without(found)

    def _vectors(
        self, batch: Sequence[Prepared], suffix: Tensor | None = None, paths: int = 1, depths: Sequence[int] = ()
    ) -> Tensor:
        """`[B, D]`; with tokens `suffix` `[(paths - 1) · n, d]` after each item `[B, paths, D]`; with `depths`
        `[B, 1 + K, D]`.
        """
        items = [cast(Inputs, one.data) for one in batch]
        lengths = torch.tensor([one.tokens for one in batch])
        after = 0 if suffix is None else len(suffix)
        longest = int(lengths.max()) + after
        ids = np.zeros((len(items), longest), np.int64)  # token 0 pads: any would do, nothing real looks at it
        # The text row counts on through the padding: a jump would look like a second packed sequence.
        positions = np.tile(np.arange(longest), (4, len(items), 1))
        for row, item in enumerate(items):
            ids[row, : len(item.ids)] = item.ids
            if item.positions is not None:
                positions[:, row, : len(item.ids)] = item.positions
                following = item.positions[:, -1:] + 1 + np.arange(after)
                positions[:, row, len(item.ids) : len(item.ids) + after] = following
        arguments: dict[str, Any] = {"input_ids": self._move(torch.from_numpy(ids))}
        if self._vision.positional:
            arguments["position_ids"] = self._move(torch.from_numpy(positions))
        if pictures := [item.picture for item in items if item.picture is not None]:
            arguments |= self._vision.collate(pictures, self._device, self._dtype)
        try:
            with hf_paths.after(self.model, suffix, lengths), noted(self.blocks, depths) as shallow:
                hidden = self.model(**arguments, use_cache=False, return_dict=True).last_hidden_state
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"The model {self.info.name} cannot be run: {brief(error)}.",
                "Its configuration does not fit its weights, or this version of transformers: download it again.",
            ) from error
        rows = torch.arange(len(hidden), device=hidden.device)
        ends = lengths - 1
        own = hidden[rows, ends].float()
        if depths:
            norm = self.model.get_submodule(f"{self.family.blocks.rpartition('.')[0]}.norm")
            own = torch.stack([own, *(norm(one[rows, ends]).float() for one in shallow)], 1)
        if suffix is None:
            return functional.normalize(own, dim=-1)
        assert self.adapters is not None and self.adapters.paths is not None
        last = len(suffix) // (paths - 1) * torch.arange(1, paths)  # the last token of each other path
        seen = hidden[rows[:, None], ends[:, None] + self._move(last)].float()
        return self.adapters.paths.beside(own, seen)

    def _move(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)


def _positions(ids: NDArray[np.int64], token: int, picture: Picture | None) -> NDArray[np.int64]:
    """`[4, T]`: place in the sequence, then time, row and column for rotary embeddings in three dimensions.

    A picture's tokens share one moment and lie on a grid; the text after it goes on from the grid's longer side. Wang
    et al., *Qwen2-VL*, arXiv 2409.12191, section 2.1.
    """
    count = len(ids)
    positions = np.tile(np.arange(count), (4, 1))
    if picture is not None:
        rows, columns = picture.grid
        start = int(np.argmax(ids == token))
        end = start + rows * columns
        positions[1, start:end] = start
        positions[2, start:end] = start + np.repeat(np.arange(rows), columns)
        positions[3, start:end] = start + np.tile(np.arange(columns), rows)
        positions[1:, end:] = start + max(rows, columns) + np.arange(count - end)
    return positions


def load(ref: ModelRef, device: str = "auto", dtype: torch.dtype | None = None) -> TransformersBackbone:
    """Load a model folder, frozen. `dtype` is by default bfloat16 where the device has it, float32 elsewhere: not
    float16, for these models were trained in bfloat16, and some of their activations exceed its range.

    Raises `ModelError` when files are missing, do not belong together, or hold weights that are not finite, and when
    the weights do not fit on the GPU.
    """
    assert ref.folder is not None
    family, target = families.FAMILIES.get(ref.family), devices.pick(device)
    dtype = dtype or (torch.bfloat16 if devices.has_bfloat16(target) else torch.float32)
    devices.check_room(ref.name, weights.numbers(weights.weight_files(ref.folder)), dtype, target)
    whole = load_whole(ref.folder, family, dtype, target)
    try:
        model = whole.model.to(target).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise _too_large(ref.folder, str(target)) from error
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"The weights in {ref.folder} are damaged: {name} holds numbers that are not finite.",
                "Download the model again.",
            )
    tokenizer = ref.folder / "tokenizer.json"
    template = family.template.replace("{bos}", _first_token(ref.folder))
    prompt = Prompt(tokenizer, template, family.lead, family.max_tokens)
    try:
        vision = VISIONS[family.vision](model.config, image_settings(ref.folder), family)
    except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ModelError(
            f"The configuration of {ref.name} lacks something its family needs: {brief(error)}.",
            "Download the model again.",
        ) from error
    info = ModelInfo(
        name=ref.name,
        fingerprint=ref.fingerprint,
        dim=int(model.config.get_text_config().hidden_size),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        device=devices.describe(target),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        trainable=True,
        notes={"family": family.name, "instruction": family.instruction, "pooling": "last token"},
    )
    text = TextSpec(tokenizer, family.max_tokens, overlap=family.max_tokens // 8)
    backbone = TransformersBackbone(model, family, prompt, vision, info, text)
    tokens, rows = prompt.largest_id + 1, model.get_input_embeddings().num_embeddings
    if tokens > rows:
        raise ModelError(
            f"The tokenizer of {ref.name} has more tokens than the model knows ({tokens:,} and {rows:,}).",
            "They belong to different models: download it again, all of its files.",
        )
    return backbone


def load_whole(
    folder: Path, family: families.Family, dtype: torch.dtype | str = "auto", device: torch.device | None = None
) -> Any:
    """The transformers model of a folder on the CPU, with its language-model head; `model` is the part that we run.

    `dtype` `auto` keeps that of the weights; `device` is where it will run. Raises `ModelError` (see `load`).
    """
    import transformers

    for file in weights.weight_files(folder):
        weights.read_header(file)
    model_class = getattr(transformers, family.model_class, None)
    if model_class is None:
        raise ModelError(
            f"transformers {transformers.__version__} has no {family.model_class}.", "Install a newer one."
        )
    device = device or torch.device("cpu")
    # Onto a GPU piece by piece, not the whole of it through the host's memory in every process. Where little is free a
    # model is small, and transformers, which sets more than a gigabyte aside, would fail.
    straight = device.type == "cuda" and (devices.free_bytes(device) or 0) >= _ROOMY
    try:
        with quiet():
            whole, report = model_class.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=attention(device),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                device_map={"": device} if straight else None,
            )
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _too_large(folder, "this machine") from error
    except Exception as error:  # a library that builds whatever a configuration says, and lets anything through
        raise ModelError(
            f"The model in {folder} cannot be loaded: {brief(error)}.", "Download the model again."
        ) from error
    # The whole model knows more published layouts of weights than its headless part does, so it is loaded and beheaded.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("lm_head"))
    if missing:
        raise ModelError(
            f"The weights in {folder} lack {len(missing)} tensors, {missing[0]} among them.",
            "They belong to another model, or are incomplete: download the model again.",
        )
    return whole


def _too_large(folder: Path, place: str) -> ModelError:
    return ModelError(
        f"The model in {folder} does not fit in the memory of {place}.", "Use a smaller model, or the CPU: {device}."
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers shows no progress bars, and does not report the language-model head that is left out."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def attention(device: torch.device) -> str:
    """Flash attention where its package is installed and the GPU can run it, else PyTorch's own fused one."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if devices.has_bfloat16(device) and is_flash_attn_2_available() else "sdpa"


def image_settings(folder: Path) -> Mapping[str, Any]:
    """The image processor's settings, from either of the two files that transformers has kept them in."""
    single, joint = folder / "preprocessor_config.json", folder / "processor_config.json"
    if single.is_file():
        return weights.read_json(single)
    if joint.is_file() and isinstance(settings := weights.read_json(joint).get("image_processor"), dict):
        return settings
    raise ModelError(f"{folder} lacks preprocessor_config.json.", "Download the model again, all of its .json files.")


def _first_token(folder: Path) -> str:
    """The token that the tokenizer begins a sequence with, or nothing."""
    file = folder / "tokenizer_config.json"
    token = weights.read_json(file).get("bos_token") if file.is_file() else None
    return str(token.get("content", "") if isinstance(token, dict) else token or "")
