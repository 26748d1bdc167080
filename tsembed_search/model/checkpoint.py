"""Checkpoints: a folder with MoE-LoRA adapters for a base model, which it names and does not contain.

    adapter_config.json         PEFT's: the adapters as one plain LoRA, which is their uniform mixture
    adapter_model.safetensors   A and B of every projection, under PEFT's names
    router.safetensors          one matrix [E, d] per adapted block
    projector.safetensors       what pictures pass through, where that was trained as well
    tsembed.json                what PEFT has no place for: see `Checkpoint`
    README.md                   a model card

Reading what a checkpoint says about itself imports no torch. A checkpoint becomes a model through `registry`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tsembed_search.errors import ModelError
from tsembed_search.model import files as weights
from tsembed_search.model.backbone import Backbone, Trainable
from tsembed_search.model.files import appearing, flush
from tsembed_search.ranking.scores import Calibration

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tsembed_search.model.expert_settings import AdapterSettings
    from tsembed_search.model.moe_lora import Adapters
    from tsembed_search.model.registry import ModelRef

MARKER = "tsembed.json"
CONFIG = "adapter_config.json"
EXPERTS = "adapter_model.safetensors"
ROUTERS = "router.safetensors"
PROJECTOR = "projector.safetensors"
CARD = "README.md"
_FORMAT = 1
_PREFIX = "base_model.model."  # what PEFT puts before every module's path
_TRAINING_ONLY = ("dropout", "noise")


@dataclass(frozen=True)
class Base:
    """The model that adapters belong to. `name` is what to load it by; `revision` is a hub commit, if it has one."""

    name: str
    family: str
    fingerprint: str
    revision: str | None = None

    @staticmethod
    def of(ref: ModelRef) -> Base:
        """The base behind a reference; one in the hub's cache keeps its hub name and commit."""
        if ref.folder is None:
            return Base(ref.name, ref.family, ref.fingerprint)
        repository = ref.folder.parent.parent.name
        if ref.folder.parent.name == "snapshots" and repository.startswith("models--"):
            name = repository.removeprefix("models--").replace("--", "/")
            return Base(name, ref.family, ref.fingerprint, ref.folder.name)
        return Base(str(ref.folder), ref.family, ref.fingerprint)


@dataclass(frozen=True)
class Checkpoint:
    """What `tsembed.json` says. `method` are the `AdapterSettings` as JSON, `mean` is the mean raw routing vector
    `[L·E]` of the training data, `route_weight` the calibrated lambda of `--rerank expert` (None: not calibrated).
    """

    base: Base
    method: Mapping[str, Any]
    mean: tuple[float, ...]
    route_weight: float | None = None
    calibration: Calibration | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The content of `tsembed.json`."""
        return {
            "format": _FORMAT,
            "base": asdict(self.base),
            "method": dict(self.method),
            "routing_mean": list(self.mean),
            "lambda": self.route_weight,
            "calibration": self.calibration and self.calibration.to_json(),
            "data": dict(self.data),
            "recipe": dict(self.recipe),
            "metrics": dict(self.metrics),
        }


def read(folder: Path) -> Checkpoint:
    """What a checkpoint says about itself, from its `tsembed.json` alone. Raises `ModelError` when it says no sense."""
    path = folder / MARKER
    said = weights.read_json(path)
    if said.get("format") != _FORMAT:
        raise ModelError(f"{path} has format {said.get('format')!r}, not {_FORMAT}.", "Update tsembed-search.")
    try:
        base = Base(**said["base"])
        weight = said["lambda"]
        found = Checkpoint(
            base,
            dict(said["method"]),
            tuple(float(number) for number in said["routing_mean"]),
            None if weight is None else float(weight),
            Calibration.from_json(said["calibration"]) if said.get("calibration") else None,
            dict(said.get("data") or {}),
            dict(said.get("recipe") or {}),
            dict(said.get("metrics") or {}),
        )
        texts = (base.name, base.family, base.fingerprint, base.revision or "")
        if not all(isinstance(text, str) for text in texts) or not isinstance(found.method["router"], dict):
            raise TypeError("base or method.router")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"{path} lacks something, or it is not what it should be: {weights.brief(error)}.", _AGAIN
        ) from error
    _check_numbers(str(path), found)
    return found


def reference(name: str, folder: Path) -> ModelRef:
    """The model that a checkpoint's folder is. Raises `ModelError` for files that are missing, cut short or pickled."""
    from tsembed_search.model.registry import ModelRef

    said = read(folder)
    tensors = (EXPERTS, ROUTERS, *([PROJECTOR] if said.method.get("projector") else []))
    missing = [file for file in (CONFIG, *tensors) if not (folder / file).is_file()]
    if missing:
        weights.refuse_pickles(folder)
        raise ModelError(f"{name} is a checkpoint without {missing[0]}.", _AGAIN)
    for file in tensors:
        weights.read_header(folder / file)
    method = json.loads(json.dumps(said.method))
    for part in (method, method.get("router", {})):
        for key in _TRAINING_ONLY:
            part.pop(key, None)
    hashes = [_hash(folder / file) for file in tensors]
    identity = weights.fingerprint("moe-lora", _FORMAT, said.base.fingerprint, method, said.mean, *hashes)
    return ModelRef(name, said.base.family, identity, folder)


