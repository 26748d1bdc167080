"""The families of multimodal models that `hf.py` can run, one entry each. Imports neither torch nor transformers.

To add a family, add an entry; only a new way of cutting pictures needs code (see `inputs.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tsembed_search.registry import Registry

VisionKind = Literal["grid", "tiles", "anyres"]
"""The ways in which pictures become tokens: one grid of patches at the picture's own resolution (Qwen-VL), square tiles
plus the whole picture (Idefics3, SmolVLM), or tiles whose features are joined and unpadded again (LLaVA-OneVision).
"""

PIPELINE_VERSION = 1
"""Part of every fingerprint; raise it when a change in `hf.py` or `inputs.py` changes vectors."""

ONE_WORD = "Express the user's input in one word."
"""Default for models that were never tuned to embed. Asking for one word makes the last token stand for the whole
input, picture or text alike (Jiang et al., *E5-V*, arXiv 2407.12580)."""

_CHATML = (
    "<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{image}{text}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class Family:
    """The facts that running one family of models needs.

    `model_types`: the `model_type`s of config.json. `model_class`: the transformers class, whose `model` ends at the
    last hidden state. `template`: the prompt, with `{instruction}`, `{image}`, `{text}` and `{bos}` (the tokenizer's
    own first token). `image_template`: what stands for a picture, with `{tokens}`. `lead`: what precedes a text that no
    picture precedes. `instruction` is the default one, `query_instruction` that of queries where it differs.
    `min_pixels` and `max_pixels` bound a picture's area, `max_tokens` an item's text. `blocks` is the path of the
    decoder's blocks, where adapters go. `examples` are well-known hub names. `loader` is the function that loads one,
    as `module:function`; it takes a `ModelRef`, a device and a dtype.

    A family of another kind may be any object with `name`, `model_types`, `model_class`, `examples`, `loader` and
    `recipe()`.
    """

    name: str
    model_types: tuple[str, ...]
    model_class: str
    vision: VisionKind
    template: str
    image_template: str
    instruction: str
    min_pixels: int
    max_pixels: int
    lead: str = ""
    query_instruction: str | None = None
    max_tokens: int = 1024
    blocks: str = "language_model.layers"
    examples: tuple[str, ...] = ()
    loader: str = "tsembed_search.model.backbones.hf:load"

    def recipe(self) -> dict[str, Any]:
        """Return what, besides weights and processor, decides an item's vector: part of the fingerprint."""
        return {
            "version": PIPELINE_VERSION,
            "family": self.name,
            "pooling": "last",
            "prompt": [self.template, self.image_template, self.lead, self.instruction, self.query_instruction],
            "limits": [self.min_pixels, self.max_pixels, self.max_tokens],
        }


_QWEN2 = Family(
    name="qwen2-vl",
    model_types=("qwen2_vl",),
    model_class="Qwen2VLForConditionalGeneration",
    vision="grid",
    template=_CHATML,
    image_template="<|vision_start|>{tokens}<|vision_end|>",
    instruction=ONE_WORD,
    min_pixels=4 * 28 * 28,
    max_pixels=1280 * 28 * 28,
    examples=("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct"),
)
_SMOLVLM = Family(
    name="smolvlm",
    model_types=("smolvlm",),
    model_class="SmolVLMForConditionalGeneration",
    vision="tiles",
    template="{bos}System: {instruction}<end_of_utterance>\nUser:{image}{text}<end_of_utterance>\nAssistant:",
    image_template="{tokens}",
    lead=" ",
    instruction=ONE_WORD,
    min_pixels=0,
    max_pixels=2048 * 2048,
    blocks="text_model.layers",
    examples=("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "HuggingFaceTB/SmolVLM2-2.2B-Instruct"),
)
_OWN = (
    _QWEN2,
    replace(
        _QWEN2,
        name="qwen2.5-vl",
        model_types=("qwen2_5_vl",),
        model_class="Qwen2_5_VLForConditionalGeneration",
        examples=("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
    ),
    # Plain Qwen3-VL has no embedding format of its own, so it is given that of Qwen3-VL-Embedding, which shares its
    # architecture and cannot be told from it by config.json. Prompt and limits are those of the authors' own code.
    replace(
        _QWEN2,
        name="qwen3-vl",
        model_types=("qwen3_vl",),
        model_class="Qwen3VLForConditionalGeneration",
        instruction="Represent the user's input.",
        min_pixels=4 * 32 * 32,
        max_pixels=1800 * 32 * 32,
        examples=("Qwen/Qwen3-VL-Embedding-2B", "Qwen/Qwen3-VL-Embedding-8B", "Qwen/Qwen3-VL-2B-Instruct"),
    ),
    _SMOLVLM,
    # The first SmolVLMs are of this type, too.
    replace(
        _SMOLVLM,
        name="idefics3",
        model_types=("idefics3",),
        model_class="Idefics3ForConditionalGeneration",
        examples=("HuggingFaceTB/SmolVLM-256M-Instruct", "HuggingFaceTB/SmolVLM-Instruct"),
    ),
    # Pictures are cut into at most four tiles, not thirty-six: 729 tokens each is much for a search index.
    Family(
        name="llava-onevision",
        model_types=("llava_onevision",),
        model_class="LlavaOnevisionForConditionalGeneration",
        vision="anyres",
        template=_CHATML,
        image_template="{tokens}\n",
        instruction=ONE_WORD,
        min_pixels=0,
        max_pixels=768 * 768,
        examples=("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    ),
)
FAMILIES: Registry[Family] = Registry("family", "tsembed.families", {family.name: family for family in _OWN})


def by_config(config: Mapping[str, Any]) -> Family | None:
    """Return the family that a `config.json` belongs to, or None."""
    kind = str(config.get("model_type", ""))
    own = next((family for family in _OWN if kind in family.model_types), None)
    # Other packages are looked through only for what none of ours is: that takes time, and one of them may be broken.
    return own or next((family for family in FAMILIES.all() if kind in family.model_types), None)
