"""Tiny random models of every family, saved as a downloaded model lies in its folder: for dry runs and tests.

They mean nothing; every part of the real model is there, a hundred thousand times smaller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tsembed_search.errors import UsageError
from tsembed_search.model import files, registry
from tsembed_search.model.backbones import families

_CORPUS = (
    "Represent the user's input. Express the user's input in one word. System: User: Assistant: "
    "a photo of a red apple on a wooden table, a black cat asleep, two dogs run along the beach at sunset"
)
# Weights large enough that a different input gives a clearly different vector.
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
_QWEN_TOKENS = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
_QWEN_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}


def family_of(base: str) -> str | None:
    """Return the family of a model by its folder or its hub name, without the hub; None for a built-in model."""
    if base in registry.MODELS:
        return None
    config = Path(base).expanduser() / "config.json"
    if config.is_file():
        found = families.by_config(files.read_json(config))
    else:
        name = base.partition("@")[0].lower()
        found = next((one for one in families.FAMILIES.all() if name in map(str.lower, one.examples)), None)
    return found.name if found else "unknown"


def make(family: str, folder: Path) -> Path:
    """Write the tiny model of a family into `folder`, always with the same weights.

    Raises `UsageError` for a family that has none.
    """
    if family not in MAKERS:
        raise UsageError(
            f"There is no tiny model of the family {family} to walk the recipe with.",
            f"Dry runs know {', '.join(sorted(MAKERS))} and mini.",
        )
    import torch

    from tsembed_search.model.backbones.hf import quiet

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        MAKERS[family](folder)
    return folder


def _save_tokenizer(folder: Path, specials: Sequence[str], bos: str | None = None) -> dict[str, int]:
    """A byte-level tokenizer with these special tokens. Gives the ids of all tokens, and their number as `size`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([_CORPUS] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=specials[0])
    fast.save_pretrained(folder)
    return tokenizer.get_vocab() | {"size": tokenizer.get_vocab_size()}


def _save(folder: Path, name: str, processor: str, settings: Mapping[str, Any], **config: Any) -> None:
    """The weights of the architecture that transformers calls `name`, and image `settings`."""
    import transformers

    made = getattr(transformers, f"{name}Config")(**config)
    getattr(transformers, f"{name}ForConditionalGeneration")(made).save_pretrained(folder)
    usual = {"image_processor_type": f"{processor}ImageProcessor", "rescale_factor": 1 / 255}
    usual |= dict.fromkeys(("do_convert_rgb", "do_resize", "do_rescale", "do_normalize", "do_pad"), True)
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, **usual}), encoding="utf-8")


def _qwen(
    name: str, vision: Mapping[str, Any], folder: Path, text: dict[str, Any] | None = None, pixels: Any = None
) -> None:
    ids = _save_tokenizer(folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_QWEN_TOKENS.values()])
    ends = {"bos_token_id": ids["<|im_start|>"], "eos_token_id": ids["<|im_end|>"]}
    settings = _CLIP | {"patch_size": vision["patch_size"], "temporal_patch_size": 2, "merge_size": 2}
    settings |= {"min_pixels": 3136, "max_pixels": 1003520} | (pixels or {})
    _save(
        folder,
        name,
        "Qwen2VL",
        settings,
        text_config=_TEXT | {"vocab_size": ids["size"], "rope_parameters": _ROPE} | ends | (text or {}),
        vision_config=vision,
        **{key: ids[token] for key, token in _QWEN_TOKENS.items()},
    )


def _tiles(name: str, folder: Path) -> None:
    """Idefics3 and SmolVLM with tiles of 32 pixels, four tokens each."""
    places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    specials = ["<|im_end|>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>"]
    ids = _save_tokenizer(folder, [*specials, "<global-img>", *places], bos="<|im_start|>")
    vision: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
    sizes = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    _save(
        folder,
        name,
        name,
        _HALF | sizes | {"resample": 1, "do_image_splitting": True},
        text_config=_TEXT | {"vocab_size": ids["size"], "model_type": "llama"},
        vision_config=vision,
        image_token_id=ids["<image>"],
        scale_factor=2,
    )


def _llava_onevision(folder: Path) -> None:
    """With tiles of 32 pixels, sixteen features each."""
    ids = _save_tokenizer(folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"])
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8, "vision_use_head": False}
    canvases = [[32 * rows, 32 * columns] for rows in range(1, 4) for columns in range(1, 4)]
    _save(
        folder,
        "LlavaOnevision",
        "LlavaOnevision",
        _CLIP | {"size": {"height": 32, "width": 32}, "image_grid_pinpoints": canvases},
        text_config=_TEXT | {"vocab_size": ids["size"], "model_type": "qwen2"},
        vision_config=vision,
        image_token_id=ids["<image>"],
        video_token_id=ids["<video>"],
        image_grid_pinpoints=canvases,
        vision_feature_layer=-1,
    )


MAKERS: Mapping[str, Callable[[Path], None]] = {
    "qwen2-vl": partial(
        _qwen,
        "Qwen2VL",
        {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14},
    ),
    "qwen2.5-vl": partial(
        _qwen,
        "Qwen2_5_VL",
        _QWEN_VISION | {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
    ),
    "qwen3-vl": partial(
        _qwen,
        "Qwen3VL",
        _QWEN_VISION | {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        text={"head_dim": 8, "rope_parameters": _ROPE | {"mrope_interleaved": True}},
        pixels=_HALF,
    ),
    "smolvlm": partial(_tiles, "SmolVLM"),
    "idefics3": partial(_tiles, "Idefics3"),
    "llava-onevision": _llava_onevision,
}
"""The function that writes the model of each family."""