def load(ref: ModelRef, device: str = "auto", dtype: torch.dtype | None = None) -> Trainable:
    """Loads the base on a device, in `dtype` (see `registry.load`), and puts the adapters on it, in float32.

    Raises `ModelError` when the base is not there or is another one than the adapters were made for, when the settings
    make no sense, and when tensors do not fit or hold numbers that are not finite.
    """
    from tsembed_search.model import registry

    assert ref.folder is not None
    said = read(ref.folder)
    settings = settings_of(said, ref.folder)
    backbone = _trainable(registry.load(base_of(said, ref.name), device, dtype), said.base.name)
    try:
        adapters = backbone.adapt(settings)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:  # values of the wrong kind
        raise _no_settings(ref.folder, error) from error
    fill(adapters, ref.folder)
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


def fill(adapters: Adapters, folder: Path) -> None:
    """Puts the tensors of a checkpoint's folder into adapters of the same settings. Raises `ModelError`: see `load`."""
    import torch

    experts = {name.removeprefix(_PREFIX): tensor for name, tensor in _tensors(folder / EXPERTS).items()}
    routers = _tensors(folder / ROUTERS) | {"mean": torch.tensor(read(folder).mean)}
    adapters.load(experts, routers, None if adapters.projector is None else _tensors(folder / PROJECTOR))


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {weights.brief(error)}.", _AGAIN) from error


