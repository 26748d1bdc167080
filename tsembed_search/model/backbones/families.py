"""The families of multimodal models that `hf.py` can run, one entry each. Imports neither torch nor transformers.

To add a family, add an entry; only a new way of cutting pictures needs code (see `vision.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Vision = Literal["grid", "tiles", "anyres"]
"""How pictures become tokens: one grid of patches at the picture's own resolution (Qwen-VL), square tiles plus a
thumbnail (Idefics3, SmolVLM), or tiles whose features are unpadded and joined again (LLaVA-OneVision)."""

PIPELINE_VERSION = 1
"""Part of every fingerprint; raise it when a change here or in `hf.py` changes vectors."""

ONE_WORD = "Express the user's input in one word."
"""Default for models never tuned to embed. Asking for one word makes the last token stand for the whole input, picture
or text alike (Jiang et al., *E5-V*, arXiv 2407.12580)."""

_CHATML = (
    "<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{image}{text}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class Family:
    """How to run one family of models.

    `model_types`: the `model_type` of config.json; `model_class`: the transformers class that ends at the last hidden
    state. `template`: the prompt, with `{instruction}`, `{image}` and `{text}`; `instruction`: the default one.
    `min_pixels` and `max_pixels` bound a picture's area; `max_tokens` is the most text tokens that an item may have.
    `examples` are well-known hub names.
    """

    name: str
    model_types: tuple[str, ...]
    model_class: str
    vision: Vision
    template: str
    instruction: str
    min_pixels: int
    max_pixels: int
    max_tokens: int = 2048
    examples: tuple[str, ...] = ()

    def recipe(self) -> dict[str, Any]:
        """What, besides weights and processor, decides an item's vector: part of the fingerprint."""
        return {
            "version": PIPELINE_VERSION,
            "family": self.name,
            "pooling": "last",
            "template": self.template,
            "instruction": self.instruction,
            "pixels": [self.min_pixels, self.max_pixels],
        }


FAMILIES: tuple[Family, ...] = (
    Family(
        name="qwen2-vl",
        model_types=("qwen2_vl",),
        model_class="Qwen2VLModel",
        vision="grid",
        template=_CHATML,
        instruction=ONE_WORD,
        min_pixels=4 * 28 * 28,
        max_pixels=1280 * 28 * 28,
        examples=("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct"),
    ),
    Family(
        name="qwen2.5-vl",
        model_types=("qwen2_5_vl",),
        model_class="Qwen2_5_VLModel",
        vision="grid",
        template=_CHATML,
        instruction=ONE_WORD,
        min_pixels=4 * 28 * 28,
        max_pixels=1280 * 28 * 28,
        examples=("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
    ),
    # Plain Qwen3-VL has no embedding format of its own, so it is given that of Qwen3-VL-Embedding: same architecture.
    Family(
        name="qwen3-vl",
        model_types=("qwen3_vl",),
        model_class="Qwen3VLModel",
        vision="grid",
        template=_CHATML,
        instruction="Represent the user's input.",
        min_pixels=4 * 32 * 32,
        max_pixels=1280 * 32 * 32,
        examples=("Qwen/Qwen3-VL-Embedding-2B", "Qwen/Qwen3-VL-Embedding-8B", "Qwen/Qwen3-VL-2B-Instruct"),
    ),
    Family(
        name="smolvlm",
        model_types=("smolvlm", "idefics3"),
        model_class="AutoModel",
        vision="tiles",
        template=(
            "<|im_start|>System: {instruction}<end_of_utterance>\nUser:{image} {text}<end_of_utterance>\nAssistant:"
        ),
        instruction=ONE_WORD,
        min_pixels=0,
        max_pixels=2048 * 2048,
        examples=("HuggingFaceTB/SmolVLM-256M-Instruct", "HuggingFaceTB/SmolVLM-Instruct"),
    ),
    Family(
        name="llava-onevision",
        model_types=("llava_onevision",),
        model_class="LlavaOnevisionModel",
        vision="anyres",
        template=_CHATML,
        instruction=ONE_WORD,
        min_pixels=0,
        max_pixels=2304 * 2304,
        examples=("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    ),
)

_BY_NAME: Mapping[str, Family] = {family.name: family for family in FAMILIES}
_BY_TYPE: Mapping[str, Family] = {kind: family for family in FAMILIES for kind in family.model_types}


def by_name(name: str) -> Family:
    """The family called `name`. Raises `KeyError`."""
    return _BY_NAME[name]


def by_config(config: Mapping[str, Any]) -> Family | None:
    """The family that a `config.json` belongs to, or None."""
    return _BY_TYPE.get(str(config.get("model_type", "")))
