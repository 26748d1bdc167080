"""Tiny random models of real architectures, saved as a downloaded model lies in its folder, to walk a recipe with.

They mean nothing; every part of the real model is there, a hundred thousand times smaller.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tsembed_search.errors import UsageError
from tsembed_search.model import registry
from tsembed_search.model.backbones import families

_WORDS = "Represent the user's input. Express it in one word. system user assistant picture 0 1 2 3 4 5 6 7 8 9"
_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
}
_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def family_of(base: str) -> str | None:
    """The family of a hub model by its name, without the hub; None for a built-in model."""
    if base in registry.MODELS:
        return None
    for family in families.FAMILIES.all():
        if any(base.partition("@")[0].lower() == example.lower() for example in family.examples):
            return family.name
    folder = Path(base).expanduser()
    if (folder / "config.json").is_file():
        found = families.by_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        if found is not None:
            return found.name
    return "unknown"


def make(family: str, folder: Path) -> Path:
    """Writes a tiny model of a family into `folder`. Raises `UsageError` for a family that has none."""
    if family not in _MAKERS:
        raise UsageError(
            f"There is no tiny model of the family {family} to walk the recipe with.",
            f"Dry runs know {', '.join(sorted(_MAKERS))} and mini.",
        )
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    ids = _save_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, patch = _MAKERS[family](ids)
    _save(model, folder)
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "rescale_factor": 1 / 255,
        "resample": 3,
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _save(model: Any, folder: Path) -> None:
    """Without a progress bar."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()


def _save_tokenizer(folder: Path) -> dict[str, int]:
    """A byte-level tokenizer with the family's special tokens; gives the ids of its tokens, and its size as `size`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([_WORDS], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_SPECIAL[0]).save_pretrained(folder)
    return {**tokenizer.get_vocab(), "size": tokenizer.get_vocab_size()}


def _text(ids: dict[str, int]) -> dict[str, Any]:
    ends = {"bos_token_id": ids["<|im_start|>"], "eos_token_id": ids["<|im_end|>"]}
    return _TEXT | ends | {"vocab_size": ids["size"]}


def _tokens(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def _qwen2_vl(ids: dict[str, int]) -> tuple[Any, int]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = _text(ids) | {"rope_parameters": _ROPE}
    vision: dict[str, Any] = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **_tokens(ids))
    return Qwen2VLForConditionalGeneration(config), 14


def _qwen2_5_vl(ids: dict[str, int]) -> tuple[Any, int]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = _text(ids) | {"rope_parameters": _ROPE}
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_tokens(ids))
    return Qwen2_5_VLForConditionalGeneration(config), 14


def _qwen3_vl(ids: dict[str, int]) -> tuple[Any, int]:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = _text(ids) | {"head_dim": 8, "rope_parameters": _ROPE | {"mrope_interleaved": True}}
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_tokens(ids))
    return Qwen3VLForConditionalGeneration(config), 16


_MAKERS: dict[str, Callable[[dict[str, int]], tuple[Any, int]]] = {
    "qwen2-vl": _qwen2_vl,
    "qwen2.5-vl": _qwen2_5_vl,
    "qwen3-vl": _qwen3_vl,
}