def save(
    folder: str | Path,
    backbone: Trainable,
    base: ModelRef,
    *,
    route_weight: float | None = None,
    calibration: Calibration | None = None,
    data: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Saves the adapters of a backbone; `base` is what it was before it was adapted. Gives the folder's path.

    The folder appears whole or not at all; one that holds a checkpoint already is replaced. Raises `ModelError` when
    the backbone has no adapters, when numbers are not finite, and when the folder holds anything else.
    """
    from safetensors.torch import save_file

    adapters = backbone.adapters
    if adapters is None:
        raise ModelError(f"{backbone.info.name} has no adapters to save.", "Give it some with `adapt` first.")
    experts = {_PREFIX + name: tensor.cpu().contiguous() for name, tensor in adapters.expert_state().items()}
    routers = {name: tensor.cpu().contiguous() for name, tensor in adapters.router_state().items()}
    projector = {name: tensor.cpu().contiguous() for name, tensor in adapters.projector_state().items()}
    _check_finite({**experts, **routers, **projector})
    mean = tuple(routers.pop("mean").tolist())
    of = Base.of(base)
    method = json.loads(json.dumps(adapters.settings.to_json()))
    said = Checkpoint(of, method, mean, route_weight, calibration, data or {}, recipe or {}, metrics or {})
    _check_numbers("The checkpoint", said)
    peft = adapters.peft_config() | {"base_model_name_or_path": of.name, "revision": of.revision}
    with appearing(folder, replaces=MARKER) as (new, whole):
        (new / CONFIG).write_text(json.dumps(peft, indent=2) + "\n", encoding="utf-8")
        save_file(experts, new / EXPERTS, metadata={"format": "pt"})
        save_file(routers, new / ROUTERS, metadata={"format": "pt"})
        if projector:
            save_file(projector, new / PROJECTOR, metadata={"format": "pt"})
        (new / MARKER).write_text(json.dumps(said.to_json(), indent=2) + "\n", encoding="utf-8")
        (new / CARD).write_text(_card(whole.name, said, adapters.shape), encoding="utf-8")
    return whole


def calibrate(folder: Path, calibration: Calibration) -> None:
    """Gives a checkpoint the calibration of its scores, which is no part of its fingerprint. Raises `ModelError`."""
    said = replace(read(folder), calibration=calibration)
    new = folder / f".{MARKER}.new"
    new.write_text(json.dumps(said.to_json(), indent=2) + "\n", encoding="utf-8")
    flush(new)
    new.replace(folder / MARKER)


def create(
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

    from tsembed_search.model import registry
    from tsembed_search.model.expert_settings import AdapterSettings

    ref = registry.resolve(base)
    backbone = _trainable(registry.load(ref, device), ref.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone.adapt(settings or AdapterSettings())
    return save(folder, backbone, ref, recipe={"trained": False, "seed": seed})


_AGAIN = "Copy the checkpoint again, all of its files, or make it again."


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
    from tsembed_search.model import registry

    base = said.base
    try:
        name_of_base = f"{base.name}@{base.revision}" if base.revision else base.name
        ref = registry.resolve(name_of_base, base.fingerprint)
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
    if ref.folder is None or not (ref.folder / MARKER).is_file():
        return ref
    return base_of(read(ref.folder), ref.name)


def settings_of(said: Checkpoint, folder: Path) -> AdapterSettings:
    """The settings that a checkpoint's adapters were made with. Raises `ModelError` for those that make no sense."""
    from tsembed_search.model.expert_settings import AdapterSettings

    try:
        return AdapterSettings.from_json(said.method)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_settings(folder, error) from error


def _no_settings(folder: Path, error: Exception) -> ModelError:
    return ModelError(f"The settings in {folder / MARKER} are not those of adapters: {weights.brief(error)}.", _AGAIN)


def _check_numbers(where: str, said: Checkpoint) -> None:
    if not all(map(math.isfinite, said.mean)):
        raise ModelError(f"{where} is damaged: the routing mean holds numbers that are not finite.", _AGAIN)
    if said.route_weight is not None and not 0 <= said.route_weight <= 1:
        raise ModelError(f"{where} has a lambda of {said.route_weight}.", "It has to lie between 0 and 1.")


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(
                f"The adapters are not saved: {name} holds numbers that are not finite.", "Train with a lower rate."
            )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card(name: str, said: Checkpoint, shape: tuple[int, int]) -> str:
    """The model card, in Markdown."""
    method, router = said.method, said.method["router"]
    blocks, experts = shape
    base = said.base.name + (f" at {said.base.revision}" if said.base.revision else "")
    chosen = f"the best {router['top_k']}" if router["top_k"] else "all"
    facts = [
        ("base model", base),
        ("adapted blocks", blocks),
        ("experts per block", f"{experts}, {chosen} of them used" + (", and a shared one" if method["shared"] else "")),
        ("rank per expert, alpha", f"{method['rank']}, {method['alpha']}"),
        ("routing", f"per {router['level']}, temperature {router['temperature']}, by {router['tokens']} tokens"),
        ("lambda of `--rerank expert`", "not calibrated" if said.route_weight is None else said.route_weight),
    ]
    untrained = said.recipe.get("trained") is False
    parts = [
        "---\nlibrary_name: peft\ntags: [tsembed, moe-lora]\n---",
        f"# {name}",
        "MoE-LoRA adapters for a multimodal embedding model, made with TSEmbed.",
        "**These adapters are not trained.** Vectors are the base model's own." if untrained else "",
        "\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in facts)]),
        "Use it: `tsembed index PATH --model FOLDER`, with this folder. PEFT's "
        "`PeftModel.from_pretrained(base, FOLDER)` gives the uniform mixture of the experts: it knows no routers.",
    ]
    for title, facts_of in (("Data", said.data), ("Recipe", said.recipe), ("Metrics", said.metrics)):
        if facts_of:
            parts.append(f"## {title}\n\n```json\n{json.dumps(facts_of, indent=2, ensure_ascii=False)}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"
