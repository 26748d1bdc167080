"""Checkpoints for other programs: a plain model without experts, or the adapter alone in PEFT's format.

Both are the *uniform mixture*: every expert counts the same for every item, because a plain model and PEFT know no
routers. So vectors differ from the checkpoint's own, and there are no routes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tsembed_search.errors import ModelError
from tsembed_search.model import checkpoint, loading, path_settings
from tsembed_search.model import files as weights

if TYPE_CHECKING:
    from tsembed_search.model.backbone import ModelRef
    from tsembed_search.model.checkpoint import Checkpoint

_MINI_BASE = "sentence-transformers/all-MiniLM-L6-v2"
"""The public name of the encoder in `mini`, for programs that do not know mini."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".onnx", ".h5", ".msgpack")


@dataclass(frozen=True)
class Exported:
    """A folder that was written. `loads_here`: `--model FOLDER` works with it. `use`: what it is good for, in a
    sentence.
    """

    folder: Path
    form: str
    base: str
    loads_here: bool
    use: str

    def to_json(self) -> dict[str, Any]:
        """Return the document of an export."""
        said = {"folder": str(self.folder), "form": self.form, "base": self.base}
        return said | {"mixture": "uniform", "loads_here": self.loads_here}


def merged(ref: ModelRef, folder: str | Path) -> Exported:
    """Writes a plain model: the base with the uniform mixture of the experts in its weights. On the CPU.

    A transformers base gives a folder of the same family. `mini` gives its text encoder only, for
    sentence-transformers: what it sees pictures with has no place in such a folder. Raises `ModelError` when `ref` is
    not a checkpoint, when its base is not there, and when `folder` is not empty.
    """
    source, said = _source(ref)
    base = loading.base_of(said, ref.name)
    with weights.appearing(folder) as (new, target):
        if base.folder is None:
            _merge_mini(source, said, new)
        else:
            _merge_transformers(base, source, said, new)
        _write_card(new, target, said, "A plain model", "all experts are in its weights, each with the same share.")
    use = f"A plain model, to index and search with: {{model}} {target}"
    if base.folder is None:
        use = "A text encoder for sentence-transformers; it cannot see pictures, so it is no model for tsembed."
    return Exported(target, "merged", said.base.name, base.folder is not None, use)


def peft(ref: ModelRef, folder: str | Path) -> Exported:
    """Writes the adapter alone, for `PeftModel.from_pretrained` and programs that read PEFT's format.

    Raises `ModelError` when `ref` is not a checkpoint and when `folder` is not empty.
    """
    source, said = _source(ref)
    with weights.appearing(folder) as (new, target):
        shutil.copyfile(source / checkpoint.EXPERTS, new / checkpoint.EXPERTS)
        config = weights.read_json(source / checkpoint.CONFIG)
        if said.base.family == "mini":
            config["base_model_name_or_path"] = _MINI_BASE
        (new / checkpoint.CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _write_card(new, target, said, "A LoRA adapter", "all experts are one LoRA, each with the same share.")
    on = "AutoModel.from_pretrained(base)"
    use = f"For PEFT: PeftModel.from_pretrained({on}, {str(target)!r}), base {config['base_model_name_or_path']}"
    return Exported(target, "peft", said.base.name, False, use)


def _source(ref: ModelRef) -> tuple[Path, Checkpoint]:
    """The checkpoint's folder and what it says. Raises `ModelError` for a model that is none."""
    if ref.folder is None or not (ref.folder / checkpoint.MARKER).is_file():
        raise ModelError(
            f"{ref.name} is not a checkpoint: it has no experts to export.",
            "{known_models()} lists checkpoints as `experts on` another model.",
        )
    said = checkpoint.read(ref.folder)
    if path_settings.of_method(said.method, ref.folder / checkpoint.MARKER) is not None:
        raise ModelError(
            f"{ref.name} has parallel paths, which a plain model or a LoRA adapter cannot hold.",
            "Use the checkpoint as it is, or train without paths to export.",
        )
    return ref.folder, said


def _merge_mini(source: Path, said: Checkpoint, new: Path) -> None:
    from safetensors.torch import load_file, save_file

    from tsembed_search.model.backbones import mini_spec
    from tsembed_search.model.backbones.mini_encoder import MiniEncoder
    from tsembed_search.model.moe_lora import attach

    file = mini_spec.verified("encoder")
    state = load_file(file)
    encoder = MiniEncoder.from_state(state)
    checkpoint.put_on(lambda settings: attach(encoder, settings, "encoder.layer"), said, source).merge(encoder)
    # What our encoder leaves out (the pooler) stays as it is.
    save_file({name: tensor.contiguous() for name, tensor in (state | encoder.state_dict()).items()}, new / file.name)
    _copy_rest(file.parent, new)


def _merge_transformers(base: ModelRef, source: Path, said: Checkpoint, new: Path) -> None:
    from tsembed_search.model.backbones import families, hf
    from tsembed_search.model.moe_lora import attach

    assert base.folder is not None
    family = families.FAMILIES.get(base.family)
    whole = hf.load_whole(base.folder, family)
    checkpoint.put_on(lambda settings: attach(whole.model, settings, family.blocks), said, source).merge(whole.model)
    with hf.quiet():
        cast(Any, whole).save_pretrained(new, safe_serialization=True)
    _copy_rest(base.folder, new)


def _copy_rest(base: Path, new: Path) -> None:
    """The tokenizer and all else that a model folder holds beside weights, unless it is there already."""
    for path in sorted(base.rglob("*")):
        relative = path.relative_to(base)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or not path.is_file() or path.suffix in _WEIGHTS or path.name.endswith(".index.json"):
            continue
        target = new / relative
        if relative.name != "README.md" and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _write_card(new: Path, target: Path, said: Checkpoint, what: str, how: str) -> None:
    experts = said.method["router"]["experts"]
    base = checkpoint.escaped(said.base.name) + (f" at {said.base.revision}" if said.base.revision else "")
    exported = (
        f"{what}, exported from a TSEmbed checkpoint with {experts} experts per block on {base}. "
        f"It is their uniform mixture: {how} The routers are left out, so its vectors are not those of the "
        "checkpoint."
    )
    (new / checkpoint.CARD).write_text(checkpoint.card(target.name, said, exported=exported), encoding="utf-8")
