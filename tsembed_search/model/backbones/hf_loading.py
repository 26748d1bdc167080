"""A transformers model from its folder: checked, frozen, on its device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsembed_search import wording
from tsembed_search.errors import ModelError
from tsembed_search.model import backbone as devices
from tsembed_search.model import files as weights
from tsembed_search.model.backbones import families

if TYPE_CHECKING:
    import torch


_ROOMY = 4 * 2**30  # bytes of free memory


def load_frozen(folder: Path, family: families.Family, dtype: torch.dtype, device: torch.device) -> Any:
    """The model in evaluation mode, frozen, on its device. Raises `ModelError` (see `load`)."""
    import torch

    whole = load_whole(folder, family, dtype, device)
    try:
        model = whole.model.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise _too_large(folder, str(device)) from error
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"The weights in {folder} are damaged: {name} holds numbers that are not finite.",
                "Download the model again.",
            )
    return model


def load_whole(
    folder: Path, family: families.Family, dtype: torch.dtype | str = "auto", device: torch.device | None = None
) -> Any:
    """The transformers model of a folder on the CPU, with its language-model head; `model` is the part that we run.

    `dtype` `auto` keeps that of the weights; `device` is where it will run. Raises `ModelError` (see `load`).
    """
    import torch
    import transformers

    for file in weights.weight_files(folder):
        weights.read_header(file)
    try:
        model_class = getattr(transformers, family.model_class)
    except AttributeError as error:
        raise ModelError(
            f"transformers {transformers.__version__} has no {family.model_class}.", "Install a newer one."
        ) from error
    try:
        with quiet():
            whole, report = model_class.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=attention(device or torch.device("cpu")),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                device_map=_straight_to(device),
            )
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _too_large(folder, "this machine") from error
    except Exception as error:  # a library that builds whatever a configuration says, and lets anything through
        raise ModelError(
            f"The model in {folder} cannot be loaded: {wording.brief(error)}.", "Download the model again."
        ) from error
    # The whole model knows more published layouts of weights than its headless part does, so it is loaded and beheaded.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("lm_head"))
    if missing:
        raise ModelError(
            f"The weights in {folder} lack {len(missing)} tensors, {missing[0]} among them.",
            "They belong to another model, or are incomplete: download the model again.",
        )
    return whole


def _too_large(folder: Path, device: str) -> ModelError:
    return ModelError(
        f"The model in {folder} does not fit in the memory of {device}.", "Use a smaller model, or the CPU: {device}."
    )


def _straight_to(device: torch.device | None) -> dict[str, torch.device] | None:
    """For `device_map`: onto a GPU piece by piece, not the whole of it through the host's memory in every process.

    Where little is free a model is small, and transformers, which sets more than a gigabyte aside, would fail.
    """
    if device is None or device.type != "cuda" or (devices.free_bytes(device) or 0) < _ROOMY:
        return None
    return {"": device}


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without progress bars and without a report on the language-model head that is left out on purpose."""
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


def first_token(folder: Path) -> str:
    """The token that the tokenizer begins a sequence with, or nothing."""
    file = folder / "tokenizer_config.json"
    token = weights.read_json(file).get("bos_token") if file.is_file() else None
    return str(token.get("content", "") if isinstance(token, dict) else token or "")
