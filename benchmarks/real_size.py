"""Models of real sizes with random weights, made without a download: for memory and speed, which no meaning changes."""

from __future__ import annotations

from typing import Any

import torch

SIZES: dict[str, dict[str, Any]] = {
    "qwen2-vl-2b": {
        "class": "Qwen2VL",
        "text": {
            "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        },
        "vision": {"embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14},
        "blocks": 28,
        "depth": 32,
    },
    "qwen3-vl-2b": {
        "class": "Qwen3VL",
        "text": {
            "hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16, "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_parameters": {
                "rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True, "rope_theta": 5e6,
            },
        },
        "vision": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "patch_size": 16, "out_hidden_size": 2048,
            "deepstack_visual_indexes": [0],
        },
        "blocks": 28,
        "depth": 24,
    },
    "smolvlm-500m": {
        "class": "SmolVLM",
        "text": {
            "model_type": "llama", "hidden_size": 960, "intermediate_size": 2560, "num_attention_heads": 15,
            "num_key_value_heads": 5,
        },
        "vision": {
            "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 512,
            "patch_size": 16,
        },
        "blocks": 32,
        "depth": 12,
    },
}  # fmt: skip
"""The published configurations, by name; `blocks` of the decoder and `depth` of the vision tower as published."""


def config(name: str, blocks: int | None = None, depth: int | None = None, tokens: dict[str, int] | None = None) -> Any:
    """The transformers configuration of a size, with fewer `blocks` or less `depth` where that is asked for.

    `tokens`: ids of special tokens and the vocabulary's `size`; without them the vocabulary is tiny.
    """
    import transformers

    said, ids = SIZES[name], tokens or {"size": 256}
    blocks = said["blocks"] if blocks is None else blocks
    depth = said["depth"] if depth is None else depth
    text = {**said["text"], "num_hidden_layers": blocks, "vocab_size": ids["size"], "max_position_embeddings": 32768}
    text |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    layers = "num_hidden_layers" if said["class"] == "SmolVLM" else "depth"
    special = {key: value for key, value in ids.items() if key.endswith("_token_id")}
    settings = {"text_config": text, "vision_config": {**said["vision"], layers: depth}, **special}
    if said["class"] == "SmolVLM":
        settings["scale_factor"] = 4
    return getattr(transformers, f"{said['class']}Config")(**settings)


def model(name: str, device: str = "cpu", **changes: Any) -> Any:
    """The whole model in bfloat16, frozen, with weights that are small enough for finite vectors."""
    import transformers
    from transformers.initialization import no_init_weights

    settings = config(name, **changes)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device), no_init_weights():  # all of them are drawn below
            made = getattr(transformers, f"{SIZES[name]['class']}ForConditionalGeneration")(settings)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.02) if parameter.dim() > 1 else parameter.fill_(1)
    return made.eval().requires_grad_(False)
