"""From references to models: a base, and the adapters of a checkpoint on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from tsembed_search.errors import ModelError, UsageError
from tsembed_search.model import engine, registry
from tsembed_search.model import files as weights
from tsembed_search.model.backbone import Backbone, ModelRef, Trainable, may_have_gpu
from tsembed_search.model.backbones.families import FAMILIES
from tsembed_search.model.checkpoint import MARKER, Checkpoint, put_on, read, save
from tsembed_search.model.expert_settings import AdapterSettings
from tsembed_search.model.shortened import Shortened

if TYPE_CHECKING:
    import torch

    from tsembed_search.model.parallel import ParallelPaths
    from tsembed_search.model.path_settings import PathSettings


def load(ref: ModelRef, device: str = "auto", dtype: torch.dtype | None = None) -> Backbone:
    """Loads a resolved model on `auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:i` or `mps`.

    `dtype`: of the weights of a large model, None for what suits the device; mini's are always float32.

    Raises `ModelError` when the device does not exist, has no room, or the files cannot be trusted.
    """
    if ref.whole is not None:
        return Shortened(load(ref.whole, device, dtype), ref)
    if ref.folder is None:
        return cast(Backbone, resolve_name(registry.MODELS.get(ref.name).loader)(device))
    with registry.readable(ref.name):
        if registry.is_checkpoint(ref.name, ref.folder):
            return load_checkpoint(ref, device, dtype)
        return cast(Backbone, resolve_name(FAMILIES.get(ref.family).loader)(ref, device, dtype))


def load_to_embed(ref: ModelRef, device: str = "auto") -> Backbone:
    """Load a resolved model to embed with, not to train: on a CPU through the engine, where that takes it.

    Raises what `load` raises.
    """
    if ref.whole is not None and ref.depth is None:
        return Shortened(load_to_embed(ref.whole, device), ref)
    if suits_engine(ref, device):
        from tsembed_search.model.backbones import mini_cpu

        with registry.readable(ref.name):
            if (found := mini_cpu.load(ref)) is not None:
                return found
    return load(ref, device)


def computed_by(ref: ModelRef, device: str = "auto") -> str:
    """Say what computes a model when it embeds, and in which precision that is chosen by the engine. Loads no model."""
    return (engine.words() if suits_engine(ref, device) else None) or "PyTorch"


def suits_engine(ref: ModelRef, device: str) -> bool:
    """Tell whether it is `mini`, or a checkpoint on it, on a CPU. Raises `ModelError`: see `base_of`."""
    from tsembed_search.model.backbones import mini_spec

    on_cpu = device == "cpu" or (device == "auto" and not may_have_gpu())
    return on_cpu and base_behind(ref).fingerprint == mini_spec.FINGERPRINT


def load_checkpoint(ref: ModelRef, device: str = "auto", dtype: torch.dtype | None = None) -> Trainable:
    """Loads the base on a device, in `dtype` (see `registry.load`), and puts the adapters on it, in float32.

    Raises `ModelError` when the base is not there or is another one than the adapters were made for, when the settings
    make no sense, and when tensors do not fit or hold numbers that are not finite.
    """
    assert ref.folder is not None
    said = read(ref.folder)
    backbone = _trainable(load(base_of(said, ref.name), device, dtype), said.base.name)
    adapters = put_on(backbone.adapt, said, ref.folder, backbone.add_paths)
    own = sum(tensor.numel() for tensor in adapters.parameters())
    base = backbone.info
    backbone.info = replace(
        base,
        name=ref.name,
        fingerprint=ref.fingerprint,
        parameters=base.parameters + own,
        calibration=said.calibration,
        route_weight=said.route_weight,
        notes=base.notes | {"base": said.base.name},
    )
    return backbone


def create_checkpoint(
    folder: str | Path,
    base: str | Path = "mini-base",
    settings: AdapterSettings | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Saves untrained adapters for a base model, to begin with or to try things on.

    B is zero, so vectors are the base's own; the routers are random, so routing vectors tell items apart, but their
    experts mean nothing yet. Raises `ModelError`.
    """
    import torch

    ref = registry.resolve(base)
    backbone = _trainable(load(ref, device), ref.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone.adapt(settings or AdapterSettings())
    return save(folder, backbone, ref, recipe={"trained": False, "seed": seed})


def _trainable(backbone: Backbone, name: str) -> Trainable:
    """Raises `ModelError` for a model that cannot carry adapters, or carries some already."""
    if not backbone.info.trainable:
        raise ModelError(f"{name} cannot carry adapters.", "Use mini or a transformers model as the base.")
    trainable = cast(Trainable, backbone)
    if trainable.adapters is not None:
        raise ModelError(f"{name} has adapters already.", "Use the model that it is based on.")
    return trainable


def base_of(said: Checkpoint, name: str) -> ModelRef:
    """The base, on this machine, of the checkpoint `name`.

    Raises `ModelError` when there is none, or another one under its name.
    """
    base = said.base
    try:
        ref = registry.resolve(f"{base.name}@{base.revision}" if base.revision else base.name, known=True)
    except ModelError as error:
        raise type(error)(  # a base that is not supported stays one
            f"{name} needs its base model, {base.name}. {error.message}",
            f"{error.hint} If the base has moved, write its new place into {MARKER}, under base, name.".strip(),
        ) from error
    if ref.fingerprint != base.fingerprint:
        raise ModelError(
            f"{name} was made for another base model: {base.name} was {base.fingerprint}, now it is {ref.fingerprint}.",
            f"Bring back the model that it was made for, or name that one in {MARKER}, under base, name.",
        )
    return ref


def base_behind(ref: ModelRef) -> ModelRef:
    """The base of a checkpoint; any other model is its own. Raises `ModelError`: see `base_of`."""
    ref = ref.uncut
    if ref.folder is None or not (ref.folder / MARKER).is_file():
        return ref
    return base_of(read(ref.folder), ref.name)


def side_by_side(backbone: Backbone) -> PathSettings:
    """Let a loaded model give all of its paths side by side from now on, as with `concat`. Return what it had.

    Raises `UsageError` for a model without paths, and for one whose vectors are cut.
    """
    paths: ParallelPaths | None = getattr(getattr(backbone, "adapters", None), "paths", None)
    if paths is None or not backbone.info.trainable:
        raise UsageError(
            f"{backbone.info.name} has no parallel paths to compare.",
            "Leave out {paths}, or use a checkpoint that was trained with them: {recipe} pdf.",
        )
    had = paths.settings
    paths.settings = replace(had, combine="concat")
    one = backbone.info.dim // had.dim(1)
    cast(Any, backbone).info = replace(backbone.info, dim=had.count * one)
    return had


def checked_weights(ref: ModelRef) -> list[Path]:
    """Return the files of a model's weights, and of its base's. Raises `ModelError` for one that is missing, cut short
    or not the right one: `mini` is compared with its checksums, for other models there are none.
    """
    from tsembed_search.model.backbones import mini_spec

    ref = ref.uncut
    if ref.folder is None:
        return [mini_spec.verified(name) for name in mini_spec.FILES]
    base = base_behind(ref)
    files = weights.weight_files(ref.folder) if base == ref else sorted(ref.folder.glob("*.safetensors"))
    for file in files:
        weights.read_header(file)
    return files if base == ref else [*files, *checked_weights(base)]
