"""Tiny random models of every real architecture, saved the way a downloaded model lies in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORPUS = (
    "Represent the user's input. Express the user's input in one word. System: User: Assistant: "
    "a photo of a red apple on a wooden table, a black cat asleep, two dogs run along the beach at sunset"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
}
"""Weights large enough that a different input gives a clearly different vector."""


def save_tokenizer(folder: Path, specials: list[str], bos: str | None = None) -> dict[str, int]:
    """A byte-level BPE tokenizer with the family's special tokens. Returns their ids, and the vocabulary's size."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([CORPUS] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=specials[0])
    fast.save_pretrained(folder)
    return {token: tokenizer.token_to_id(token) for token in specials} | {"size": tokenizer.get_vocab_size()}


HALF = [0.5, 0.5, 0.5]
QWEN_PIXELS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 3136,
    "max_pixels": 1003520,
}
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
QWEN += ["<|image_pad|>", "<|video_pad|>"]


def _qwen_config(ids: dict[str, int]) -> dict[str, Any]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def qwen2_vl(folder: Path) -> None:
    """Qwen2-VL: patches of 14 pixels, four to a token."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    ids = save_tokenizer(folder, QWEN)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = TEXT | {"vocab_size": ids["size"], "rope_parameters": rope}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **_qwen_config(ids))
    _save(Qwen2VLForConditionalGeneration(config), folder)
    _save_image_settings(folder, "Qwen2VL", **QWEN_PIXELS)


def qwen2_5_vl(folder: Path) -> None:
    """Qwen2.5-VL: windowed attention in the vision tower."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = save_tokenizer(folder, QWEN)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = TEXT | {"vocab_size": ids["size"], "rope_parameters": rope}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_qwen_config(ids))
    _save(Qwen2_5_VLForConditionalGeneration(config), folder)
    _save_image_settings(folder, "Qwen2VL", **QWEN_PIXELS)


def qwen3_vl(folder: Path) -> None:
    """Qwen3-VL: learned positions resampled to the grid, and vision features that enter deeper layers, too."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    ids = save_tokenizer(folder, QWEN)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True, "rope_theta": 10000.0}
    text = TEXT | {"vocab_size": ids["size"], "rope_parameters": rope, "head_dim": 8}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_qwen_config(ids))
    _save(Qwen3VLForConditionalGeneration(config), folder)
    _save_image_settings(folder, "Qwen2VL", **QWEN_PIXELS | {"patch_size": 16, "image_mean": HALF, "image_std": HALF})


def _idefics(folder: Path, config_class: Any, model_class: Any, name: str) -> None:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    specials = ["<|im_end|>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>"]
    ids = save_tokenizer(folder, [*specials, "<global-img>", *places], bos="<|im_start|>")
    text = TEXT | {"vocab_size": ids["size"], "model_type": "llama"}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8, "initializer_range": 0.2}
    config = config_class(text_config=text, vision_config=vision, image_token_id=ids["<image>"], scale_factor=2)
    _save(model_class(config), folder)
    sizes = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    _save_image_settings(folder, name, image_mean=HALF, image_std=HALF, resample=1, do_image_splitting=True, **sizes)


def smolvlm(folder: Path) -> None:
    """SmolVLM with tiles of 32 pixels, four tokens each."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    _idefics(folder, SmolVLMConfig, SmolVLMForConditionalGeneration, "SmolVLM")


def idefics3(folder: Path) -> None:
    """Idefics3 with tiles of 32 pixels, four tokens each."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    _idefics(folder, Idefics3Config, Idefics3ForConditionalGeneration, "Idefics3")


def llava_onevision(folder: Path) -> None:
    """LLaVA-OneVision with tiles of 32 pixels, sixteen features each."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
    )

    ids = save_tokenizer(folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"])
    text = TEXT | {"vocab_size": ids["size"], "model_type": "qwen2"}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8, "vision_use_head": False}
    canvases = [[32 * rows, 32 * columns] for rows in range(1, 4) for columns in range(1, 4)]
    config = LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<image>"],
        video_token_id=ids["<video>"],
        image_grid_pinpoints=canvases,
        vision_feature_layer=-1,
    )
    _save(LlavaOnevisionForConditionalGeneration(config), folder)
    size = {"height": 32, "width": 32}
    clip = {"image_mean": QWEN_PIXELS["image_mean"], "image_std": QWEN_PIXELS["image_std"], "resample": 3}
    _save_image_settings(folder, "LlavaOnevision", size=size, image_grid_pinpoints=canvases, **clip)


def _save_image_settings(folder: Path, name: str, **settings: Any) -> None:
    """preprocessor_config.json, with the keys of the published ones."""
    settings |= {"image_processor_type": f"{name}ImageProcessor", "do_convert_rgb": True, "rescale_factor": 1 / 255}
    settings |= {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_pad": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    "qwen2-vl": qwen2_vl,
    "qwen2.5-vl": qwen2_5_vl,
    "qwen3-vl": qwen3_vl,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "llava-onevision": llava_onevision,
}


def make(family: str, folder: Path) -> Path:
    """Writes the tiny model of a family into `folder`, always with the same weights."""
    import torch

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    MAKERS[family](folder)
    return folder


def image_processor(folder: Path) -> Any:
    """transformers' own image processor for a folder, the one that needs no torchvision."""
    import transformers

    settings = json.loads((folder / "preprocessor_config.json").read_text())
    name = settings["image_processor_type"]
    # Its name ends in Pil in all but the first versions 5.
    return getattr(transformers, f"{name}Pil", getattr(transformers, name)).from_pretrained(folder)
